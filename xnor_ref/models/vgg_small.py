"""VGG-small: the network of six convolutions that papers on binary networks use for CIFAR-10, and larger versions.

At 32 pixels: 128-128-MP-256-256-MP-512-512-MP and one linear layer, 4.57 M binary weights. From 64 pixels the first
block has 64 maps and pooling comes earlier, to keep the cost low enough for a CPU: 64-MP-128-MP-256-256-MP-512-512 and
the mean over the last maps. From 128 pixels the stem is 7x7 with stride 2 and one more pooling.
"""

from xnor_ref.nn.blocks import Builder
from xnor_ref.nn.layers.real_layers import Flatten, GlobalAvgPool2d, MaxPool2d
from xnor_ref.nn.module import Module

SMALLEST = 16
USUAL = (32, 3, 10)
OPTIONS = ()


def layers(build: Builder, size: int, channels: int, classes: int) -> dict[str, Module]:
    """Return the layers. The first convolution and the classifier are real."""
    small, first = size < 64, 128 if size < 64 else 64
    if small:
        stem = build.stem(channels, first, 3, 1, 1)
    elif size < 128:
        stem = build.stem(channels, first, 3, 1, 1, MaxPool2d(2))
    else:
        stem = build.stem(channels, first, 7, 2, 3, MaxPool2d(3, 2, 1))
    network: dict[str, Module] = {
        "stem": stem,
        "conv2": build.conv(first, 128, 3, 1, 1, MaxPool2d(2)),
        "conv3": build.conv(128, 256, 3, 1, 1),
        "conv4": build.conv(256, 256, 3, 1, 1, MaxPool2d(2)),
        "conv5": build.conv(256, 512, 3, 1, 1),
        "conv6": build.conv(512, 512, 3, 1, 1, MaxPool2d(2) if small else None),
        "last": build.before_classifier(512),
    }
    network |= {"flatten": Flatten()} if small else {"pool": GlobalAvgPool2d()}
    return network | {"classifier": build.last_linear(512 * (size // 8) ** 2 if small else 512, classes)}
