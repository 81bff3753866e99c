"""The layout of signs in memory: three conventions that all kernels and files of this project share.

1. Bit 1 means +1, bit 0 means -1, and sign(0) = sign(-0.0) = +1.
2. The dot product of two packed vectors of `n_bits` signs is `n_bits - 2 * popcount(a xor b)`.
3. Padding with 0 contributes nothing to a convolution: only taps inside the image count. Padding with +1 or -1 is a
   separate mode.

The packed axis is cut into words of 64 signs, least significant bit first. With `n_bits = 67`:

    element   0  1  2  ...  63 | 64  65  66
    word      0  0  0  ...   0 |  1   1   1
    bit       0  1  2  ...  63 |  0   1   2   3 ... 63
                                             ^^^^^^^^^ tail bits, always written as 0

    [+1, -1, -1, +1, +1, -1, +1, -1] packs to the word 0b01011001 = 0x59

Tail bits are zero in everything that this project packs, so they cancel in `a xor b`. Functions that take words from
outside mask the tail first and do not rely on it.
"""

import numpy as np

from xnor_ref.errors import InputError, InputTypeError, check_integer
from xnor_ref.kernels.basics.memory import check_memory
from xnor_ref.steady import steady

WORD_BITS = 64
PARTIAL_SUMS = 16  # of |x| over channels, for K: channel c goes to sum c % 16


def n_words(n_bits: int) -> int:
    """Number of 64-bit words that hold `n_bits` signs."""
    return -(-n_bits // WORD_BITS)


@steady
def pack_bits(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """Pack the signs of an array into 64-bit words along one axis.

    Parameters
    ----------
    x : ndarray of float16, float32, float64 or any integer dtype
        Values whose signs are kept. Zeros of both signs are +1. An infinity is packed by its sign. NaN has no sign and
        is rejected.
    axis : int
        The axis to pack, of length `n_bits`. Negative values count from the end.

    Returns
    -------
    ndarray of uint64
        The shape of x, with `n_words(n_bits)` for the packed axis. Tail bits are 0.

    Raises
    ------
    InputTypeError
        `x` is not an array of a real dtype. Booleans are rejected too: False could mean 0, whose sign is +1, or the
        bit 0, which means -1.
    InputError
        `x` has no elements or holds NaN, or `axis` is out of range.

    Examples
    --------
    >>> words = pack_bits(np.array([1.0, -2.0, -0.5, 0.0, 3.0, -1.0, 7.0, -9.0]))
    >>> [hex(int(word)) for word in words]
    ['0x59']
    """
    x, axis = _check_array("pack_bits", "x", x, axis)
    if x.dtype.kind not in "fiu" or x.dtype.itemsize > 8:
        hint = "; pass +1/-1 values instead of booleans" if x.dtype.kind == "b" else ""
        raise InputTypeError(
            f"pack_bits: x must be float16, float32, float64 or an integer array, got dtype {x.dtype}{hint}"
        )
    check_memory("pack_bits", 3 * x.size, f"(x {x.shape})")
    if x.dtype.kind == "f":
        nan = np.isnan(x)
        if nan.any():
            index = tuple(int(i) for i in np.unravel_index(int(nan.argmax()), x.shape))
            raise InputError(f"pack_bits: x holds NaN, first at index {index}; NaN has no sign")
    return pack_mask(x >= 0, axis)


def unpack_bits(words: np.ndarray, n_bits: int, axis: int = -1) -> np.ndarray:
    """Unpack 64-bit words to signs: the inverse of `pack_bits`, without the magnitudes.

    Parameters
    ----------
    words : ndarray of uint64
        Packed signs. Tail bits of the last word are ignored.
    n_bits : int
        Number of signs along the axis; `words.shape[axis]` must be `n_words(n_bits)`.
    axis : int
        The packed axis.

    Returns
    -------
    ndarray of float32
        +1 and -1. The packed axis has length `n_bits`.

    Raises
    ------
    InputTypeError
        `words` is not a uint64 array or `n_bits` not an int.
    InputError
        `words` is empty, `n_bits` does not fit the number of words, or `axis` is out of range.

    Examples
    --------
    >>> unpack_bits(np.array([0x59], dtype=np.uint64), 8)
    array([ 1., -1., -1.,  1.,  1., -1.,  1., -1.], dtype=float32)
    """
    words, axis = _check_array("unpack_bits", "words", words, axis)
    if words.dtype.newbyteorder("=") != np.uint64:
        raise InputTypeError(f"unpack_bits: words must be uint64, got dtype {words.dtype}")
    n_bits = check_integer("unpack_bits: n_bits", n_bits)
    if n_bits < 1 or n_words(n_bits) != words.shape[axis]:
        high = words.shape[axis] * WORD_BITS
        raise InputError(
            f"unpack_bits: n_bits={n_bits} does not fit {words.shape[axis]} words along axis {axis}, "
            f"which hold {high - WORD_BITS + 1} to {high} signs (words {words.shape})"
        )
    check_memory("unpack_bits", 9 * words.size // words.shape[axis] * n_bits, f"(words {words.shape}, {n_bits} bits)")
    return signs_of_words(words, n_bits, axis)


def pack_mask(positive: np.ndarray, axis: int) -> np.ndarray:
    """Pack a boolean array along `axis`; True means +1. Unchecked."""
    rows = np.ascontiguousarray(np.moveaxis(positive, axis, -1))  # packbits is slow on strided rows
    n_bits = rows.shape[-1]
    octets = np.zeros((*rows.shape[:-1], n_words(n_bits) * 8), np.uint8)
    octets[..., : -(-n_bits // 8)] = np.packbits(rows, axis=-1, bitorder="little")
    words = octets.view("<u8").astype(np.uint64, copy=False)  # copies only on big-endian machines
    return np.ascontiguousarray(np.moveaxis(words, -1, axis))


def signs_of_words(words: np.ndarray, n_bits: int, axis: int = -1) -> np.ndarray:
    """Return signs as float32 +1 and -1. Unchecked."""
    rows = np.ascontiguousarray(np.moveaxis(words, axis, -1), dtype="<u8")
    bits = np.unpackbits(rows.view(np.uint8), axis=-1, count=n_bits, bitorder="little")
    return np.ascontiguousarray(np.moveaxis(bits.astype(np.float32) * 2 - 1, -1, axis))


def mask_tail(words: np.ndarray, n_bits: int) -> np.ndarray:
    """Return words (..., n_words(n_bits)) with zero tail bits. The array itself is returned if they were zero."""
    used = n_bits % WORD_BITS
    if used == 0:  # the last word is full; a shift by 64 is undefined
        return words
    keep = np.uint64((1 << used) - 1)
    if not (words[..., -1] & ~keep).any():
        return words
    words = words.copy()
    words[..., -1] &= keep
    return words


def _check_array(caller: str, name: str, x: np.ndarray, axis: int) -> tuple[np.ndarray, int]:
    if not isinstance(x, np.ndarray) or isinstance(x, np.ma.MaskedArray):
        raise InputTypeError(f"{caller}: {name} must be a numpy.ndarray, got {type(x).__name__}")
    x = np.asarray(x)
    axis = check_integer(f"{caller}: axis", axis)
    if x.ndim == 0 or not -x.ndim <= axis < x.ndim:
        raise InputError(f"{caller}: axis {axis} is out of range for {name} of shape {x.shape}")
    if x.size == 0:
        raise InputError(f"{caller}: {name} has no elements, shape {x.shape}; every axis must have at least one")
    return x, axis % x.ndim
