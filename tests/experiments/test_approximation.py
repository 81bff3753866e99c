"""Errors of scaled binary convolutions against the real one: by hand, by another road, and at the minimum."""

import statistics

import numpy as np
import pytest

from xnor_ref import models
from xnor_ref.autodiff import Tensor
from xnor_ref.conformance.basics import oracle
from xnor_ref.datasets.batches import make_batch, normalization_table
from xnor_ref.errors import InputError
from xnor_ref.experiments import approximation
from xnor_ref.nn import GAMMAS, BinaryConv2d
from xnor_ref.nn.layers.scale_layers import Scale
from xnor_ref.training.job import load_data
from xnor_ref.training.settings.resolve import resolve


def layer_of(weight: np.ndarray, padding: int = 0, pad_value: int = 0) -> BinaryConv2d:
    outputs, inputs, size, _ = weight.shape
    layer = BinaryConv2d(inputs, outputs, size, 1, padding, pad_value)
    layer.weight.data[:] = weight
    return layer


def sums_of(layer: BinaryConv2d, *batches: np.ndarray) -> approximation.Sums:
    sums = approximation.Sums()
    for x in batches:
        sums.add(layer, np.ascontiguousarray(x, np.float32))
    return sums


def test_errors_by_hand():
    """One pixel, two channels: x = (1, -3), w = (2, 1): Y = -1; Z = 1 - 1 = 0, so every scale misses all of it."""
    layer = layer_of(np.float32([[[[2.0]], [[1.0]]]]))
    missed = sums_of(layer, np.float32([[[[1.0]], [[-3.0]]]]))
    assert missed.total == 1 and missed.error(5.0) == missed.error_with_k("plain") == 1
    # x = (1, 3): Y = 5, Z = 2, alpha = 1.5, K = 2, so alpha K Z = 6 and the error is 1/5; 2.5 Z is exact.
    near = sums_of(layer, np.float32([[[[1.0]], [[3.0]]]]))
    assert near.error_with_k("plain") == pytest.approx(0.2) and near.error(2.5) == 0
    assert approximation.number(near) == 2.5
    errors = approximation.layer_errors(layer, near, near, np.full((1, 1, 1), 7.0))
    assert errors.pop("alpha K") == pytest.approx(0.2)
    assert max(errors.values()) < 1e-7 and "trained" in errors


def test_errors_agree_with_an_independent_computation():
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(4, 5, 3, 3)).astype(np.float32)
    x = rng.normal(size=(6, 5, 7, 7)).astype(np.float32)
    for pad_value in (-1, 0, 1):
        sums = sums_of(layer_of(weight, 1, pad_value), x[:2], x[2:])
        y = oracle.convolve(x, weight, (1, 1), (1, 1), 0.0)
        z = oracle.sign_convolution(x, weight, (1, 1), (1, 1), pad_value)
        alpha = np.abs(weight).mean(axis=(1, 2, 3))[:, None, None]
        for mode in ("plain", "valid"):
            near = alpha * oracle.input_scale(x, (3, 3), (1, 1), (1, 1), mode) * z
            wanted = np.linalg.norm(y - near) / np.linalg.norm(y)
            assert sums.error_with_k(mode) == pytest.approx(wanted, rel=1e-5)
        gamma = rng.normal(size=(4, 7, 7))
        assert sums.error(gamma) == pytest.approx(np.linalg.norm(y - gamma * z) / np.linalg.norm(y), rel=1e-5)


def test_groups_are_layers_side_by_side():
    rng = np.random.default_rng(0)
    whole, x = BinaryConv2d(6, 4, 3, 1, 1, groups=2, rng=rng), rng.normal(size=(3, 6, 5, 4)).astype(np.float32)
    sums, parts = sums_of(whole, x), []
    for weight, images in zip(np.split(whole.weight.data, 2), np.split(x, 2, axis=1)):
        parts.append(sums_of(layer_of(weight, 1), images))
    assert sums.total == pytest.approx(sum(part.total for part in parts))
    np.testing.assert_allclose(sums.products, np.concatenate([part.products for part in parts]), rtol=1e-5, atol=1e-5)
    for mode, found in sums.with_k.items():
        np.testing.assert_allclose(found, sum(part.with_k[mode] for part in parts), rtol=1e-5)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_gamma_of_the_fitted_form_is_found(gamma):
    """Y = Gamma Z by construction: 1x1 filters of one channel, whose weights and inputs have sizes of the same form."""
    rng = np.random.default_rng(0)
    channel, row, column = (rng.uniform(0.5, 2, n) for n in (3, 4, 5))
    sizes = {"o": np.ones((4, 5)), "o-h-w": np.outer(row, column)}.get(gamma, rng.uniform(0.5, 2, (4, 5)))
    layer = layer_of((channel * [1, -1, 1]).reshape(3, 1, 1, 1).astype(np.float32))
    sums = sums_of(layer, rng.choice([-1, 1], (6, 1, 4, 5)) * sizes)
    fitted = approximation.fit(sums, gamma)
    np.testing.assert_allclose(np.broadcast_to(fitted, (3, 4, 5)), channel[:, None, None] * sizes, rtol=1e-4)
    assert sums.error(fitted) < 1e-3
    assert sums.error(approximation.number(sums)) > 0.1


@pytest.mark.parametrize("gamma", GAMMAS)
def test_no_step_from_a_fitted_gamma_is_better(gamma):
    rng = np.random.default_rng(1)
    layer = layer_of(rng.normal(size=(3, 8, 3, 3)).astype(np.float32), padding=1)
    sums = sums_of(layer, rng.normal(size=(8, 8, 4, 5)) * rng.uniform(0.2, 3, (1, 1, 4, 5)))
    fitted = approximation.fit(sums, gamma)
    least = sums.error(fitted)
    for axes in GAMMAS[gamma].values():
        shape = [fitted.shape[axis - 1] if axis in axes else 1 for axis in (1, 2, 3)]
        for _ in range(5):
            step = rng.choice([-1e-2, 1e-2], shape)
            assert sums.error(fitted * (1 + step)) > least
    finer = {"o": ("o-hw", "o-h-w", "ohw"), "o-h-w": ("o-hw", "ohw"), "o-hw": ("ohw",), "ohw": ()}[gamma]
    assert all(sums.error(approximation.fit(sums, other)) <= least + 1e-9 for other in finer)
    assert least <= sums.error(approximation.number(sums)) + 1e-9


@pytest.mark.parametrize("changes", [{}, {"method": "xnor++", "gamma": "o-h-w"}], ids=["xnor", "xnor++"])
def test_errors_of_a_whole_network(tmp_path, changes):
    data = load_data(resolve({"train_size": 60, "val_size": 24, "data_dir": str(tmp_path)}))
    build = {"method": "xnor", "width": 4, **changes}
    model = models.build("shapes-net", image_size=64, in_channels=3, num_classes=12, **build)
    for _, module in model.named_modules():
        if isinstance(module, Scale):
            module.channel.data[:] = np.random.default_rng(0).uniform(0.5, 2, module.channel.shape)
    errors = approximation.network_errors(model, data, images=24)
    assert list(errors) == ["block1.conv", "block2.conv", "block3.conv"]
    assert all(("trained" in layer) == bool(changes) for layer in errors.values())
    assert all(0 < error < 2 for layer in errors.values() for error in layer.values())
    x = Tensor(make_batch(data.val.images, np.arange(24), normalization_table(data.mean, data.std)))
    model.eval()
    modules = dict(model.named_modules())
    held_out = sums_of(modules["block1.conv"], modules["block1.bn"](modules["stem"](x)).data)
    assert errors["block1.conv"]["alpha K"] == pytest.approx(held_out.error_with_k("plain"), rel=1e-5)
    mean = approximation.mean_errors(errors)
    assert mean["number"] == pytest.approx(statistics.fmean(layer["number"] for layer in errors.values()))
    assert not any("forward" in vars(module) for _, module in model.named_modules())
    with pytest.raises(InputError, match="no layer with binary weights and inputs"):
        full = models.build("shapes-net", image_size=64, in_channels=3, num_classes=12, method="full", width=4)
        approximation.network_errors(full, data)
