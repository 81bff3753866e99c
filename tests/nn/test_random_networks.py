"""Layers that fit together on paper train fused as they do one by one, and freeze; see `tests/soak_networks.py`."""

import numpy as np
import pytest

from tests import soak_networks
from xnor_ref import nn
from xnor_ref.kernels.basics.rungs import has_vectors

LAYERS = (
    lambda rng: nn.Conv2d(3, 4, 3, rng=rng),
    lambda rng: nn.BinaryConv2d(3, 4, 3, rng=rng),
    lambda rng: nn.BinaryWeightConv2d(3, 4, 3, rng=rng),
    lambda rng: nn.KBitConv2d(3, 4, 3, weight_bits=2, rng=rng),
    lambda rng: nn.MaxPool2d(2),
    lambda rng: nn.Flatten(),
)


@pytest.mark.skipif(not has_vectors(), reason="layers are fused on processors with vectors only")
@pytest.mark.parametrize("make", LAYERS)
def test_any_layer_may_follow_a_batch_norm(make):
    network = nn.Sequential(nn.BatchNorm2d(3), make(np.random.default_rng(0)))
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8), dtype=np.float32)
    found = soak_networks.distances(soak_networks.step(network, x, "auto"), soak_networks.step(network, x, "numba"))
    assert max(found.values()) < 1e-5


@pytest.mark.parametrize("seed", range(25))
def test_random_networks(seed):
    soak_networks.check(seed)


@pytest.mark.parametrize("layer", [nn.Hardtanh(), nn.ReLU(), nn.PReLU(), nn.Scale(3), nn.Sign(), nn.Shift(3)])
def test_what_follows_an_image_of_one_pixel_that_was_flattened(layer):
    network = nn.Sequential(nn.Conv2d(2, 3, 4, rng=np.random.default_rng(0)), nn.Flatten(), layer).eval()
    x = np.random.default_rng(1).standard_normal((2, 2, 4, 4), dtype=np.float32)
    soak_networks.check_packed(network, x, (2, 4, 4))
