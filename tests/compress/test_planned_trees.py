"""Planned networks of files that hold layers along trees: those layers are computed directly, with the same bits."""

import numpy as np
import pytest

from tests.compress.test_compress_file import in_trees
from tests.packed import packed_samples
from xnor_ref.compress.execute import TreeConv, TreeLinear
from xnor_ref.kernels.basics.rungs import has_vectors

pytestmark = pytest.mark.skipif(not has_vectors(), reason="of planned networks")


def every_network():
    """Networks with trees in which BatchNorm, thresholds, pooling and other binary layers surround each layer."""
    yield packed_samples.every_op(seed=3)
    chain = packed_samples.Sample(shape=(3, 12, 12), classes=7, seed=4)
    chain.conv2d(3, 64)
    chain.affine(64)
    chain.binary_conv2d(64, 70, scale="off")
    chain.pool("max_pool", 2, 2, 0)
    chain.binary_conv2d(70, 64, scale="off", threshold=True)
    chain.binary_conv2d(64, 33, scale="off", threshold=True)
    chain.node("global_avg_pool")
    chain.affine(33)
    chain.binary_linear(33, 7)
    yield chain


@pytest.mark.parametrize("number", [0, 1])
def test_a_planned_network_gives_the_same_bits_without_running_along_its_trees(number, monkeypatch):
    sample = list(every_network())[number]
    pixels = sample.pixels(4)
    want = sample.network().logits(pixels, backend="reference")
    held = in_trees(sample).network()
    for layer in (TreeConv, TreeLinear):
        monkeypatch.setattr(layer, "run", lambda *_: 1 / 0)
    for threads in (1, 2):
        assert np.array_equal(held.logits(pixels, threads), want)
