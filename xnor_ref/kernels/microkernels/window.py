"""The maximum over a window of pixels, channel by channel, in explicit vector code."""

from llvmlite import ir
from numba import types

from xnor_ref.kernels.microkernels.ir import F32, I8, I32, LANES, const, intrinsic, load, repeat, spread, store, vector

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

            def block(first):
                at = b.mul(first, const(4))
                if affine:
                    a, c = (load(b, b.add(v, at), vector(F32)) for v in (scale, shift))

                def pixel(values):
                    place, best, *winner = values
                    y = load(b, place, vector(F32))
                    if affine:
                        y = b.fadd(b.fmul(y, a), c)
                    better = b.fcmp_ordered(">", y, best)
                    if winners:
                        tap, won = winner
                        winner = [b.add(tap, ir.Constant(I32, 1)), b.select(better, spread(b, tap), won)]
                    return [b.add(place, column), b.select(better, y, best), *winner]

                def line(values):
                    place, best, *winner = values
                    _, best, *after = repeat(b, n_columns, values, pixel)
                    if winners:
                        after[0] = b.add(winner[0], b.trunc(kernel_w, I32))
                    return [b.add(place, row), best, *after]

                start = [b.add(x, at), low] + ([first_tap, spread(b, first_tap)] if winners else [])
                _, y, *winner = repeat(b, n_rows, start, line)
                if affine:
                    positive = b.fcmp_ordered(">", y, zero)
                    y = b.select(positive, y, zero)
                    winner[1] = b.select(positive, winner[1], ir.Constant(vector(I32), [NOBODY] * LANES))
                store(b, y, b.add(best, at))
                if winners:
                    taps = b.inttoptr(b.add(won, first), vector(I8).as_pointer())
                    b.store(b.trunc(winner[1], vector(I8)), taps, align=1)

            def blocks(values):
                block(values[0])
                return [b.add(values[0], const(LANES))]

            repeat(b, b.udiv(channels, const(LANES)), [const(0)], blocks)
            block(b.sub(channels, const(LANES)))  # overlaps the block before, or repeats it
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12), generate

    return maximum


maximum = _window_maximum(affine=False, winners=False)
winner = _window_maximum(affine=False, winners=True)
affine_winner = _window_maximum(affine=True, winners=True)
