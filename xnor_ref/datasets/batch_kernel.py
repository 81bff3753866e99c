"""Numba twin of `batches.gather_reference`; compiled when imported."""

from numba import float32, int64, uint8, void

from xnor_ref.kernels.jit import compiled, readonly, writable

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
