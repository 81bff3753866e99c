"""Real convolutions in groups: the bits of a convolution of each group, and both gradients."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xnor_ref import nn
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.memory import empty
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.ops import float_ops
from xnor_ref.nn.backend import binary_backend

if not has_vectors():
    pytest.skip("the kernels are compiled vector code", allow_module_level=True)

from xnor_ref.kernels.training.convolution import GroupedConvolution
from xnor_ref.kernels.vectors import grouped, simd

AXIS = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))  # taps, stride, dilation
SQUARE = st.just(((3, 1, 1), (3, 1, 1)))  # which has a kernel of its own


@st.composite
def cases(draw, most=4):
    """Images (N, H, W, C), weights, groups and a window; up to `most` channels a group."""
    kernel, stride, dilation = zip(*draw(SQUARE | st.tuples(AXIS, AXIS)), strict=True)
    padding = tuple((draw(st.integers(0, taps)), draw(st.integers(0, taps))) for taps in kernel)
    window = Window(kernel, stride, padding, dilation)
    height, width = (draw(st.integers(extent, 40)) for extent in window.extent)
    inputs, outputs = draw(st.one_of(st.just((1, 1)), st.tuples(st.integers(1, most), st.integers(1, most))))
    groups = draw(st.integers(1, 70 // max(inputs, outputs)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal((draw(st.integers(1, 3)), height, width, groups * inputs), np.float32)
    weight = rng.standard_normal((groups * outputs, inputs, *kernel), np.float32)
    return x, weight, groups, window


def planes(x):
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def run(conv, x, threads=1):
    """The result, written between other numbers that must stay."""
    size = len(x) * int(np.prod(conv.out_shape))
    memory = np.full(size + 200, np.float32(7))
    out = memory[100 : 100 + size].reshape(len(x), *conv.out_shape)
    conv.bind(x, out)(len(x), threads)
    assert (memory[:100] == 7).all() and (memory[100 + size :] == 7).all()
    return out


@given(case=st.one_of(cases(), cases(most=35)), finished=st.booleans())
def test_outputs_have_the_bits_of_a_convolution_for_each_group(case, finished):
    x, weight, groups, window = case
    outputs, inputs = weight.shape[:2]
    sparse = np.zeros((outputs, inputs, *window.extent), np.float32)  # dilation is a larger kernel with zeros
    sparse[:, :, :: window.dilation[0], :: window.dilation[1]] = weight
    wide_window = Window(window.extent, window.stride, window.padding)
    bias, scale, shift = np.random.default_rng(0).standard_normal((3, outputs), np.float32)
    values = (bias, scale, shift, -0.5) if finished else (None, None, None, -np.inf)
    found = run(grouped.planned(weight, groups, x.shape[1:3], window, *values), x)
    for group in range(groups):
        of_group = slice(group * outputs // groups, (group + 1) * outputs // groups)
        part = [value[of_group] if isinstance(value, np.ndarray) else value for value in values]
        conv = simd.RealConv(sparse[of_group], x.shape[1:3], wide_window, *part)
        wide = np.zeros((len(x), *conv.padded_shape), np.float32)
        left = window.margin
        wide[:, :, left : left + x.shape[2]] = x[..., group * inputs : (group + 1) * inputs]
        wanted = np.empty((len(x), *conv.out_shape), np.float32)
        conv.bind(wide, wanted)(len(x), 1)
        assert np.array_equal(found[..., of_group], wanted)


@given(case=cases(), bias=st.booleans())
def test_training_forward_and_both_gradients(case, bias):
    x, weight, groups, window = case
    bias = np.random.default_rng(1).standard_normal(len(weight), np.float32) if bias else None
    plan = GroupedConvolution(weight.shape, x.shape[1:3], window, groups)
    y = plan.forward(x, weight, bias)
    wanted = float_ops.conv2d(planes(x), weight, bias, window, groups, training=True)
    np.testing.assert_allclose(planes(y), wanted, rtol=1e-4, atol=1e-4)
    dy = np.random.default_rng(2).standard_normal(y.shape, np.float32)
    dw, dx = plan.backward(dy, x, weight, True, weight)
    wanted = float_ops.conv2d_input_gradient(planes(dy), weight, x.shape[1:3], window, groups)
    np.testing.assert_allclose(planes(dx), wanted, rtol=1e-4, atol=1e-4)
    wanted = float_ops.conv2d_weight_gradient(planes(dy), planes(x), window, groups)
    np.testing.assert_allclose(dw, wanted, rtol=1e-3, atol=1e-3)
    assert plan.backward(dy, x, weight, False, weight)[1] is None


@pytest.mark.parametrize("shape", [(64, 1, 3, 3), (20, 1, 3, 3), (48, 4, 3, 3), (80, 40, 3, 3)])
def test_any_number_of_threads_and_any_batch_gives_the_same_bits(shape, monkeypatch):
    monkeypatch.setattr(simd, "SHARED", 0)
    monkeypatch.setattr(grouped, "worth", lambda threads, work: threads)
    groups = 2 if shape[1] == 40 else shape[0] // shape[1]
    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal(shape, np.float32), rng.standard_normal((19, 8, 9, groups * shape[1]), np.float32)
    conv = grouped.planned(weight, groups, (8, 9), Window((3, 3), padding=((1, 1), (1, 1))))
    whole = run(conv, x)
    assert np.array_equal(whole, run(conv, x, threads=3))
    assert np.array_equal(whole[4:5], run(conv, np.ascontiguousarray(x[4:5])))
    if shape[1] < 40:
        streamed = empty(whole.shape)
        conv.bind(x, streamed, stream=True)(len(x), 2)
        assert np.array_equal(whole, streamed)
        sums = [conv.weight_gradient(x, whole, threads) for threads in (1, 2, 3)]
        assert np.array_equal(sums[0], sums[1]) and np.array_equal(sums[0], sums[2])


@pytest.mark.parametrize(("channels", "outputs", "groups"), [(40, 40, 40), (6, 12, 3), (80, 80, 2)])
def test_a_layer_is_the_same_compiled_and_readable(channels, outputs, groups):
    rng = np.random.default_rng(0)
    layer = nn.Conv2d(channels, outputs, 3, 2, 1, groups, bias=True, rng=rng)
    layer.bias.data[...] = rng.standard_normal(outputs, np.float32)
    images = rng.standard_normal((3, channels, 9, 8), np.float32)
    found = {}
    for path in ("auto", "numba"):
        x = Tensor(images, requires_grad=True)
        layer.weight.grad = layer.bias.grad = None
        with binary_backend(path):
            y = layer(x)
            y.backward(np.random.default_rng(1).standard_normal(y.shape, np.float32))
        found[path] = y.data, x.grad, layer.weight.grad, layer.bias.grad
    for one, other in zip(*found.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    with no_grad():
        np.testing.assert_allclose(layer(Tensor(images)).data, found["auto"][0], rtol=1e-4, atol=1e-5)
