"""Images as planes, a layout of signs in which neighbouring outputs read neighbouring elements."""

import numpy as np
from numpy.typing import NDArray

from xnor_ref.kernels.basics.geometry import Pair, Window

TILE_OUTPUTS = 64  # outputs computed together
BLOCK_CHANNELS = 16  # channels per piece of work

U64 = NDArray[np.uint64]


class Planes:
    """The positions of a padded image's pixels in planes.

    For strides (sy, sx), the image is split into phases (y % sy, x % sx). The window reads the first phases, as many as
    it spans pixels. Plane `(channel*phases_y + y % sy)*phases_x + x % sx` holds pixel (y, x) at `y // sy * width + x //
    sx`. So tap (c, ky, kx) of output (oy, ox) lies at the tap's own place plus `oy*width + ox`. A loop over outputs is
    a loop over consecutive elements, with a few unused ones between the rows.
    """

    def __init__(self, size: Pair, window: Window) -> None:
        self.size, self.window, self.stride = size, window, window.stride
        self.phases = min(window.extent[0], self.stride[0]), min(window.extent[1], self.stride[1])
        self.height, self.width = (-(-n // step) for n, step in zip(window.padded(size), self.stride))
        self.out_size = window.count(size)
        outputs = (self.out_size[0] - 1) * self.width + self.out_size[1]
        self.tiles = -(-outputs // TILE_OUTPUTS)  # tiles per image
        # An odd number of whole cache lines, so that planes do not compete for the same cache sets.
        self.length = (-(-self.height * self.width // TILE_OUTPUTS) | 1) * TILE_OUTPUTS

    def elements(self, channels: int) -> int:
        """Return the elements of all planes of one image."""
        return channels * self.phases[0] * self.phases[1] * self.length

    def places(self, channel: NDArray, ky: NDArray, kx: NDArray) -> NDArray[np.int64]:
        """Return the places of output (0, 0)'s taps in the planes of one image."""
        y, x = ky * self.window.dilation[0], kx * self.window.dilation[1]
        plane = (channel * self.phases[0] + y % self.stride[0]) * self.phases[1] + x % self.stride[1]
        return plane * self.length + y // self.stride[0] * self.width + x // self.stride[1]

    def word_planes(self, x_words: U64) -> U64:
        """Return words (N, H, W, words) as N * words * phases flat planes, zero outside the image, and one tile."""
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
        """Return which elements of each phase's plane hold a pixel: int8 (phases, plane)."""
        marks = np.zeros((*self.phases, self.length), np.int8)
        for py, px in np.ndindex(*self.phases):
            image = marks[py, px, : self.height * self.width].reshape(self.height, self.width)
            image[self._dealt(0, py)[0], self._dealt(1, px)[0]] = 1
        return marks.reshape(-1, self.length)

    def _dealt(self, axis: int, phase: int) -> tuple[slice, slice]:
        """Return the slice of the phase's elements that hold pixels, and the slice of these pixels."""
        step, before = self.stride[axis], self.window.before[axis]
        first = -(-(before - phase) // step) if before > phase else 0  # first element inside the image
        pixel = first * step + phase - before
        count = max(0, -(-(self.size[axis] - pixel) // step))
        return slice(first, first + count), slice(pixel, pixel + count * step, step)
