"""Numba twins of the reference functions of `batches`. This module imports Numba."""

import numpy as np
from numba import float32, int64, uint8, void

from xnor_ref.kernels.compiling.jit import compiled, readonly, writable
from xnor_ref.kernels.compiling.selftest import Case, reals, words

_INDICES = readonly(int64, 1)


@compiled(
    void(
        readonly(uint8, 4),
        _INDICES,
        readonly(float32, 2),
        _INDICES,
        _INDICES,
        readonly(uint8, 1),
        writable(float32, 4),
        int64,
        int64,
    )
)
def gather(images, indices, lut, shift_y, shift_x, flip, out, start, stop):
    """out[b, c, y, x] = lut[pixel, c] of image indices[b], shifted and mirrored; 0 outside the image."""
    height, width, channels = images.shape[1], images.shape[2], images.shape[3]
    for b in range(start, stop):
        image = images[indices[b]]
        # Output column x comes from column base + step * x; columns [first, last) are inside the image.
        base, step = (width - 1 + shift_x[b], -1) if flip[b] else (shift_x[b], 1)
        inner = shift_x[b] if flip[b] else -shift_x[b]
        first, last = min(max(0, inner), width), max(min(width, width + inner), 0)
        for c in range(channels):
            plane = out[b, c]
            for y in range(height):
                line = plane[y]
                source_y = y + shift_y[b]
                if source_y < 0 or source_y >= height:
                    line[:] = 0.0
                    continue
                source = image[source_y]
                line[:first] = 0.0
                line[last:] = 0.0
                for x in range(first, last):
                    line[x] = lut[source[base + step * x, c], c]


@compiled(
    void(
        readonly(float32, 4),
        _INDICES,
        readonly(float32, 2),
        _INDICES,
        readonly(float32, 2),
        writable(float32, 4),
        int64,
        int64,
    )
)
def shrink(images, first_row, row_weights, first_column, column_weights, out, start, stop):
    """out[b, c, y, x] = the weighted mean of rows from first_row[y] and columns from first_column[x]."""
    width = images.shape[3]
    line = np.empty(width, np.float32)
    for b in range(start, stop):
        for c in range(images.shape[1]):
            for y in range(out.shape[2]):
                line[:] = 0.0
                for tap in range(row_weights.shape[1]):
                    weight, row = row_weights[y, tap], images[b, c, first_row[y] + tap]
                    for x in range(width):
                        line[x] += weight * row[x]
                for x in range(out.shape[3]):
                    total = np.float32(0)
                    for tap in range(column_weights.shape[1]):
                        total += column_weights[x, tap] * line[first_column[x] + tap]
                    out[b, c, y, x] = total


def known_answers() -> tuple[Case, ...]:
    """Return the known answers that the kernels must give before use; see `selftest`."""

    def gathered():
        images = (words(3, 4, 19, 2) >> np.uint64(56)).astype(np.uint8)
        indices, shift_y, shift_x = np.array([2, 0, 1, 2]), np.array([0, 2, -1, 4]), np.array([0, -3, 19, 2])
        out = reals(5, 2, 4, 19)
        gather(images, indices, reals(256, 2), shift_y, shift_x, np.array([0, 1, 1, 0], np.uint8), out, 0, 4)
        return out

    def shrunk():
        first, out = np.array([0, 2, 3]), np.zeros((2, 2, 3, 2), np.float32)
        shrink(reals(2, 2, 6, 5), first, reals(3, 3), first[:2], reals(2, 3), out, 0, 2)
        return out

    return (gather, gathered, "571f14024907b6df"), (shrink, shrunk, "f5bfb3b95ee99a64")
