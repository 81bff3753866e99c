"""BinaryNet's options: powers of two, shift-based batch normalisation, AdaMax in both forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models.test_models import build, images, packed_twin, settle
from tests.optim.test_optim import bits, parameter, path
from xnor_ref import nn, optim
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.binary import ap2
from xnor_ref.errors import InputError, InputTypeError, ModelFileError
from xnor_ref.kernels.basics.rungs import jit_disabled

BOTH = pytest.mark.parametrize("backend", ["reference", "numba"])


# --- powers of two


@given(st.floats(min_value=2**-126, max_value=2.0**126, width=32), st.booleans())
def test_ap2_is_the_nearest_power_of_two_of_the_logarithm(x, negative):
    x = -x if negative else x
    expected = math.copysign(2.0 ** round(math.log2(abs(x))), x)
    assert ap2(np.float32([x]))[0] == expected


def test_ap2_by_hand():
    root = np.float32(math.sqrt(2))  # just below the root itself
    x = np.float32([0, 1, root, np.nextafter(root, np.float32(2)), 3, -5, 6, 2**-126, 1e-45])
    assert ap2(x).tolist() == [0, 1, 1, 2, 4, -4, 8, 2**-126, 0]


# --- shift-based batch normalisation


def shift_norm64(x, gamma, beta, eps):
    """The definition in float64, channel by channel."""
    y = np.empty(x.shape)
    for c in range(x.shape[1]):
        centred = x[:, c] - x[:, c].mean()
        power = np.sign(centred) * 2.0 ** np.round(np.log2(np.abs(centred)))
        inv = 2.0 ** round(math.log2(1 / math.sqrt((centred * power).mean() + eps)))
        y[:, c] = math.copysign(2.0 ** round(math.log2(abs(gamma[c]))), gamma[c]) * centred * inv + beta[c]
    return y


@pytest.mark.parametrize("shape", [(6, 3, 4, 5), (40, 3)])
def test_shift_based_norm_follows_its_definition(shape):
    rng = np.random.default_rng(1)
    norm = (nn.ShiftBatchNorm2d if len(shape) == 4 else nn.ShiftBatchNorm1d)(3)
    norm.weight.data[...], norm.bias.data[...] = [0.7, -1.3, 3], [0.5, 0, -2]
    x = (rng.standard_normal(shape) * 3 + 1).astype(np.float32)
    y = norm(Tensor(x))
    expected = shift_norm64(np.float64(x), norm.weight.data, norm.bias.data, norm.eps)
    np.testing.assert_allclose(y.data, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(norm.running_mean - 0.1 * x.mean(axis=(0, *range(2, x.ndim)))).max() < 1e-4


@pytest.mark.parametrize("shape", [(5, 2, 3, 4), (30, 2)])
def test_its_gradients_pass_the_powers_straight_through(shape):
    """Those of gamma c / sqrt(mean(c^2)) with the powers of two in place of gamma and of the root."""
    rng = np.random.default_rng(2)
    norm = (nn.ShiftBatchNorm2d if len(shape) == 4 else nn.ShiftBatchNorm1d)(2)
    norm.weight.data[...] = [0.8, 2.9]
    x = Tensor((2 * rng.standard_normal(shape) + 1).astype(np.float32), requires_grad=True)
    y = norm(x)
    d = rng.standard_normal(shape).astype(np.float32)
    y.backward(d)
    axes, wide = (0, *range(2, len(shape))), (1, -1, *(1,) * (len(shape) - 2))
    data, dy = np.float64(x.data), np.float64(d)
    centred = data - data.mean(axis=axes, keepdims=True)
    var = (centred * ap2(centred.astype(np.float32))).mean(axis=axes, keepdims=True)
    inv = np.float64(ap2((1 / np.sqrt(var + norm.eps)).astype(np.float32)))
    factor = np.float64(ap2(norm.weight.data)).reshape(wide)
    mean, product = (value.mean(axis=axes, keepdims=True) for value in (dy, dy * centred))
    expected = factor * inv * (dy - mean - centred * inv**2 * product)
    np.testing.assert_allclose(x.grad, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(norm.weight.grad, (dy * centred * inv).sum(axis=axes), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(norm.bias.grad, dy.sum(axis=axes), rtol=1e-3, atol=1e-3)


def test_inference_multiplies_by_powers_of_two():
    norm = nn.ShiftBatchNorm2d(3)
    norm.running_mean[...], norm.running_var[...] = [1, -2, 0], [0.3, 5, 0.01]
    norm.weight.data[...], norm.bias.data[...] = [0.6, -3, 1], [1, 1, 1]
    scale, shift = norm.inference_affine()
    assert scale.tolist() == [0.5 * 2, -4 * 0.5, 8]  # 1/sqrt: 1.83, 0.447, 9.995
    assert shift.tolist() == [0, -3, 1]
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4), dtype=np.float32)
    with no_grad():
        y = norm.eval()(Tensor(x)).data
    np.testing.assert_array_equal(y, x * scale[:, None, None] + shift[:, None, None])


@pytest.mark.parametrize("name", ["shapes-net", "lenet5"])
@pytest.mark.parametrize("options", [{}, {"grad_bits": 1, "pad_value": -1}, {"sign_gradient": "bireal"}], ids=str)
def test_packed_logits_are_those_of_the_float_network(name, options):
    network = settle(build(name, 32, "bnn", shift_batch_norm=True, **options))
    kinds = {type(module).__name__ for _, module in network.named_modules()}
    assert "ShiftBatchNorm2d" in kinds and not kinds & {"BatchNorm1d", "BatchNorm2d"}
    x = images(network, 3)
    with no_grad(), nn.binary_backend("float"):
        expected = network(Tensor(x)).data
    assert expected.std() > 0
    np.testing.assert_array_equal(packed_twin(network).logits(x), expected)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="'xnor' does not take shift_batch_norm"):
        build("lenet5", 28, shift_batch_norm=True)
    with pytest.raises(InputError, match="more than one value per channel"):
        nn.ShiftBatchNorm1d(3)(Tensor(np.zeros((1, 3), np.float32)))
    with pytest.raises(InputTypeError, match="AdaMax: betas must be a pair"):
        optim.AdaMax([parameter([1.0])], 0.1, betas=0.9)
    with pytest.raises(InputError, match="ShiftAdaMax: eps"):
        optim.ShiftAdaMax([parameter([1.0])], 0.1, eps=0)


# --- AdaMax


@BOTH
def test_adamax_by_hand(backend):
    # betas 1/2 and 1/4: mean 1, 0.5; largest 2, 0.5; 1 - beta1^t is 1/2, 3/4
    p = parameter([0.0])
    points = path(optim.AdaMax([p], 1, betas=(0.5, 0.25), eps=2, backend=backend), p, [2, 0])
    np.testing.assert_allclose(points, [[-2 * 1 / 4], [-0.5 - 4 / 3 * 0.5 / 2.5]], rtol=1e-6)
    p = parameter([2.0])  # decay 0.5 makes the gradient 2
    np.testing.assert_allclose(
        path(optim.AdaMax([p], 1, eps=2, weight_decay=0.5, backend=backend), p, [1]), [[1.5]], rtol=1e-6
    )


@BOTH
def test_shift_adamax_by_hand(backend):
    # lr 0.3: AP2(0.3 / 0.5) is 0.5, AP2(0.3 / 0.75) is 0.5; largest 3, 0.75: AP2 is 4, 1
    p = parameter([0.0])
    optimizer = optim.ShiftAdaMax([p], 0.3, betas=(0.5, 0.25), backend=backend)
    points = path(optimizer, p, [3, 0])
    np.testing.assert_allclose(points, [[-0.5 * 1.5 / 4], [-0.1875 - 0.5 * 0.75 / 1]], rtol=1e-6)


@pytest.mark.parametrize("kind", [optim.AdaMax, optim.ShiftAdaMax])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_both_backends_give_the_same_bits(kind, decay):
    if jit_disabled():
        pytest.skip("element by element in Python takes long")
    results = []
    for backend, threads in (("reference", 1), ("numba", 1), ("numba", 2)):
        rng = np.random.default_rng(3)
        p = parameter(rng.standard_normal(100_001))
        optimizer = kind([p], 0.01, weight_decay=decay, backend=backend, threads=threads)
        for _ in range(4):
            sizes = np.exp(8 * rng.standard_normal(p.shape))
            p.grad = (rng.standard_normal(p.shape) * sizes).astype(np.float32)
            p.grad[::7] = 0
            optimizer.step()
        results.append((bits(p.data), {key: bits(a) for key, a in optimizer.state_dict().items() if a.ndim}))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("kind", [optim.AdaMax, optim.ShiftAdaMax])
def test_a_step_without_any_gradient_so_far_stays_finite(kind):
    p = parameter([1.0, -2.0])
    assert path(kind([p], 0.1), p, [0, 0]) == [[1.0, -2.0]] * 2


@pytest.mark.parametrize("name", ["adamax", "shift-adamax"])
def test_the_state_goes_on_where_it_was(name):
    rng = np.random.default_rng(4)
    gradients = rng.standard_normal((6, 5)).astype(np.float32)
    make = optim.OPTIMIZERS[name]

    def run(optimizer, param, steps):
        for gradient in steps:
            param.grad = gradient.copy()
            optimizer.step()

    whole, first, second = (parameter(np.ones(5)) for _ in range(3))
    run(make([whole], 0.1), whole, gradients)
    before = make([first], 0.1)
    run(before, first, gradients[:3])
    after = make([second], 0.1)
    second.data[...] = first.data
    after.load_state_dict({key: array.copy() for key, array in before.state_dict().items()})
    run(after, second, gradients[3:])
    assert bits(second.data) == bits(whole.data)
    with pytest.raises(ModelFileError, match="missing"):
        optim.Adam([second], 0.1).load_state_dict(after.state_dict())
