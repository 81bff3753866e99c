"""Micro-kernels in explicit vector code: a tile of outputs held in registers, for the SIMD rung.

The room's page has a picture. A step takes one 32-bit element of every pixel (32 signs, or one float32), spread over
all lanes, against V vectors of weights. A pixel's elements are `n_rows` pieces (the rows of the kernel that meet the
image) of `run` elements (a row of the kernel, all its channels) each; weights lie in the same order, V vectors a step.

    for row in range(n_rows):                  x += x_row, w += w_row
        for k in range(run):                   x += 4 bytes, w += V vectors
            acc[p, v] += popcount(x[p] ^ w[v])
"""

from collections.abc import Callable

from llvmlite import ir
from numba import types

from xnor_ref.kernels.basics.memory import LINE
from xnor_ref.kernels.microkernels.ir import (
    F32,
    I8,
    I32,
    I64,
    LANES,
    TARGET,
    const,
    instruction,
    intrinsic,
    load,
    repeat,
    spread,
    store,
    stream,
    vector,
)

WIDE, NARROW = 4, 2  # vectors of a tile, and of the last one where few output channels are left
_STEPS = 31  # of at most 8 ones a byte, before a counter of 8 bits could overflow


# --- the sums of a tile -----------------------------------------------------------------------------------------


class Reach:
    """Where a tile's operands lie: x, its strides from row to row and pixel to pixel, rows, run, w and its stride."""

    def __init__(self, x, x_row, x_pixel, n_rows, run, w, w_row):
        self.x, self.x_row, self.x_pixel, self.n_rows, self.run = x, x_row, x_pixel, n_rows, run
        self.w, self.w_row = w, w_row


def _sums(b, at: Reach, pixels: int, vectors: int, zero: ir.Constant, step: Callable) -> list:
    """Accumulators of a tile, [pixel * vectors + vector]: `step(acc, x, w)` for every element."""

    def row(values):
        x, w, *sums = values
        _, _, *sums = repeat(b, at.run, [x, w, *sums], element)
        return [b.add(x, at.x_row), b.add(w, at.w_row), *sums]

    def element(values):
        return _element(b, at, pixels, vectors, values, step)

    return repeat(b, at.n_rows, [at.x, at.w] + [zero] * (pixels * vectors), row)[2:]


def _element(b, at, pixels, vectors, values, step):
    """One step of the inner loop."""
    x, w, *sums = values
    weights = [load(b, b.add(w, const(v * LANES * 4)), vector(I32)) for v in range(vectors)]
    for p in range(pixels):
        signs = spread(b, load(b, b.add(x, b.mul(at.x_pixel, const(p))), I32))
        for v in range(vectors):
            sums[p * vectors + v] = step(sums[p * vectors + v], signs, weights[v])
    return [b.add(x, const(4)), b.add(w, const(vectors * LANES * 4)), *sums]


def _count_words(b, at: Reach, pixels: int, vectors: int) -> list:
    """Ones of x ^ w, counted lane by lane."""

    def step(count, x, w):
        return b.add(count, instruction(b, "ctpop", vector(I32), b.xor(x, w)))

    return _sums(b, at, pixels, vectors, ir.Constant(vector(I32), None), step)


def _count_bytes(b, at: Reach, pixels: int, vectors: int) -> list:
    """Ones of x ^ w, counted byte by byte, and the four bytes of a lane added up before they can overflow."""
    octets = vector(I8, 4 * LANES)
    zero = ir.Constant(vector(I32), None)

    def step(count, x, w):
        return b.add(count, instruction(b, "ctpop", octets, b.bitcast(b.xor(x, w), octets)))

    def element(values):
        return _element(b, at, pixels, vectors, values, step)

    def piece(values):
        left, x, w, *counts = values
        steps = b.select(b.icmp_signed("<", left, const(_STEPS)), left, const(_STEPS))
        x, w, *small = repeat(b, steps, [x, w] + [ir.Constant(octets, None)] * len(counts), element)
        return [b.sub(left, steps), x, w, *(b.add(n, _add_bytes(b, s)) for n, s in zip(counts, small, strict=True))]

    def row(values):
        x, w, *counts = values
        pieces = b.udiv(b.add(at.run, const(_STEPS - 1)), const(_STEPS))
        _, _, _, *counts = repeat(b, pieces, [at.run, x, w, *counts], piece)
        return [b.add(x, at.x_row), b.add(w, at.w_row), *counts]

    return repeat(b, at.n_rows, [at.x, at.w] + [zero] * (pixels * vectors), row)[2:]


def _add_bytes(b, counts):
    """The sum of the four bytes of every 32-bit lane."""
    lanes = b.bitcast(counts, vector(I32))
    for bits, mask in ((8, 0x00FF00FF), (16, 0x0000FFFF)):
        shift, keep = (ir.Constant(vector(I32), [n] * LANES) for n in (bits, mask))
        lanes = b.add(b.and_(lanes, keep), b.and_(b.lshr(lanes, shift), keep))
    return lanes


_count = _count_words if TARGET.counts_words else _count_bytes


def _multiply_add(b, at: Reach, pixels: int, vectors: int) -> list:
    """Sums of x * w in float32, each one chain of fused multiply-adds in the order of the elements."""
    zero = ir.Constant(vector(F32), None)
    return _sums(b, at, pixels, vectors, zero, lambda total, x, w: multiply_add(b, total, x, w))


def multiply_add(b, total, x, w):
    """total + x * w in float32, rounded once; x and w are vectors of 32-bit integers."""
    x, w = b.bitcast(x, vector(F32)), b.bitcast(w, vector(F32))
    return instruction(b, "fma", vector(F32), x, w, total)


# --- what becomes of a tile -------------------------------------------------------------------------------------
# Each gets the sums of a pixel, its number in the tile, and the addresses of whatever belongs to the output channels,
# and returns what is written.


def _dots(b, counts, pixel, table, columns):
    """Dot products: what the border table holds for this row and column of outputs, less twice the ones."""
    corner = b.add(table, load(b, b.add(columns, const(8 * pixel)), I64))
    two = ir.Constant(vector(I32), [1] * LANES)
    full = [load(b, b.add(corner, const(v * LANES * 4)), vector(I32)) for v in range(len(counts))]
    return [b.sub(most, b.shl(count, two)) for most, count in zip(full, counts, strict=True)]


def _integers(b, counts, pixel, table, columns, alpha, k):
    """int32 dot products."""
    return _dots(b, counts, pixel, table, columns)


def _scaled(b, counts, pixel, table, columns, alpha, k):
    """float32 (dot * alpha) * K, rounded after each product."""
    factor = spread(b, load(b, b.add(k, const(4 * pixel)), F32))
    scales = [load(b, b.add(alpha, const(v * LANES * 4)), vector(F32)) for v in range(len(counts))]
    dots = [b.sitofp(dot, vector(F32)) for dot in _dots(b, counts, pixel, table, columns)]
    return [b.fmul(b.fmul(dot, scale), factor) for dot, scale in zip(dots, scales, strict=True)]


def _bits(b, counts, pixel, table, columns, limit, flip):
    """Signs for the next layer: bit dot >= limit, turned round where `flip` has a one."""
    width = ir.IntType(len(counts) * LANES)
    word = load(b, flip, width)
    for v, dot in enumerate(_dots(b, counts, pixel, table, columns)):
        above = b.icmp_signed(">=", dot, load(b, b.add(limit, const(v * LANES * 4)), vector(I32)))
        part = b.zext(b.bitcast(above, ir.IntType(LANES)), width)
        word = b.xor(word, b.shl(part, ir.Constant(width, v * LANES)))
    return [word]


def _real(b, sums, pixel, bias, scale, shift, floor):
    """float32 max((sum + bias) * scale + shift, floor), rounded after each operation."""
    results = []
    for v, total in enumerate(sums):
        at = const(v * LANES * 4)
        y = b.fadd(total, load(b, b.add(bias, at), vector(F32)))
        y = b.fmul(y, load(b, b.add(scale, at), vector(F32)))
        y = b.fadd(y, load(b, b.add(shift, at), vector(F32)))
        low = load(b, b.add(floor, at), vector(F32))
        results.append(b.select(b.fcmp_ordered("<", y, low), low, y))  # NaN stays
    return results


def _plain(b, sums, pixel, unused0, unused1, unused2, unused3):
    """The sums as they are."""
    return sums


def _write(b, values, address, past):
    """Write a pixel's results; past the caches where it begins at `past` in a line, None for nowhere."""

    def write_by(kind):
        for v, value in enumerate(values):
            kind(b, value, b.add(address, const(v * LANES * 4)))

    if past is None:
        write_by(store)
        return
    with b.if_else(b.icmp_signed("==", b.and_(address, const(LINE - 1)), past)) as (streams, stays):
        with streams:
            write_by(stream)
        with stays:
            write_by(store)


# --- rows of tiles, as Numba calls them -------------------------------------------------------------------------


def _row(sums: Callable, epilogue: Callable, vectors: int, strides: tuple[int, int, int, int], streams: bool = False):
    """An intrinsic: `n` neighbouring outputs, in whole tiles and then in smaller ones.

    Takes n, the seven addresses and strides of `Reach`, the four addresses of the epilogue, which move on by `strides`
    bytes a pixel, the output's address and its stride from pixel to pixel. With `streams`, those pixels go past the
    caches whose results begin at byte `past` of a line: 0, or LINE for none. Else `past` says nothing.
    """

    @intrinsic
    def row(context, n, x, x_row, x_pixel, n_rows, run, w, w_row, p0, p1, p2, p3, out, out_pixel, past):
        def generate(context, b, signature, arguments):
            left, x, x_row, x_pixel, n_rows, run, w, w_row, *extras, out, out_pixel, past = arguments
            addresses = [x, *extras, out]
            steps = [x_pixel, *map(const, strides), out_pixel]

            def tile(addresses):
                x, *extras, out = addresses
                totals = sums(b, Reach(x, x_row, x_pixel, n_rows, run, w, w_row), pixels, vectors)
                for p in range(pixels):
                    results = epilogue(b, totals[p * vectors : (p + 1) * vectors], p, *extras)
                    _write(b, results, _moved(b, out, out_pixel, p), past if streams else None)
                return [_moved(b, at, step, pixels) for at, step in zip(addresses, steps, strict=True)]

            pixels = TARGET.pixels
            while pixels:
                addresses = repeat(b, b.udiv(left, const(pixels)), addresses, tile)
                left = b.urem(left, const(pixels))
                pixels //= 2
            return context.get_dummy_value()

        return types.void(*[types.int64] * 15), generate

    return row


def _moved(b, address, step, times):
    return b.add(address, b.mul(step, const(times)))


_FOLLOW = (0, 8, 0, 4)  # table, columns (int64 a pixel), alpha, K (float32 a pixel)
_STAY = (0, 8, 0, 0)  # table, columns, limit or nothing, flip or nothing
integers = {v: _row(_count, _integers, v, _STAY) for v in (WIDE, NARROW)}
scaled = {v: _row(_count, _scaled, v, _FOLLOW, True) for v in (WIDE, NARROW)}
bits = {v: _row(_count, _bits, v, _STAY) for v in (WIDE, NARROW)}
real = {v: _row(_multiply_add, _real, v, (0, 0, 0, 0), True) for v in (WIDE, NARROW)}
plain = {v: _row(_multiply_add, _plain, v, (0, 0, 0, 0)) for v in (WIDE, NARROW)}
