"""What layers of imported networks have besides: a bias, BatchNorm without affine, one alpha for the whole layer."""

import numpy as np
import pytest

from tests.packed.test_freeze import assert_agree, lived_in
from xnor_ref import binary, nn
from xnor_ref.autodiff import Tensor
from xnor_ref.nn.backend import binary_backend
from xnor_ref.optim import SGD

IMAGES = {
    "binary": lambda **more: nn.BinaryConv2d(5, 33, 3, 1, 1, **more),
    "k bits": lambda **more: nn.KBitConv2d(5, 33, 3, 1, 1, weight_bits=2, input_bits=2, **more),
    "binary weights": lambda **more: nn.BinaryWeightConv2d(5, 33, 3, 1, 1, **more),
}
ROWS = {
    "binary": lambda **more: nn.BinaryLinear(70, 33, **more),
    "k bits": lambda **more: nn.KBitLinear(70, 33, weight_bits=2, input_bits=2, **more),
    "binary weights": lambda **more: nn.BinaryWeightLinear(70, 33, **more),
}
CASES = [(IMAGES[name], (4, 5, 6, 7)) for name in IMAGES] + [(ROWS[name], (4, 70)) for name in ROWS]


@pytest.mark.parametrize("make, shape", CASES, ids=[*IMAGES, *(f"{name} rows" for name in ROWS)])
@pytest.mark.parametrize("backend", ["auto", "numba"])
@pytest.mark.parametrize("with_norm", [False, True])
def test_a_bias_is_added_last(make, shape, backend, with_norm):
    rng = np.random.default_rng(3)
    layer, plain = (make(bias=bias, rng=np.random.default_rng(0)) for bias in (True, False))
    layer.bias.data[...] = rng.normal(size=33)
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    norms = [kind(shape[1])] if with_norm else []
    x = rng.standard_normal(shape).astype(np.float32)
    with binary_backend(backend):
        y = nn.Sequential(*norms, layer)(Tensor(x, requires_grad=True))
        expected = nn.Sequential(*[kind(shape[1]) for _ in norms], plain)(Tensor(x, requires_grad=True))
        bias = layer.bias.data.reshape(-1, *(1,) * (len(shape) - 2))
        assert np.array_equal(y.data, expected.data + bias)
        dy = rng.standard_normal(y.shape).astype(np.float32)
        y.backward(dy)
        expected.backward(dy)
    np.testing.assert_allclose(layer.bias.grad, dy.sum(axis=(0, *range(2, dy.ndim)), dtype=np.float64), atol=1e-4)
    np.testing.assert_allclose(layer.weight.grad, plain.weight.grad, rtol=1e-5, atol=1e-6)
    assert "bias" in layer.state_dict() and "bias" not in plain.state_dict()


@pytest.mark.parametrize("input_scale", ["off", "plain"])
def test_biases_are_frozen(input_scale):
    rng = np.random.default_rng(4)
    model = nn.Sequential(
        nn.BatchNorm2d(3),
        nn.BinaryConv2d(3, 33, 3, bias=True, input_scale=input_scale),
        nn.BatchNorm2d(33),
        nn.BinaryWeightConv2d(33, 7, 3, bias=True),
        nn.KBitConv2d(7, 6, 2, bias=True, weight_bits=2, input_bits=3, input_scale=input_scale),
        nn.Flatten(),
        nn.BinaryLinear(6 * 5 * 4, 66, bias=True, input_scale=input_scale),
        nn.BinaryWeightLinear(66, 5, bias=True),
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data[...] = rng.normal(size=parameter.shape)
    assert_agree(lived_in(model))


@pytest.mark.parametrize("backend", ["auto", "numba"])
def test_batch_norm_without_affine(backend):
    """It normalises, has no parameters, and trains and freezes beside every kind of layer that it is fused with."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((6, 3, 10, 9)).astype(np.float32) * 3 + 1
    norm = nn.BatchNorm2d(3, affine=False)
    assert list(norm.state_dict()) == ["running_mean", "running_var"] and "not affine" in repr(norm)
    layers = (
        nn.BinaryLinear(3, 4, bias=True),
        nn.BinaryConv2d(3, 4, 3, bias=True),
        nn.BinaryWeightLinear(3, 4, bias=True),
    )
    assert all(", bias" in repr(layer) for layer in layers) and "bias" not in repr(nn.BinaryConv2d(3, 4, 3))
    with binary_backend(backend):
        y = norm(Tensor(x, requires_grad=True)).data
    centred = x - x.mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    np.testing.assert_allclose(y, centred / np.sqrt(x.var(axis=(0, 2, 3), keepdims=True) + 1e-5), rtol=1e-4, atol=1e-5)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, rng=rng),
        nn.BatchNorm2d(8, affine=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(8, affine=False),
        nn.BinaryConv2d(8, 8, 3, rng=rng),
        nn.Flatten(),
        nn.BatchNorm1d(16, affine=False),
        nn.Linear(16, 5, rng=rng),
    )
    weight = dict(model.children())["5"].weight
    before = weight.data.copy()
    optimiser = SGD(list(model.parameters()), 0.1)
    with binary_backend(backend):
        nn.cross_entropy(model(Tensor(x)), np.arange(6) % 5).backward()
    optimiser.step()
    assert not np.array_equal(before, weight.data)
    assert_agree(model)


@pytest.mark.parametrize("bits", [1, 3])
def test_one_alpha_for_the_whole_layer_is_the_least_squares_one(bits):
    rule, rng = binary.WEIGHT_SCALES["layer"], np.random.default_rng(6)
    weight = rng.uniform(-1, 1, (4, 3, 2, 2))
    code = binary.Code(bits)
    b = code.values(weight)
    alpha = rule.alpha(weight, code)
    assert alpha.shape == (4,) and np.ptp(alpha) == 0
    best = np.linalg.lstsq(b.reshape(-1, 1), weight.reshape(-1), rcond=None)[0]
    np.testing.assert_allclose(alpha, best[0])
    dalpha, step = rng.normal(size=4), 1e-6
    direction = rng.normal(size=weight.shape)
    slope = (rule.alpha(weight + step * direction, code) - rule.alpha(weight - step * direction, code)) / (2 * step)
    np.testing.assert_allclose((rule.alpha_gradient(dalpha, weight, code) * direction).sum(), slope @ dalpha, rtol=1e-5)
