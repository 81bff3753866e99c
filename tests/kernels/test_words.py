"""Operations on packed words give what the same operation on numbers gives, in every layout and output."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xnor_ref
from tests.conftest import JIT_DISABLED
from xnor_ref.errors import InputError, InputTypeError, NonFiniteError
from xnor_ref.kernels.basics.rungs import has_vectors

BACKENDS = ["reference", "numba", "float"] + ["simd"] * has_vectors()
LAYOUTS = ["NCHW", "NHWC"]


def words_of(numbers, layout, rng):
    """Numbers (N, C, H, W) as words in a layout, with anything in their tails."""
    words = xnor_ref.pack_bits(numbers, axis=1)
    if used := numbers.shape[1] % 64:
        words[:, -1] |= rng.integers(0, 2**64, words[:, -1].shape, np.uint64) << np.uint64(used)
    return words if layout == "NCHW" else np.ascontiguousarray(np.moveaxis(words, 1, -1))


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    own = draw(st.sampled_from([1, 2, 31, 32, 33, 64, 65] if not JIT_DISABLED else [1, 33]))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    place = {
        "stride": draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        "padding": draw(st.sampled_from([0, 1, (1, 2), ((0, 1), (2, 0)), "same", "valid"])),
        "pad_value": draw(st.sampled_from([0, 1, -1])),
        "dilation": draw(st.sampled_from([1, 2, (1, 2)])),
        "groups": groups,
    }
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = [draw(st.integers(5, 7)) for _ in range(2)]
    x = rng.standard_normal((draw(st.integers(1, 2)), own * groups, *size)).astype(np.float32)
    w = rng.standard_normal((draw(st.sampled_from([1, 3, 33])) * groups, own, *kernel)).astype(np.float32)
    return x, w, place, rng, draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(BACKENDS))


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_convolution_of_words(case):
    x, w, place, rng, layout, backend = case
    z = xnor_ref.binary_conv2d(x, w, backend="reference", **place)
    operands = words_of(x, layout, rng), words_of(w, layout, rng), x.shape[1]

    def found(**more):
        return xnor_ref.conv2d_words(*operands, layout=layout, backend=backend, **place, **more)

    def turned(y):
        return y if layout == "NCHW" else np.moveaxis(y, 1, -1)

    assert np.array_equal(found(), turned(z)) and found().dtype == np.int32
    scale, bias = rng.standard_normal((2, len(w))).astype(np.float32)
    y = z.astype(np.float32) * scale[:, None, None] + bias[:, None, None]
    assert np.array_equal(found(output="float32", scale=scale, bias=bias), turned(y))
    small = found(output="int8", scale=scale, bias=bias)
    assert small.dtype == np.int8 and np.array_equal(small, turned(np.clip(np.rint(y), -128, 127)))
    threshold, flip = rng.choice(z.reshape(-1), len(w)), rng.random(len(w)) < 0.5
    over = np.where(flip[:, None, None], z <= threshold[:, None, None], z >= threshold[:, None, None])
    signs = np.where(over, 1, -1)
    assert np.array_equal(
        found(output="bits", threshold=threshold, flip=flip), turned(xnor_ref.pack_bits(signs, axis=1))
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 140), st.integers(0, 2**32), st.sampled_from(BACKENDS))
def test_products_of_words(n_bits, seed, backend):
    rng = np.random.default_rng(seed)
    x, w = (rng.standard_normal((rows, n_bits)).astype(np.float32) for rows in (3, 37))
    z = np.where(x >= 0, 1, -1) @ np.where(w >= 0, 1, -1).T
    operands = (words_of(a[:, :, None, None], "NCHW", rng)[:, :, 0, 0] for a in (x, w))
    operands = *operands, n_bits
    assert np.array_equal(xnor_ref.linear_words(*operands, backend=backend), z)
    bits = xnor_ref.linear_words(*operands, backend=backend, output="bits", threshold=0.5)
    assert np.array_equal(bits, xnor_ref.pack_bits(np.where(z > 0, 1, -1)))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 130),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from([None, 1, 2]),
    st.sampled_from([0, "same", "valid", ((0, 0), (0, 0))]),
    st.sampled_from(LAYOUTS),
    st.integers(0, 2**32),
)
def test_max_pooling_of_words(channels, kernel, stride, padding, layout, seed):
    rng = np.random.default_rng(seed)
    x = rng.choice([-1, 1], (2, channels, 5, 6), p=[0.8, 0.2])
    found = xnor_ref.max_pool2d_words(words_of(x, layout, rng), channels, kernel, stride, padding, layout=layout)
    steps = kernel if stride is None else (stride, stride)
    sides = [(0, 0), (0, 0)]
    if padding == "same":
        totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, s, k in zip((5, 6), steps, kernel)]
        sides = [(total // 2, total - total // 2) for total in totals]
    padded = np.pad(x, ((0, 0), (0, 0), *sides), constant_values=-1)
    views = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))
    best = views[:, :, :: steps[0], :: steps[1]].max(axis=(4, 5))
    want = xnor_ref.pack_bits(best, axis=1)
    assert np.array_equal(found, want if layout == "NCHW" else np.moveaxis(want, 1, -1))


WORDS, FILTERS = np.zeros((1, 2, 4, 4), np.uint64), np.zeros((3, 2, 3, 3), np.uint64)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"x": WORDS.astype(np.float32)}, InputTypeError, "x must be packed words, a uint64 array as pack_bits gives"),
        ({"x": WORDS[0]}, InputError, "x must have 4 axes, none of them empty, got shape (2, 4, 4)"),
        ({"channels": 129}, InputError, "x has 2 words per row of signs, but channels=129 needs 3 of 64 signs each"),
        ({"channels": 64}, InputError, "x has 2 words per row of signs, but channels=64 needs 1"),
        ({"groups": 2}, InputError, "groups=2 must divide C=100 and O=3"),
        ({"groups": 4, "weight": np.zeros((4, 2, 3, 3), np.uint64)}, InputError, "weight has 2 words per row"),
        ({"layout": "CHWN"}, InputError, "layout must be one of NCHW, NHWC, got 'CHWN'"),
        ({"output": "int16"}, InputError, "output must be one of int32, float32, int8, bits, got 'int16'"),
        ({"scale": 2}, InputError, "output 'int32' takes no further argument, got scale"),
        ({"output": "bits"}, InputError, "output 'bits' needs the argument threshold"),
        ({"output": "int8", "threshold": 1}, InputError, "output 'int8' takes scale and bias, got threshold"),
        ({"output": "int8", "scale": [1, np.nan, 1]}, InputError, "scale must be finite, but holds nan at index 1"),
        ({"output": "bits", "threshold": np.nan}, InputError, "threshold must not be NaN, but holds nan at index 0"),
        ({"output": "int8", "scale": 1e300}, InputError, "scale must be finite, but holds inf at index 0"),
        ({"output": "bits", "threshold": 0, "flip": 1}, InputTypeError, "flip must be bool, got dtype int64"),
        ({"output": "int8", "scale": [1, 2]}, InputError, "scale must be one value, or one per filter with shape (3,)"),
        ({"output": "float32", "scale": 3e38}, NonFiniteError, "overflows float32"),
        ({"dilation": 3}, InputError, "exceeds the padded input height 4"),
        ({"padding": -1}, InputError, "padding must be"),
    ],
)
def test_what_does_not_fit_is_refused(more, error, message):
    given = {"x": WORDS, "weight": FILTERS, "channels": 100, **more}
    with pytest.raises(error) as caught:
        xnor_ref.conv2d_words(**given)
    assert str(caught.value).startswith("conv2d_words: ") and message in str(caught.value)


@pytest.mark.parametrize("padding", [2, ((0, 2), (0, 0))])
def test_pooling_refuses_a_padding_as_large_as_the_kernel(padding):
    with pytest.raises(InputError, match="must be smaller than the kernel"):
        xnor_ref.max_pool2d_words(WORDS, 100, 2, padding=padding)


@pytest.mark.parametrize(("name", "instead"), [("binary_conv2d", "conv2d_words"), ("xnor_conv2d", "conv2d_words")])
def test_words_given_for_numbers_name_the_function_that_takes_them(name, instead):
    with pytest.raises(InputTypeError, match=f"x must be float32, got uint64; for packed words use {instead}"):
        getattr(xnor_ref, name)(WORDS, FILTERS)
    with pytest.raises(InputTypeError, match="for packed words use linear_words"):
        xnor_ref.binary_linear(WORDS[0, 0], FILTERS[0, 0])
