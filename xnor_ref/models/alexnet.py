"""AlexNet (Krizhevsky et al. 2012) in the layout of the XNOR-Net authors' released code.

No local response normalisation, no groups, BatchNorm everywhere; the fully connected layers are convolutions, the first
of which covers its whole input. At 224 pixels the stem is 11x11 with stride 4; below 128 it is 7x7 with stride 2, below
64 5x5 with stride 1, and the poolings keep every second pixel to the border. The released code's BatchNorm has eps
1e-4, and 1e-3 before the last layer; here it is 1e-5 everywhere.
"""

from xnor_ref.nn.blocks import Builder
from xnor_ref.nn.layers import Flatten, MaxPool2d
from xnor_ref.nn.module import Module

SMALLEST = 16
OPTIONS = ()


def layers(build: Builder, size: int, channels: int, classes: int) -> dict[str, Module]:
    """Five convolutions and three fully connected layers; the first and the last are real."""
    if size >= 128:
        padding = 0
        stem = build.stem(channels, 96, 11, 4, 2, MaxPool2d(3, 2, padding))
        side = (size + 4 - 11) // 4 + 1
    elif size >= 64:
        padding = 1
        stem = build.stem(channels, 96, 7, 2, 3, MaxPool2d(3, 2, padding))
        side = (size - 1) // 2 + 1
    else:
        padding = 1
        stem = build.stem(channels, 96, 5, 1, 2, MaxPool2d(3, 2, padding))
        side = size
    for _ in range(3):
        side = (side + 2 * padding - 3) // 2 + 1
    return {
        "stem": stem,
        "conv2": build.conv(96, 256, 5, 1, 2, MaxPool2d(3, 2, padding)),
        "conv3": build.conv(256, 384, 3, 1, 1),
        "conv4": build.conv(384, 384, 3, 1, 1),
        "conv5": build.conv(384, 256, 3, 1, 1, MaxPool2d(3, 2, padding)),
        "fc6": build.conv(256, 4096, side),
        "fc7": build.conv(4096, 4096, 1),
        "last": build.before_classifier(4096),
        "fc8": build.last_conv(4096, classes),
        "flatten": Flatten(),
    }
