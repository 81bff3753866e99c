"""ResNet-18 (He et al. 2016): a stem, four stages of two residual blocks of two 3x3 convolutions, a linear classifier.

Stem: 7x7 with stride 2 and pooling from 128 pixels; 3x3 with stride 2 from 64; 3x3 with stride 1 below. Where a stage
halves the image and doubles the channels, the shortcut is a 1x1 convolution (type B of that paper). XNOR-Net does not
say whether it is binary. Here it is binary by default, like every inner convolution, and real with `downsample="real"`.
With `downsample="identity"` the shortcut has no weights (type A).
"""

from collections.abc import Sequence

from xnor_ref.errors import InputError
from xnor_ref.nn.blocks import Builder
from xnor_ref.nn.layers.real_layers import Conv2d, GlobalAvgPool2d, MaxPool2d, ReLU
from xnor_ref.nn.layers.shortcuts import IdentityShortcut
from xnor_ref.nn.module import Module, Residual, Sequential

SMALLEST = 16
USUAL = (224, 3, 1000)
OPTIONS = ("downsample",)
DOWNSAMPLES = ("binary", "real", "identity")


def layers(build: Builder, size: int, channels: int, classes: int, downsample: str | None = None) -> dict[str, Module]:
    """Return the layers. The first convolution and the classifier are real."""
    check("resnet18", build, downsample)
    if size >= 128:
        stem = build.stem(channels, 64, 7, 2, 3, MaxPool2d(3, 2, 1))
    else:
        stem = build.stem(channels, 64, 3, 2 if size >= 64 else 1, 1)
    return {"stem": stem, **residual_stages(build, (64, 128, 256, 512), 2, downsample or "binary", classes)}


def residual_stages(
    build: Builder, widths: Sequence[int], blocks: int, downsample: str, classes: int
) -> dict[str, Module]:
    """Return the stages of residual blocks and the classifier. The stem has as many maps as the first stage."""
    network: dict[str, Module] = {}
    inputs = widths[0]
    for stage, outputs in enumerate(widths, start=1):
        for index in range(1, blocks + 1):
            stride = 2 if stage > 1 and index == 1 else 1
            network[f"stage{stage}_{index}"] = residual_block(build, inputs, outputs, stride, downsample)
            inputs = outputs
    network["last"] = build.before_classifier(inputs)
    network["pool"] = GlobalAvgPool2d()
    network["classifier"] = build.last_linear(inputs, classes)
    return network


def check(name: str, build: Builder, downsample: str | None) -> None:
    """Raise InputError for settings that a residual network does not support."""
    if downsample not in (None, *DOWNSAMPLES):
        raise InputError(f"{name}: downsample must be one of {', '.join(DOWNSAMPLES)}, got {downsample!r}")
    if build.options.shortcut == "bireal" and downsample is not None:
        raise InputError(
            f"{name}: shortcut 'bireal' brings its own shortcuts, so downsample (={downsample}) would have no effect"
        )
    if build.real_inputs and not build.how.weights and downsample in ("binary", "real"):
        raise InputError(f"{name}: method 'full' has no binary layers, so downsample (={downsample}) has no effect")
    if build.options.block_order == "cbap":
        raise InputError(
            f"{name}: block_order 'cbap' would add shortcuts to signs; it is only for networks without shortcuts"
        )


def residual_block(build: Builder, inputs: int, outputs: int, stride: int, downsample: str) -> Module:
    """Return two 3x3 convolutions with a shortcut. Where the shape changes, `downsample` gives its kind."""
    if build.real_inputs:
        return _real_block(build, inputs, outputs, stride, downsample)
    size = build.size
    body = Sequential(conv1=build.conv(inputs, outputs, 3, stride, 1), conv2=build.conv(outputs, outputs, 3, 1, 1))
    if build.options.shortcut == "bireal":
        return body
    if inputs == outputs and stride == 1:
        return Residual(body)
    if downsample != "binary":
        return Residual(body, _real_shortcut(build, inputs, outputs, stride, downsample))
    build.size = size  # the shortcut has the same input as the body
    return Residual(body, build.conv(inputs, outputs, 1, stride))


def _real_shortcut(build: Builder, inputs: int, outputs: int, stride: int, downsample: str) -> Module:
    if downsample == "identity":
        return IdentityShortcut(inputs, outputs, stride)
    layers = {"conv": Conv2d(inputs, outputs, 1, stride, rng=build.rng), "bn": build.norm(outputs)}
    return Sequential(**{name: layer for name, layer in layers.items() if layer is not None})


def _real_block(build: Builder, inputs: int, outputs: int, stride: int, downsample: str) -> Module:
    """Return conv-BN-ReLU-conv-BN plus the shortcut, then ReLU."""
    body = Sequential(
        conv1=build.conv(inputs, outputs, 3, stride, 1),
        **build.conv_and_norm(outputs, outputs, 3, 1, 1, names=("conv2", "bn2")),
    )
    shortcut: Module | None = None
    if (inputs, stride) != (outputs, 1):
        if downsample == "binary":
            shortcut = Sequential(**build.conv_and_norm(inputs, outputs, 1, stride))
        else:
            shortcut = _real_shortcut(build, inputs, outputs, stride, downsample)
    return Sequential(sum=Residual(body, shortcut), relu=ReLU())
