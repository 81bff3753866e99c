"""Planned layers: `out`, threads, parts, bad input. That their numbers are right is a property of `verify`."""

import copy
import pickle

import numpy as np
import pytest

from xnor_ref.errors import InputError, InputTypeError
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.ops import binary_ops
from xnor_ref.kernels.vectors import nhwc, signs

if not has_vectors():
    pytest.skip("planned layers need Numba's compiler and a processor with vectors", allow_module_level=True)

from xnor_ref.kernels.ops.planned import PlannedConv2d, PlannedLinear


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


X = normal(2, 7, 6, 40)
WEIGHT = normal(70, 40, 3, 3, seed=1)


def conv(**options):
    return PlannedConv2d(WEIGHT, (7, 6), padding=1, **({"batch": 2} | options))


def test_the_parts_of_a_run():
    layer, want = conv(), conv().run(X)
    layer.pack(X)
    layer.scale()
    out = np.empty_like(want)
    layer.convolve(out)
    assert np.array_equal(out, want)
    z = binary_ops.binary_conv2d(np.ascontiguousarray(X.transpose(0, 3, 1, 2)), WEIGHT, 1, 1)
    assert np.array_equal(layer.count(), z.transpose(0, 2, 3, 1))
    assert layer.macs == 7 * 6 * 70 * 40 * 9 and layer.out_shape == (7, 6, 70)


def test_results_go_where_they_are_wanted():
    layer = conv()
    first, second = np.empty((2, 7, 6, 70), np.float32), np.empty((1, 7, 6, 70), np.float32)
    assert layer.run(X, first) is first
    assert layer.run(X[1:], second) is second
    assert np.array_equal(first[1:], second)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_show(threads):
    weight, x = normal(130, 64, 3, 3), normal(3, 40, 41, 64)  # enough work for threads to share
    layer = PlannedConv2d(weight, (40, 41), padding=1, batch=3)
    want = binary_ops.xnor_conv2d(np.ascontiguousarray(x.transpose(0, 3, 1, 2)), weight, padding=1, backend="numba")
    assert np.array_equal(layer.run(x, threads=threads).transpose(0, 3, 1, 2), want)


def test_linear_layer():
    x, weight = normal(5, 300), normal(70, 300, seed=1)
    layer = PlannedLinear(weight, batch=8)
    z = binary_ops.binary_linear(x, weight).astype(np.float32)
    want = (z * binary_ops.weight_scale(weight)) * binary_ops.input_scale_rows(x)
    assert np.array_equal(layer.run(x), want)
    assert np.array_equal(layer.run(x[:1]), want[:1])
    assert np.array_equal(PlannedLinear(weight, "off", 5).run(x), z * binary_ops.weight_scale(weight))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "CHWN"}, "layout must be one of NHWC, NCHW, got 'CHWN'"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"batch": 10**9}, "GiB of memory"),
        ({"input_scale": "mean"}, "input_scale must be one of"),
        ({"pad_value": 2}, "pad_value must be 0, 1 or -1, got 2"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        conv(**options)


def test_types_are_refused():
    with pytest.raises(InputTypeError, match=r"batch must be an int, got 1.5"):
        conv(batch=1.5)
    with pytest.raises(InputTypeError, match=r"x must be C-contiguous float32 .1 to 2, 7, 6, 40., got float64"):
        conv().run(X.astype(np.float64))
    with pytest.raises(InputTypeError, match="weight must be float32"):
        PlannedLinear(WEIGHT.reshape(70, -1).astype(np.float64))


@pytest.mark.parametrize("x", [X[:, :, :5], X[:, ::-1], normal(3, 7, 6, 40), X[:0]])
def test_inputs_that_do_not_fit_are_refused(x):
    with pytest.raises(InputError, match=r"x must be C-contiguous float32 .1 to 2, 7, 6, 40., got"):
        conv().run(x)


def test_outputs_that_do_not_fit_are_refused():
    layer = conv()
    with pytest.raises(InputError, match=r"out must be C-contiguous float32 .2, 7, 6, 70., got"):
        layer.run(X, np.empty((1, 7, 6, 70), np.float32))
    out = layer.run(X, np.empty((2, 7, 6, 70), np.float32))
    with pytest.raises(InputError, match="out has 2 images, but x had 1"):
        layer.run(X[:1], out)


@pytest.mark.parametrize("input_scale", ["plain", "off"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(input_scale, bad):
    x = X.copy()
    x[1, 3, 2, 5] = bad
    with pytest.raises(InputError, match="x holds NaN or infinity"):
        conv(input_scale=input_scale).run(x)


def test_a_border_too_large_to_plan_for_is_refused():
    with pytest.raises(
        InputError, match=r"padding .119, 119. gives too many cases of clipped windows to plan; use xnor_conv2d"
    ):
        PlannedConv2d(np.ones((70, 1, 120, 120), np.float32), (2, 2), padding=119)


def test_a_copy_has_buffers_of_its_own():
    rng = np.random.default_rng(5)
    x, other = rng.standard_normal((2, 1, 6, 6, 40), dtype=np.float32)
    weight = rng.standard_normal((5, 40, 3, 3), dtype=np.float32)
    layer = PlannedConv2d(weight, size=(6, 6), padding=1)
    known, out = layer.run(other), np.empty((1, 6, 6, 5), np.float32)
    layer.run(x, out)
    layer.count()
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        kept = out.copy()
        assert (copied.run(other) == known).all()
        assert (copied.count() == copied.count()).all() and (out == kept).all()
    with pytest.raises(TypeError, match="holds addresses"):
        pickle.dumps(layer._bound[1])
    assert copy.deepcopy(nhwc.affine) is nhwc.affine and pickle.loads(pickle.dumps(nhwc.affine)) is nhwc.affine


@pytest.mark.parametrize("odd", [0, np.inf, np.nan, np.float32(3e38), np.float32(1e-42)])
def test_a_has_the_bits_of_the_definition_for_any_number(odd):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 150, 3, 7), np.float32) * np.float32(10) ** rng.integers(-30, 30, (2, 150, 3, 7))
    x = x.astype(np.float32)
    x[rng.random(x.shape) < 0.1] = odd
    bits, mean = np.zeros((2, 3, 7, 5), np.uint32), np.zeros((2, 21))
    none = np.zeros(0, np.float32)
    signs.pack_pixels(0, 6, np.ascontiguousarray(x.transpose(0, 2, 3, 1)), (1, 1), none, none, none, bits, mean)
    sums = np.zeros((16, 2, 21))
    for c in range(150):
        sums[c % 16] += np.abs(x[:, c].reshape(2, 21).astype(np.float64))
    while len(sums) > 1:
        sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
    assert np.array_equal(mean, sums[0] / 150, equal_nan=True)
    positive = np.pad(x >= 0, ((0, 0), (0, 10), (0, 0), (0, 0))).transpose(0, 2, 3, 1)
    assert np.array_equal(bits, np.packbits(positive, axis=-1, bitorder="little").view(np.uint32))
