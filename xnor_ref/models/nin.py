"""Network in Network (Lin et al. 2014): 1x1 convolutions between the spatial ones, and the mean over the last maps.

From 64 pixels the first convolution has stride 2; from 128 pixels it has stride 4 and an 11x11 kernel.
"""

from xnor_ref.nn.blocks import Builder
from xnor_ref.nn.layers.real_layers import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from xnor_ref.nn.module import Module

SMALLEST = 16
USUAL = (32, 3, 10)
OPTIONS = ()


def layers(build: Builder, size: int, channels: int, classes: int) -> dict[str, Module]:
    """Return nine convolutions. All but the first and the last are binary."""
    kernel, stride = (11, 4) if size >= 128 else (5, 2 if size >= 64 else 1)
    return {
        "stem": build.stem(channels, 192, kernel, stride, kernel // 2),
        "mlp1a": build.conv(192, 160, 1),
        "mlp1b": build.conv(160, 96, 1, pool=MaxPool2d(3, 2, 1)),
        "conv2": build.conv(96, 192, 5, 1, 2),
        "mlp2a": build.conv(192, 192, 1),
        "mlp2b": build.conv(192, 192, 1, pool=AvgPool2d(3, 2, 1)),
        "conv3": build.conv(192, 192, 3, 1, 1),
        "mlp3a": build.conv(192, 192, 1),
        "last": build.before_classifier(192),
        "classifier": build.last_conv(192, classes),
        "pool": GlobalAvgPool2d(),
    }
