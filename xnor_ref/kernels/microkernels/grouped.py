"""Convolutions with few channels a group, in explicit vector code: lanes are output channels of whole groups.

A step takes one tap and one input of each group: a vector of the pixel, whose channels are brought into the lanes of
the outputs that take them, times one of the weights. A block is as many groups as a vector holds.

    for block in range(blocks):
        for row in range(n_rows):                  x += x_row, w += w_row
            for column in range(n_columns):        x += x_column, w += w_column
                for k in range(n_inputs):
                    acc[p] += x[p][lanes + k] * w[k]
"""

from llvmlite import ir
from numba import types

from xnor_ref.kernels.microkernels import tile
from xnor_ref.kernels.microkernels.ir import (
    F32,
    I32,
    LANES,
    TARGET,
    const,
    declared,
    first_lanes,
    instruction,
    intrinsic,
    load,
    masked_load,
    masked_store,
    repeat,
    smaller,
    store,
    vector,
)

PIXELS = 2 * TARGET.pixels  # of a tile
VECTORS = 4  # blocks of a tile of one pixel, which has too few sums else
TOGETHER = 3  # taps of a row whose pixels are loaded once for all of them
_PERMUTES = {16: "llvm.x86.avx512.permvar.sf.512", 8: "llvm.x86.avx2.permps"}
_REALS, _INTEGERS = vector(F32), vector(I32)
_moved = tile._moved


def permuted(b, x, lanes):
    """x[lanes]."""
    if LANES in _PERMUTES:
        return b.call(declared(b, ir.FunctionType(_REALS, [_REALS, _INTEGERS]), _PERMUTES[LANES]), [x, lanes])
    found = ir.Constant(_REALS, ir.Undefined)
    for lane in range(LANES):
        place = ir.Constant(I32, lane)
        found = b.insert_element(found, b.extract_element(x, b.extract_element(lanes, place)), place)
    return found


def _add(b, sums, inputs, weights):
    return [instruction(b, "fma", _REALS, x, weights, total) for total, x in zip(sums, inputs, strict=True)]


class Taps:
    """Where a tile's operands lie: the strides of x and w, how many rows and columns of taps there are, and more."""

    def __init__(self, *arguments):
        (
            self.x_pixel, self.x_row, self.x_column, self.n_rows, self.n_columns,
            self.w_row, self.w_column, self.w_block, self.n_inputs, self.lanes,
        ) = arguments  # fmt: skip


def _direct_row(b, at, pixels, vectors, values):
    """The taps of a row where lanes are channels; of neighbours, each pixel is loaded once for `TOGETHER` of them."""

    def tap(values, taps):
        x, w, *sums = values
        for v in range(vectors):
            of_vector, w_vector = b.add(x, const(4 * LANES * v)), _moved(b, w, at.w_block, v)
            inputs = [load(b, _moved(b, of_vector, at.x_pixel, p), _REALS) for p in range(pixels + taps - 1)]
            for t in range(taps):
                weights = load(b, _moved(b, w_vector, at.w_column, t), _REALS)
                sums[v::vectors] = _add(b, sums[v::vectors], inputs[t : t + pixels], weights)
        return [_moved(b, x, at.x_column, taps), _moved(b, w, at.w_column, taps), *sums]

    neighbours = b.icmp_signed("==", at.x_column, at.x_pixel)
    together = b.select(neighbours, b.udiv(at.n_columns, const(TOGETHER)), const(0))
    values = repeat(b, together, values, lambda values: tap(values, TOGETHER))
    single = b.sub(at.n_columns, b.mul(together, const(TOGETHER)))
    return repeat(b, single, values, lambda values: tap(values, 1))


def _shuffled_row(b, at, pixels, mask, values):
    """The taps of a row where channels are brought into lanes."""

    def column(values):
        x, first, *sums = values
        channels = [masked_load(b, _moved(b, x, at.x_pixel, p), _REALS, mask) for p in range(pixels)]

        def one(values):
            lanes, w, *sums = values
            sums = _add(b, sums, [permuted(b, x, lanes) for x in channels], load(b, w, _REALS))
            return [b.add(lanes, ir.Constant(_INTEGERS, [1] * LANES)), b.add(w, const(4 * LANES)), *sums]

        _, _, *sums = repeat(b, at.n_inputs, [at.lanes, first, *sums], one)
        return [b.add(x, at.x_column), b.add(first, at.w_column), *sums]

    return repeat(b, at.n_columns, values, column)


def _outputs(shuffled: bool):
    """An intrinsic: all blocks of `n` neighbouring outputs, max((sum + bias) * scale + shift, floor).

    Takes n, the addresses of x and w, what `Taps` takes (`lanes` as an address), how many channels x and the output
    have and how many of them a block, the addresses of what the epilogue takes, that of the output and its stride from
    pixel to pixel. Unless `shuffled`, blocks are whole vectors of channels, and pixels go past the caches that begin at
    byte `past` of a line: 0, or LINE for none.
    """

    @intrinsic
    def outputs(
        context, n, x, w, x_pixel, x_row, x_column, n_rows, n_columns, w_row, w_column, w_block, n_inputs, lanes,
        n_in, n_out, block_in, block_out, bias, scale, shift, floor, out, out_pixel, past,
    ):  # fmt: skip
        def generate(context, b, signature, arguments):
            left, x, w, *taps, n_in, n_out, block_in, block_out, p0, p1, p2, p3, out, out_pixel, past = arguments
            at = Taps(*taps)
            at.lanes = load(b, at.lanes, _INTEGERS) if shuffled else None
            blocks = b.udiv(b.add(n_out, b.sub(block_out, const(1))), block_out)

            def block(values, pixels, vectors):
                x, w, *parts, out, n_in, n_out = values
                reads, writes = (first_lanes(b, smaller(b, *pair)) for pair in ((n_in, block_in), (n_out, block_out)))

                def row(values):
                    x, w, *_ = values
                    if shuffled:
                        _, _, *sums = _shuffled_row(b, at, pixels, reads, values)
                    else:
                        _, _, *sums = _direct_row(b, at, pixels, vectors, values)
                    return [b.add(x, at.x_row), b.add(w, at.w_row), *sums]

                _, _, *sums = repeat(b, at.n_rows, [x, w] + [ir.Constant(_REALS, None)] * (pixels * vectors), row)
                results = [tile._real(b, sums[p * vectors : (p + 1) * vectors], p, *parts) for p in range(pixels)]
                for p, of_pixel in enumerate(results):
                    place = _moved(b, out, out_pixel, p)
                    if shuffled:
                        masked_store(b, of_pixel[0], place, writes)
                    else:
                        tile._write(b, of_pixel, place, past)
                x, out = _moved(b, x, block_in, 4 * vectors), _moved(b, out, block_out, 4 * vectors)
                parts = [b.add(part, const(4 * LANES * vectors)) for part in parts]
                rest = [_moved(b, count, size, -vectors) for count, size in ((n_in, block_in), (n_out, block_out))]
                return [x, _moved(b, w, at.w_block, vectors), *parts, out, *rest]

            def some(values):
                x, out = values
                vectors = 1 if shuffled else max(1, VECTORS // pixels)
                several, single = b.udiv(blocks, const(vectors)), b.urem(blocks, const(vectors))
                rest = repeat(
                    b, several, [x, w, p0, p1, p2, p3, out, n_in, n_out], lambda values: block(values, pixels, vectors)
                )
                if vectors > 1:
                    repeat(b, single, rest, lambda values: block(values, pixels, 1))
                return [_moved(b, x, at.x_pixel, pixels), _moved(b, out, out_pixel, pixels)]

            pixels, values = PIXELS, [x, out]
            while pixels:
                values = repeat(b, b.udiv(left, const(pixels)), values, some)
                left = b.urem(left, const(pixels))
                pixels //= 2
            return context.get_dummy_value()

        return types.void(*[types.int64] * 24), generate

    return outputs


direct, shuffled = _outputs(False), _outputs(True)


def _products(shuffled: bool):
    """An intrinsic: what `n` neighbouring outputs add to the gradient of the weights, for all blocks.

    Takes n, the addresses of x, of the gradient of the outputs and of that of the weights, the stride of the second
    from pixel to pixel, what `Taps` takes, and as `_outputs` the numbers of channels.
    """

    @intrinsic
    def products(
        context, n, x, dy, dw, dy_pixel, x_pixel, x_row, x_column, n_rows, n_columns, w_row, w_column, w_block,
        n_inputs, lanes, n_in, n_out, block_in, block_out,
    ):  # fmt: skip
        def generate(context, b, signature, arguments):
            n, x, dy, dw, dy_pixel, *taps, n_in, n_out, block_in, block_out = arguments
            at = Taps(*taps)
            lanes = load(b, at.lanes, _INTEGERS) if shuffled else None
            blocks = b.udiv(b.add(n_out, b.sub(block_out, const(1))), block_out)

            def block(values):
                x, dy, dw, n_in, n_out = values
                reads, writes = (first_lanes(b, smaller(b, *pair)) for pair in ((n_in, block_in), (n_out, block_out)))

                def read(address, mask):
                    return masked_load(b, address, _REALS, mask) if shuffled else load(b, address, _REALS)

                def some_taps(x, dw, rows, columns, lanes):
                    """Sums of so many taps over the pixels, added to what is there."""
                    offsets = [(r, c) for r in range(rows) for c in range(columns)]

                    def pixel(values):
                        x, dy, *sums = values
                        d = read(dy, writes)
                        for i, (r, c) in enumerate(offsets):
                            channels = read(_moved(b, _moved(b, x, at.x_row, r), at.x_column, c), reads)
                            channels = permuted(b, channels, lanes) if shuffled else channels
                            sums[i] = instruction(b, "fma", _REALS, channels, d, sums[i])
                        return [b.add(x, at.x_pixel), b.add(dy, dy_pixel), *sums]

                    _, _, *sums = repeat(b, n, [x, dy] + [ir.Constant(_REALS, None)] * len(offsets), pixel)
                    for total, (r, c) in zip(sums, offsets, strict=True):
                        place = _moved(b, _moved(b, dw, at.w_row, r), at.w_column, c)
                        store(b, b.fadd(load(b, place, _REALS), total), place)

                def one_input(values):
                    dw, *more = values
                    lanes = more[0] if shuffled else None

                    def row(values, rows):
                        def column(values, columns):
                            x, dw = values
                            some_taps(x, dw, rows, columns, lanes)
                            return [_moved(b, x, at.x_column, columns), _moved(b, dw, at.w_column, columns)]

                        in_pieces(at.n_columns, values, column)
                        return [_moved(b, a, step, rows) for a, step in zip(values, (at.x_row, at.w_row), strict=True)]

                    in_pieces(at.n_rows, [x, dw], row)
                    more = [b.add(lanes, ir.Constant(_INTEGERS, [1] * LANES))] if shuffled else []
                    return [b.add(dw, const(4 * LANES)), *more]

                repeat(b, at.n_inputs, [dw, lanes] if shuffled else [dw], one_input)
                x, dy = _moved(b, x, block_in, 4), _moved(b, dy, block_out, 4)
                return [x, dy, b.add(dw, at.w_block), b.sub(n_in, block_in), b.sub(n_out, block_out)]

            def in_pieces(count, values, body):
                """`values = body(values, taken)` for `TOGETHER` of so many at a time, then one by one."""
                values = repeat(b, b.udiv(count, const(TOGETHER)), values, lambda values: body(values, TOGETHER))
                repeat(b, b.urem(count, const(TOGETHER)), values, lambda values: body(values, 1))

            repeat(b, blocks, [x, dy, dw, n_in, n_out], block)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 19), generate

    return products


direct_products, shuffled_products = _products(False), _products(True)
