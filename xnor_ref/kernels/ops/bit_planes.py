"""k-bit numbers as weighted sums of signs, which XNOR and popcount multiply exactly.

A level of q_k(x) (Rastegari et al. 2016, section 3.2) times 2^k - 1 is an odd integer m = sum_b 2^b s_b, with one sign
s_b per bit plane. The highest plane is sign(x). Padding with 0 contributes nothing to any plane. Padding with +1 or -1
is the largest or the smallest level.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xnor_ref.kernels.basics.geometry import Pair, Window
from xnor_ref.kernels.ops import binary_ops, float_ops

F32 = NDArray[np.float32]
Words = NDArray[np.uint64]

MAX_BITS = 8
_EXACT = 2**24  # float32 holds every integer up to this one


def largest(bits: int) -> int:
    """Return the largest odd integer of `bits` planes: 2^bits - 1."""
    return (1 << bits) - 1


def levels(x: F32, bits: int) -> NDArray[np.int16]:
    """Return m = (2^k - 1) q_k(x) = 2 floor(fl(x (2^k - 1)/2)) + 1 of x clipped to [-1, 1]. Halves are rounded up.

    With one bit m is sign(x).

    >>> levels(np.float32([-3, -1, -0.1, -0.0, 0.7, 1]), 2)
    array([-3, -3, -1,  1,  3,  3], dtype=int16)
    """
    if bits == 1:
        return np.where(x >= 0, np.int16(1), np.int16(-1))
    steps = np.clip(x, np.float32(-1), np.float32(1)) * np.float32(largest(bits) / 2)
    with np.errstate(invalid="ignore"):  # NaN is detected in the result
        return 2 * np.floor(steps, out=steps).astype(np.int16) + np.int16(1)


def planes(m: NDArray[np.int16], bits: int) -> list[NDArray[np.bool_]]:
    """Return the signs s_b of odd integers m, lowest plane first. True means +1."""
    code = (m + np.int16(largest(bits))) >> 1
    return [(code >> b) & 1 == 1 for b in range(bits)]


def as_signs(plane: NDArray[np.bool_]) -> F32:
    """Return a plane as +1 and -1."""
    return np.where(plane, np.float32(1), np.float32(-1))


class Levels(NamedTuple):
    """The levels from -1 to 1 to which inputs are rounded, and the integers m = `top` q that represent them.

    There are 2^bits evenly spaced levels, see `levels`, or three `ternary` ones in two planes: q(x) = 0 where
    |x| <= 1/2, else sign(x). For these, m = (s_0 + s_1)/2 with two signs. For m = 0, the sign is +1 in the first plane
    and -1 in the second. The convolution is then half the sum of the planes' convolutions, with any padding.
    """

    bits: int
    ternary: bool = False

    @property
    def top(self) -> int:
        """The largest value of m."""
        return 1 if self.ternary else largest(self.bits)

    def of(self, x: F32) -> NDArray[np.int16]:
        """Return m, in the shape of x.

        >>> Levels(2, ternary=True).of(np.float32([-3, -0.6, -0.5, 0, 0.5, 0.6]))
        array([-1, -1,  0,  0,  0,  1], dtype=int16)
        """
        if not self.ternary:
            return levels(x, self.bits)
        return (x > np.float32(0.5)).astype(np.int16) - (x < np.float32(-0.5))

    def values(self, x: F32) -> F32:
        """q(x)."""
        return self.of(x).astype(np.float32) / np.float32(self.top)

    def planes(self, m: NDArray[np.int16]) -> list[NDArray[np.bool_]]:
        """Return the planes of signs whose weighted sum is m."""
        return [m >= 0, m > 0] if self.ternary else planes(m, self.bits)


def fits(n_terms: int, bits: Pair) -> bool:
    """Whether a sum of `n_terms` products of integers of these bits fits into int32."""
    return n_terms * largest(bits[0]) * largest(bits[1]) < 2**31


def exact_in_float32(n_terms: int, bits: Pair) -> bool:
    """Whether float32 sums `n_terms` products of integers of these bits without rounding."""
    return n_terms * largest(bits[0]) * largest(bits[1]) < _EXACT


def conv2d_planes(
    m: NDArray[np.int16],
    weight_words: list[Words],
    inputs: Levels,
    window: Window,
    pad_value: int,
    backend: str = "auto",
    threads: int | None = None,
    groups: int = 1,
) -> NDArray[np.int32]:
    """Convolve integers m (N, C, H, W) exactly with weights given as packed planes: int32 (N, O, OH, OW).

    `weight_words` holds uint64 (O, KH, KW, n_words(C/groups)) for each plane.
    """
    total: NDArray[np.int32] | None = None
    for a, plane in enumerate(inputs.planes(m)):
        words = binary_ops.sign_pack(as_signs(plane), backend, threads)
        for b, weight in enumerate(weight_words):
            z = binary_ops.conv2d_bits(words, weight, m.shape[1], window, pad_value, backend, threads, groups)
            z <<= b if inputs.ternary else a + b
            total = z if total is None else np.add(total, z, out=total)
    assert total is not None
    return total >> 1 if inputs.ternary else total


def conv2d(
    m: NDArray[np.int16],
    weight: NDArray[np.int16],
    inputs: Levels,
    weight_bits: int,
    window: Window,
    pad_value: int,
    backend: str = "auto",
    threads: int | None = None,
    groups: int = 1,
) -> NDArray[np.int32]:
    """`conv2d_planes` for integer weights (O, C/groups, KH, KW) of `weight_bits` bits.

    With backend "float", BLAS convolves the integers, in pieces that float32 sums without rounding.
    """
    if backend == "float":
        return _conv2d_float(m, weight, inputs, weight_bits, window, pad_value, threads, groups)
    words = [binary_ops.pack_weight(as_signs(plane), backend, threads) for plane in planes(weight, weight_bits)]
    return conv2d_planes(m, words, inputs, window, pad_value, backend, threads, groups)


def _conv2d_float(m, weight, inputs, weight_bits, window, pad_value, threads, groups) -> NDArray[np.int32]:
    terms, bits = weight[0].size, (inputs.bits, weight_bits)
    together = next(g for g in range(max(bits), 0, -1) if g == 1 or exact_in_float32(terms, (g, g)))
    z: NDArray[np.int32] | int = 0
    for a, x in [(0, m.astype(np.float32))] if inputs.ternary else _digits(m, bits[0], together):
        border = pad_value * float(1 if inputs.ternary else largest(min(together, bits[0] - a)))
        for b, w in _digits(weight, bits[1], together):
            part = float_ops.conv2d(x, w, None, window, groups, threads, training=True, pad_value=border)
            z = z + (part.astype(np.int32) << (a + b))
    return np.asarray(z, np.int32)


def _digits(m: NDArray[np.int16], bits: int, together: int):
    """Yield pairs (shift, d) with m = sum of 2^shift d. Each d holds a few neighbouring planes as float32 integers."""
    code = (m + np.int16(largest(bits))) >> 1
    for shift in range(0, bits, together):
        top = largest(min(together, bits - shift))
        yield shift, (2 * ((code >> shift) & top) - top).astype(np.float32)
