"""The geometry of a window that slides over an image. All its formulas are here."""

from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
Numbers = tuple[Pair, Pair, Pair, Pair]
Padding = int | Pair | Pads | str  # as users give it, see `Window.of`

FEW_CHANNELS = 4  # up to so many channels, a weight gradient treats neighbours in a row as inputs of one pixel
NO_PADDING = (0, 0), (0, 0)


def spatial(array: NDArray) -> Pair:
    """Return (H, W) of images (N, C, H, W), or (KH, KW) of weights (O, C, KH, KW)."""
    return array.shape[2], array.shape[3]


def as_pair(value: Any) -> Any:
    """Return a pair unchanged, and any other value as a pair of itself."""
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


@dataclass(frozen=True, slots=True)
class Window:
    """The window of a convolution or pooling, which slides over padded images (H, W).

    Parameters
    ----------
    kernel : (KH, KW), the numbers of taps
    stride : pixels from one window to the next, vertically and horizontally
    padding : ((top, bottom), (left, right)), pixels around the image
    dilation : pixels from one tap to the next
    """

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pads = NO_PADDING
    dilation: Pair = (1, 1)

    @classmethod
    def of(
        cls,
        kernel: int | Pair,
        stride: int | Pair = 1,
        padding: Padding = 0,
        dilation: int | Pair = 1,
        size: Pair | None = None,
    ) -> "Window":
        """Make a window from users' arguments, unchecked: ints for both axes, or pairs (vertical, horizontal).

        Padding may also be two pairs ((top, bottom), (left, right)), "valid" for none, or "same" as in TensorFlow.
        "same" depends on the `size` (H, W) of the image: OH = ceil(H / stride), with the smaller half of the padding at
        the top, and likewise for columns.
        """
        taps, steps, apart = as_pair(kernel), as_pair(stride), as_pair(dilation)
        if padding == "same":
            assert size is not None
            sides = tuple(map(_same, size, taps, steps, apart))
        else:
            sides = NO_PADDING if padding == "valid" else tuple(map(as_pair, as_pair(padding)))
        return cls(taps, steps, (sides[0], sides[1]), apart)

    @property
    def extent(self) -> Pair:
        """Rows and columns from the first tap to the last."""
        return _extent(self.kernel[0], self.dilation[0]), _extent(self.kernel[1], self.dilation[1])

    @property
    def before(self) -> Pair:
        """Rows of padding above the image, and columns of padding on its left."""
        return self.padding[0][0], self.padding[1][0]

    @property
    def margin(self) -> int:
        """Columns on each side of images that are stored with padding. The image stands in the middle.

        If the padding is uneven, some of these columns are not read.
        """
        return max(self.padding[1])

    @property
    def brief_padding(self) -> Pair | Pads:
        """Padding in its shortest form: a pair if both sides of each axis are equal."""
        return self.before if all(first == last for first, last in self.padding) else self.padding

    @property
    def numbers(self) -> Numbers:
        """The arguments of compiled kernels: kernel, stride, `before` and dilation."""
        return self.kernel, self.stride, self.before, self.dilation

    def padded(self, size: Pair) -> Pair:
        """Return the size (H, W) of a padded image."""
        return size[0] + sum(self.padding[0]), size[1] + sum(self.padding[1])

    def count(self, size: Pair) -> Pair:
        """Return (OH, OW), the numbers of windows. They are 0 or less if the window exceeds the padded image."""
        (rows, columns), (height, width) = self.extent, self.padded(size)
        return (height - rows) // self.stride[0] + 1, (width - columns) // self.stride[1] + 1

    def to_the_end(self, size: Pair) -> "Window":
        """Return the window with more padding at the end, so that no pixel is left out (ceil_mode in PyTorch).

        If `count` leaves pixels out, there is one window more, provided that it begins before the padding at the end.
        """
        sides = tuple(map(_to_the_end, size, self.extent, self.stride, self.padding))
        return replace(self, padding=(sides[0], sides[1]))

    def covers(self, size: Pair) -> bool:
        """Whether the taps are exactly the pixels of the image."""
        return self.kernel == self.extent == size and self.padding == NO_PADDING


def _extent(kernel: int, dilation: int) -> int:
    return dilation * (kernel - 1) + 1


def _to_the_end(size: int, extent: int, stride: int, sides: Pair) -> Pair:
    before, after = sides
    count = -((extent - size - before - after) // stride) + 1  # rounded up
    if (count - 1) * stride >= size + before:
        count -= 1
    return before, max(after, (count - 1) * stride + extent - size - before)


def _same(size: int, kernel: int, stride: int, dilation: int) -> Pair:
    total = max((-(-size // stride) - 1) * stride + _extent(kernel, dilation) - size, 0)
    return total // 2, total - total // 2
