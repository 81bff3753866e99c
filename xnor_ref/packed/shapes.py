"""Output shapes of layers for one image."""

import math
from functools import singledispatch

from xnor_ref import nn
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.nn.layers.real_layers import AvgPool2d, MaxPool2d

Shape = tuple[int, ...]


@singledispatch
def output_shape(module: nn.Module, shape: Shape, *others: Shape) -> Shape:
    """Return a layer's output shape for one image, (C, H, W) or (I,).

    Most layers keep the shape of their first input.
    """
    return shape


@output_shape.register
def _(module: nn.Conv2d | nn.BinaryConv2d | nn.BinaryWeightConv2d, shape: Shape) -> Shape:
    size = shape[1], shape[2]
    return module.out_channels, *module.window(size).count(size)


@output_shape.register
def _(module: nn.IdentityShortcut, shape: Shape) -> Shape:
    return module.out_channels, *Window.of(1, module.stride).count((shape[1], shape[2]))


@output_shape.register
def _(module: MaxPool2d | AvgPool2d, shape: Shape) -> Shape:
    size = shape[1], shape[2]
    return shape[0], *module.window(size).count(size)


@output_shape.register
def _(module: nn.Linear | nn.BinaryLinear | nn.BinaryWeightLinear, shape: Shape) -> Shape:
    return (module.out_features,)


@output_shape.register
def _(module: nn.GlobalAvgPool2d, shape: Shape) -> Shape:
    return shape[:1]


@output_shape.register
def _(module: nn.Flatten, shape: Shape) -> Shape:
    return (math.prod(shape),)


@output_shape.register
def _(module: nn.Concat, shape: Shape, *others: Shape) -> Shape:
    return shape[0] + sum(other[0] for other in others), *shape[1:]
