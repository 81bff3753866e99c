"""Real-valued layers on images (N, H, W, C), channels innermost. Every loop over channels is vector code.

Each gives the same bits as its twin in `float_ops`, which works on (N, C, H, W). All take a range of rows first, so
that `simd.split` can share them among threads.
"""

import numpy as np
from numba import float32, intp, types, uint8, void

from xnor_ref.kernels.compiling.jit import compiled
from xnor_ref.kernels.compiling.jit import readonly as _in
from xnor_ref.kernels.compiling.jit import writable as _out
from xnor_ref.kernels.microkernels import window
from xnor_ref.kernels.microkernels.ir import LANES
from xnor_ref.kernels.microkernels.pack import interleave as _interleave
from xnor_ref.kernels.microkernels.pack import transpose as _transpose

_window = types.UniTuple(types.UniTuple(intp, 2), 4)  # `Window.numbers`
_maximum = window.maximum


@compiled(void(intp, intp, _in(uint8, 4), _in(float32, 2), _out(float32, 4)))
def look_up(start, stop, images, table, out):
    """Rows start..stop of all images, table[value, channel], into the middle columns of out (N, H, W + padding, C)."""
    height, width, channels = images.shape[1], images.shape[2], images.shape[3]
    left = (out.shape[2] - width) // 2
    for item in range(start, stop):
        source, target = images[item // height, item % height], out[item // height, item % height, left:]
        if channels == 3:
            for x in range(width):
                target[x, 0] = table[source[x, 0], 0]
                target[x, 1] = table[source[x, 1], 1]
                target[x, 2] = table[source[x, 2], 2]
        else:
            for x in range(width):
                for c in range(channels):
                    target[x, c] = table[source[x, c], c]


@compiled(void(intp, intp, _in(float32, 3), intp, _out(float32, 4)))
def from_planes(start, stop, x, width, out):
    """Rows start..stop of all images x (N, C, H*W) into the middle columns of out (N, H, W + padding, C)."""
    height = x.shape[2] // width
    left = (out.shape[2] - width) // 2
    for item in range(start, stop):
        image, first = item // height, item % height * width
        target = out[image, item % height, left:]
        done = 0
        if x.shape[1] == 3:
            done = width // LANES * LANES
            _interleave(width // LANES, x[image, 0, first:].ctypes.data, x.shape[2] * 4, target.ctypes.data)
        for c in range(x.shape[1]):
            source = x[image, c, first:]
            for p in range(done, width):
                target[p, c] = source[p]


@compiled(void(intp, intp, _in(float32, 3), _out(float32, 3)))
def turned(start, stop, x, out):
    """Matrices start..stop of x (N, A, B) into out (N, B, A), in squares where they are large enough."""
    rows, columns = x.shape[1], x.shape[2]
    squares = columns // LANES * LANES if rows >= LANES else 0
    for image in range(start, stop):
        source, target = x.ctypes.data + image * rows * columns * 4, out.ctypes.data + image * rows * columns * 4
        for column in range(0, squares, LANES):
            for piece in range(0, rows, LANES):
                row = min(piece, rows - LANES)  # the last square overlaps the one before
                at, to = source + (row * columns + column) * 4, target + (column * rows + row) * 4
                _transpose(at, columns * 4, to, rows * 4)
        for column in range(squares, columns):
            for row in range(rows):
                out[image, column, row] = x[image, row, column]


def copy_inside(start, stop, x, out):
    """Rows start..stop of all images x (N, H, W, C) into the middle columns of out (N, H, W + padding, C)."""
    left, width = (out.shape[2] - x.shape[2]) // 2, x.shape[2]
    out.reshape(-1, *out.shape[2:])[start:stop, left : left + width] = x.reshape(-1, *x.shape[2:])[start:stop]


@compiled(void(intp, intp, _in(float32, 2), _in(float32, 1), _in(float32, 1), float32, _out(float32, 2)))
def affine(start, stop, x, scale, shift, floor, y):
    """max(x * scale + shift, floor) of rows start..stop of x (pixels, C), each operation rounded; NaN stays.

    `scale` and `shift` may hold the C numbers several times over: then so many rows are one run of the inner loop.
    """
    channels, width = x.shape[1], scale.size
    source, target = x.reshape(-1), y.reshape(-1)
    for first in range(start * channels, stop * channels, width):
        at = np.uint64(first)
        for i in range(np.uint64(min(width, stop * channels - first))):
            v = source[at + i] * scale[i] + shift[i]
            target[at + i] = floor if v < floor else v


@compiled(void(intp, intp, _in(float32, 2), _in(float32, 1), _out(float32, 2)))
def prelu(start, stop, x, slope, y):
    """x, or slope * x where x < 0, of rows start..stop of x (pixels, C)."""
    for row in range(start, stop):
        source, target = x[row], y[row]
        for c in range(x.shape[1]):
            v = source[c]
            target[c] = v if v >= np.float32(0) else slope[c] * v


@compiled(void(intp, intp, _in(float32, 4), _window, _out(float32, 4)))
def max_pool(start, stop, x, window, y):
    """Rows start..stop of all results: the maximum of each window; padding never wins."""
    kernel, stride, before, _ = window
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    column, row = channels * 4, width * channels * 4
    for item in range(start, stop):
        image, oy = item // y.shape[1], item % y.shape[1]
        top = oy * stride[0] - before[0]
        first, last = max(0, top), min(height, top + kernel[0])
        for ox in range(y.shape[2]):
            left = ox * stride[1] - before[1]
            begin, end = max(0, left), min(width, left + kernel[1])
            if channels >= LANES:
                at = x.ctypes.data + (image * height + first) * row + begin * column
                best = y[image, oy, ox].ctypes.data
                _maximum(at, last - first, row, end - begin, column, channels, best, 0, 0, 0, 0, 0)
                continue
            for c in range(channels):
                best = x[image, first, begin, c]
                for iy in range(first, last):
                    for ix in range(begin, end):
                        best = max(best, x[image, iy, ix, c])
                y[image, oy, ox, c] = best


@compiled(void(intp, intp, _in(float32, 4), _window, _in(float32, 2), _out(float32, 4)))
def avg_pool(start, stop, x, window, shares, y):
    """Rows start..stop of all results: the sum over each window, times its share (OH, OW)."""
    kernel, stride, before, _ = window
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    for item in range(start, stop):
        image, oy = item // y.shape[1], item % y.shape[1]
        top = oy * stride[0] - before[0]
        for ox in range(y.shape[2]):
            left = ox * stride[1] - before[1]
            target = y[image, oy, ox]
            target[:] = 0
            for iy in range(max(0, top), min(height, top + kernel[0])):
                for ix in range(max(0, left), min(width, left + kernel[1])):
                    source = x[image, iy, ix]
                    for c in range(channels):
                        target[c] += source[c]
            for c in range(channels):
                target[c] *= shares[oy, ox]


@compiled(void(intp, intp, _in(float32, 4), _out(float32, 2)))
def global_mean(start, stop, x, y):
    """Mean over all pixels of images start..stop, added up in float64, one after the other."""
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    sums = np.empty(channels, np.float64)
    for image in range(start, stop):
        sums[:] = 0
        for row in range(height):
            for p in range(width):
                source = x[image, row, p]
                for c in range(channels):
                    sums[c] += source[c]
        for c in range(channels):
            y[image, c] = sums[c] / (height * width)
