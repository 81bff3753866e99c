"""Packing: golden words worked out by hand, every axis and dtype, and what is refused."""

import numpy as np
import pytest

from xnor_ref import pack_bits, unpack_bits
from xnor_ref.errors import InputError, InputTypeError
from xnor_ref.kernels.basics.layout import mask_tail, n_words


def test_golden_byte():
    # element  0   1   2   3   4   5   6   7      bits 0, 3, 4 and 6: 1 + 8 + 16 + 64 = 89 = 0x59
    x = np.array([+1, -1, -1, +1, +1, -1, +1, -1])
    assert pack_bits(x).tolist() == [0x59]


def test_golden_two_words():
    # 67 elements, +1 at 0, 63, 64 and 66: word 0 has bits 0 and 63, word 1 bits 0 and 2, the tail is zero
    x = np.full(67, -1.0)
    x[[0, 63, 64, 66]] = 1
    assert [hex(word) for word in pack_bits(x).tolist()] == ["0x8000000000000001", "0x5"]


def test_signs_of_zeros_subnormals_and_infinities():
    x = np.array([0.0, -0.0, 1e-45, -1e-45, np.inf, -np.inf], np.float32)
    assert pack_bits(x).tolist() == [0b010111]


@pytest.mark.parametrize("n_bits", [1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 192, 256])
def test_tail_bits_are_zero_and_ignored(n_bits):
    words = pack_bits(np.ones(n_bits))
    assert len(words) == n_words(n_bits) == (n_bits + 63) // 64
    assert sum(word << (64 * i) for i, word in enumerate(words.tolist())) == 2**n_bits - 1
    full = np.full_like(words, 2**64 - 1)
    assert unpack_bits(full, n_bits).tolist() == [1.0] * n_bits
    np.testing.assert_array_equal(mask_tail(full, n_bits), words)
    assert mask_tail(words, n_bits) is words


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "i2", "i4", "i8"])
def test_round_trip_on_any_axis(axis, dtype):
    shape = [3, 3, 3]
    shape[axis] = 70
    x = np.random.default_rng(0).integers(-2, 3, shape).astype(dtype)
    words = pack_bits(x, axis)
    assert words.dtype == np.uint64 and words.shape[axis] == 2 and words.flags.c_contiguous
    signs = unpack_bits(words, 70, axis)
    assert signs.dtype == np.float32
    np.testing.assert_array_equal(signs, np.where(x >= 0, 1, -1))


def test_unsigned_integers_are_never_negative():
    assert pack_bits(np.array([0, 1, 255], np.uint8)).tolist() == [7]


def test_memory_layout_does_not_matter():
    x = np.random.default_rng(0).standard_normal((4, 70, 5))
    views = x[::-2, ::-1, 1:4], x.transpose(2, 1, 0), np.broadcast_to(x[:1], x.shape)
    for view in views:
        np.testing.assert_array_equal(pack_bits(view, 1), pack_bits(view.copy(), 1))


def test_words_in_the_other_byte_order_and_read_only():
    words = pack_bits(np.arange(-35, 35))
    swapped = words.astype(words.dtype.newbyteorder())
    swapped.flags.writeable = False
    np.testing.assert_array_equal(unpack_bits(swapped, 70), unpack_bits(words, 70))


@pytest.mark.parametrize(
    ("x", "axis", "error", "message"),
    [
        ([1.0, 2.0], -1, InputTypeError, "pack_bits: x must be a numpy.ndarray, got list"),
        (np.ma.masked_array([1.0]), -1, InputTypeError, "got MaskedArray"),
        (np.array([True]), -1, InputTypeError, "got dtype bool; pass +1/-1"),
        (np.array([1j]), -1, InputTypeError, "got dtype complex128"),
        (np.array(["a"]), -1, InputTypeError, "got dtype <U1"),
        (np.array([None]), -1, InputTypeError, "got dtype object"),
        (np.ones(1, np.longdouble), -1, InputTypeError, "pack_bits: x must be float16, float32, float64 or an int"),
        (np.ones((2, 3)), 2, InputError, "axis 2 is out of range for x of shape (2, 3)"),
        (np.ones((2, 3)), -3, InputError, "axis -3 is out of range"),
        (np.ones((2, 3)), 1.0, InputTypeError, "axis must be an int, got 1.0"),
        (np.ones((2, 3)), True, InputTypeError, "axis must be an int, got True"),
        (np.float64(1) + np.zeros(()), -1, InputTypeError, "must be a numpy.ndarray"),
        (np.zeros(()), 0, InputError, "axis 0 is out of range for x of shape ()"),
        (np.ones((2, 0)), 0, InputError, "x has no elements, shape (2, 0)"),
        (np.array([[1, 2], [3, np.nan]]), -1, InputError, "x holds NaN, first at index (1, 1)"),
    ],
)
def test_pack_bits_refuses(x, axis, error, message):
    with pytest.raises(error) as caught:
        pack_bits(x, axis)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "n_bits", "error", "message"),
    [
        (
            np.zeros(2, np.uint64),
            64,
            InputError,
            "n_bits=64 does not fit 2 words along axis 0, which hold 65 to 128",
        ),
        (np.zeros(2, np.uint64), 129, InputError, "n_bits=129 does not fit 2 words"),
        (np.zeros(1, np.uint64), 0, InputError, "n_bits=0 does not fit"),
        (np.zeros(1, np.uint64), -5, InputError, "n_bits=-5 does not fit"),
        (np.zeros(1, np.uint64), 10**30, InputError, "does not fit 1 words"),
        (np.zeros(1, np.uint64), 8.0, InputTypeError, "n_bits must be an int, got 8.0"),
        (np.zeros(1, np.uint64), True, InputTypeError, "n_bits must be an int, got True"),
        (np.zeros(1, np.int64), 8, InputTypeError, "words must be uint64, got dtype int64"),
        (np.zeros((0, 1), np.uint64), 8, InputError, "words has no elements"),
        (b"12345678", 8, InputTypeError, "words must be a numpy.ndarray, got bytes"),
    ],
)
def test_unpack_bits_refuses(words, n_bits, error, message):
    with pytest.raises(error) as caught:
        unpack_bits(words, n_bits)
    assert message in str(caught.value)
