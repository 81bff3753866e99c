"""LeNet-5 (LeCun et al. 1998) in the form that binary networks use: 20 and 50 maps, 500 hidden units, BatchNorm."""

from xnor_ref.nn.blocks import Builder
from xnor_ref.nn.layers.real_layers import BatchNorm1d, Flatten, MaxPool2d
from xnor_ref.nn.module import Module

SMALLEST = 16
USUAL = (28, 1, 10)
OPTIONS = ()


def layers(build: Builder, size: int, channels: int, classes: int) -> dict[str, Module]:
    """Return a real 5x5, a binary 5x5, a binary fully connected and a real fully connected layer."""
    after_stem = (size - 4) // 2
    side = (after_stem - 4) // 2
    return {
        "stem": build.stem(channels, 20, 5, pool=MaxPool2d(2)),
        "conv2": build.conv(20, 50, 5, pool=MaxPool2d(2)),
        "flatten": Flatten(),
        "fc1": build.linear(50 * side * side, 500),
        "last": build.before_classifier(500, BatchNorm1d),
        "fc2": build.last_linear(500, classes),
    }
