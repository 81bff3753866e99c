"""ResNet-20 for images like CIFAR-10's (He et al. 2016, section 4.2): three blocks each of 16, 32 and 64 maps.

The stem is 3x3 with stride 1 for every image size. The shortcuts have no weights (type A of that paper), so all binary
weights are in 3x3 convolutions. `downsample` "binary" or "real" makes the shortcuts 1x1 convolutions, as in ResNet-18.
"""

from xnor_ref.models.resnet import check, residual_stages
from xnor_ref.nn.blocks import Builder
from xnor_ref.nn.module import Module

SMALLEST = 16
USUAL = (32, 3, 10)
OPTIONS = ("downsample",)


def layers(build: Builder, size: int, channels: int, classes: int, downsample: str | None = None) -> dict[str, Module]:
    """Return the layers. The first convolution and the classifier are real."""
    check("resnet20", build, downsample)
    stem = build.stem(channels, 16, 3, 1, 1)
    return {"stem": stem, **residual_stages(build, (16, 32, 64), 3, downsample or "identity", classes)}
