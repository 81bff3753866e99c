"""A small network for 64x64 images that trains in about a minute on two cores."""

from xnor_ref.errors import InputError
from xnor_ref.nn.blocks import Builder
from xnor_ref.nn.layers.real_layers import GlobalAvgPool2d, MaxPool2d, positive
from xnor_ref.nn.module import Module

SMALLEST = 16
USUAL = (64, 3, 12)
OPTIONS = ("width",)


def layers(build: Builder, size: int, channels: int, classes: int, width: int = 32) -> dict[str, Module]:
    """Return a real 5x5 stem with stride 2, three binary 3x3 blocks and a real classifier."""
    if positive(width, "width", "shapes-net") > 1024:
        raise InputError(f"shapes-net: width must be at most 1024, got {width}")
    return {
        "stem": build.stem(channels, width, 5, 2, 2, MaxPool2d(2)),
        "block1": build.conv(width, 2 * width, 3, 1, 1, MaxPool2d(2)),
        "block2": build.conv(2 * width, 2 * width, 3, 1, 1),
        "block3": build.conv(2 * width, 4 * width, 3, 1, 1),
        "last": build.before_classifier(4 * width),
        "pool": GlobalAvgPool2d(),
        "classifier": build.last_linear(4 * width, classes),
    }
