"""Binary layers: integer results, scales, each gradient rule against its closed form, and equality of the backends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nn.rules import latent_gradient
from xnor_ref import binary, nn
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.errors import InputError, InputTypeError


def sign(x):
    return np.where(x >= 0, 1.0, -1.0)


def windows(x, kernel, stride, padding, value):
    """(N, OH, OW, C, KH, KW) windows of x, bordered by `value`, in float64."""
    (ph, pw) = padding
    x = np.pad(np.float64(x), ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=value)
    view = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(2, 3))[:, :, :: stride[0], :: stride[1]]
    return view.transpose(0, 2, 3, 1, 4, 5)


def spread(columns, shape, kernel, stride, padding):
    """Adjoint of `windows`: adds (N, OH, OW, C, KH, KW) back into an image."""
    n, c, h, w = shape
    image = np.zeros((n, c, h + 2 * padding[0], w + 2 * padding[1]))
    for i, j in np.ndindex(columns.shape[1:3]):
        top, left = i * stride[0], j * stride[1]
        image[:, :, top : top + kernel[0], left : left + kernel[1]] += columns[:, i, j]
    return image[:, :, padding[0] : padding[0] + h, padding[1] : padding[1] + w]


@st.composite
def layers(draw):
    """A BinaryConv2d with every option drawn, and an input for it."""
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    c = draw(st.sampled_from([2, 3, 31, 64, 65]))
    scale = draw(st.sampled_from(["alpha", "off"]))
    input_scale = draw(st.sampled_from(["off", "plain", "valid"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    layer = nn.BinaryConv2d(
        c,
        draw(st.integers(1, 5)),
        kernel,
        stride,
        padding,
        pad_value=draw(st.sampled_from([-1, 0, 1])),
        weight_scale=scale,
        input_scale=input_scale,
        grad_mode=draw(st.sampled_from(list(binary.WEIGHT_GRADIENTS))) if scale == "alpha" else "ste",
        k_grad=input_scale != "off" and draw(st.booleans()),
        rng=rng,
    )
    layer.weight.data *= np.float32(4)  # some beyond the clipping window
    size = tuple(draw(st.integers(k, 6)) for k in kernel)
    x = (rng.standard_normal((draw(st.integers(1, 3)), c, *size)) * 1.5).astype(np.float32)
    return layer, x, rng


@settings(max_examples=80, deadline=None)
@given(layers())
def test_convolution_forward_and_backward_against_the_formulas(case):
    """mathematics (8), (11) to (14) and (16), in float64."""
    layer, x, rng = case
    geometry = (layer.kernel_size, layer.stride, layer.padding)
    w = np.float64(layer.weight.data)
    o, c = w.shape[:2]
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    columns = windows(sign(x), *geometry, layer.pad_value)
    z = np.einsum("nijcab,ocab->noij", columns, sign(w))
    alpha = np.abs(w).mean(axis=(1, 2, 3)) if layer.weight_scale.scales else np.ones(o)
    magnitude = windows(np.abs(np.float64(x)).mean(axis=1, keepdims=True), *geometry, 0)
    inside = windows(np.ones((1, 1, *x.shape[2:])), *geometry, 0).sum(axis=(3, 4, 5))
    divisor = {"off": None, "plain": np.full_like(inside, taps), "valid": np.maximum(inside, 1)}[layer.input_scale.name]
    k = np.ones_like(z[:, :1]) if divisor is None else (magnitude.sum(axis=(3, 4, 5)) / divisor)[:, None]

    tensor = Tensor(x, requires_grad=True)
    y = layer(tensor)
    np.testing.assert_allclose(y.data, z * alpha[:, None, None] * k, rtol=2e-5, atol=1e-6)

    d = rng.standard_normal(y.shape).astype(np.float32)
    y.backward(d)
    dk = d * k
    grad = np.einsum("nijcab,noij->ocab", columns, dk)
    expected_w = latent_gradient(grad, w, alpha if layer.weight_scale.scales else None, layer.grad_mode)
    np.testing.assert_allclose(layer.weight.grad, expected_w, rtol=1e-3, atol=1e-3)
    back = np.einsum("noij,ocab->nijcab", dk * alpha[:, None, None], sign(w))
    expected_x = spread(back, x.shape, *geometry) * (np.abs(x) <= 1)
    if layer.k_grad and divisor is not None:
        share = (d * z * alpha[:, None, None]).sum(axis=1) / divisor
        box = np.broadcast_to(share[..., None, None, None], (*share.shape, 1, *layer.kernel_size))
        expected_x += sign(x) / c * spread(box, (len(x), 1, *x.shape[2:]), *geometry)
    np.testing.assert_allclose(tensor.grad, expected_x, rtol=1e-3, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(layers())
def test_backends_give_the_same_bits(case):
    layer, x, _ = case
    results = {}
    for backend in ("auto", "reference", "numba", "float"):
        with nn.binary_backend(backend), no_grad():
            results[backend] = layer(Tensor(x)).data
    for backend, result in results.items():
        np.testing.assert_array_equal(result, results["auto"], err_msg=backend)


@pytest.mark.parametrize("grad_mode", binary.WEIGHT_GRADIENTS)
@pytest.mark.parametrize(("input_scale", "k_grad"), [("off", False), ("plain", False), ("plain", True)])
def test_linear_against_the_formulas(grad_mode, input_scale, k_grad):
    rng = np.random.default_rng(8)
    layer = nn.BinaryLinear(70, 6, input_scale=input_scale, grad_mode=grad_mode, k_grad=k_grad, rng=rng)
    x = Tensor((rng.standard_normal((5, 70)) * 1.5).astype(np.float32), requires_grad=True)
    w = np.float64(layer.weight.data)
    z = sign(x.data) @ sign(w).T
    alpha = np.abs(w).mean(axis=1)
    k = np.abs(np.float64(x.data)).mean(axis=1, keepdims=True) if input_scale == "plain" else np.ones((5, 1))
    y = layer(x)
    np.testing.assert_allclose(y.data, z * alpha * k, rtol=2e-5, atol=1e-6)
    d = rng.standard_normal(y.shape).astype(np.float32)
    y.backward(d)
    expected_w = latent_gradient((d * k).T @ sign(x.data), w, alpha, grad_mode)
    np.testing.assert_allclose(layer.weight.grad, expected_w, rtol=1e-3, atol=1e-4)
    expected_x = ((d * k * alpha) @ sign(w)) * (np.abs(x.data) <= 1)
    if k_grad:
        expected_x += sign(x.data) * (d * z * alpha).sum(axis=1, keepdims=True) / 70
    np.testing.assert_allclose(x.grad, expected_x, rtol=1e-3, atol=1e-4)
    with no_grad(), nn.binary_backend("float"):
        np.testing.assert_array_equal(layer(x).data, y.data)


def test_corrected_rule_is_the_jacobian_of_the_surrogate():
    """Finite differences of C(alpha(W) (s0 + 1[|W|<=1] (W - W0))) around W0, in float64."""
    rng = np.random.default_rng(9)
    w0, g = rng.standard_normal((2, 3, 2, 2, 2))
    s0, mask = sign(w0), np.abs(w0) <= 1

    def cost(w):
        alpha = np.abs(w).mean(axis=(1, 2, 3), keepdims=True)
        return (g * alpha * (s0 + mask * (w - w0))).sum()

    numeric = np.zeros_like(w0)
    for index in np.ndindex(*w0.shape):
        step = np.zeros_like(w0)
        step[index] = 1e-6
        numeric[index] = (cost(w0 + step) - cost(w0 - step)) / 2e-6
    alpha = np.abs(w0).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(latent_gradient(g, w0, alpha, "corrected"), numeric, atol=1e-8)

    # the paper's rule is the diagonal of that Jacobian: feed it one G_i at a time
    diagonal = np.zeros_like(w0)
    for index in np.ndindex(*w0.shape):
        alone = np.zeros_like(g)
        alone[index] = g[index]
        diagonal[index] = latent_gradient(alone, w0, alpha, "corrected")[index]
    np.testing.assert_allclose(latent_gradient(g, w0, alpha, "paper"), diagonal, atol=1e-12)


def test_gradient_rules_by_hand():
    """One filter of four weights, c = 2 channels, n = 4, alpha = 1: values small enough to check on paper."""
    w = np.array([[[[0.5, -0.5]], [[2.0, -1.0]]]])
    g = np.array([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    alpha = np.abs(w).mean(axis=(1, 2, 3))
    assert alpha == [1.0]
    # s = + - + -; sum_j G_j s_j = 1 - 2 + 3 - 4 = -2; /n = -0.5; masks |W|<=1: 1 1 0 1; |W|<1: 1 1 0 0
    expected = {
        "ste": [1, 2, 0, 4],
        "paper": [1.25, 2.5, 0.75, 5],
        "corrected": [1 - 0.5, 2 + 0.5, 0 - 0.5, 4 + 0.5],
        "official": [2 * 1.25, 2 * 2.5, 2 * 0.75, 2 * 1],  # (1 - 1/2) * 4 = 2
    }
    for mode, values in expected.items():
        np.testing.assert_allclose(latent_gradient(g, w, alpha, mode).ravel(), values, err_msg=mode)


def test_latent_weights_are_centred_and_clamped_after_each_step():
    layer = nn.BinaryConv2d(4, 2, 3, centre=True, clamp=True)
    layer.weight.data += np.float32(3)
    layer.after_step()
    np.testing.assert_allclose(layer.weight.data.mean(axis=1), 0, atol=0.5)
    assert np.abs(layer.weight.data).max() <= 1
    free = nn.BinaryConv2d(4, 2, 3)
    free.weight.data += np.float32(3)
    before = free.weight.data.copy()
    free.after_step()
    np.testing.assert_array_equal(free.weight.data, before)


def test_latent_weights_are_not_decayed():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BinaryConv2d(4, 4, 3), nn.Linear(4, 2), nn.BinaryLinear(4, 2))
    assert [p.decay for p in network.parameters()] == [True, False, True, False, False]  # the bias is not either
    assert [p.latent for p in network.parameters()] == [False, True, False, False, True]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: nn.BinaryConv2d(3, 4, 3, pad_value=2), InputError, r"must be 0, \+1 or -1, got 2"),
        (lambda: nn.BinaryConv2d(3, 4, 3, input_scale="k"), InputError, "one of off, plain, valid, got 'k'"),
        (lambda: nn.BinaryLinear(3, 4, input_scale="k"), InputError, "one of off, plain, valid, got 'k'"),
        (lambda: nn.BinaryConv2d(3, 4, 3, stochastic=True), TypeError, "does not take stochastic; it takes weight_"),
        (lambda: nn.BinaryConv2d(3, 4, 3, weight_scale="beta"), InputError, "alpha, layer, off, learned, got 'beta'"),
        (lambda: nn.BinaryConv2d(3, 4, 3, grad_mode="exact"), InputError, "corrected, paper, ste, official"),
        (lambda: nn.BinaryConv2d(3, 4, 3, weight_scale="off", grad_mode="paper"), InputError, "differentiates alpha"),
        (lambda: nn.BinaryConv2d(1, 4, 3, centre=True), InputError, "one input channel"),
        (lambda: nn.BinaryConv2d(1, 4, 3, grad_mode="official"), InputError, "one input channel"),
        (lambda: nn.BinaryConv2d(3, 4, 3)(Tensor(np.zeros((1, 4, 5, 5), np.float32))), InputError, "C=4"),
        (lambda: nn.BinaryConv2d(3, 4, 3)(Tensor(np.zeros((1, 3, 5, 5)))), InputTypeError, "float32"),
        (lambda: latent_gradient(np.ones((1, 1)), np.ones((1, 1)), np.ones(1), "exact"), InputError, "'exact'"),
        (lambda: nn.binary_backend("gpu").__enter__(), InputError, "got 'gpu'"),
    ],
)  # fmt: skip
def test_wrong_options_and_inputs_are_refused(make, error, text):
    with pytest.raises(error, match=text):
        make()
