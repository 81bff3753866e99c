"""The maximum over a window of pixels, channel by channel, in explicit vector code."""

from llvmlite import ir
from numba import types

from xnor_ref.kernels.microkernels.ir import (
    F32,
    I8,
    I32,
    I64,
    LANES,
    const,
    intrinsic,
    load,
    repeat,
    spread,
    store,
    vector,
)

SIDES = 3, 2  # of windows that are done without a branch
VECTORS = 4 if LANES == 16 else 2  # of channels that are compared together
NOBODY = 255  # the winner of a window whose maximum ReLU has made 0: no pixel of it gets a gradient


def _window_maximum(affine: bool, winners: bool):
    """An intrinsic: the maximum over a window of at least one pixel and LANES channels.

    Takes the address of the first pixel, rows and columns with their strides in bytes, the channels and the address of
    the result. With `winners` also that of the first tap that reaches it (uint8), from the tap of the first pixel and
    the taps of a kernel row. With `affine` the maximum is of max(x*scale + shift, 0), with the addresses of scale and
    shift, and the winner is `NOBODY` where that is 0. The last arguments say nothing where they are not needed.
    """

    @intrinsic
    def maximum(context, x, n_rows, row, n_columns, column, channels, best, won, tap, kernel_w, scale, shift):
        def generate(context, b, signature, arguments):
            x, n_rows, row, n_columns, column, channels, best, won, tap, kernel_w, scale, shift = arguments
            low, zero = ir.Constant(vector(F32), [float("-inf")] * LANES), ir.Constant(vector(F32), None)
            first_tap = b.trunc(tap, I32)

            def block(first, vectors, side=0):
                """So many vectors of channels side by side, as the maximum of each is a chain.

                The window has `side` rows and columns, where that is known.
                """
                spots = [b.add(b.mul(first, const(4)), const(4 * LANES * v)) for v in range(vectors)]

                def numbers(address, element=F32):
                    return [load(b, b.add(address, spot), vector(element)) for spot in spots]

                if affine:
                    factors, terms = numbers(scale), numbers(shift)

                def pixel(values):
                    place, *values = values
                    best, winner = values[:vectors], values[vectors:]
                    y = numbers(place)
                    if affine:
                        y = [b.fadd(b.fmul(*pair), term) for *pair, term in zip(y, factors, terms, strict=True)]
                    better = [b.fcmp_ordered(">", *pair) for pair in zip(y, best, strict=True)]
                    if winners:
                        tap, *won = winner
                        here = spread(b, tap)
                        won = [b.select(is_so, here, before) for is_so, before in zip(better, won, strict=True)]
                        winner = [b.add(tap, ir.Constant(I32, 1)), *won]
                    best = [b.select(*choice) for choice in zip(better, y, best, strict=True)]
                    return [b.add(place, column), *best, *winner]

                def line(values):
                    place, *before = values
                    _, *after = repeat(b, n_columns, values, pixel)
                    if winners:
                        after[vectors] = b.add(before[vectors], b.trunc(kernel_w, I32))
                    return [b.add(place, row), *after]

                start = [x, *[low] * vectors] + ([first_tap, *[spread(b, first_tap)] * vectors] if winners else [])
                if side:
                    values = start
                    for r in range(side):
                        values = [b.add(x, b.mul(row, const(r))), *values[1:]]
                        for _ in range(side):
                            values = pixel(values)
                    _, *values = values
                else:
                    _, *values = repeat(b, n_rows, start, line)
                for v, (y, spot) in enumerate(zip(values[:vectors], spots, strict=True)):
                    if affine:
                        positive = b.fcmp_ordered(">", y, zero)
                        y = b.select(positive, y, zero)
                        nobody = ir.Constant(vector(I32), [NOBODY] * LANES)
                        values[vectors + 1 + v] = b.select(positive, values[vectors + 1 + v], nobody)
                    store(b, y, b.add(best, spot))
                    if winners:
                        place = b.add(b.add(won, first), const(LANES * v))
                        b.store(
                            b.trunc(values[vectors + 1 + v], vector(I8)),
                            b.inttoptr(place, vector(I8).as_pointer()),
                            align=1,
                        )

            def all_blocks(side=0):
                def blocks(vectors):
                    def some(values):
                        block(values[0], vectors, side)
                        return [b.add(values[0], const(vectors * LANES))]

                    return some

                several = b.udiv(channels, const(VECTORS * LANES))
                done = repeat(b, several, [const(0)], blocks(VECTORS))
                single = b.udiv(b.sub(channels, done[0]), const(LANES))
                repeat(b, single, done, blocks(1))
                rest = b.zext(b.icmp_signed("!=", b.urem(channels, const(LANES)), const(0)), I64)
                repeat(b, rest, [b.sub(channels, const(LANES))], blocks(1))  # overlaps the block before

            def from_side(sides):
                if not sides:
                    all_blocks()
                    return
                alike = (b.icmp_signed("==", count, const(sides[0])) for count in (n_rows, n_columns))
                with b.if_else(b.and_(*alike)) as (so, else_):
                    with so:
                        all_blocks(sides[0])
                    with else_:
                        from_side(sides[1:])

            from_side(() if winners else SIDES)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12), generate

    return maximum


maximum = _window_maximum(affine=False, winners=False)
winner = _window_maximum(affine=False, winners=True)
affine_winner = _window_maximum(affine=True, winners=True)
