"""Convolutions of 3x3 with few channels a group, stride 1, in explicit vector code; see `grouped.py` for the lanes.

A tile is two rows of neighbouring outputs. So a pixel is read once for up to six of its products, and moved once into
the lanes that take it:

    for block in range(blocks):
        for row in range(4):
            for pixel in range(outputs + 2):
                for k in range(n_inputs):
                    for y, column in those of the two outputs and three taps that meet:
                        acc[y, pixel - column] += x[row, pixel][lanes + k] * w[row - y, column, k]

Each sum meets its taps in order. Pixels of a row that lie outside the image are zeros; rows outside are left out.
"""

from llvmlite import ir
from numba import types

from xnor_ref.kernels.microkernels import tile
from xnor_ref.kernels.microkernels.grouped import PIXELS, permuted
from xnor_ref.kernels.microkernels.ir import (
    F32,
    I32,
    I64,
    LANES,
    const,
    first_lanes,
    instruction,
    intrinsic,
    load,
    masked_load,
    masked_store,
    repeat,
    smaller,
    spread,
    vector,
)

TAPS, ROWS = 3, 2  # a side; rows of outputs
_REALS, _INTEGERS = vector(F32), vector(I32)
_moved = tile._moved


def _add(b, total, x, weights):
    return instruction(b, "fma", _REALS, x, weights, total)


def _squares(shuffled: bool):
    """An intrinsic: all blocks of `n` neighbouring outputs of two rows, max((sum + bias) * scale + shift, floor).

    Takes n, the address of the image, how many bytes after that the first row of pixels begins (or before), and how
    many after its row the first pixel; the bytes of a pixel, a row and an image; the address of w, its strides from row
    to row and column to column and from block to block; the inputs of a group and the address of `lanes`; how many
    channels x and the output have, and how many of them a block; the addresses of what the epilogue takes, that of the
    output, and its strides. Unless `shuffled`, blocks are whole vectors of channels, and pixels go past the caches that
    begin at byte `past` of a line: 0, or LINE for none.
    """

    @intrinsic
    def squares(
        context, n, x, row, place, x_pixel, x_line, x_image, w, w_row, w_column, w_block, n_inputs, lanes, n_in, n_out,
        block_in, block_out, bias, scale, shift, floor, out, out_row, out_pixel, past,
    ):  # fmt: skip
        def generate(context, b, signature, arguments):
            n, x, row, place, x_pixel, x_line, x_image, w, w_row, w_column, w_block, n_inputs, *rest = arguments
            lanes, n_in, n_out, block_in, block_out, *parts, out, out_row, out_pixel, past = rest
            lanes = load(b, lanes, _INTEGERS) if shuffled else None
            blocks = b.udiv(b.add(n_out, b.sub(block_out, const(1))), block_out)
            zero = ir.Constant(_REALS, None)

            def direct(sums, inputs, taps):
                """Sums by (row, output) after a row of pixels and `taps`: (address of a row of w, row of outputs)."""
                for column in range(TAPS):
                    for w, y in taps:
                        weights = load(b, _moved(b, w, w_column, column), _REALS)
                        for p in range(len(inputs) - TAPS + 1):
                            sums[y, p] = _add(b, sums[y, p], inputs[p + column], weights)
                return sums

            def moved_into_lanes(sums, inputs, taps):
                """As `direct`; of two halves of the pixels at once, as every sum is a chain."""
                pixels = len(inputs) - TAPS + 1
                half = max(1, pixels // 2)
                for q in range(half + TAPS - 1):
                    pairs = [(column, q - column) for column in range(TAPS) if 0 <= q - column < half]
                    sums |= some_pixels(sums, inputs[q::half][: pixels // half], taps, pairs, half)
                return sums

            def some_pixels(sums, inputs, taps, pairs, half):
                """The sums that inputs, `half` pixels apart, go to: by (column, output of the first of them)."""
                used = [(y, p + i * half) for _, p in pairs for _, y in taps for i in range(len(inputs))]

                def one(values):
                    lanes, step, *found = values
                    found = dict(zip(used, found, strict=True))
                    moved = [permuted(b, x, lanes) for x in inputs]
                    for column, p in pairs:
                        for w, y in taps:
                            weights = load(b, b.add(_moved(b, w, w_column, column), step), _REALS)
                            for i, x in enumerate(moved):
                                found[y, p + i * half] = _add(b, found[y, p + i * half], x, weights)
                    lanes = b.add(lanes, ir.Constant(_INTEGERS, [1] * LANES))
                    return [lanes, b.add(step, const(4 * LANES)), *found.values()]

                _, _, *found = repeat(b, n_inputs, [lanes, const(0), *(sums[i] for i in used)], one)
                return dict(zip(used, found, strict=True))

            def spot(place):
                """The place in a row of a pixel that may be read, and whether it is that at `place`, for all lanes."""
                inside = b.icmp_unsigned("<", place, x_line)
                return b.select(inside, place, const(0)), spread(b, inside)

            def with_row(sums, x, w, r, spots, reads):
                """The sums after the r-th row of pixels, if it is one of the image."""
                of_row = _moved(b, row, x_line, r)
                taps = [(_moved(b, w, w_row, r - y), y) for y in range(ROWS) if 0 <= r - y < TAPS]

                def meet(values):
                    begin, inputs = b.add(x, of_row), []
                    for place, inside in spots:
                        if shuffled:
                            inputs.append(masked_load(b, b.add(begin, place), _REALS, b.and_(inside, reads)))
                        else:
                            inputs.append(b.select(inside, load(b, b.add(begin, place), _REALS), zero))
                    add = moved_into_lanes if shuffled else direct
                    return list(add(dict(zip(sums, values, strict=True)), inputs, taps).values())

                valid = b.zext(b.icmp_unsigned("<", of_row, x_image), I64)
                return dict(zip(sums, repeat(b, valid, list(sums.values()), meet), strict=True))

            def block(values, spots, pixels):
                x, w, *parts, out, n_in, n_out = values
                reads, writes = (first_lanes(b, smaller(b, *pair)) for pair in ((n_in, block_in), (n_out, block_out)))
                sums = {(y, p): zero for y in range(ROWS) for p in range(pixels)}
                for r in range(TAPS + ROWS - 1):
                    sums = with_row(sums, x, w, r, spots, reads)
                results = {at: tile._real(b, [total], 0, *parts) for at, total in sums.items()}
                for (y, p), result in results.items():
                    address = _moved(b, _moved(b, out, out_row, y), out_pixel, p)
                    if shuffled:
                        masked_store(b, result[0], address, writes)
                    else:
                        tile._write(b, result, address, past)
                parts = [b.add(part, const(4 * LANES)) for part in parts]
                x, out = _moved(b, x, block_in, 4), _moved(b, out, block_out, 4)
                return [x, b.add(w, w_block), *parts, out, b.sub(n_in, block_in), b.sub(n_out, block_out)]

            def some(first, pixels):
                moved, to = b.add(place, b.mul(first, x_pixel)), b.add(out, b.mul(first, out_pixel))
                spots = [spot(_moved(b, moved, x_pixel, i)) for i in range(pixels + TAPS - 1)]
                repeat(b, blocks, [x, w, *parts, to, n_in, n_out], lambda values: block(values, spots, pixels))

            _in_tiles(b, n, some)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 25), generate

    return squares


def _in_tiles(b, n, body):
    """`body(first, pixels)` for tiles of n neighbouring outputs: whole ones, then smaller ones.

    Where more than half of a tile is left, that is a tile too, which repeats outputs of the one before.
    """

    def some(pixels, done):
        size = const(pixels)
        left = b.sub(n, done)
        more = b.and_(b.icmp_signed(">", b.urem(left, size), const(pixels // 2)), b.icmp_signed(">=", n, size))
        count = b.add(b.udiv(left, size), b.zext(more, I64))

        def one(values):
            body(smaller(b, values[0], b.sub(n, size)), pixels)
            return [b.add(values[0], size)]

        return smaller(b, repeat(b, count, [done], one)[0], n)

    pixels, done = PIXELS, const(0)
    while pixels:
        pixels, done = pixels // 2, some(pixels, done)


direct, shuffled = _squares(False), _squares(True)
