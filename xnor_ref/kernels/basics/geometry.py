"""The geometry of a window that slides over an image: the one home of its formulas."""

from numpy.typing import NDArray

Pair = tuple[int, int]

FEW_CHANNELS = 4  # of an image, so few that a weight gradient takes neighbours in a row as inputs of a pixel


def spatial(array: NDArray) -> Pair:
    """(H, W) of images (N, C, H, W), or (KH, KW) of weights (O, C, KH, KW)."""
    return array.shape[2], array.shape[3]


def padded_size(size: Pair, padding: Pair) -> Pair:
    """(H, W) of an image with its padding."""
    return size[0] + 2 * padding[0], size[1] + 2 * padding[1]


def window_count(size: int, kernel: int, stride: int, padding: int) -> int:
    """How many windows there are along an axis; none, or fewer, where the kernel exceeds the padded image."""
    return (size + 2 * padding - kernel) // stride + 1


def conv_output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    """(OH, OW) of a convolution or pooling over an (H, W) image."""
    return (
        window_count(size[0], kernel[0], stride[0], padding[0]),
        window_count(size[1], kernel[1], stride[1], padding[1]),
    )
