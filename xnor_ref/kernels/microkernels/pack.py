"""From float32 to bits, and from rows of pixels to planes of channels, in explicit vector code: see `tile.py`."""

from llvmlite import ir
from numba import types

from xnor_ref.kernels.basics.layout import PARTIAL_SUMS
from xnor_ref.kernels.microkernels.ir import (
    F32,
    F64,
    I32,
    I64,
    LANES,
    const,
    first_lanes,
    instruction,
    intrinsic,
    load,
    masked_load,
    repeat,
    store,
    total_of,
    vector,
)

WORD_SIGNS = 32  # signs of a word here; a 64-bit word of the other rungs is two of them


def _pack_pixel(affine: bool, mean: bool):
    """An intrinsic that packs the channels of one pixel.

    Takes the address of x, the number of channels, the addresses of scale, shift and limit (float32 each), and that of
    the words. The bit of a channel is y >= limit with y = x*scale + shift, or x >= 0 without `affine`. Gives the sum
    of |y| in float64, added up in `PARTIAL_SUMS` partial sums and these by halves, or 0.0 without `mean`.
    """

    @intrinsic
    def pack(context, x, channels, scale, shift, limit, out):
        def generate(context, b, signature, arguments):
            x, channels, scale, shift, limit, out = arguments
            whole, doubles = vector(F32, WORD_SIGNS), vector(F64, PARTIAL_SUMS)
            zero = ir.Constant(whole, None)

            def word(addresses, total, read):
                x, scale, shift, limit, _ = addresses
                y, low = read(x), zero
                if affine:
                    y, low = b.fadd(b.fmul(y, read(scale)), read(shift)), read(limit)
                if mean:
                    for first in range(0, WORD_SIGNS, PARTIAL_SUMS):
                        part = b.fpext(b.shuffle_vector(y, zero, _indices(first, PARTIAL_SUMS)), doubles)
                        total = b.fadd(total, instruction(b, "fabs", doubles, part))
                return b.fcmp_ordered(">=", y, low), total

            def full(values):
                *addresses, total = values
                ones, total = word(addresses, total, lambda at: load(b, at, whole))
                store(b, b.bitcast(ones, I32), addresses[-1])
                *reals, out = addresses
                return [*(b.add(at, const(4 * WORD_SIGNS)) for at in reals), b.add(out, const(4)), total]

            def last(values):
                *addresses, total = values
                used = first_lanes(b, left, WORD_SIGNS)
                ones, total = word(addresses, total, lambda at: masked_load(b, at, whole, used))
                store(b, b.bitcast(b.and_(ones, used), I32), addresses[-1])
                return [*addresses, total]

            left = b.urem(channels, const(WORD_SIGNS))
            start = [x, scale, shift, limit, out, ir.Constant(vector(F64, PARTIAL_SUMS), None)]
            values = repeat(b, b.udiv(channels, const(WORD_SIGNS)), start, full)
            *_, total = repeat(b, b.zext(b.icmp_signed("!=", left, const(0)), I64), values, last)
            return total_of(b, total)

        return types.float64(*[types.int64] * 6), generate

    return pack


def _indices(first: int, count: int) -> ir.Constant:
    return ir.Constant(vector(I32, count), list(range(first, first + count)))


sign = _pack_pixel(affine=False, mean=False)
sign_mean = _pack_pixel(affine=False, mean=True)
affine_sign = _pack_pixel(affine=True, mean=False)
affine_sign_mean = _pack_pixel(affine=True, mean=True)


PLANE_PIXELS = 8  # neighbouring pixels of a plane that are packed together


def _pack_group(mean: bool):
    """An intrinsic that packs the signs of PLANE_PIXELS neighbouring pixels of an image (C, H, W).

    C must be a multiple of PARTIAL_SUMS. Takes the address of the first channel's pixels, the stride from channel to
    channel in bytes, the channels, the address of the words, PLANE_PIXELS of them side by side and `row` bytes from
    word to word, and that of the sums of |x|, float64; see `_pack_pixel` for their order.
    """

    @intrinsic
    def pack(context, x, plane, channels, out, row, sums):
        def generate(context, b, signature, arguments):
            x, plane, channels, out, row, sums = arguments
            reals, doubles, words = vector(F32, PLANE_PIXELS), vector(F64, PLANE_PIXELS), vector(I32, PLANE_PIXELS)
            zero = ir.Constant(words, None)

            def some(values, count):
                x, out, *totals = values
                ones = zero
                for c in range(count):
                    y = load(b, x, reals)
                    bit = ir.Constant(words, [1 << c] * PLANE_PIXELS)
                    ones = b.or_(ones, b.select(b.fcmp_ordered(">=", y, ir.Constant(reals, None)), bit, zero))
                    if mean:
                        size = instruction(b, "fabs", doubles, b.fpext(y, doubles))
                        totals[c % PARTIAL_SUMS] = b.fadd(totals[c % PARTIAL_SUMS], size)
                    x = b.add(x, plane)
                store(b, ones, out)
                return [x, b.add(out, row), *totals]

            start = [x, out] + [ir.Constant(doubles, None)] * (PARTIAL_SUMS if mean else 0)
            values = repeat(b, b.udiv(channels, const(WORD_SIGNS)), start, lambda values: some(values, WORD_SIGNS))
            left = b.udiv(b.urem(channels, const(WORD_SIGNS)), const(PARTIAL_SUMS))
            _, _, *totals = repeat(b, left, values, lambda values: some(values, PARTIAL_SUMS))
            while len(totals) > 1:
                half = len(totals) // 2
                totals = [b.fadd(*pair) for pair in zip(totals[:half], totals[half:], strict=True)]
            if mean:
                store(b, totals[0], sums)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return pack


group = _pack_group(mean=False)
group_mean = _pack_group(mean=True)


@intrinsic
def interleave(context, n, source, plane, target):
    """Three planes of `n` groups of LANES pixels, `plane` bytes apart, as pixels of three channels."""

    def generate(context, b, signature, arguments):
        n, source, plane, target = arguments
        both = ir.Constant(vector(I32, 2 * LANES), list(range(2 * LANES)))
        order = [lane + LANES * channel for lane in range(LANES) for channel in range(3)]

        def some(values):
            source, target = values
            x = [load(b, b.add(source, b.mul(plane, const(channel))), vector(I32)) for channel in range(3)]
            pairs = (b.shuffle_vector(*two, both) for two in ((x[0], x[1]), (x[2], x[2])))
            store(b, b.shuffle_vector(*pairs, ir.Constant(vector(I32, 3 * LANES), order)), target)
            return [b.add(source, const(4 * LANES)), b.add(target, const(12 * LANES))]

        repeat(b, n, [source, target], some)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def transpose(context, source, source_row, target, target_row):
    """Transpose a square of LANES x LANES elements of 32 bits; addresses, and strides of the rows in bytes.

    Rows i and i + LANES/2 are interleaved, log2(LANES) times: each round moves one bit of the row's number into the
    column's.
    """

    def generate(context, b, signature, arguments):
        source, source_row, target, target_row = arguments
        half = LANES // 2
        rows = [load(b, b.add(source, b.mul(source_row, const(i))), vector(I32)) for i in range(LANES)]
        low = [n for i in range(half) for n in (i, LANES + i)]
        halves = [ir.Constant(vector(I32), [n + shift for n in low]) for shift in (0, half)]
        for _ in range(LANES.bit_length() - 1):
            pairs = [(rows[i], rows[i + half]) for i in range(half)]
            rows = [b.shuffle_vector(first, second, mask) for first, second in pairs for mask in halves]
        for i, row in enumerate(rows):
            store(b, row, b.add(target, b.mul(target_row, const(i))))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate
