"""The geometry of a window that slides over an image: the one home of its formulas."""

from numpy.typing import NDArray

Pair = tuple[int, int]

FEW_CHANNELS = 4  # of an image, so few that a weight gradient takes neighbours in a row as inputs of a pixel


def spatial(array: NDArray) -> Pair:
    """(H, W) of images (N, C, H, W), or (KH, KW) of weights (O, C, KH, KW)."""
    return array.shape[2], array.shape[3]


def conv_output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    """(OH, OW) of a convolution or pooling over an (H, W) image."""
    return (
        (size[0] + 2 * padding[0] - kernel[0]) // stride[0] + 1,
        (size[1] + 2 * padding[1] - kernel[1]) // stride[1] + 1,
    )
