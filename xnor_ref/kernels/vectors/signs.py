"""Packing float32 to the bits of a planned convolution (`SignConv.padded_shape`), with BatchNorm and A.

The bit of a channel is y >= limit, with y = x*scale + shift (two rounded operations), or x >= 0 without scales. A is
the mean of |y| over channels, summed in the order of `reference.input_scale_map`.
"""

import numpy as np
from numba import float32, float64, intp, types, uint32, void

from xnor_ref.kernels.compiling.jit import compiled
from xnor_ref.kernels.compiling.jit import readonly as _in
from xnor_ref.kernels.compiling.jit import writable as _out
from xnor_ref.kernels.microkernels import pack

_signs, _signs_mean = pack.signs, pack.signs_mean
_affine_signs, _affine_signs_mean = pack.affine_signs, pack.affine_signs_mean
_group, _group_mean, pack_group = pack.group, pack.group_mean, pack.PLANE_PIXELS
_vector = _in(float32, 1)
_pair = types.UniTuple(intp, 2)
_window = types.UniTuple(types.UniTuple(intp, 2), 4)  # `Window.numbers`


@compiled(void(intp, intp, _in(float32, 4), _pair, _vector, _vector, _vector, _out(uint32, 4), _out(float64, 2)))
def pack_pixels(start, stop, x, step, scale, shift, limit, bits, mean):
    """Rows start..stop of all images x (N, H, W, C) into bits (N, H, W + padding, words) and A, mean (N, H*W).

    Every `step`-th row and column of x belongs to an image. Without scales (C,), the limit is 0. If `mean` is empty,
    there is no A. If it has several rows per image, each is for a group of channels in whole words.
    """
    height, width, channels = bits.shape[1], (x.shape[2] - 1) // step[1] + 1, x.shape[3]
    left = (bits.shape[2] - width) // 2
    affine, with_mean = scale.size > 0, mean.size > 0
    groups = mean.shape[0] // bits.shape[0] if with_mean else 1
    own, pixel, words = channels // groups, step[1] * channels * 4, bits.shape[3] * 4
    a, b, low = scale.ctypes.data, shift.ctypes.data, limit.ctypes.data
    for item in range(start, stop):
        image, row = item // height, item % height
        at = x.ctypes.data + (image * x.shape[1] + row * step[0]) * x.shape[2] * channels * 4
        out = bits.ctypes.data + (item * bits.shape[2] + left) * words
        for group in range(groups):
            more, first = group * own * 4, (image * groups + group) * mean.shape[1] + row * width
            means, to = mean.ctypes.data + first * 8, out + group * (own // 8)
            if affine and with_mean:
                _affine_signs_mean(width, at + more, pixel, own, a + more, b + more, low + more, to, words, means)
            elif affine:
                _affine_signs(width, at, pixel, own, a, b, low, to, words, 0)
            elif with_mean:
                _signs_mean(width, at + more, pixel, own, a, b, low, to, words, means)
            else:
                _signs(width, at, pixel, own, a, b, low, to, words, 0)


@compiled(void(intp, intp, _in(float32, 3), intp, intp, _out(uint32, 4), _out(float64, 2)))
def pack_planes(start, stop, x, width, n_groups, bits, mean):
    """Signs of x (N, C, H*W) into bits (N, H, W + padding, words) and, unless it is empty, A into mean (N, H*W).

    Items start..stop of all (image, group of pixels); the last group of `pack.PLANE_PIXELS` may overlap the one before.
    C must be a multiple of `PARTIAL_SUMS`, and an image have at least one whole group.
    """
    channels, pixels, words = x.shape[1], x.shape[2], bits.shape[3]
    left = (bits.shape[2] - width) // 2
    plane = pixels * 4
    found = np.empty((words, pack_group), np.uint32)
    sums = np.empty(pack_group)
    for item in range(start, stop):
        image = item // n_groups
        first = min(item % n_groups * pack_group, pixels - pack_group)
        at = x.ctypes.data + (image * channels * pixels + first) * 4
        if mean.size:
            _group_mean(at, plane, channels, found.ctypes.data, pack_group * 4, sums.ctypes.data)
            for p in range(pack_group):
                mean[image, first + p] = sums[p] / np.float64(channels)
        else:
            _group(at, plane, channels, found.ctypes.data, pack_group * 4, sums.ctypes.data)
        y, column = first // width, first % width
        for p in range(pack_group):
            target = bits[image, y, left + column]
            for word in range(words):
                target[word] = found[word, p]
            column += 1
            if column == width:
                y, column = y + 1, 0


@compiled(void(intp, intp, _in(uint32, 4), _in(uint32, 1), _window, intp, _out(uint32, 4)))
def pool_bits(start, stop, bits, flip, window, out_width, out):
    """Max pooling of values known only by threshold bits (N, H, W, words), to (N, OH, OW + padding, words).

    A bit means "at least the limit", and the bit of a maximum is the OR. Where `flip` is 1, it means "at most the
    limit".
    """
    kernel, stride, before, _ = window
    height, width, words = bits.shape[1], bits.shape[2], bits.shape[3]
    left = (out.shape[2] - out_width) // 2
    for item in range(start, stop):
        image, oy = item // out.shape[1], item % out.shape[1]
        top = oy * stride[0] - before[0]
        for ox in range(out_width):
            begin = ox * stride[1] - before[1]
            for word in range(words):
                any_of = np.uint32(0)
                for iy in range(max(0, top), min(height, top + kernel[0])):
                    for ix in range(max(0, begin), min(width, begin + kernel[1])):
                        any_of |= bits[image, iy, ix, word] ^ flip[word]
                out[image, oy, left + ox, word] = any_of ^ flip[word]
