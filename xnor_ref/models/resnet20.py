"""ResNet-20 for images like CIFAR-10's (He et al. 2016, section 4.2): 16, 32 and 64 maps, three blocks of each.

The stem is 3x3 with stride 1 for every size of image, and the shortcuts have no weights (type A of that paper), so that
all binary weights are in 3x3 convolutions; `downsample` makes them 1x1 convolutions, "binary" or "real", as in
ResNet-18.
"""

from xnor_ref.models.resnet import check, residual_stages
from xnor_ref.nn.blocks import Builder
from xnor_ref.nn.module import Module

SMALLEST = 16
USUAL = (32, 3, 10)
OPTIONS = ("downsample",)


def layers(build: Builder, size: int, channels: int, classes: int, downsample: str | None = None) -> dict[str, Module]:
    """The first convolution and the classifier are real."""
    check("resnet20", build, downsample)
    stem = build.stem(channels, 16, 3, 1, 1)
    return {"stem": stem, **residual_stages(build, (16, 32, 64), 3, downsample or "identity", classes)}
