"""Scalar operations in 32 bits, which Numba would widen to 64; loops over them become vector code."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import float32, int32, uint8, uint32

from xnor_ref.kernels.vector_ir import F32, I8, I32, intrinsic


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


def _uniform(b, word, shift):
    half = b.and_(b.lshr(word, shift), _number(0xFFFF))
    return b.fmul(b.fadd(b.sitofp(half, F32), ir.Constant(F32, 0.5)), ir.Constant(F32, 2.0**-16))


def _floor(b, x):
    """Of numbers above -128, as a 32-bit integer plus 128."""
    return b.fptosi(b.fadd(x, ir.Constant(F32, 128)), I32)


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


def _with(b, word, x, shift):
    byte = b.and_(b.sub(_floor(b, x), _number(128)), _number(255))
    return b.or_(word, b.shl(byte, shift))


def _larger(b, bits, x):
    magnitude = b.and_(b.bitcast(x, I32), _number(0x7FFFFFFF))
    return b.select(b.icmp_signed(">", magnitude, bits), magnitude, bits)


mixed = _operation(uint32(uint32, uint32, uint32), _mix)
"""A hash of 32 bits of (begin + index, seed), without visible pattern (the finaliser of MurmurHash3)."""
uniform = _operation(float32(uint32, uint32), _uniform)
"""The 16 bits of a word from a place on as a number in (0, 1), in the middle of its 65536th."""
whole = _operation(int32(float32), lambda b, x: b.sub(_floor(b, x), _number(128)))
"""The integer below a number above -128."""
octet = _operation(uint8(float32), lambda b, x: b.trunc(_floor(b, x), I8))
"""The same plus 128, as an unsigned byte."""
with_byte = _operation(uint32(uint32, float32, uint32), _with)
"""A word with the integer below a number as the byte at a place that was 0."""
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
