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
    smaller,
    spread,
    store,
    total_of,
    vector,
)

WORD_SIGNS = 32  # signs of a word here; a 64-bit word of the other rungs is two of them


TOGETHER = 4 if LANES == 16 else 2  # pixels that are packed together: their sums are chains, and scales are read once
_DOUBLES, _HALF = vector(F64, PARTIAL_SUMS), vector(F64, PARTIAL_SUMS // 2)
_MAGNITUDE = 0x7FFFFFFF  # the bits of a float32 but its sign


def _add_converted(b, sums, y):
    """|y| of a word's float32 numbers, added to PARTIAL_SUMS float64 sums."""
    (total,) = sums
    y = instruction(b, "fabs", y.type, y)
    for first in range(0, WORD_SIGNS, PARTIAL_SUMS):
        part = b.shuffle_vector(y, y, _indices(range(first, first + PARTIAL_SUMS)))
        total = b.fadd(total, b.fpext(part, _DOUBLES))
    return [total]


def _add_shifted(b, sums, y):
    """As `_add_converted`, for finite numbers, to the even and the odd of the sums; converting takes longer.

    The exponent and fraction of a float32, moved to their places in a float64, are that number times 2^-896, also where
    it is subnormal. The product with 2^896 is exact, so that the sum is rounded once.
    """
    pairs = vector(I64, WORD_SIGNS // 2)
    bits, count = b.bitcast(y, pairs), PARTIAL_SUMS // 2
    low, high, up, down = (ir.Constant(pairs, [n] * pairs.count) for n in (_MAGNITUDE, _MAGNITUDE << 29, 29, 3))
    moved = b.shl(b.and_(bits, low), up), b.and_(b.lshr(bits, down), high)
    scale = ir.Constant(_HALF, [2.0**896] * count)
    for first in range(0, pairs.count, count):
        parts = [b.bitcast(b.shuffle_vector(x, x, _indices(range(first, first + count))), _HALF) for x in moved]
        sums = [instruction(b, "fma", _HALF, x, scale, total) for x, total in zip(parts, sums, strict=True)]
    return sums


def _words(b, add, affine: bool, pixels: list, channels, scales: list, outs: list, sums: list) -> list:
    """Pack the channels of some pixels, and `add(b, sums, y)` to those of each pixel. Gives them.

    The bit of a channel is y >= limit with y = x*scale + shift, or x >= 0 without `affine`. `pixels` and `outs` are
    addresses, and `scales` those of scale, shift and limit (float32 each).
    """
    whole, each = vector(F32, WORD_SIGNS), len(sums)
    zero = ir.Constant(whole, None)

    def word(at, totals, read, used=None):
        """The word that begins at byte `at` of a pixel."""
        scale, shift, low = (read(b.add(v, at)) for v in scales) if affine else (None, None, zero)
        place = b.udiv(at, const(WORD_SIGNS))
        for p, (x, out) in enumerate(zip(pixels, outs, strict=True)):
            y = read(b.add(x, at))
            y = b.fadd(b.fmul(y, scale), shift) if affine else y
            ones = b.fcmp_ordered(">=", y, low)
            ones = ones if used is None else b.and_(ones, used)
            store(b, b.bitcast(ones, I32), b.add(out, place))
            totals[p * each : (p + 1) * each] = add(b, totals[p * each : (p + 1) * each], y)
        return [b.add(at, const(4 * WORD_SIGNS)), *totals]

    def full(values):
        at, *totals = values
        return word(at, totals, lambda address: load(b, address, whole))

    def last(values):
        at, *totals = values
        used = first_lanes(b, left, WORD_SIGNS)
        return word(at, totals, lambda address: masked_load(b, address, whole, used), used)

    left = b.urem(channels, const(WORD_SIGNS))
    values = repeat(b, b.udiv(channels, const(WORD_SIGNS)), [const(0), *sums * len(pixels)], full)
    return repeat(b, b.zext(b.icmp_signed("!=", left, const(0)), I64), values, last)[1:]


def _indices(lanes) -> ir.Constant:
    return ir.Constant(vector(I32, len(lanes)), list(lanes))


def _totals(b, sums: list) -> ir.Value:
    """The sum of the lanes of each of 2^i vectors, added up by halves, as the lanes of one."""
    width = sums[0].type.count
    while width > 1:
        pairs = list(zip(sums[::2], sums[1::2], strict=True)) if len(sums) > 1 else [(sums[0], sums[0])]
        lanes = (2 if len(sums) > 1 else 1) * sums[0].type.count
        low = [first + i for first in range(0, lanes, width) for i in range(width // 2)]
        halves = _indices(low), _indices([lane + width // 2 for lane in low])
        sums = [b.fadd(*(b.shuffle_vector(*pair, half) for half in halves)) for pair in pairs]
        width //= 2
    return sums[0]


def _pack_row(affine: bool, mean: bool):
    """An intrinsic that packs the channels of `n` pixels.

    Takes n, the address of the first pixel and the stride to the next in bytes, the number of channels, the addresses
    of scale, shift and limit (float32 each), the address of the first word and its stride, and that of A, float64: the
    mean of |y| (see `_words`), added up in PARTIAL_SUMS partial sums and these by halves.
    """

    @intrinsic
    def pack(context, n, x, x_pixel, channels, scale, shift, limit, out, out_pixel, means):
        def generate(context, b, signature, arguments):
            n, x, x_pixel, channels, *scales, out, out_pixel, means = arguments
            count = b.sitofp(channels, F64)

            def words(first, pixels, add, sums):
                places = [b.add(first, const(p)) for p in range(pixels)]
                starts, outs = (
                    [b.add(begin, b.mul(place, step)) for place in places]
                    for begin, step in ((x, x_pixel), (out, out_pixel))
                )
                return _words(b, add, affine, starts, channels, scales, outs, sums)

            def some(first, pixels):
                if not mean:
                    words(first, pixels, lambda b, sums, y: sums, [])
                    return
                totals = words(first, pixels, _add_shifted, [ir.Constant(_HALF, None)] * 2)
                total = b.fadd(_totals(b, totals[::2]), _totals(b, totals[1::2]))
                write(first, total)
                huge = b.fcmp_ordered(">=", total, ir.Constant(total.type, [2.0**128] * pixels))
                found = b.icmp_unsigned("!=", b.bitcast(huge, ir.IntType(pixels)), ir.Constant(ir.IntType(pixels), 0))
                repeat(b, b.select(found, const(pixels), const(0)), [first], convert)  # perhaps of infinity or NaN

            def convert(values):
                write(values[0], _totals(b, words(values[0], 1, _add_converted, [ir.Constant(_DOUBLES, None)])))
                return [b.add(values[0], const(1))]

            def write(first, total):
                store(b, b.fdiv(total, spread(b, count, total.type.count)), b.add(means, b.mul(first, const(8))))

            def tile(values):  # the last one may begin within the one before
                some(smaller(b, values[0], b.sub(n, const(together))), together)
                return [b.add(values[0], const(together))]

            def single(values):
                some(values[0], 1)
                return [b.add(values[0], const(1))]

            together = TOGETHER if affine or mean else 1
            enough = b.icmp_signed(">=", n, const(together))
            tiles = b.udiv(b.add(n, const(together - 1)), const(together))
            repeat(b, b.select(enough, tiles, const(0)), [const(0)], tile)
            repeat(b, b.select(enough, const(0), n), [const(0)], single)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), generate

    return pack


signs, signs_mean = _pack_row(affine=False, mean=False), _pack_row(affine=False, mean=True)
affine_signs, affine_signs_mean = _pack_row(affine=True, mean=False), _pack_row(affine=True, mean=True)


@intrinsic
def sign_sum(context, x, channels, out):
    """Pack the signs of x, at the words `out`; gives the sum of |x| in float64, in the order of `_pack_row`."""

    def generate(context, b, signature, arguments):
        x, channels, out = arguments
        return total_of(b, *_words(b, _add_converted, False, [x], channels, [], [out], [ir.Constant(_DOUBLES, None)]))

    return types.float64(*[types.int64] * 3), generate


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
