"""Real layers against float64 definitions written out of autodiff's own ops, and their Numba rung against NumPy's."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from xnor_ref import nn
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.errors import InputError, InputTypeError
from xnor_ref.kernels.basics import threads
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.ops import float_ops
from xnor_ref.kernels.readable import float_plain, float_reference
from xnor_ref.nn import functional


def pads(x, padding, value=0.0):
    (ph, pw) = padding
    return np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=value)


def direct_conv(x, w, stride, padding, groups=1):
    """Convolution by its definition, in float64."""
    x = pads(x.astype(np.float64), padding)
    o, c, kh, kw = w.shape
    oh, ow = (x.shape[2] - kh) // stride[0] + 1, (x.shape[3] - kw) // stride[1] + 1
    y = np.zeros((len(x), o, oh, ow))
    for filter_ in range(o):
        first = filter_ // (o // groups) * c
        for i in range(oh):
            for j in range(ow):
                window = x[:, first : first + c, i * stride[0] : i * stride[0] + kh, j * stride[1] : j * stride[1] + kw]
                y[:, filter_, i, j] = (window * w[filter_]).sum(axis=(1, 2, 3))
    return y


@st.composite
def conv_cases(draw):
    groups = draw(st.integers(1, 3))
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    padding = (draw(st.integers(0, 4)), draw(st.integers(0, 4)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    size = tuple(draw(st.integers(max(1, k - 2 * p), 9)) for k, p in zip(kernel, padding))
    n, c, o = draw(st.integers(1, 5)), draw(st.integers(1, 3)) * groups, draw(st.integers(1, 3)) * groups
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal((n, c, *size), dtype=np.float32)
    w = rng.standard_normal((o, c // groups, *kernel), dtype=np.float32)
    return x, w, stride, padding, groups


@settings(max_examples=60, deadline=None)
@given(conv_cases(), st.booleans())
def test_convolution_and_its_gradients(case, training):
    x, w, stride, padding, groups = case
    y = float_ops.conv2d(x, w, None, Window.of(w.shape[2:], stride, padding), groups, training=training)
    expected = direct_conv(x, w, stride, padding, groups)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)

    # The map is bilinear, so its two gradients are its adjoints: <dy, conv(u, w)> = <dx, u> and likewise for w.
    rng = np.random.default_rng(0)
    dy = rng.standard_normal(y.shape, dtype=np.float32)
    u, v = rng.standard_normal(x.shape, dtype=np.float32), rng.standard_normal(w.shape, dtype=np.float32)
    window = Window.of(w.shape[2:], stride, padding)
    dx = float_ops.conv2d_input_gradient(dy, w, x.shape[2:], window, groups)
    dw = float_ops.conv2d_weight_gradient(dy, x, window, groups)
    scale = 1e-4 * np.sqrt(dy.size * w[0].size) + 1e-5
    assert abs((dy * direct_conv(u, w, stride, padding, groups)).sum() - (dx * u.astype(np.float64)).sum()) < scale
    assert abs((dy * direct_conv(x, v, stride, padding, groups)).sum() - (dw * v.astype(np.float64)).sum()) < scale


@settings(max_examples=30, deadline=None)
@given(conv_cases(), st.sampled_from([0.0, 1.0, -1.0]), st.booleans())
def test_im2col_rungs_agree(case, pad_value, signs):
    x, w, stride, padding, _ = case
    kernel = w.shape[2:]
    window = Window.of(kernel, stride, padding)
    oh, ow = window.count(x.shape[2:])
    rows = x.shape[1] * kernel[0] * kernel[1]
    columns = [np.full((rows, len(x) * oh * ow), np.nan, np.float32) for _ in range(2)]
    for rung, cols in zip((float_reference, float_plain), columns):
        rung.im2col(x, 0, len(x), window.numbers, (oh, ow), np.float32(pad_value), signs, cols)
    np.testing.assert_array_equal(*columns)
    images = [np.zeros_like(x) for _ in range(2)]
    for rung, dx in zip((float_reference, float_plain), images):
        rung.col2im(columns[0], 0, len(x), window.numbers, (oh, ow), dx)
    np.testing.assert_allclose(*images, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5, 4), (3, 1, 1, 1), (7, 17, 3, 3)])
def test_batch_norm_against_its_definition(shape):
    rng = np.random.default_rng(1)
    x = (rng.standard_normal(shape) * 3 + 2).astype(np.float32)
    gamma, beta = rng.standard_normal((2, shape[1])).astype(np.float32)
    dy = rng.standard_normal(shape).astype(np.float32)
    axes = (0, *range(2, len(shape)))
    view = (1, -1, *(1,) * (len(shape) - 2))

    def definition(x, gamma, beta):
        centred = x - x.mean(axis=axes, keepdims=True)
        var = (centred**2).mean(axis=axes, keepdims=True)
        return gamma.reshape(view) * centred / (var + 1e-5) ** 0.5 + beta.reshape(view)

    y, mean, var = float_ops.batch_norm(x, gamma, beta, 1e-5)
    np.testing.assert_allclose(mean, x.mean(axis=axes, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(var, x.var(axis=axes, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(y, definition(x.astype(np.float64), gamma, beta), rtol=1e-4, atol=1e-4)

    tensors = [Tensor(a.astype(np.float64), requires_grad=True) for a in (x, gamma, beta)]
    definition(*tensors).backward(dy.astype(np.float64))
    gradients = float_ops.batch_norm_gradient(dy, x, gamma, mean, var, 1e-5)
    for ours, tensor in zip(gradients, tensors):
        np.testing.assert_allclose(ours, tensor.grad, rtol=2e-3, atol=2e-4)


def test_batch_norm_rungs_agree():
    rng = np.random.default_rng(2)
    x, dy = rng.standard_normal((2, 4, 6, 10)).astype(np.float32)
    gamma, beta = rng.standard_normal((2, 6)).astype(np.float32)
    results = []
    for rung in (float_reference, float_plain):
        y, dx = np.empty_like(x), np.empty_like(x)
        mean, var, dgamma, dbeta = np.empty((4, 6))
        rung.batch_norm_forward(x, 0, 6, gamma, beta, 1e-5, y, mean, var)
        rung.batch_norm_backward(dy, x, 0, 6, gamma, mean, var, 1e-5, dx, dgamma, dbeta)
        results.append((y, mean, var, dx, dgamma, dbeta))
    for reference, plain in zip(*results):
        np.testing.assert_allclose(plain, reference, rtol=1e-4, atol=1e-5)


def test_training_mode_moves_running_statistics_without_gradients_too():
    """As in PyTorch: the mode decides, whether anything is recorded or not."""
    x, layers = np.random.default_rng(0).standard_normal((4, 3, 5, 5), np.float32), [nn.BatchNorm2d(3) for _ in "ab"]
    layers[0](x)
    with no_grad():
        layers[1](x)
        layers[1].eval()(x)
    for name in layers[0].buffer_names:
        np.testing.assert_allclose(getattr(layers[1], name), getattr(layers[0], name), rtol=1e-5, atol=1e-7)
    assert np.abs(layers[1].running_mean).max() > 0


def test_a_network_takes_arrays_and_says_what_else_it_got():
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), np.ones((1, 3, 2, 2), np.float32)
    assert np.array_equal(net(x).data, net(Tensor(x)).data)
    for wrong, said in (
        (x.astype(np.uint8), r"Sequential: input must be .* got an array of uint8; raw pixels must be normalised"),
        (x.tolist(), "got builtins.list"),
        (None, "got builtins.NoneType"),
    ):
        with pytest.raises(InputTypeError, match=said):
            net(wrong)
    with pytest.raises(InputTypeError, match="linear: input must be float32, got float64"):
        net(x.astype(float))


def test_zero_grad_forgets_all_gradients():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    net(np.ones((1, 1, 2, 2), np.float32)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_batch_norm_layer_moves_its_running_statistics_and_uses_them_in_inference():
    layer = nn.BatchNorm2d(2, momentum=0.5)
    x = np.float32([[[[1, 3]], [[10, 10]]], [[[5, 7]], [[10, 14]]]])  # channel 0: 1 3 5 7; channel 1: 10 10 10 14
    layer(Tensor(x))
    np.testing.assert_allclose(layer.running_mean, [2, 5.5])  # half of the means 4 and 11
    np.testing.assert_allclose(layer.running_var, [0.5 + 0.5 * 20 / 3, 0.5 + 0.5 * 4])
    layer.eval()
    scale, shift = layer.inference_affine()
    y = layer(Tensor(x)).data
    np.testing.assert_array_equal(y, x * scale[:, None, None] + shift[:, None, None])
    np.testing.assert_allclose(y[0, 0, 0, 0], (1 - 2) / np.sqrt(0.5 + 10 / 3 + 1e-5), rtol=1e-6)


@st.composite
def pool_cases(draw):
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 4)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    stride = (draw(st.integers(1, 4)), draw(st.integers(1, 3)))
    size = tuple(draw(st.integers(max(1, k - 2 * p), 9)) for k, p in zip(kernel, padding))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.integers(-2, 3, (draw(st.integers(1, 3)), draw(st.integers(1, 3)), *size)).astype(np.float32)
    return x, kernel, stride, padding


@settings(max_examples=60, deadline=None)
@given(pool_cases())
def test_max_pool_takes_the_first_of_equal_taps(case):
    x, kernel, stride, padding = case
    sliding = Window.of(kernel, stride, padding)
    y, winner = float_ops.max_pool2d_winners(x, sliding)
    np.testing.assert_array_equal(float_ops.max_pool2d(x, sliding), y)
    dy = np.arange(1, y.size + 1, dtype=np.float32).reshape(y.shape)
    dx = float_ops.max_pool2d_gradient(dy, winner, x.shape[2:], sliding)
    expected = np.zeros_like(dx)
    padded = pads(x, padding, -np.inf)
    for n, c, i, j in np.ndindex(*y.shape):
        top, left = i * stride[0], j * stride[1]
        window = padded[n, c, top : top + kernel[0], left : left + kernel[1]]
        assert y[n, c, i, j] == window.max()
        a, b = np.unravel_index(window.argmax(), window.shape)
        expected[n, c, top + a - padding[0], left + b - padding[1]] += dy[n, c, i, j]
    np.testing.assert_array_equal(dx, expected)
    reference = np.empty_like(y), np.empty_like(winner)
    float_reference.max_pool_winners(x, 0, len(x), sliding.numbers, *reference)
    np.testing.assert_array_equal(reference[0], y)
    np.testing.assert_array_equal(reference[1], winner)
    other = np.zeros_like(dx)
    float_reference.max_pool_backward(dy, winner, 0, len(x), sliding.numbers, other)
    np.testing.assert_array_equal(other, dx)


@settings(max_examples=30, deadline=None)
@given(pool_cases())
def test_average_pool_is_a_convolution_with_a_box(case):
    x, kernel, stride, padding = case
    channels = x.shape[1]
    box = np.full((channels, 1, *kernel), 1 / (kernel[0] * kernel[1]), np.float32)
    window = Window.of(kernel, stride, padding)
    shares = float_ops.tap_shares(x.shape[2:], window)
    y = float_ops.avg_pool2d(x, window, shares)
    np.testing.assert_allclose(y, direct_conv(x, box, stride, padding, channels), rtol=1e-5, atol=1e-6)
    dx = float_ops.avg_pool2d_gradient(y, x.shape[2:], window, shares)
    expected = float_ops.conv2d_input_gradient(y, box, x.shape[2:], window, channels)
    np.testing.assert_allclose(dx, expected, rtol=1e-4, atol=1e-5)


def zeros(*shape):
    return Tensor(np.zeros(shape, np.float32))


def _numeric(function, x, direction, step=1e-2):
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


@pytest.mark.parametrize(
    "layer",
    [nn.ReLU(), nn.Hardtanh(), nn.PReLU(), nn.PReLU(3), nn.GlobalAvgPool2d(), nn.Flatten(), nn.AvgPool2d(2)],
    ids=lambda layer: type(layer).__name__,
)
def test_elementwise_and_pooling_layers_differentiate(layer):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 3, 4, 4))
    x = np.where(np.abs(np.abs(x) % 1) < 0.05, x + 0.1, x).astype(np.float32)  # away from the kinks at -1, 0, 1
    tensor = Tensor(x, requires_grad=True)
    y = layer(tensor)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    y.backward(dy)
    direction = rng.standard_normal(x.shape).astype(np.float32)
    with no_grad():
        numeric = _numeric(lambda v: (layer(Tensor(v)).data * dy).sum(dtype=np.float64), x, direction, 1e-2)
    assert abs(numeric - (tensor.grad * direction).sum()) < 2e-3 * max(1, abs(numeric))


def test_prelu_slopes_get_their_gradient():
    for layer in (nn.PReLU(), nn.PReLU(2)):
        x = Tensor(np.float32([[1, -2], [-3, -4]]), requires_grad=True)
        layer(x).backward(np.ones((2, 2), np.float32))
        np.testing.assert_allclose(layer.weight.grad, [-9] if layer.channels == 1 else [-3, -6])
        np.testing.assert_allclose(x.grad, [[1, 0.25], [0.25, 0.25]])


def test_linear_gradients():
    rng = np.random.default_rng(4)
    layer = nn.Linear(7, 5, rng=rng)
    x = Tensor(rng.standard_normal((3, 7)).astype(np.float32), requires_grad=True)
    y = layer(x)
    np.testing.assert_allclose(y.data, x.data @ layer.weight.data.T + layer.bias.data, rtol=1e-5, atol=1e-6)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    y.backward(dy)
    np.testing.assert_allclose(x.grad, dy @ layer.weight.data, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.weight.grad, dy.T @ x.data, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.bias.grad, dy.sum(axis=0), rtol=1e-5)


def test_dropout_repeats_its_mask_at_the_same_position_only():
    layer = nn.Sequential(nn.Dropout(0.25), nn.Dropout(0.25))
    x = Tensor(np.ones((50, 40), np.float32))
    layer.set_position(7, 100)
    first = layer(x).data
    assert set(np.unique(first)) <= {np.float32(0), np.float32(4 / 3), np.float32(4 / 3) * np.float32(4 / 3)}
    assert abs(first.mean() - 1) < 0.1
    np.testing.assert_array_equal(first, layer(x).data)
    layer.set_position(7, 101)
    assert (layer(x).data != first).any()
    layer.eval()
    np.testing.assert_array_equal(layer(x).data, x.data)


def test_inference_gives_each_image_the_same_bits_at_any_batch_size_and_thread_count():
    rng = np.random.default_rng(5)
    for c, size, o, kernel, stride, padding in [(3, 21, 16, 5, 2, 2), (32, 6, 33, 3, 1, 1), (64, 4, 100, 1, 1, 0)]:
        x = rng.standard_normal((9, c, size, size), dtype=np.float32)
        w = rng.standard_normal((o, c, kernel, kernel), dtype=np.float32)
        window = Window.of(kernel, stride, padding)
        whole = float_ops.conv2d(x, w, None, window, threads=2)
        alone = [float_ops.conv2d(x[i : i + 1], w, None, window, threads=1) for i in range(9)]
        np.testing.assert_array_equal(whole, np.concatenate(alone))
    x, w = rng.standard_normal((37, 300), dtype=np.float32), rng.standard_normal((70, 300), dtype=np.float32)
    whole = float_ops.linear(x, w, None, threads=2)
    np.testing.assert_array_equal(whole, np.concatenate([float_ops.linear(x[i : i + 1], w, None) for i in range(37)]))


def test_weight_gradient_has_the_same_bits_at_any_thread_count():
    rng = np.random.default_rng(6)
    x, dy = rng.standard_normal((33, 8, 6, 6), dtype=np.float32), rng.standard_normal((33, 9, 6, 6), dtype=np.float32)
    results = [float_ops.conv2d_weight_gradient(dy, x, Window.of(3, padding=1), threads=t) for t in (1, 2, 3)]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_losses_against_their_definitions():
    rng = np.random.default_rng(7)
    z, labels = rng.standard_normal((5, 4)), np.array([0, 3, 1, 1, 2])
    one_hot = np.eye(4)[labels]
    for smoothing in (0.0, 0.2):
        logits = Tensor(z, requires_grad=True)
        loss = nn.cross_entropy(logits, labels, smoothing)
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        target = (1 - smoothing) * one_hot + smoothing / 4
        assert loss.item() == pytest.approx(-(target * np.log(p)).sum() / 5)
        loss.backward()
        np.testing.assert_allclose(logits.grad, (p - target) / 5, atol=1e-12)
    logits = Tensor(z, requires_grad=True)
    loss = nn.squared_hinge(logits, labels)
    t = 2 * one_hot - 1
    margin = np.maximum(0, 1 - t * z)
    assert loss.item() == pytest.approx((margin**2).mean())
    loss.backward()
    np.testing.assert_allclose(logits.grad, -2 * t * margin / 20, atol=1e-12)


def test_state_dict_round_trip_and_refusals():
    def network():
        return nn.Sequential(conv=nn.Conv2d(1, 2, 3), bn=nn.BatchNorm2d(2))

    a, b = network(), network()
    a.state_dict()["bn.running_mean"][...] = 5
    b.load_state_dict(a.state_dict())
    for name, array in a.state_dict().items():
        np.testing.assert_array_equal(array, b.state_dict()[name])
    assert [name for name, p in a.named_parameters() if p.decay] == ["conv.weight"]
    with pytest.raises(InputError, match=r"missing \['bn.bias'"):
        b.load_state_dict({"conv.weight": a.state_dict()["conv.weight"]})
    with pytest.raises(InputError, match=r"conv.weight is float32 \(1,\), but float32 \(2, 1, 3, 3\) is needed"):
        b.load_state_dict({**a.state_dict(), "conv.weight": np.zeros(1, np.float32)})


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), InputError, "groups=2 must divide C=3 and O=4"),
        (lambda: nn.Conv2d(3, 4, 0), InputError, "kernel_size must be at least 1, got 0"),
        (lambda: nn.Conv2d(3, 4, 3, stride=(1, 2, 3)), InputTypeError, "stride must be an int or a pair"),
        (lambda: nn.Conv2d(3, 4, 3, padding=-1), InputError, r"padding must be an int from 0 .* or a pair, got -1"),
        (lambda: nn.Conv2d(True, 4, 3), InputTypeError, "in_channels must be an int, got True"),
        (lambda: nn.Conv2d(3, 4, 3, rng=3), InputTypeError, r"numpy.random.Generator, such as .*, got 3"),
        (lambda: nn.Conv2d(3, 4, 3, padding=10**6)(zeros(1, 3, 4, 4)), InputError, r"padded to \(2000004,"),
        (lambda: nn.BinaryConv2d(3, 4, 3, padding=10**6)(zeros(1, 3, 4, 4)), InputError, "GiB of memory"),
        (lambda: nn.ReLU().load_state_dict(3), InputTypeError, "state must be a dict of arrays by name, got int"),
        (lambda: nn.Linear(1, 1, bias=False).load_state_dict({"weight": [[1]]}), InputTypeError, "ndarray, got list"),
        (lambda: nn.Sequential(nn.ReLU(), 3), InputTypeError, "layer '1' must be a Module, got int"),
        (lambda: nn.Sequential([nn.ReLU()]), InputTypeError, r"got list; give .* as Sequential\(\*layers\)"),
        (lambda: nn.cross_entropy(np.ones((2, 2)), np.arange(2)), InputTypeError, "must be a Tensor, got ndarray"),
        (lambda: nn.MaxPool2d(2, padding=2), InputError, "more than half the kernel"),
        (lambda: nn.Dropout(1.0), InputError, r"must be in \[0, 1\), got 1.0"),
        (lambda: nn.BatchNorm2d(3, eps=0), InputError, "eps=0"),
        (lambda: nn.Conv2d(3, 4, 3)(zeros(1, 2, 5, 5)), InputError, "C=2, but the layer needs C=3"),
        (lambda: nn.Conv2d(1, 4, 9)(zeros(1, 1, 5, 5)), InputError, "larger than the image"),
        (lambda: nn.Linear(3, 4)(zeros(1, 2)), InputError, r"must be \(N, 3\), got shape"),
        (lambda: nn.Linear(3, 4)(Tensor(np.zeros((1, 3)))), InputTypeError, "must be float32, got float64"),
        (lambda: nn.BatchNorm1d(3)(zeros(1, 3)), InputError, "more than one value per channel"),
        (lambda: functional.max_pool2d(zeros(1, 3), Window((2, 2), (2, 2))), InputError, "N, C"),
        (lambda: nn.cross_entropy(zeros(2, 3), np.array([0, 3])), InputError, "from 0 to 3, but there are 3"),
        (lambda: nn.cross_entropy(zeros(2, 3), np.array([0.0, 1.0])), InputTypeError, "integer array"),
    ],
)  # fmt: skip
def test_wrong_layers_and_inputs_are_refused(make, error, text):
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize("shape", [(0, 8, 6, 6), (2, 0, 6, 6), (2, 8, 0, 6)])
@pytest.mark.parametrize(
    "layer", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.GlobalAvgPool2d()], ids=lambda m: type(m).__name__
)
def test_pools_refuse_empty_images_on_both_paths(layer, shape):
    for path in ("auto", "numba"):
        with nn.binary_backend(path), pytest.raises(InputError, match="pool2d: input must be a non-empty"):
            layer(zeros(*shape))


def test_work_is_shared_raises_nests_and_survives_a_fork():
    done = np.zeros(100, int)

    def count(start, stop):
        threads.parallel_chunks(lambda a, b: done.__setitem__(slice(start + a, start + b), 1), stop - start, 2)

    threads.parallel_chunks(count, 100, 7, threads=3)
    assert done.all()
    with pytest.raises(ZeroDivisionError):
        threads.parallel_chunks(lambda start, stop: 1 // (start - 3), 10, threads=3)
    with pytest.raises(InputError, match="threads must be from 1 to 1024, got 0"):
        threads.parallel_chunks(count, 100, 7, threads=0)
    if hasattr(os, "fork"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forking beside threads
            child = os.fork()
        if child == 0:
            done[:] = 0
            threads.parallel_chunks(count, 100, 7, threads=3)
            os._exit(0 if done.all() else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_blas_is_held_to_one_thread_only_while_it_is_used_from_any_thread():
    def now():
        return [library.get_num_threads() for kind in threads._blas_libraries() for library in kind]  # not SciPy's

    inside, before = [], now()

    def use_blas():
        threads.parallel_chunks(lambda start, stop: inside.extend(now()), 4, threads=2, blas=True)

    for call in (lambda work: work(), run_in_a_thread):  # the main thread first, then another
        call(use_blas)
        assert now() == before
    assert set(inside) <= {1}


def run_in_a_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_another_thread_computes_the_same_bits():
    rng = np.random.default_rng(10)
    x, w = rng.standard_normal((8, 3, 64, 64), dtype=np.float32), rng.standard_normal((32, 3, 5, 5), dtype=np.float32)
    window = Window.of(w.shape[2:], 2, 2)
    here, there = float_ops.conv2d(x, w, None, window), []
    run_in_a_thread(lambda: there.append(float_ops.conv2d(x, w, None, window)))
    np.testing.assert_array_equal(there[0], here)


def test_an_error_stops_the_remaining_chunks_and_waits_for_those_under_way():
    began, ended = [], []

    def chunk(start, stop):
        began.append(start)
        if start == 2:
            raise KeyboardInterrupt
        time.sleep(0.02)
        ended.append(start)

    with pytest.raises(KeyboardInterrupt):
        threads.parallel_chunks(chunk, 1000, threads=2)
    assert len(began) < 20
    assert sorted(began) == sorted([*ended, 2])


INTERRUPTS = """
import signal
import numpy as np
from xnor_ref.kernels.basics import threads

class Interrupt(BaseException):
    pass

def interrupt(*_):
    raise Interrupt

out, interrupted = np.zeros(64), 0
threads.parallel_chunks(lambda start, stop: None, 64, threads=3)  # Python's own Thread.start minds interrupts
signal.signal(signal.SIGALRM, interrupt)
for delay in np.linspace(1e-5, 4e-4, 300):
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        threads.parallel_chunks(lambda start, stop: out[start:stop].fill(1), 64, threads=3)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for _ in range(9):
            pass  # an interrupt that has come but was not yet raised is raised here
    except Interrupt:
        interrupted += 1
out[:] = 0
threads.parallel_chunks(lambda start, stop: out[start:stop].fill(1), 64, threads=3)
print(interrupted, out.all())
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer here")
def test_interrupts_at_any_moment_leave_the_pool_working():
    command = [sys.executable, "-c", INTERRUPTS]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    interrupted, complete = run.stdout.split()
    assert int(interrupted) > 0 and complete == "True", run.stderr
