"""AlexNet (Krizhevsky et al. 2012) in the two layouts of the XNOR-Net authors' released code.

No local response normalisation, no groups, BatchNorm everywhere. The fully connected layers are convolutions; the first
of them covers its whole input. At 224 pixels the stem is 11x11 with stride 4. Below 128 pixels it is 7x7 with stride 2,
below 64 it is 5x5 with stride 1, and poolings are padded so that they keep every second pixel up to the border.

The released `alexnet.lua` (Binary-Weight-Networks) and `alexnetxnor.lua` have the same convolutions. They differ in the
order of a block, which the method decides here, and in dropout, which `layout` decides. "bwn" drops whole channels
before fc6 and fc7 with probability 0.1, as that network was trained. "xnor" drops none. The default is "bwn" for method
bwn and "xnor" for all others. The two files also use different BatchNorms, see `batch_norm` of
`nn.methods.BinaryOptions`.
"""

from xnor_ref.errors import InputError
from xnor_ref.nn.blocks import Builder
from xnor_ref.nn.layers.real_layers import Dropout, Flatten, MaxPool2d
from xnor_ref.nn.module import Module

SMALLEST = 16
USUAL = (224, 3, 1000)
OPTIONS = ("layout",)


def layers(build: Builder, size: int, channels: int, classes: int, layout: str | None = None) -> dict[str, Module]:
    """Return five convolutions and three fully connected layers. The first and the last are real."""
    if layout not in (None, "bwn", "xnor"):
        raise InputError(f"alexnet: layout must be one of bwn, xnor, got {layout!r}")
    kernel, stride, border = (11, 4, 2) if size >= 128 else (7, 2, 3) if size >= 64 else (5, 1, 2)
    padding = 0 if size >= 128 else 1  # of the poolings
    side = (size + 2 * border - kernel) // stride + 1
    for _ in range(3):
        side = (side + 2 * padding - 3) // 2 + 1
    network: dict[str, Module] = {
        "stem": build.stem(channels, 96, kernel, stride, border, MaxPool2d(3, 2, padding)),
        "conv2": build.conv(96, 256, 5, 1, 2, MaxPool2d(3, 2, padding)),
        "conv3": build.conv(256, 384, 3, 1, 1),
        "conv4": build.conv(384, 384, 3, 1, 1),
        "conv5": build.conv(384, 256, 3, 1, 1, MaxPool2d(3, 2, padding)),
        "dropout5": Dropout(0.1, whole_channels=True),
        "fc6": build.conv(256, 4096, side),
        "dropout6": Dropout(0.1, whole_channels=True),
        "fc7": build.conv(4096, 4096, 1),
        "last": build.before_classifier(4096),
        "fc8": build.last_conv(4096, classes),
        "flatten": Flatten(),
    }
    if (layout or build.method) != "bwn":
        del network["dropout5"], network["dropout6"]
    return network
