"""The geometry of a window that slides over an image: the one home of its formulas."""

from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
Numbers = tuple[Pair, Pair, Pair, Pair]
Padding = int | Pair | Pads | str  # what users give, see `Window.of`

FEW_CHANNELS = 4  # of an image, so few that a weight gradient takes neighbours in a row as inputs of a pixel
NO_PADDING = (0, 0), (0, 0)


def spatial(array: NDArray) -> Pair:
    """(H, W) of images (N, C, H, W), or (KH, KW) of weights (O, C, KH, KW)."""
    return array.shape[2], array.shape[3]


def as_pair(value: Any) -> Any:
    """A pair as it is, and any other value twice."""
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


@dataclass(frozen=True, slots=True)
class Window:
    """A window that slides over padded images (H, W): what a convolution or a pooling looks at.

    Parameters
    ----------
    kernel : (KH, KW), its taps
    stride : pixels from window to window, down and to the right
    padding : ((top, bottom), (left, right)), pixels around the image
    dilation : pixels from tap to tap
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
        """From what users give, unchecked: ints for both axes, or pairs (vertical, horizontal).

        Padding may also be two pairs ((top, bottom), (left, right)), "valid" for none, or "same", which depends on the
        `size` (H, W) of the image. That is TensorFlow's: OH = ceil(H / stride), with the smaller half of the padding at
        the top; likewise for columns.
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
        """Rows and columns of the image from its first tap to its last."""
        return _extent(self.kernel[0], self.dilation[0]), _extent(self.kernel[1], self.dilation[1])

    @property
    def before(self) -> Pair:
        """Rows of padding above the image and columns to the left of it."""
        return self.padding[0][0], self.padding[1][0]

    @property
    def margin(self) -> int:
        """Columns on each side of images that are stored with their padding: they stand in the middle.

        Beside an uneven padding some of them are not read.
        """
        return max(self.padding[1])

    @property
    def brief_padding(self) -> Pair | Pads:
        """Padding as users would say it: a pair where it is even."""
        return self.before if all(first == last for first, last in self.padding) else self.padding

    @property
    def numbers(self) -> Numbers:
        """What compiled kernels take: kernel, stride, `before` and dilation."""
        return self.kernel, self.stride, self.before, self.dilation

    def padded(self, size: Pair) -> Pair:
        """(H, W) of an image with its padding."""
        return size[0] + sum(self.padding[0]), size[1] + sum(self.padding[1])

    def count(self, size: Pair) -> Pair:
        """(OH, OW), how many windows there are; none, or fewer, where the window exceeds the padded image."""
        (rows, columns), (height, width) = self.extent, self.padded(size)
        return (height - rows) // self.stride[0] + 1, (width - columns) // self.stride[1] + 1

    def to_the_end(self, size: Pair) -> "Window":
        """With so much padding at the end that no pixel is left out: what PyTorch calls ceil_mode.

        There is one window more where `count` leaves pixels out, if it begins before the padding at the end.
        """
        sides = tuple(map(_to_the_end, size, self.extent, self.stride, self.padding))
        return replace(self, padding=(sides[0], sides[1]))

    def covers(self, size: Pair) -> bool:
        """Whether its taps are the pixels of the image, one each."""
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
