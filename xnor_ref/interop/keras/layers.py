"""Which layer of Keras and larq becomes what; `LAYERS` has a rule for each class."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError
from xnor_ref.interop.keras.config import Config
from xnor_ref.interop.keras.files import Place
from xnor_ref.interop.keras.translation import Rule, Shape, Translation, Value, Ways, windows

Make = Callable[[Translation, Place, Config, Value], Value]


def _padding(config: Config) -> Any:
    padding = config.text("padding", "valid")
    if padding not in ("same", "valid"):
        raise InputError(f"its padding is {padding!r:.60}; same and valid can be imported")
    return "same" if padding == "same" else 0


def _settings(config: Config) -> dict[str, Any]:
    """Stride, padding and dilation of a convolution."""
    stride, dilation = config.pair("strides", 1), config.pair("dilation_rate", 1)
    return {"stride": stride, "padding": _padding(config.images()), "dilation": dilation}


def _conv2d(to: Translation, at: Place, config: Config, x: Value) -> Value:
    filters, groups = config.integer("filters"), config.integer("groups", 1)
    kernel, ways = config.pair("kernel_size"), Ways.of(config)
    settings = {**_settings(config), "groups": groups}
    pixel = len(x.known) == 1 and kernel == (1, 1)  # flat values, which Keras sees as an image of one pixel
    channels = x.known[0] if pixel else x.image[0]
    if channels % groups or (pixel and groups > 1):
        raise InputError(f"{channels} channels cannot be cut into {groups} groups")
    shape = (*kernel, channels // groups, filters)
    weight, bias = to.arrays(at, shape, (filters,) if config.flag("use_bias", True) else None)
    if pixel:
        y = to.product(at.name, x, x.ordered(weight[0, 0].T), bias, ways, {}, (filters,))
    else:
        y = to.convolution(at.name, x, weight.transpose(3, 2, 0, 1), bias, ways, settings)
    return to.activation(f"{at.name}_activation", config.get("activation"), y)


def _turned(weight: NDArray) -> NDArray:
    """A depthwise kernel (KH, KW, C, M) as a weight (C*M, 1, KH, KW)."""
    height, width, channels, times = weight.shape
    return weight.transpose(2, 3, 0, 1).reshape(channels * times, 1, height, width)


def _depthwise_ways(config: Config) -> tuple[int, Ways]:
    """How many results there are a channel, and `Ways`; larq scales all channels of a depthwise kernel alike."""
    times = config.integer("depth_multiplier", 1)
    ways = Ways.of(config, "depthwise", "layer")
    if ways.scale != "off" and (times > 1 or ways.weight is None or ways.weight.clipped):
        raise InputError("magnitude-aware depthwise weights can be imported with a depth_multiplier of 1 only")
    return times, ways


def _depthwise_conv2d(to: Translation, at: Place, config: Config, x: Value) -> Value:
    times, ways = _depthwise_ways(config)
    kernel, settings = config.pair("kernel_size"), _settings(config)
    channels = x.image[0]
    bias_shape = (channels * times,) if config.flag("use_bias", True) else None
    weight, bias = to.arrays(at, (*kernel, channels, times), bias_shape)
    y = to.convolution(at.name, x, _turned(weight), bias, ways, {**settings, "groups": channels})
    return to.activation(f"{at.name}_activation", config.get("activation"), y)


def _separable_conv2d(to: Translation, at: Place, config: Config, x: Value) -> Value:
    times, ways = _depthwise_ways(config)
    after = replace(Ways.of(config, "pointwise"), input=None, pad_value=0)
    filters, kernel, settings = config.integer("filters"), config.pair("kernel_size"), _settings(config)
    channels = x.image[0]
    bias_shape = (filters,) if config.flag("use_bias", True) else None
    depthwise, pointwise, bias = to.arrays(
        at, (*kernel, channels, times), (1, 1, channels * times, filters), bias_shape
    )
    y = to.convolution(f"{at.name}_depthwise", x, _turned(depthwise), None, ways, {**settings, "groups": channels})
    alone = {"stride": 1, "padding": 0}
    y = to.convolution(at.name, y, pointwise.transpose(3, 2, 0, 1), bias, after, alone)
    return to.activation(f"{at.name}_activation", config.get("activation"), y)


def _dense(to: Translation, at: Place, config: Config, x: Value) -> Value:
    units, ways = config.integer("units"), Ways.of(config)
    x = to.plain(x)
    features = x.known[0]
    kernel, bias = to.arrays(at, (features, units), (units,) if config.flag("use_bias", True) else None)
    if len(x.known) == 3:  # Keras multiplies the channels of each pixel
        weight = kernel.T.reshape(units, features, 1, 1)
        y = to.convolution(at.name, x, weight, bias, ways, {"stride": 1, "padding": 0})
    else:
        y = to.product(at.name, x, x.ordered(kernel.T), bias, ways, {}, (units,))
    return to.activation(f"{at.name}_activation", config.get("activation"), y)


def _last_axis(config: Config, x: Value) -> None:
    axis = config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list | tuple) and len(axis) == 1 else axis
    if axis not in (-1, 3, len(x.known)):  # 3 for flat values that Keras sees as one pixel
        raise InputError(f"its axis is {axis!r:.60}; only the last one, of channels, can be imported")


def _batch_norm(to: Translation, at: Place, config: Config, x: Value) -> Value:
    scale, centre = config.flag("scale", True), config.flag("center", True)
    settings = {"eps": config.number("epsilon", 1e-3), "momentum": 1 - config.number("momentum", 0.99)}
    if settings["eps"] == 0:
        settings["eps"] = 1e-12  # which no float32 variance sees
    x = to.plain(x)
    _last_axis(config, x)
    each = x.known[:1]
    arrays = to.arrays(at, each if scale else None, each if centre else None, each, each)
    names = ("weight", "bias", "running_mean", "running_var")
    ours = {name: None if array is None else x.ordered(array) for name, array in zip(names, arrays)}
    return to.add(at.name, "batch_norm", x, x.known, settings, ours, parts=x.parts)


def _rescaling(to: Translation, at: Place, config: Config, x: Value) -> Value:
    x = to.plain(x)
    given = {"scale": _numbers(config, "scale", 1.0), "shift": _numbers(config, "offset", 0.0)}
    if x.parts:
        raise InputError("reads flattened images")
    channels = x.known[0]
    if any(len(values) not in (1, channels) for values in given.values()):
        raise InputError(f"its scale and offset have {[len(v) for v in given.values()]} values, its input {channels}")
    arrays: Any = {name: np.resize(values, channels) for name, values in given.items()}
    return to.add(at.name, "affine", x, x.known, {}, arrays)


def _numbers(config: Config, name: str, default: float) -> NDArray[np.float32]:
    """A number, or one for each channel, as a list or as an array that Keras has serialised."""
    value = config.get(name, default)
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        value = value["config"].get("value")
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values or not all(type(number) in (int, float) and abs(number) < 1e30 for number in values):
        raise InputError(f"its {name} is {value!r:.60}; it must be a finite number, or one for each channel")
    return np.array(values, np.float32)


def _prelu(to: Translation, at: Place, config: Config, x: Value) -> Value:
    shared = config.get("shared_axes") or []
    if not isinstance(shared, list | tuple):
        raise InputError(f"its shared_axes is {shared!r:.60}")
    x = to.plain(x)
    shape = x.known
    if len(shape) == 3:
        axes = [1 if at in shared else size for at, size in enumerate((shape[1], shape[2], shape[0]), 1)]
        if axes[:2] != [1, 1]:
            raise InputError("has a slope for each pixel; only shared_axes=[1, 2] can be imported")
    else:
        axes = [1 if 1 in shared else shape[0]]
    (slopes,) = to.arrays(at, tuple(axes))
    slopes = slopes.ravel()
    ours = slopes if len(slopes) == 1 else x.ordered(slopes)
    return to.add(at.name, "prelu", x, shape, {}, {"weight": ours}, parts=x.parts)


def _relu(to: Translation, at: Place, config: Config, x: Value) -> Value:
    if config.get("max_value") is not None or config.number("threshold", 0.0) != 0:
        raise InputError("a ReLU with a max_value or a threshold cannot be imported")
    slope = config.get("negative_slope")
    return _leaky(to, at, x, 0.0 if slope is None else config.number("negative_slope"))


def _leaky_relu(to: Translation, at: Place, config: Config, x: Value) -> Value:
    key = "alpha" if config.get("alpha") is not None else "negative_slope"
    return _leaky(to, at, x, config.number(key, 0.3))


def _leaky(to: Translation, at: Place, x: Value, slope: float) -> Value:
    x = to.plain(x)
    if slope == 0:
        return to.add(at.name, "relu", x, x.known, parts=x.parts)
    weight = np.full(1, slope, np.float32)
    return to.add(at.name, "prelu", x, x.known, {"learned": False}, {"weight": weight}, parts=x.parts)


def _activation(to: Translation, at: Place, config: Config, x: Value) -> Value:
    return to.activation(at.name, config.get("activation"), x)


def _softmax(to: Translation, at: Place, config: Config, x: Value) -> Value:
    x = to.plain(x)
    _last_axis(config, x)
    return replace(x, ended=True)


def _pool(kind: str) -> Make:
    def rule(to: Translation, at: Place, config: Config, x: Value) -> Value:
        taps = config.pair("pool_size", 2)
        stride = taps if config.get("strides") is None else config.pair("strides")
        settings = {"stride": stride, "padding": _padding(config.images())}
        x = to.plain(x)
        shape = (x.image[0], *windows(x, taps, settings))
        signs = x.signs and kind == "max_pool2d"
        return to.add(at.name, kind, x, shape, {"kernel_size": taps, **settings}, signs=signs)

    return rule


def _global_pool(kind: str) -> Make:
    def rule(to: Translation, at: Place, config: Config, x: Value) -> Value:
        kept = config.images().flag("keepdims", False)
        x = to.plain(x)
        shape = x.known
        if kind == "avg_pool2d" and not kept:
            return to.add(at.name, "global_avg_pool2d", x, shape[:1])
        y = to.add(at.name, kind, x, (shape[0], 1, 1), {"kernel_size": shape[1:]})
        return y if kept else to.add(f"{at.name}_flat", "flatten", y, shape[:1])

    return rule


def _flatten(to: Translation, at: Place, config: Config, x: Value) -> Value:
    x = to.plain(x)
    shape = x.known
    if len(shape) == 1:
        return x
    parts = () if shape[1:] == (1, 1) or shape[0] == 1 else (shape,)
    return to.add(at.name, "flatten", x, (math.prod(shape),), parts=parts, signs=x.signs)


def _reshape(to: Translation, at: Place, config: Config, x: Value) -> Value:
    target = config.get("target_shape")
    x = to.plain(x)
    shape = x.known
    if isinstance(target, list) and target[:-1] in ([], [1, 1]) and target[-1] in (-1, math.prod(shape)):
        return _flatten(to, at, config, x)
    if target != [*shape[1:], shape[0]]:
        raise InputError(f"its target_shape is {target!r:.60}; only flattening can be imported")
    return x


def _zero_padding(to: Translation, at: Place, config: Config, x: Value) -> Value:
    value = config.images().get("padding", 1)
    sides = value if isinstance(value, list | tuple) else (value, value)
    ends = [tuple(side) if isinstance(side, list | tuple) else (side, side) for side in sides]
    if len(ends) != 2 or not all(
        len(end) == 2 and all(type(size) is int and 0 <= size < 2**16 for size in end) for end in ends
    ):
        raise InputError(f"its padding is {value!r:.60}")
    x = to.plain(x)
    return replace(x, pads=(ends[0], ends[1]))


def _dropout(to: Translation, at: Place, config: Config, x: Value) -> Value:
    rate = config.number("rate")
    if not 0 <= rate < 1:
        raise InputError(f"its rate is {rate}; it must be in [0, 1)")
    x = to.plain(x)
    return to.add(at.name, "dropout", x, x.known, {"probability": rate}, parts=x.parts)


def _spatial_dropout(to: Translation, at: Place, config: Config, x: Value) -> Value:
    x = to.plain(x)
    settings = {"probability": config.number("rate"), "whole_channels": True}
    return to.add(at.name, "dropout", x, x.known, settings)


def _nothing(to: Translation, at: Place, config: Config, x: Value) -> Value:
    return x


def _add(to: Translation, at: Place, config: Config, inputs: list[Value]) -> Value:
    inputs = list(map(to.plain, inputs))
    first = inputs[0]
    if len(inputs) < 2:
        raise InputError("adds a constant, or one result alone")
    for other in inputs[1:]:
        if other.shape != first.shape or other.parts != first.parts:
            raise InputError(f"its inputs have shapes {first.shape} and {other.shape}, or flat orders that differ")
    return to.add(at.name, "add", inputs, first.known, parts=first.parts)


def _concatenate(to: Translation, at: Place, config: Config, inputs: list[Value]) -> Value:
    inputs = list(map(to.plain, inputs))
    if len(inputs) == 1:
        return inputs[0]
    for x in inputs:
        _last_axis(config, x)
    shapes = [x.known for x in inputs]
    if any(len(shape) != len(shapes[0]) or shape[1:] != shapes[0][1:] for shape in shapes):
        raise InputError(f"its inputs have shapes {', '.join(map(str, shapes))}; only channels may differ")
    parts: tuple[Shape, ...] = ()
    if any(x.parts for x in inputs):
        parts = tuple(part for x in inputs for part in x.parts or ((*x.known, 1, 1),))
    shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    return to.add(at.name, "concat", inputs, shape, parts=parts, signs=all(x.signs for x in inputs))


def _operation(to: Translation, at: Place, config: Config, inputs: list[Value]) -> Value:
    """A TensorFlow function that stands between the layers."""
    function = config.text("function")
    if function in ("__operators__.add", "math.add"):
        return _add(to, at, config, inputs)
    if function in ("nn.relu", "nn.softmax") and len(inputs) == 1:
        return to.activation(at.name, function.removeprefix("nn."), inputs[0])
    raise InputError(f"the TensorFlow function {function!r:.60} cannot be imported")


def _bare_relu(to: Translation, at: Place, config: Config, x: Value) -> Value:
    return to.activation(at.name, "relu", x)


def _quantizer(kind: str) -> Make:
    def rule(to: Translation, at: Place, config: Config, x: Value) -> Value:
        return to.activation(at.name, {"class_name": kind, "config": config.values}, x)

    return rule


ONLY_IN_TRAINING = (
    "ActivityRegularization",
    "GaussianDropout",
    "GaussianNoise",
    "RandomBrightness",
    "RandomContrast",
    "RandomFlip",
    "RandomRotation",
    "RandomTranslation",
    "RandomZoom",
)
LAYERS: dict[str, Rule] = {
    **dict.fromkeys(("Conv2D", "QuantConv2D"), Rule(_conv2d)),
    **dict.fromkeys(("DepthwiseConv2D", "QuantDepthwiseConv2D"), Rule(_depthwise_conv2d)),
    **dict.fromkeys(("SeparableConv2D", "QuantSeparableConv2D"), Rule(_separable_conv2d)),
    **dict.fromkeys(("Dense", "QuantDense"), Rule(_dense)),
    **dict.fromkeys(("BatchNormalization", "SyncBatchNormalization"), Rule(_batch_norm, trains=True)),
    "Rescaling": Rule(_rescaling),
    "PReLU": Rule(_prelu),
    "ReLU": Rule(_relu),
    "LeakyReLU": Rule(_leaky_relu),
    "Relu": Rule(_bare_relu),
    "Activation": Rule(_activation),
    "Softmax": Rule(_softmax),
    **{kind: Rule(_quantizer(kind)) for kind in ("SteSign", "ApproxSign", "SwishSign", "SteHeaviside", "SteTern")},
    "MaxPooling2D": Rule(_pool("max_pool2d")),
    "AveragePooling2D": Rule(_pool("avg_pool2d")),
    "GlobalAveragePooling2D": Rule(_global_pool("avg_pool2d")),
    "GlobalMaxPooling2D": Rule(_global_pool("max_pool2d")),
    "Flatten": Rule(_flatten),
    "Reshape": Rule(_reshape),
    "ZeroPadding2D": Rule(_zero_padding),
    "Dropout": Rule(_dropout, trains=True),
    "SpatialDropout2D": Rule(_spatial_dropout, trains=True),
    "Add": Rule(_add, several=True),
    "Concatenate": Rule(_concatenate, several=True),
    "TFOpLambda": Rule(_operation, several=True),
    "InputLayer": Rule(_nothing),
    **dict.fromkeys(ONLY_IN_TRAINING, Rule(_nothing, trains=True)),
}
