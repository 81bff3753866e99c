"""Micro-kernels in explicit vector code: a tile of outputs held in registers, for the SIMD rung.

The room's page has a picture. A step takes one 32-bit element of every pixel (32 signs, or one float32), spread over
all lanes, against V vectors of weights. A pixel's elements are `n_pieces` pieces of `run` elements each: rows of the
kernel that meet the image, with all their channels; or, where these do not lie side by side, their taps. A table says
how far it is from each to the next. Weights lie in the same order, V vectors a step.

    for piece in range(n_pieces):              x += hops[piece - 1]
        for k in range(run):                   at = x + 4 k bytes, w += V vectors
            acc[p, v] += popcount(at[p] ^ w[v])

Where lanes do not count all 32 signs of an element, because their channels are of different groups, V vectors of masks
follow those of the weights: popcount((at[p] ^ w[v]) & mask[v]).
"""

from collections.abc import Callable, Sequence

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
    """Where a tile's operands lie: x and its stride from pixel to pixel, the hops from piece to piece, runs, and w."""

    def __init__(self, x, hops, x_pixel, n_pieces, run, w):
        self.x, self.hops, self.x_pixel, self.n_pieces, self.run, self.w = x, hops, x_pixel, n_pieces, run, w

    def sums(self, b, zeros: list, piece: Callable) -> list:
        """`piece([x, w, *sums])` gives w and sums after it, for every piece."""

        def one(values):
            hop, x, w, *sums = values
            return [b.add(hop, const(8)), b.add(x, load(b, hop, I64)), *piece([x, w, *sums])]

        return repeat(b, self.n_pieces, [self.hops, self.x, self.w, *zeros], one)[3:]


def _sums(b, at: Reach, pixels: int, vectors: int, zero: ir.Constant, step: Callable, operands: int = 1) -> list:
    """Accumulators of a tile, [pixel * vectors + vector]: `step(acc, x, w)` for every element."""

    def element(values):
        return _element(b, at, pixels, vectors, values, step, operands)

    return at.sums(b, [zero] * (pixels * vectors), lambda values: repeat(b, at.run, values, element)[1:])


def _element(b, at, pixels, vectors, values, step, operands):
    """One step of the inner loop; `operands` of each lane, weight and perhaps mask, lie V vectors apart."""
    x, w, *sums = values
    loaded = [load(b, b.add(w, const(v * LANES * 4)), vector(I32)) for v in range(operands * vectors)]
    for p in range(pixels):
        signs = spread(b, load(b, b.add(x, b.mul(at.x_pixel, const(p))), I32))
        for v in range(vectors):
            sums[p * vectors + v] = step(sums[p * vectors + v], signs, *loaded[v::vectors])
    return [b.add(x, const(4)), b.add(w, const(len(loaded) * LANES * 4)), *sums]


def _differing(b, x, w, mask=None):
    return b.xor(x, w) if mask is None else b.and_(b.xor(x, w), mask)


def _count_words(b, at: Reach, pixels: int, vectors: int, operands: int) -> list:
    """Ones of x ^ w, counted lane by lane."""

    def step(count, *signs):
        return b.add(count, instruction(b, "ctpop", vector(I32), _differing(b, *signs)))

    return _sums(b, at, pixels, vectors, ir.Constant(vector(I32), None), step, operands)


def _count_bytes(b, at: Reach, pixels: int, vectors: int, operands: int) -> list:
    """Ones of x ^ w, counted byte by byte, and the four bytes of a lane added up before they can overflow."""
    octets = vector(I8, 4 * LANES)

    def step(count, *signs):
        return b.add(count, instruction(b, "ctpop", octets, b.bitcast(_differing(b, *signs), octets)))

    def element(values):
        return _element(b, at, pixels, vectors, values, step, operands)

    def some(values):
        left, x, w, *counts = values
        steps = b.select(b.icmp_signed("<", left, const(_STEPS)), left, const(_STEPS))
        x, w, *small = repeat(b, steps, [x, w] + [ir.Constant(octets, None)] * len(counts), element)
        return [b.sub(left, steps), x, w, *(b.add(n, _add_bytes(b, s)) for n, s in zip(counts, small, strict=True))]

    def piece(values):
        times = b.udiv(b.add(at.run, const(_STEPS - 1)), const(_STEPS))
        return repeat(b, times, [at.run, *values], some)[2:]

    return at.sums(b, [ir.Constant(vector(I32), None)] * (pixels * vectors), piece)


def _add_bytes(b, counts):
    """The sum of the four bytes of every 32-bit lane."""
    lanes = b.bitcast(counts, vector(I32))
    for bits, mask in ((8, 0x00FF00FF), (16, 0x0000FFFF)):
        shift, keep = (ir.Constant(vector(I32), [n] * LANES) for n in (bits, mask))
        lanes = b.add(b.and_(lanes, keep), b.and_(b.lshr(lanes, shift), keep))
    return lanes


def _count(operands: int) -> Callable:
    of = _count_words if TARGET.counts_words else _count_bytes
    return lambda b, at, pixels, vectors: of(b, at, pixels, vectors, operands)


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


def _row(sums: Callable, epilogues: Sequence[Callable], vectors: int, p1_pixel: int = 0, streams: Sequence = ()):
    """An intrinsic: `n` neighbouring outputs, in whole tiles and then in smaller ones.

    Takes the number of the epilogue, n, the six parts of `Reach`, the four addresses that epilogues read, of which the
    second moves on by `p1_pixel` bytes a pixel and the last by `p3_pixel`, the output's address and its stride from
    pixel to pixel. By epilogues in `streams`, those pixels go past the caches whose results begin at byte `past` of a
    line: 0, or LINE for none.
    """

    @intrinsic
    def row(
        context, kind, n, x, hops, x_pixel, n_pieces, run, w, p0, p1, p2, p3, p3_pixel, out, out_pixel, past
    ):  # fmt: skip
        def generate(context, b, signature, arguments):
            kind, left, x, hops, x_pixel, n_pieces, run, w, *extras, p3_pixel, out, out_pixel, past = arguments
            addresses = [x, *extras, out]
            steps = [x_pixel, const(0), const(p1_pixel), const(0), p3_pixel, out_pixel]

            def tile(addresses):
                x, *extras, out = addresses
                totals = sums(b, Reach(x, hops, x_pixel, n_pieces, run, w), pixels, vectors)

                def finish(number):
                    """By the epilogue of this kind, or one of the following."""
                    if number + 1 < len(epilogues):
                        with b.if_else(b.icmp_signed("==", kind, const(number))) as (so, else_):
                            with so:
                                write(epilogues[number])
                            with else_:
                                finish(number + 1)
                    else:
                        write(epilogues[number])

                def write(epilogue):
                    for p in range(pixels):
                        results = epilogue(b, totals[p * vectors : (p + 1) * vectors], p, *extras)
                        _write(b, results, _moved(b, out, out_pixel, p), past if epilogue in streams else None)

                finish(0)
                return [_moved(b, at, step, pixels) for at, step in zip(addresses, steps, strict=True)]

            pixels = TARGET.pixels
            while pixels:
                addresses = repeat(b, b.udiv(left, const(pixels)), addresses, tile)
                left = b.urem(left, const(pixels))
                pixels //= 2
            return context.get_dummy_value()

        return types.void(*[types.int64] * 16), generate

    return row


def _moved(b, address, step, times):
    return b.add(address, b.mul(step, const(times)))


INTEGERS, SCALED, BITS = range(3)
_SIGNS = _integers, _scaled, _bits  # by these numbers; p1 are columns, int64 a pixel
signs = {v: _row(_count(1), _SIGNS, v, 8, (_scaled,)) for v in (WIDE, NARROW)}
masked_signs = {v: _row(_count(2), _SIGNS, v, 8, (_scaled,)) for v in (WIDE, NARROW)}
real = {v: _row(_multiply_add, (_real,), v, streams=(_real,)) for v in (WIDE, NARROW)}
plain = {v: _row(_multiply_add, (_plain,), v) for v in (WIDE, NARROW)}
