"""Compiled kernels of `execute.py`. This module imports Numba, so import it lazily.

The inner loops are written in LLVM's vector language. A compiler would widen every byte before it adds, and keep the
sums in memory. They run over a tile of 64 neighbouring elements of planes, see `planes.Planes`. Elements that belong to
no output are computed too, and left out when the tile is written.
"""

import numpy as np
from llvmlite import ir
from numba import int8, int32, int64, intp, types, uint32, uint64, void
from numba.extending import intrinsic

from xnor_ref.compress.planes import BLOCK_CHANNELS, TILE_OUTPUTS
from xnor_ref.kernels.compiling.jit import compiled, readonly, writable
from xnor_ref.kernels.microkernels.ir import I8, I32, I64, const, declared, repeat, spread, vector

_MOST = 127  # most signs that a byte can sum
_1 = np.uint64(1)
_pair = types.UniTuple(intp, 2)


@intrinsic
def _add_bytes(context, x, places, plus, minus, sums):
    """sums[0:64] (int32) += bytes x[p:p + 64] at `plus` places p (uint32), minus those at the `minus` next places."""

    def generate(context, b, signature, arguments):
        x, places, plus, minus, sums = arguments
        octets, whole = vector(I8, TILE_OUTPUTS), vector(I32, TILE_OUTPUTS)

        def step(operation):
            def one(values):
                at, total = values
                place = b.zext(b.load(b.inttoptr(at, I32.as_pointer()), align=4), I64)
                signs = b.load(b.inttoptr(b.add(x, place), octets.as_pointer()), align=1)
                return [b.add(at, const(4)), operation(total, signs)]

            return one

        values = repeat(b, plus, [places, ir.Constant(octets, None)], step(b.add))
        _, total = repeat(b, minus, values, step(b.sub))
        address = b.inttoptr(sums, whole.as_pointer())
        b.store(b.add(b.load(address, align=4), b.sext(total, whole)), address, align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@intrinsic
def _count_bits(context, x, places, masks, signs, count, counts):
    """counts[0:64] (uint64) = ones of (x[p:p + 64] & mask) ^ sign over `count` words. Places are int64."""

    def generate(context, b, signature, arguments):
        x, places, masks, signs, count, counts = arguments
        words = vector(I64, TILE_OUTPUTS)
        popcount = declared(b, ir.FunctionType(words, [words]), f"llvm.ctpop.v{TILE_OUTPUTS}i64")

        def step(values):
            *addresses, total = values
            place, mask, sign = (b.load(b.inttoptr(at, I64.as_pointer()), align=8) for at in addresses)
            here = b.inttoptr(b.add(x, b.shl(place, const(3))), words.as_pointer())
            differ = b.xor(b.and_(b.load(here, align=8), spread(b, mask, TILE_OUTPUTS)), spread(b, sign, TILE_OUTPUTS))
            return [*(b.add(at, const(8)) for at in addresses), b.add(total, b.call(popcount, [differ]))]

        *_, total = repeat(b, count, [places, masks, signs, ir.Constant(words, None)], step)
        b.store(total, b.inttoptr(counts, words.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


@compiled(void(readonly(int32, 1), intp, intp, intp, int32, writable(int32, 1), intp, _pair), forceinline=True)
def _write(sums, y, x, width, factor, out, at, size):
    """Write the outputs of the tile at (y, x), times `factor`, into the plane of this size at out[at]."""
    first = np.uint64(0)
    while first < TILE_OUTPUTS and y < size[0]:
        count = np.uint64(min(TILE_OUTPUTS - np.int64(first), size[1] - x))
        target = np.uint64(at + y * size[1] + x)
        for k in range(count):
            out[target + k] = factor * sums[first + k]
        first += np.uint64(width - x)
        y, x = y + 1, 0


@compiled(void(readonly(uint64, 1), intp, readonly(int8, 2), intp, intp, intp, writable(int8, 1)))
def spread_signs(words, channels, marks, border, start, stop, planes):
    """Expand planes of words to bytes, the signs of (image, channel) start..stop; `border` where marks are 0."""
    phases, length = marks.shape
    n_words = (channels + 63) // 64
    for item in range(start, stop):
        image, channel = item // channels, item % channels
        shift = np.uint64(channel % 64)
        for phase in range(phases):
            source = ((image * n_words + channel // 64) * phases + phase) * length
            word, sign = words[source : source + length], planes[(item * phases + phase) * length :][:length]
            mark = marks[phase]
            for i in range(length):
                bit = np.int64((word[i] >> shift) & _1)
                sign[i] = mark[i] * (2 * bit - 1 - border) + border


@compiled(
    void(
        readonly(int8, 1),
        intp,
        readonly(uint32, 1),
        readonly(int64, 2),
        readonly(int32, 1),
        types.UniTuple(intp, 4),
        intp,
        intp,
        writable(int32, 1),
        writable(int32, 1),
    )
)
def sum_weights(planes, image_size, places, ends, factor, size, start, stop, sums, out):
    """Compute items start..stop of all (image, tile, block of channels): factor times the signed sum over `places`.

    Channel o adds the elements at places[ends[o, 0] : ends[o, 1]] and subtracts those up to ends[o, 2]. `size` holds
    the width of a plane, the tiles of an image, and the height and width of its outputs.
    """
    width, tiles, out_size = size[0], size[1], (size[2], size[3])
    channels = len(ends)
    blocks = (channels + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    for item in range(start, stop):
        block, tile, image = item % blocks, item // blocks % tiles, item // blocks // tiles
        top, left = tile * TILE_OUTPUTS // width, tile * TILE_OUTPUTS % width
        x = planes.ctypes.data + image * image_size + tile * TILE_OUTPUTS
        for o in range(block * BLOCK_CHANNELS, min(channels, (block + 1) * BLOCK_CHANNELS)):
            for i in range(TILE_OUTPUTS):
                sums[i] = 0
            first, middle, last = ends[o, 0], ends[o, 1], ends[o, 2]
            while first < last:
                following = min(last, first + _MOST)
                plus = max(0, min(middle, following) - first)
                _add_bytes(x, places.ctypes.data + 4 * first, plus, following - first - plus, sums.ctypes.data)  # type: ignore[call-arg]
                first = following
            _write(sums, top, left, width, factor[o], out, (image * channels + o) * out_size[0] * out_size[1], out_size)


@compiled(
    void(
        readonly(uint64, 1),
        intp,
        readonly(int64, 1),
        readonly(uint64, 1),
        readonly(uint64, 1),
        readonly(int64, 2),
        readonly(int32, 2),
        types.UniTuple(intp, 4),
        intp,
        intp,
        writable(uint64, 1),
        writable(int32, 1),
        writable(int32, 1),
    )
)
def sum_words(planes, image_size, places, masks, signs, ends, totals, size, start, stop, counts, sums, out):
    """Like `sum_weights`, but over words at `places` with their masks and signs. totals[o] = (differences, factor)."""
    width, tiles, out_size = size[0], size[1], (size[2], size[3])
    channels = len(ends)
    blocks = (channels + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    for item in range(start, stop):
        block, tile, image = item % blocks, item // blocks % tiles, item // blocks // tiles
        top, left = tile * TILE_OUTPUTS // width, tile * TILE_OUTPUTS % width
        x = planes.ctypes.data + 8 * (image * image_size + tile * TILE_OUTPUTS)
        for o in range(block * BLOCK_CHANNELS, min(channels, (block + 1) * BLOCK_CHANNELS)):
            first, count = 8 * ends[o, 0], ends[o, 1] - ends[o, 0]
            at, mask, sign = places.ctypes.data + first, masks.ctypes.data + first, signs.ctypes.data + first
            _count_bits(x, at, mask, sign, count, counts.ctypes.data)  # type: ignore[call-arg]
            for i in range(TILE_OUTPUTS):
                sums[i] = totals[o, 0] - 2 * np.int32(counts[i])
            _write(
                sums, top, left, width, totals[o, 1], out, (image * channels + o) * out_size[0] * out_size[1], out_size
            )


@compiled(void(writable(int32, 3), readonly(int32, 1), readonly(int32, 1), readonly(int32, 1), intp, intp, intp))
def add_up(out, parent, sign, order, piece, start, stop):
    """out[:, j] += sign[j] * out[:, parent[j]] in order, for pieces start..stop of all images (`piece` pixels each)."""
    pieces = (out.shape[2] + piece - 1) // piece
    for item in range(start, stop):
        image, first = item // pieces, item % pieces * piece
        last = min(out.shape[2], first + piece)
        for j in order:
            if parent[j] >= 0:
                above, below = out[image, parent[j], first:last], out[image, j, first:last]
                for i in range(last - first):
                    below[i] += sign[j] * above[i]
