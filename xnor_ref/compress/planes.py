"""Images as planes: where a pixel's signs lie, so that neighbouring outputs read neighbouring elements."""

import numpy as np
from numpy.typing import NDArray

from xnor_ref.kernels.basics.geometry import Pair, Window

TILE_OUTPUTS = 64  # outputs that are computed together
BLOCK_CHANNELS = 16  # channels of one piece of work

U64 = NDArray[np.uint64]


class Planes:
    """Where a plane holds the pixels of a padded image.

    For strides (sy, sx) the image is dealt out to phases, (y % sy, x % sx), of which the window meets the first, as
    many as it spans pixels. Plane `(channel*phases_y + y % sy)*phases_x + x % sx` holds pixel (y, x) at
    `y // sy * width + x // sx`. The tap (c, ky, kx) of output (oy, ox) so lies at its own place plus `oy*width + ox`:
    a run over outputs is one over elements, with a few meaningless ones between the rows.
    """

    def __init__(self, size: Pair, window: Window) -> None:
        self.size, self.window, self.stride = size, window, window.stride
        self.phases = min(window.extent[0], self.stride[0]), min(window.extent[1], self.stride[1])
        self.height, self.width = (-(-n // step) for n, step in zip(window.padded(size), self.stride))
        self.out_size = window.count(size)
        outputs = (self.out_size[0] - 1) * self.width + self.out_size[1]
        self.tiles = -(-outputs // TILE_OUTPUTS)  # of one image
        # Whole cache lines, an odd number of them, so that planes do not compete for the same sets of a cache.
        self.length = (-(-self.height * self.width // TILE_OUTPUTS) | 1) * TILE_OUTPUTS

    def elements(self, channels: int) -> int:
        """Elements of all planes of one image."""
        return channels * self.phases[0] * self.phases[1] * self.length

    def places(self, channel: NDArray, ky: NDArray, kx: NDArray) -> NDArray[np.int64]:
        """Where taps of the output (0, 0) lie in the planes of one image."""
        y, x = ky * self.window.dilation[0], kx * self.window.dilation[1]
        plane = (channel * self.phases[0] + y % self.stride[0]) * self.phases[1] + x % self.stride[1]
        return plane * self.length + y // self.stride[0] * self.width + x // self.stride[1]

    def word_planes(self, x_words: U64) -> U64:
        """Words (N, H, W, words) as planes, flat: N times words*phases of them, zero beyond the border, and a tile."""
        n, _, _, words = x_words.shape
        flat = np.zeros(n * self.elements(words) + TILE_OUTPUTS, np.uint64)
        planes = flat[:-TILE_OUTPUTS].reshape(n, words, *self.phases, self.length)
        for py, px in np.ndindex(*self.phases):
            image = planes[:, :, py, px, : self.height * self.width].reshape(n, words, self.height, self.width)
            rows, y = self._dealt(0, py)
            columns, x = self._dealt(1, px)
            image[:, :, rows, columns] = np.moveaxis(x_words[:, y, x], 3, 1)
        return flat

    def inside(self) -> NDArray[np.int8]:
        """Which elements of each phase's plane hold a pixel: int8 (phases, plane)."""
        marks = np.zeros((*self.phases, self.length), np.int8)
        for py, px in np.ndindex(*self.phases):
            image = marks[py, px, : self.height * self.width].reshape(self.height, self.width)
            image[self._dealt(0, py)[0], self._dealt(1, px)[0]] = 1
        return marks.reshape(-1, self.length)

    def _dealt(self, axis: int, phase: int) -> tuple[slice, slice]:
        """Elements of the phase that hold pixels, and the pixels."""
        step, before = self.stride[axis], self.window.before[axis]
        first = -(-(before - phase) // step) if before > phase else 0  # first element at or after the border
        pixel = first * step + phase - before
        count = max(0, -(-(self.size[axis] - pixel) // step))
        return slice(first, first + count), slice(pixel, pixel + count * step, step)
