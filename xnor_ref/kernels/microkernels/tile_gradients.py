"""Micro-kernels of the backward pass: products summed over pixels, and products of bytes.

The gradient of a weight is a sum over all pixels of all images, G[i, o] = sum_p x[i, p] dy[p, o]. The tile of `tile.py`
computes it with other operands: its "pixels" are a few input channels i, whose planes lie one after the other; an
element is one pixel p, or four with bytes; the vectors hold dy of that pixel, a lane for each output channel.

    for image in range(n_images):                  x += x_image, w += w_image
        for row in range(n_rows):                  x += x_row, w += w_row
            for k in range(run):                   x += x_step, w += V vectors
                acc[i, v] += x[i] * w[v]

With bytes a lane takes four products at a time, of an unsigned byte of x and a signed byte of w (VNNI's vpdpbusd). Rows
are then so short that nested loops would cost more than the products. So there is one loop, and a table of offsets says
where x lies. Where the processor has AMX, `amx.py` replaces these micro-kernels, with the same arguments and results.
"""

from typing import NamedTuple

from llvmlite import ir
from numba import types

from xnor_ref.kernels.basics.target import multiplies_bytes, multiplies_tiles
from xnor_ref.kernels.microkernels import amx, tile
from xnor_ref.kernels.microkernels.ir import (
    F32,
    I8,
    I32,
    I64,
    LANES,
    TARGET,
    const,
    declared,
    intrinsic,
    load,
    repeat,
    spread,
    store,
    vector,
)

_BYTES = "llvm.x86.avx512.vpdpbusd." + str(32 * LANES)


def _dot_bytes(b, total, x, w):
    """total + the sum of four products of bytes, unsigned in x and signed in w, in each lane."""
    if multiplies_bytes():
        kind = vector(I32)
        signature = ir.FunctionType(kind, [kind] * 3)
        return b.call(declared(b, signature, _BYTES), [total, x, w])
    octets, wide = vector(I8, 4 * LANES), vector(I32, 4 * LANES)  # never fast, but right on any processor
    products = b.mul(b.zext(b.bitcast(x, octets), wide), b.sext(b.bitcast(w, octets), wide))
    nothing = ir.Constant(wide, ir.Undefined)
    for part in range(4):
        of_lane = ir.Constant(vector(I32), [4 * lane + part for lane in range(LANES)])
        total = b.add(total, b.shuffle_vector(products, nothing, of_lane))
    return total


def _tiles(b, left, x, x_input, w, out, out_input, vectors, zero, add, walk):
    """Add the sums of `left` inputs to `out`, in tiles of a few inputs; `walk` makes the sums of one tile."""
    addresses = [x, out]

    def tile_of(addresses):
        x, out = addresses

        def element(x, w, sums, step):
            weights = [load(b, b.add(w, const(v * LANES * 4)), vector(I32)) for v in range(vectors)]
            for i in range(inputs):
                scalar = spread(b, load(b, b.add(x, b.mul(x_input, const(i))), I32))
                for v in range(vectors):
                    sums[i * vectors + v] = step(b, sums[i * vectors + v], scalar, weights[v])
            return [b.add(w, const(vectors * LANES * 4)), *sums]

        sums = walk(x, w, [zero] * (inputs * vectors), element)
        for i in range(inputs):
            for v in range(vectors):
                at = b.add(b.add(out, b.mul(out_input, const(i))), const(v * LANES * 4))
                store(b, add(b, load(b, at, zero.type), sums[i * vectors + v]), at)
        return [b.add(x, b.mul(x_input, const(inputs))), b.add(out, b.mul(out_input, const(inputs)))]

    inputs = TARGET.pixels
    while inputs:
        addresses = repeat(b, b.udiv(left, const(inputs)), addresses, tile_of)
        left = b.urem(left, const(inputs))
        inputs //= 2


def _real(vectors):
    """Add the products of `n` inputs with one block of outputs to `out`, float32."""
    zero = ir.Constant(vector(F32), None)

    @intrinsic
    def products(
        context, n, x, x_image, x_row, x_step, x_input, w, w_image, w_row, n_images, n_rows, run, out, out_input
    ):
        def generate(context, b, signature, arguments):
            n, x, x_image, x_row, x_step, x_input, w, w_image, w_row, n_images, n_rows, run, out, out_input = arguments

            def walk(x, w, sums, element):
                def pixel(values):
                    x, w, *sums = values
                    return [b.add(x, x_step), *element(x, w, sums, tile.multiply_add)]

                def row(values):
                    x, w, *sums = values
                    _, _, *sums = repeat(b, run, [x, w, *sums], pixel)
                    return [b.add(x, x_row), b.add(w, w_row), *sums]

                def image(values):
                    x, w, *sums = values
                    _, _, *sums = repeat(b, n_rows, [x, w, *sums], row)
                    return [b.add(x, x_image), b.add(w, w_image), *sums]

                return repeat(b, n_images, [x, w, *sums], image)[2:]

            _tiles(b, n, x, x_input, w, out, out_input, vectors, zero, lambda b, x, y: b.fadd(x, y), walk)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 14), generate

    return products


def _integer(vectors):
    """The same in bytes, int32: `count` elements of x at the offsets (int64) that a table holds, and of w in a row."""
    zero = ir.Constant(vector(I32), None)

    @intrinsic
    def products(context, n, x, offsets, x_input, w, count, out, out_input):
        def generate(context, b, signature, arguments):
            n, x, offsets, x_input, w, count, out, out_input = arguments

            def walk(x, w, sums, element):
                def pixels(values):
                    at, w, *sums = values
                    here = b.add(x, load(b, at, I64))
                    return [b.add(at, const(8)), *element(here, w, sums, _dot_bytes)]

                return repeat(b, count, [offsets, w, *sums], pixels)[2:]

            _tiles(b, n, x, x_input, w, out, out_input, vectors, zero, lambda b, x, y: b.add(x, y), walk)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return products


real = {vectors: _real(vectors) for vectors in (tile.WIDE, tile.NARROW)}
_of_bytes = amx.products if multiplies_tiles() else _integer
integer = {vectors: _of_bytes(vectors) for vectors in (tile.WIDE, tile.NARROW)}


class Tile(NamedTuple):
    """What one call of a micro-kernel takes."""

    inputs: int  # at most, of `real` and `integer`
    blocks: int  # of outputs, of the same
    pixels: int  # images that have no more than these together go through one call of `descaled`
    beyond: int  # elements of w, of a whole block, that must be there behind the last one


REALS = Tile(4, 1, 1, 0)
BYTES = Tile(amx.ROWS, 4, amx.ROWS, amx.BEYOND) if multiplies_tiles() else REALS


# --- a convolution of bytes with signs, for the gradient of the input ---------------------------------------------


def _dots(b, at: tile.Reach, pixels: int, vectors: int) -> list:
    """Sums of u8 x times s8 w."""
    return tile._sums(b, at, pixels, vectors, ir.Constant(vector(I32), None), lambda t, x, w: _dot_bytes(b, t, x, w))


def _descaled(b, sums, pixel, table, columns, scale, _):
    """float32 (sum - table) * scale: `table` holds what the bytes' offset of 128 has added."""
    factor = spread(b, load(b, scale, F32))
    offsets = [load(b, b.add(table, const(v * LANES * 4)), vector(I32)) for v in range(len(sums))]
    whole = [b.sub(total, offset) for total, offset in zip(sums, offsets, strict=True)]
    return [b.fmul(b.sitofp(one, vector(F32)), factor) for one in whole]


@intrinsic
def _no_shape(context, rows):
    return types.void(types.int64), lambda context, b, signature, arguments: context.get_dummy_value()


@intrinsic
def _no_release(context):
    return types.void(), lambda context, b, signature, arguments: context.get_dummy_value()


# To be called before `integer` and `descaled`, with the number of inputs or pixels of a tile, and after the last.
shape, release = (amx.shape, amx.release) if multiplies_tiles() else (_no_shape, _no_release)


def _row_of_bytes(vectors):
    if multiplies_tiles():
        return amx.row(vectors, _descaled)
    return tile._row(_dots, (_descaled,), vectors)


descaled = {vectors: _row_of_bytes(vectors) for vectors in (tile.WIDE, tile.NARROW)}
