"""The readable kernels in Numba: those of `reference.py` as loops that LLVM turns into vector code.

Weights are rearranged so that up to 64 output channels lie side by side, and the innermost loop runs over these. Its
iterations are independent, so each becomes a lane of a vector. Two pixels share each load of a weight, and three words
share each load of a counter. All arithmetic on words is unsigned: with one signed operand, Numba would compute a sum in
float64.

This module imports Numba, so import it lazily.
"""

from typing import Any

import numpy as np
from numba import float32, float64, intp, types, uint32, uint64, void
from numba import int32 as i32

from xnor_ref.kernels.basics.geometry import spatial
from xnor_ref.kernels.basics.layout import n_words
from xnor_ref.kernels.basics.modes import KMode
from xnor_ref.kernels.basics.rungs import jit_disabled
from xnor_ref.kernels.basics.threads import parallel_chunks
from xnor_ref.kernels.compiling.jit import compiled
from xnor_ref.kernels.compiling.jit import readonly as _in
from xnor_ref.kernels.compiling.jit import writable as _out
from xnor_ref.kernels.readable import reference

sign_pack_rows = reference.sign_pack_rows  # NumPy already packs contiguous rows with vector instructions

_BLOCK_CHANNELS = 64  # most output channels in a block
_WORK = 1 << 18  # least word operations of a chunk
_CHUNKS = 64  # most chunks per call
_PACKED_TOGETHER = 512  # pixels packed together
_ADDED_TOGETHER = 128  # pixels whose channels are summed together


_pair = types.UniTuple(intp, 2)
_triple = types.UniTuple(intp, 3)
_window = types.UniTuple(_pair, 4)  # `Window.numbers`


# --- counting differing bits -----------------------------------------------------------------------------------

_0, _1, _2, _4, _32, _56 = (np.uint64(n) for n in (0, 1, 2, 4, 32, 56))
_PAIRS = np.uint64(0x5555555555555555)
_NIBBLES = np.uint64(0x3333333333333333)
_BYTES = np.uint64(0x0F0F0F0F0F0F0F0F)
_ONES = np.uint64(0x0101010101010101)


def _popcount(word):
    """Count the ones of a word: in fields of 2, then 4, then 8 bits. The product adds the bytes in the top byte."""
    word = word - ((word >> _1) & _PAIRS)
    word = (word & _NIBBLES) + ((word >> _2) & _NIBBLES)
    word = (word + (word >> _4)) & _BYTES
    return (word * _ONES) >> _56


# Without the compiler, NumPy scalars would warn of the overflow, which the product needs.
popcount: Any = np.bitwise_count
if not jit_disabled():
    popcount = compiled(uint64(uint64), forceinline=True)(_popcount)


@compiled(
    void(_in(uint64, 1), intp, _in(uint64, 3), intp, intp, intp, _out(uint64, 2)),
    forceinline=True,
)
def _count_one(x, at, weight, block, tap, length, counts):
    """counts[0, o] += differing bits of x[at:at + length] and weight[block, tap:tap + length, o], for every o."""
    threes = length - length % 3
    for k in range(0, threes, 3):
        a, b, c = x[at + k], x[at + k + 1], x[at + k + 2]
        for o in range(weight.shape[2]):
            counts[0, o] += (
                popcount(a ^ weight[block, tap + k, o])
                + popcount(b ^ weight[block, tap + k + 1, o])
                + popcount(c ^ weight[block, tap + k + 2, o])
            )
    for k in range(threes, length):
        a = x[at + k]
        for o in range(weight.shape[2]):
            counts[0, o] += popcount(a ^ weight[block, tap + k, o])


@compiled(
    void(_in(uint64, 1), intp, intp, _in(uint64, 3), intp, intp, intp, _out(uint64, 2)),
    forceinline=True,
)
def _count_two(x, at, next_at, weight, block, tap, length, counts):
    """`_count_one` for two pixels, into counts[0] and counts[1]."""
    threes = length - length % 3
    for k in range(0, threes, 3):
        a, b, c = x[at + k], x[at + k + 1], x[at + k + 2]
        d, e, f = x[next_at + k], x[next_at + k + 1], x[next_at + k + 2]
        for o in range(weight.shape[2]):
            u, v, w = weight[block, tap + k, o], weight[block, tap + k + 1, o], weight[block, tap + k + 2, o]
            counts[0, o] += popcount(a ^ u) + popcount(b ^ v) + popcount(c ^ w)
            counts[1, o] += popcount(d ^ u) + popcount(e ^ v) + popcount(f ^ w)
    for k in range(threes, length):
        a, d = x[at + k], x[next_at + k]
        for o in range(weight.shape[2]):
            u = weight[block, tap + k, o]
            counts[0, o] += popcount(a ^ u)
            counts[1, o] += popcount(d ^ u)


@compiled(void(_in(uint64, 2), _out(uint64, 3)))
def _relay(weight, blocks):
    """Rearrange (O, length) to (ceil(O / block), length, block), with zeros where there is no output channel."""
    block = blocks.shape[2]
    for b in range(blocks.shape[0]):
        used = min(block, weight.shape[0] - b * block)
        for k in range(weight.shape[1]):
            for o in range(used):
                blocks[b, k, o] = weight[b * block + o, k]
            for o in range(used, block):
                blocks[b, k, o] = _0


def _relaid(weight):
    """Return weight words (O, length) with output channels innermost, in blocks of nearly equal size."""
    n_blocks = -(-len(weight) // _BLOCK_CHANNELS)
    block = -(-len(weight) // n_blocks)
    block += -block % 8  # whole vectors
    blocks = np.empty((-(-len(weight) // block), weight.shape[1], block), np.uint64)
    _relay(weight, blocks)
    return blocks


def _chunk(n_items, work_per_item):
    """Return the items per chunk: enough work for each, and few chunks. It depends only on the problem."""
    return max(1, _WORK // work_per_item, -(-n_items // _CHUNKS))


# --- convolution -----------------------------------------------------------------------------------------------


@compiled(_pair(intp, intp, intp, intp))
def taps_inside(first, size, kernel, dilation):
    """Return the taps [start, stop) inside `size` rows (or columns), for a window that begins at `first`."""
    start = min(kernel, max(0, -(first // dilation)))
    return start, max(start, min(kernel, -((first - size) // dilation)))


@compiled(
    void(
        _in(uint64, 1),
        _triple,
        _in(uint64, 3),
        intp,
        _window,
        intp,
        intp,
        _out(uint64, 2),
        _out(i32, 2),
        _out(i32, 4),
    ),
)
def _conv_rows(x, size, weight, channels, window, start, stop, counts, dots, out):
    """Compute output rows start..stop of all (block of output channels, image, row) into out, with 0 as padding."""
    kernel, stride, before, dilation = window
    height, width, words = size
    out_channels, out_h, out_w = out.shape[1], out.shape[2], out.shape[3]
    n_rows = out.shape[0] * out_h
    for item in range(start, stop):
        block, row = item // n_rows, item % n_rows
        image, oy = row // out_h, row % out_h
        first = block * weight.shape[2]
        used = min(weight.shape[2], out_channels - first)
        top = oy * stride[0] - before[0]
        ky_start, ky_stop = taps_inside(top, height, kernel[0], dilation[0])
        ox = 0
        while ox < out_w:
            left = ox * stride[1] - before[1]
            kx_start, kx_stop = taps_inside(left, width, kernel[1], dilation[1])
            right = left + stride[1] + (kernel[1] - 1) * dilation[1]
            two = ox + 1 < out_w and left >= 0 and right < width  # both windows lie inside
            for pixel in range(2):
                for o in range(weight.shape[2]):
                    counts[pixel, o] = _0
            together = max(1, kx_stop - kx_start) if dilation[1] == 1 else 1  # taps with adjacent words
            for ky in range(ky_start, ky_stop):
                for kx in range(kx_start, kx_stop, together):
                    at = ((image * height + top + ky * dilation[0]) * width + left + kx * dilation[1]) * words
                    tap = (ky * kernel[1] + kx) * words
                    if two:
                        _count_two(x, at, at + stride[1] * words, weight, block, tap, together * words, counts)
                    else:
                        _count_one(x, at, weight, block, tap, together * words, counts)
            n_bits = channels * (ky_stop - ky_start) * (kx_stop - kx_start)
            for o in range(weight.shape[2]):
                dots[ox, o] = n_bits - 2 * np.int64(counts[0, o])
            if two:
                for o in range(weight.shape[2]):
                    dots[ox + 1, o] = n_bits - 2 * np.int64(counts[1, o])
                ox += 1
            ox += 1
        for o in range(used):
            for column in range(out_w):
                out[image, first + o, oy, column] = dots[column, o]


def conv2d_bits(x_words, weight_words, channels, window, pad_value, threads=None, groups=1):
    if groups > 1:
        return reference.by_groups(conv2d_bits, x_words, weight_words, channels, window, pad_value, threads, groups)
    n, height, width, words = x_words.shape
    out_channels = len(weight_words)
    out_h, out_w = window.count((height, width))
    out = np.empty((n, out_channels, out_h, out_w), np.int32)
    x = x_words.reshape(-1)
    weight = _relaid(weight_words.reshape(out_channels, -1))

    def one_chunk(start, stop):
        counts = np.empty((2, weight.shape[2]), np.uint64)
        dots = np.empty((out_w, weight.shape[2]), np.int32)
        size = height, width, words
        _conv_rows(x, size, weight, channels, window.numbers, start, stop, counts, dots, out)

    n_items = len(weight) * n * out_h
    parallel_chunks(one_chunk, n_items, _chunk(n_items, out_w * weight[0].size), threads)
    if pad_value:
        out += pad_value * reference.border_sums(weight_words, channels, (height, width), window)
    return out


# --- matrix product --------------------------------------------------------------------------------------------


@compiled(void(_in(uint64, 1), _in(uint64, 3), intp, intp, intp, _out(uint64, 2), _out(i32, 2)))
def _gemm_pairs(x, weight, n_bits, start, stop, counts, out):
    """Compute items start..stop of all (block of output channels, pair of rows) into out."""
    n_pairs = (out.shape[0] + 1) // 2
    length = weight.shape[1]
    for item in range(start, stop):
        block, row = item // n_pairs, item % n_pairs * 2
        first = block * weight.shape[2]
        used = min(weight.shape[2], out.shape[1] - first)
        for pixel in range(2):
            for o in range(weight.shape[2]):
                counts[pixel, o] = _0
        if row + 1 < out.shape[0]:
            _count_two(x, row * length, (row + 1) * length, weight, block, 0, length, counts)
            for o in range(used):
                out[row + 1, first + o] = n_bits - 2 * np.int64(counts[1, o])
        else:
            _count_one(x, row * length, weight, block, 0, length, counts)
        for o in range(used):
            out[row, first + o] = n_bits - 2 * np.int64(counts[0, o])


def gemm_bits(x_words, weight_words, n_bits, threads=None):
    out = np.empty((len(x_words), len(weight_words)), np.int32)
    x = x_words.reshape(-1)
    weight = _relaid(weight_words)

    def one_chunk(start, stop):
        _gemm_pairs(x, weight, n_bits, start, stop, np.empty((2, weight.shape[2]), np.uint64), out)

    n_items = len(weight) * ((len(x_words) + 1) // 2)
    parallel_chunks(one_chunk, n_items, _chunk(n_items, 2 * weight[0].size), threads)
    return out


# --- packing ---------------------------------------------------------------------------------------------------


@compiled(
    void(_in(float32, 3), _in(float32, 1), _in(float32, 1), intp, intp, _out(uint32, 2), _out(uint64, 3)),
)
def _pack_pixels(x, direction, limit, start, stop, halves, out):
    """Pack the bits direction[c]*x >= limit[c] of x (N, C, P) along C: words start..stop of all (image, word)."""
    channels, pixels = x.shape[1], x.shape[2]
    for item in range(start, stop):
        image, word = item // out.shape[2], item % out.shape[2]
        first = word * 64
        if pixels < 64:  # too few for vectors over pixels to be faster
            for p in range(pixels):
                bits = _0
                for c in range(first, min(first + 64, channels)):
                    bits |= np.uint64(direction[c] * x[image, c, p] >= limit[c]) << np.uint64(c - first)
                out[image, p, word] = bits
            continue
        for tile in range(0, pixels, _PACKED_TOGETHER):  # a tile of pixels, 32 channels at a time
            n = min(_PACKED_TOGETHER, pixels - tile)
            for side in range(2):
                begin, half = first + 32 * side, halves[side]
                for p in range(n):
                    half[p] = np.uint32(0)
                for c in range(begin, min(begin + 32, channels)):
                    bit = np.uint32(1) << np.uint32(c % 32)
                    d, t = direction[c], limit[c]
                    row = x[image, c, tile : tile + n]  # plain indices, which LLVM knows to be nonnegative
                    for p in range(n):
                        half[p] |= bit if d * row[p] >= t else np.uint32(0)
            for p in range(n):
                out[image, tile + p, word] = np.uint64(halves[0, p]) | (np.uint64(halves[1, p]) << _32)


def _packed(x, direction, limit, threads):
    n, channels, height, width = x.shape
    out = np.empty((n, height * width, n_words(channels)), np.uint64)
    x = x.reshape(n, channels, height * width)

    def one_chunk(start, stop):
        halves = np.empty((2, min(_PACKED_TOGETHER, height * width)), np.uint32)
        _pack_pixels(x, direction, limit, start, stop, halves, out)

    n_items = n * out.shape[2]
    parallel_chunks(one_chunk, n_items, _chunk(n_items, 64 * height * width), threads)
    return out.reshape(n, height, width, -1)


def sign_pack(x, threads=None):
    return _packed(x, np.ones(x.shape[1], np.float32), np.zeros(x.shape[1], np.float32), threads)


def threshold_pack(x, threshold, flip, threads=None):
    direction = np.where(flip, np.float32(-1), np.float32(1))  # x <= t equals -x >= -t exactly
    return _packed(x, direction, direction * threshold, threads)


# --- scale of the input ----------------------------------------------------------------------------------------


@compiled(void(intp, intp, _in(float32, 3), _out(float64, 2)))
def channel_means(start, stop, x, mean):
    """Compute A, mean |x| over channels, of images start..stop of x (N, C, P), in the NumPy twin's order of sums."""
    channels, pixels = x.shape[1], x.shape[2]
    width = min(_ADDED_TOGETHER, pixels)
    sums = np.empty((reference.PARTIAL_SUMS, width))
    for image in range(start, stop):
        for tile in range(0, pixels, width):
            n = min(width, pixels - tile)
            for s in range(sums.shape[0]):
                for p in range(n):
                    sums[s, p] = 0.0
            for c in range(channels):
                total, row = sums[c % sums.shape[0]], x[image, c, tile : tile + n]
                for p in range(n):
                    total[p] += np.float64(abs(row[p]))
            half = sums.shape[0]
            while half > 1:
                half //= 2
                for s in range(half):
                    for p in range(n):
                        sums[s, p] += sums[half + s, p]
            for p in range(n):
                mean[image, tile + p] = sums[0, p] / np.float64(channels)


@compiled(
    void(intp, intp, _in(float64, 2), _pair, _window, intp, _pair, _out(float32, 2)),
)
def box_means(start, stop, mean, size, window, valid, out_size, out):
    """Compute K, the mean of A (N, H*W) over each window, of images start..stop, in the NumPy twin's order of sums."""
    kernel, stride, before, dilation = window
    width = size[1]
    out_h, out_w = out_size
    end = (out_w - 1) * stride[1] + (kernel[1] - 1) * dilation[1] + 1
    line = np.zeros(max(before[1] + width, end))  # sum of the window's rows, with zeros on both sides
    inner = line[before[1] : before[1] + width]
    total = np.empty(out_w)
    for image in range(start, stop):
        for oy in range(out_h):
            top = oy * stride[0] - before[0]
            ky_start, ky_stop = taps_inside(top, size[0], kernel[0], dilation[0])
            inner[:] = 0.0
            for ky in range(ky_start, ky_stop):
                y = top + ky * dilation[0]
                row = mean[image, y * width : (y + 1) * width]
                for x in range(width):
                    inner[x] += row[x]
            total[:] = 0.0
            for kx in range(kernel[1]):
                first = np.uint64(kx * dilation[1])
                if stride[1] == 1:  # a separate loop, so that it becomes vector code
                    for ox in range(np.uint64(out_w)):
                        total[ox] += line[first + ox]
                else:
                    for ox in range(out_w):
                        total[ox] += line[kx * dilation[1] + ox * stride[1]]
            scales = out[image, oy * out_w : (oy + 1) * out_w]
            if valid:
                for ox in range(out_w):
                    kx_start, kx_stop = taps_inside(ox * stride[1] - before[1], width, kernel[1], dilation[1])
                    scales[ox] = total[ox] / max(1, (ky_stop - ky_start) * (kx_stop - kx_start))  # no tap inside: K = 0
            else:
                taps_of_all = np.float64(kernel[0] * kernel[1])
                for ox in range(out_w):
                    scales[ox] = total[ox] / taps_of_all


def _channel_means(x, threads):
    """Return A of x (N, C, P): float64 (N, P)."""
    n, _, pixels = x.shape
    mean = np.empty((n, pixels))

    parallel_chunks(lambda start, stop: channel_means(start, stop, x, mean), n, _chunk(n, x[0].size), threads)
    return mean


def input_scale_map(x, window, mode, threads=None):
    n, size = len(x), spatial(x)
    out_size = window.count(size)
    mean = _channel_means(x.reshape(n, x.shape[1], -1), threads)
    out = np.empty((n, out_size[0] * out_size[1]), np.float32)

    def one_chunk(start, stop):
        valid = int(mode == KMode.VALID)
        box_means(start, stop, mean, size, window.numbers, valid, out_size, out)

    parallel_chunks(one_chunk, n, _chunk(n, out.shape[1] * window.kernel[0] * window.kernel[1]), threads)
    return out.reshape(n, 1, *out_size)


def input_scale_rows(x, threads=None):
    return _channel_means(x.reshape(*x.shape, 1), threads).astype(np.float32)
