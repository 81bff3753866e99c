"""Scalar operations in 32 bits, which Numba would widen to 64; loops over them become vector code."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import float32, int32, uint8, uint32

from xnor_ref.kernels.microkernels.ir import F32, I8, I32, intrinsic


def _number(value: int) -> ir.Constant:
    return ir.Constant(I32, value)


def _operation(signature: Any, generate: Callable[..., ir.Value]) -> Any:
    """An intrinsic of one signature, in which `generate` turns the operands into the result."""

    @intrinsic
    def one(context, a):
        return signature, lambda context, b, _, operands: generate(b, *operands)

    @intrinsic
    def two(context, a, c):
        return signature, lambda context, b, _, operands: generate(b, *operands)

    @intrinsic
    def three(context, a, c, d):
        return signature, lambda context, b, _, operands: generate(b, *operands)

    @intrinsic
    def four(context, a, c, d, e):
        return signature, lambda context, b, _, operands: generate(b, *operands)

    @intrinsic
    def five(context, a, c, d, e, f):
        return signature, lambda context, b, _, operands: generate(b, *operands)

    return {1: one, 2: two, 3: three, 4: four, 5: five}[len(signature.args)]


def _mix(b, begin, index, seed):
    h = b.xor(b.mul(b.add(begin, index), _number(0x9E3779B1)), seed)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = b.mul(b.xor(h, b.lshr(h, _number(shift))), _number(factor))
    return b.xor(h, b.lshr(h, _number(16)))


def _throw(b, place, other):
    h = b.mul(b.xor(place, other), _number(0x85EBCA6B))
    return b.mul(b.xor(h, b.lshr(h, _number(15))), _number(0xC2B2AE35))


def _rounded(b, x, half):
    """Of a number above -128: the integer below x + half / 65536, plus 128."""
    dice = b.bitcast(b.or_(half, _number(0x43000000)), F32)  # 128 + half / 65536
    return b.fptosi(b.fadd(x, dice), I32)


def _bit(b, word, place):
    return b.and_(b.lshr(word, place), _number(1))


def _sign(b, word, place):
    return b.sub(b.shl(_bit(b, word, place), _number(1)), _number(1))


def _chosen(b, word, place, keep, fill):
    return b.trunc(b.add(b.mul(_bit(b, word, place), keep), fill), I8)


def _four(b, *operands):
    *words, place = operands
    found = _number(0)
    for part, word in enumerate(words):
        byte = b.and_(_sign(b, word, place), _number(255))
        found = b.or_(found, b.shl(byte, _number(8 * part)))
    return found


def _with(b, word, x, dice, shift):
    return b.or_(word, b.shl(_rounded(b, x, b.lshr(dice, _number(16))), shift))


def _sum_of_bytes(b, word):
    pairs = _number(0x00FF00FF)
    halves = b.add(b.and_(word, pairs), b.and_(b.lshr(word, _number(8)), pairs))
    return b.add(b.and_(halves, _number(0xFFFF)), b.lshr(halves, _number(16)))


def _larger(b, bits, x):
    magnitude = b.and_(b.bitcast(x, I32), _number(0x7FFFFFFF))
    return b.select(b.icmp_signed(">", magnitude, bits), magnitude, bits)


mixed = _operation(uint32(uint32, uint32, uint32), _mix)
"""A hash of 32 bits of (begin + index, seed), without visible pattern (the finaliser of MurmurHash3)."""
dice = _operation(uint32(uint32, uint32), _throw)
"""Two times 16 bits of chance, of two hashes whose pair is met only once."""
octet = _operation(
    uint8(float32, uint32), lambda b, x, dice: b.trunc(_rounded(b, x, b.and_(dice, _number(0xFFFF))), I8)
)
"""A number above -128 rounded at random by the lower half of the dice, plus 128, as a byte."""
with_byte = _operation(uint32(uint32, float32, uint32, uint32), _with)
"""A word with such a byte, by the upper half of the dice, at a place that was 0."""
sum_of_bytes = _operation(int32(uint32), _sum_of_bytes)
"""The sum of the four bytes of a word, unsigned."""
integer_of = _operation(int32(float32), lambda b, x: b.bitcast(x, I32))
"""The integer with the bits of a float32."""
sign_of_bit = _operation(float32(uint32, uint32), lambda b, w, p: b.sitofp(_sign(b, w, p), F32))
"""+1 or -1."""
sign_word = _operation(int32(uint32, uint32), _sign)
"""+1 or -1."""
chosen_byte = _operation(uint8(uint32, uint32, uint32, uint32), _chosen)
"""`keep` if the bit of a word at a place is 1, else 0; plus `fill`, as a byte."""
four_signs = _operation(uint32(uint32, uint32, uint32, uint32, uint32), _four)
"""The bits of four words at a place as four bytes, +1 or -1."""
larger = _operation(int32(int32, float32), _larger)
"""The larger of a magnitude, as the bits of a float32, and |x|; NaN is larger than all."""
