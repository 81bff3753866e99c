"""The GoogLeNet variant of the XNOR-Net paper (Rastegari et al. 2016, Table 2).

Instead of inception modules it alternates 1x1 and 3x3 convolutions. There are 21, including the classifier, which is
1x1 and followed by the mean over its maps. It is Darknet's "extraction" network, whose file has these widths, kernels
and poolings. Darknet uses leaky ReLU, also after the classifier. Here the method decides the activation, and the
classifier has none. From 128 pixels the stem is 7x7 with stride 2 and a pooling; from 64 pixels it has no pooling;
below 64 it is 3x3 with stride 1.
"""

from xnor_ref.nn.blocks import Builder
from xnor_ref.nn.layers.real_layers import GlobalAvgPool2d, MaxPool2d
from xnor_ref.nn.module import Module

SMALLEST = 16
USUAL = (224, 3, 1000)
OPTIONS = ()
_STAGES = (  # output channels, 1x1 and 3x3 alternating; each stage but the last ends with a pooling
    (128, 256, 256, 512),
    (256, 512, 256, 512, 256, 512, 256, 512, 512, 1024),
    (512, 1024, 512, 1024),
)


def layers(build: Builder, size: int, channels: int, classes: int) -> dict[str, Module]:
    """Return the layers. The first convolution and the classifier are real."""
    kernel, stride = (7, 2) if size >= 64 else (3, 1)
    stem = build.stem(channels, 64, kernel, stride, kernel // 2, MaxPool2d(2) if size >= 128 else None)
    network: dict[str, Module] = {"stem": stem, "conv2": build.conv(64, 192, 3, 1, 1, MaxPool2d(2))}
    inputs, number = 192, 3
    for stage in _STAGES:
        for index, outputs in enumerate(stage):
            kernel = 3 if index % 2 else 1
            pool = MaxPool2d(2) if stage is not _STAGES[-1] and index == len(stage) - 1 else None
            network[f"conv{number}"] = build.conv(inputs, outputs, kernel, 1, kernel // 2, pool)
            inputs, number = outputs, number + 1
    return network | {
        "last": build.before_classifier(inputs),
        "classifier": build.last_conv(inputs, classes),
        "pool": GlobalAvgPool2d(),
    }
