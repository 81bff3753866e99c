"""From a description to a network of `nn`, which can be trained further and frozen."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref import nn
from xnor_ref.errors import InputError, NonFiniteError
from xnor_ref.interop.description import INPUT, Description, Layer, Reasons, plain_names, refuse_all
from xnor_ref.nn.layers.real_layers import Convolution
from xnor_ref.packed.shapes import Shape, output_shape

MAX_RESULT = 2**28  # most values of a layer's output for one image: the 1 GiB limit of a model file


def network(description: Description) -> nn.Graph:
    """Build the network of a description, with its weights, in inference mode.

    Its attribute `about` holds input shape, mean, std and classes, so `freeze` needs no other arguments.

    Raises
    ------
    InputError
        Layers do not match each other, or a layer of `nn` rejects its settings. The message names all such layers.
    """
    names = plain_names(layer.name for layer in description.layers)
    names[INPUT] = INPUT
    shapes: dict[str, Shape] = {INPUT: description.input_shape}
    layers: dict[str, tuple] = {}
    reasons: Reasons = []
    for layer in description.layers:
        if any(source not in shapes for source in layer.inputs):
            continue  # it follows a rejected layer
        try:
            module, shapes[layer.name] = _made(layer, [shapes[source] for source in layer.inputs])
            layers[names[layer.name]] = (module, *(names[source] for source in layer.inputs))
        except (InputError, NonFiniteError, TypeError) as error:
            text = str(error).removeprefix(f"layer {layer.name!r} ({layer.kind}): ")
            reasons.append((f"layer {layer.name!r} ({layer.kind})", text))
    source = description.source or "build"
    refuse_all(source, reasons)
    logits = shapes[description.layers[-1].name]
    if len(logits) != 1:
        raise InputError(f"{source}: the last layer's output has shape {logits}; it must have one value per class")
    if description.classes is not None and len(description.classes) != logits[0]:
        raise InputError(f"{source}: {len(description.classes)} classes but {logits[0]} logits")
    graph = nn.Graph(layers)
    about: dict[str, Any] = {key: getattr(description, key) for key in ("input_shape", "mean", "std", "classes")}
    graph.about = {key: value for key, value in about.items() if value is not None}
    if description.source:
        graph.about["training"] = {"imported_from": description.source}
    graph.eval()
    return graph


def _made(layer: Layer, shapes: list[Shape]) -> tuple[nn.Module, Shape]:
    """Return the layer of `nn`, and its output shape for one image."""
    for shape in shapes[1:]:
        both = (shapes[0], shape) if layer.kind == "add" else (shapes[0][1:], shape[1:])
        if both[0] != both[1] or len(shape) != len(shapes[0]):
            layer.refuse(f"its inputs have shapes {shapes[0]} and {shape}")
    module = MAKERS[layer.kind](layer, shapes[0])
    if hasattr(module, "window"):
        counts = module.window(shapes[0][1:]).count(shapes[0][1:])
        if min(counts) < 1:
            layer.refuse(f"its window ({module.describe()}) is larger than the image {shapes[0]}")
    shape = output_shape(module, *shapes)
    if math.prod(shape) > MAX_RESULT:
        layer.refuse(f"its output {shape} for one image has more than {MAX_RESULT} values")
    return module, shape


def _image(layer: Layer, shape: Shape, channels: int | None = None) -> int:
    """Return C of an input (C, H, W)."""
    if len(shape) != 3 or channels not in (None, shape[0]):
        layer.refuse(f"needs an image ({'C' if channels is None else channels}, H, W), but gets {shape}")
    return shape[0]


def _channels(layer: Layer, shape: Shape, key: str) -> int:
    """Return C of an input (C, H, W) or (C,). The array `key` must have as many values."""
    if len(layer.arrays[key]) != shape[0]:
        layer.refuse(f"{key} has {len(layer.arrays[key])} values, but the input has shape {shape}")
    return shape[0]


def _put(layer: Layer, module: Any, **arrays: NDArray) -> Any:
    """Replace a module's arrays by these, after checking their shapes. Return the module."""
    for key, array in arrays.items():
        own = getattr(module, key)
        data = own if isinstance(own, np.ndarray) else own.data
        if array.shape != data.shape:
            layer.refuse(f"{key} has shape {array.shape}, but {data.shape} is needed")
        data[...] = array
    return module


def _convolution(kind: type[Convolution]) -> Callable[[Layer, Shape], nn.Module]:
    def make(layer: Layer, shape: Shape) -> nn.Module:
        outputs, inputs, *kernel = layer.arrays["weight"].shape
        groups = layer.settings.get("groups", 1)
        _image(layer, shape, inputs * groups)
        bias = "bias" in layer.arrays
        module = kind(shape[0], outputs, tuple(kernel), bias=bias, **layer.settings)  # type: ignore[call-arg]
        return _put(layer, module, **layer.arrays)

    return make


def _linear(kind: Any) -> Callable[[Layer, Shape], nn.Module]:
    def make(layer: Layer, shape: Shape) -> nn.Module:
        outputs, inputs = layer.arrays["weight"].shape
        if shape != (inputs,):
            layer.refuse(f"needs {inputs} flat values, but gets {shape}")
        return _put(layer, kind(inputs, outputs, bias="bias" in layer.arrays, **layer.settings), **layer.arrays)

    return make


def _batch_norm(layer: Layer, shape: Shape) -> nn.Module:
    kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
    affine = not layer.arrays.keys().isdisjoint(("weight", "bias"))
    channels = _channels(layer, shape, "running_var")
    if (layer.arrays["running_var"] < 0).any():
        layer.refuse("running_var is negative")
    return _put(layer, kind(channels, affine=affine, **layer.settings), **layer.arrays)


def _scale(layer: Layer, shape: Shape) -> nn.Module:
    gammas = {tuple(sorted(factors)): gamma for gamma, factors in nn.GAMMAS.items()}
    gamma = gammas.get(tuple(sorted(layer.arrays)))
    if gamma is None:
        layer.refuse(
            f"has the factors {', '.join(layer.arrays) or 'none'}; they must be one of {', '.join(map(str, gammas))}"
        )
    if gamma != "o":
        _image(layer, shape)
    return _put(layer, nn.Scale(shape[0], gamma, shape[1:] or None), **layer.arrays)  # type: ignore[arg-type]


def _prelu(layer: Layer, shape: Shape) -> nn.Module:
    slopes = len(layer.arrays["weight"])
    if slopes not in (1, shape[0]):
        layer.refuse(f"has {slopes} slopes, but its input has shape {shape}")
    return _put(layer, nn.PReLU(slopes, **layer.settings), **layer.arrays)


def _of_images(kind: Any) -> Callable[[Layer, Shape], nn.Module]:
    def make(layer: Layer, shape: Shape) -> nn.Module:
        _image(layer, shape)
        return kind(**layer.settings)

    return make


def _plain(kind: Any) -> Callable[[Layer, Shape], nn.Module]:
    return lambda layer, shape: kind(**layer.settings)


MAKERS: dict[str, Callable[[Layer, Shape], nn.Module]] = {  # by kind: a function of (layer, shape of its first input)
    "conv2d": _convolution(nn.Conv2d),
    "linear": _linear(nn.Linear),
    "binary_conv2d": _convolution(nn.BinaryConv2d),
    "binary_linear": _linear(nn.BinaryLinear),
    "binary_weight_conv2d": _convolution(nn.BinaryWeightConv2d),
    "binary_weight_linear": _linear(nn.BinaryWeightLinear),
    "kbit_conv2d": _convolution(nn.KBitConv2d),
    "kbit_linear": _linear(nn.KBitLinear),
    "batch_norm": _batch_norm,
    "affine": lambda layer, shape: _put(layer, nn.Affine(_channels(layer, shape, "scale")), **layer.arrays),
    "shift": lambda layer, shape: _put(layer, nn.Shift(_channels(layer, shape, "shift")), **layer.arrays),
    "scale": _scale,
    "relu": _plain(nn.ReLU),
    "prelu": _prelu,
    "hardtanh": _plain(nn.Hardtanh),
    "sign": _plain(nn.Sign),
    "max_pool2d": _of_images(nn.MaxPool2d),
    "avg_pool2d": _of_images(nn.AvgPool2d),
    "global_avg_pool2d": _of_images(nn.GlobalAvgPool2d),
    "identity_shortcut": lambda layer, shape: nn.IdentityShortcut(_image(layer, shape), **layer.settings),
    "flatten": _plain(nn.Flatten),
    "dropout": _plain(nn.Dropout),
    "add": _plain(nn.Add),
    "concat": _plain(nn.Concat),
}
