"""Binary convolution and matrix product: integers worked out by hand, a dense grid, threads, scales."""

import itertools

import numpy as np
import pytest

from tests.conftest import JIT_DISABLED
from xnor_ref import binary_conv2d, binary_linear, pack_bits, xnor_conv2d
from xnor_ref.conformance.basics import oracle
from xnor_ref.errors import NonFiniteError
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.ops import binary_ops

BACKENDS = ["reference", "numba", "float"] + ["simd"] * has_vectors()
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def image(*rows):
    return np.array([[rows]], np.float32)  # (1, 1, H, W)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


# --- by hand ---------------------------------------------------------------------------------------------------


@each_backend
def test_dot_of_eight_bits(backend):
    x = np.array([[+1, -1, -1, +1, +1, -1, +1, -1]], np.float32)
    w = np.array([[+1, +1, -1, -1, +1, +1, -1, -1], [+1, -1, -1, -1, +1, -1, +1, -1]], np.float32)
    # 0x59 ^ 0x33 = 0x6a, four ones: 8 - 2*4 = 0.   0x59 ^ 0x51 = 0x08, a single one: 8 - 2*1 = 6
    assert pack_bits(x).tolist() == [[0x59]] and pack_bits(w).tolist() == [[0x33], [0x51]]
    assert binary_linear(x, w, backend).tolist() == [[0, 6]]


@each_backend
@pytest.mark.parametrize(("pad_value", "corner"), [(0, 4), (1, 4 + 5), (-1, 4 - 5)])
def test_border_of_a_constant_image(backend, pad_value, corner):
    # a 3x3 window at a corner of a 2x2 image covers 4 pixels and 5 padded ones, wherever it stands
    z = binary_conv2d(image([1, 1], [1, 1]), np.ones((1, 1, 3, 3), np.float32), 1, 1, pad_value, backend)
    assert z.tolist() == [[[[corner, corner], [corner, corner]]]]


@each_backend
def test_kernel_is_not_flipped(backend):
    x = image([1, 1], [1, -1])
    assert binary_conv2d(x, x, backend=backend).tolist() == [[[[4]]]]  # turned by 180 degrees it would be 0


@each_backend
def test_strides_and_paddings_are_vertical_then_horizontal(backend):
    x = image([1, -1, 1, -1], [-1, -1, 1, 1])
    w = np.ones((1, 1, 1, 1), np.float32)
    assert binary_conv2d(x, w, stride=(2, 1), backend=backend).tolist() == [[[[1, -1, 1, -1]]]]
    assert binary_conv2d(x, w, stride=(1, 3), backend=backend).tolist() == [[[[1, -1], [-1, 1]]]]
    padded = [[[[0, 0, 0, 0], [1, -1, 1, -1], [-1, -1, 1, 1], [0, 0, 0, 0]]]]
    assert binary_conv2d(x, w, padding=(1, 0), backend=backend).tolist() == padded


@each_backend
def test_zeros_are_positive(backend):
    x = image([0.0, -0.0, -1e-45, 1e-45])
    assert binary_conv2d(x, np.ones((1, 1, 1, 1), np.float32), backend=backend).tolist() == [[[[1, 1, -1, 1]]]]


@each_backend
@pytest.mark.parametrize(("pad_value", "outside"), [(0, 0), (1, 3), (-1, -3)])
def test_windows_that_lie_wholly_in_the_padding(backend, pad_value, outside):
    weight = np.ones((1, 3, 1, 1), np.float32)  # three channels
    z = binary_conv2d(-np.ones((1, 3, 1, 1), np.float32), weight, 1, 2, pad_value, backend)
    want = np.full((5, 5), outside)
    want[2, 2] = -3
    np.testing.assert_array_equal(z[0, 0], want)


@each_backend
@pytest.mark.parametrize(("sign", "total"), [(1, 76_800), (-1, -76_800)])
def test_a_sum_that_needs_more_than_16_bits(backend, sign, total):
    x = np.ones((1, 3072, 5, 5), np.float32)
    assert binary_conv2d(x, sign * x, backend=backend).tolist() == [[[[total]]]]


def test_scales_by_hand():
    x = image([1, -3], [-2, -2])  # |x|: mean 2
    w = image([0.5, 0.5], [1.5, -1.5])  # alpha = 1; Z = 1 - 1 - 1 + 1 = 0
    assert xnor_conv2d(x, w).tolist() == [[[[0.0]]]]
    assert xnor_conv2d(x, np.abs(w)).tolist() == [[[[-4.0]]]]  # Z = 1 - 3 = -2, times 1, times 2
    assert xnor_conv2d(x, np.abs(w), input_scale="off").tolist() == [[[[-2.0]]]]
    # the window at the upper left corner sees x[0, 0] = 1 alone, by the tap 1.5 whose sign is +1: Z = 1
    assert xnor_conv2d(x, np.abs(w), padding=1)[0, 0, 0, 0] == 1 * 1 * (1 / 4)
    assert xnor_conv2d(x, np.abs(w), padding=1, input_scale="valid")[0, 0, 0, 0] == 1 * 1 * 1


# --- against the float64 oracle --------------------------------------------------------------------------------

GRID_CHANNELS = (1, 3, 32, 33, 64, 65, 96, 130)
GRID_KERNELS = ((1, 1), (2, 3), (3, 3), (5, 1))
GRID_STRIDES = ((1, 1), (2, 1), (1, 3), (2, 2))
GRID_PADDINGS = ((0, 0), (1, 1), (0, 2), (3, 1), (5, 6))


@pytest.mark.soak
@pytest.mark.parametrize("channels", GRID_CHANNELS)
def test_grid(channels):
    grid = itertools.product(((5, 4), (6, 9)), GRID_KERNELS, GRID_STRIDES, GRID_PADDINGS, (0, 1, -1))
    points = 0
    for size, kernel, stride, padding, pad_value in itertools.islice(grid, 0, None, 11 if JIT_DISABLED else 1):
        out_channels = (1, 9, 65)[points // 3 % 3]
        x, w = normal(points, 2, channels, *size), normal(points + 1, out_channels, channels, *kernel)
        z = binary_conv2d(x, w, stride, padding, pad_value, "numba", threads=1)
        np.testing.assert_array_equal(z, oracle.sign_convolution(x, w, stride, padding, pad_value))
        points += 1
    assert points == (44 if JIT_DISABLED else 480)


@each_backend
def test_a_few_points_of_the_grid_on_each_backend(backend):
    for channels, kernel, stride, padding, pad_value in itertools.product(
        (1, 65), ((1, 2), (3, 3)), ((1, 1), (2, 1)), ((0, 0), (2, 4)), (0, 1, -1)
    ):
        x, w = normal(channels, 1, channels, 3, 4), normal(2, 3, channels, *kernel)
        want = oracle.sign_convolution(x, w, stride, padding, pad_value)
        np.testing.assert_array_equal(binary_conv2d(x, w, stride, padding, pad_value, backend), want)


@pytest.mark.parametrize("shape", [(1, 256, 14, 14), (5, 70, 33, 30)])
@pytest.mark.parametrize("pad_value", [0, 1, -1])
def test_threads_change_nothing(shape, pad_value):
    x, w = normal(0, *shape), normal(1, 130, shape[1], 3, 3)
    alone = xnor_conv2d(x, w, 1, 1, pad_value, threads=1)
    for threads in (2, 3, 8):
        assert xnor_conv2d(x, w, 1, 1, pad_value, threads=threads).tobytes() == alone.tobytes()
    assert xnor_conv2d(x, w, 1, 1, pad_value, backend="reference").tobytes() == alone.tobytes()
    assert xnor_conv2d(x, w, 1, 1, pad_value, backend="float").tobytes() == alone.tobytes()


@pytest.mark.parametrize(("n", "features", "out_features"), [(1, 4096, 1000), (33, 1000, 129), (128, 64, 64)])
def test_linear_at_full_size(n, features, out_features):
    x, w = normal(0, n, features), normal(1, out_features, features)
    want = oracle.signs(x) @ oracle.signs(w).T
    for threads in (1, 3):
        np.testing.assert_array_equal(binary_linear(x, w, threads=threads), want)
    np.testing.assert_array_equal(binary_linear(x, w, "reference"), want)


@pytest.mark.parametrize("pixels", [1, 7, 63, 64, 511, 512, 513, 1025])  # around the sizes of the tiles
@pytest.mark.parametrize("channels", [1, 31, 32, 33, 64, 100])
def test_packing_of_large_images(pixels, channels):
    x = normal(pixels, 2, channels, 1, pixels)
    want = np.moveaxis(pack_bits(x, 1), 1, -1)
    np.testing.assert_array_equal(binary_ops.sign_pack(x), want)
    flip = np.arange(channels) % 2 == 0
    threshold = x[0, :, 0, 0].copy()
    got = binary_ops.threshold_pack(x, threshold, flip)
    np.testing.assert_array_equal(got, binary_ops.threshold_pack(x, threshold, flip, "reference"))


# --- scales ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 5, 300])
def test_scales_of_a_row_do_not_depend_on_the_other_rows(rows):
    x = normal(3, rows, 9000)
    alone = np.concatenate([binary_ops.input_scale_rows(x[i : i + 1]) for i in range(rows)])
    assert binary_ops.input_scale_rows(x).tobytes() == alone.tobytes()


def test_weight_scale_is_a_float64_mean_rounded_once():
    weight = normal(0, 8, 64, 3, 3)
    want = [np.float32(np.abs(w.astype(np.float64)).mean()) for w in weight]
    np.testing.assert_array_equal(binary_ops.weight_scale(weight), want)


def test_a_result_beyond_float32_is_an_error():
    big = np.full((1, 1, 1, 1), 3e38, np.float32)
    with pytest.raises(NonFiniteError, match="xnor_conv2d: the result overflows float32; scale x or weight down"):
        xnor_conv2d(big, big)


def test_a_scale_of_many_large_values_does_not_overflow_on_the_way():
    x = np.full((1, 64, 2, 2), 3e38, np.float32)
    assert binary_ops.input_scale_map(x, Window((2, 2)), "plain").tolist() == [[[[float(np.float32(3e38))]]]]
