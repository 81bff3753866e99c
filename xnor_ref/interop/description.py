"""A network as plain data. Every import makes a description, and `build` makes a network of `nn` from it.

A layer has a name, a kind, the names of its inputs, settings, and arrays. `KINDS` declares the kinds and their
settings: kinds are the layers of `nn` in snake case, and settings are the keywords of those layers.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError, check_integer
from xnor_ref.nn.graph import INPUT as INPUT
from xnor_ref.nn.layers.binary_layers import BinaryLayer
from xnor_ref.nn.layers.binary_weight_layers import BinaryWeightConv2d
from xnor_ref.nn.layers.kbit_layers import KBitLayer

Reasons = list[tuple[str, str]]  # (layer, why it cannot be imported)
MAX_LAYERS = 10_000  # as in a model file
MAX_VALUES = 2**31  # most values of an array
_SHOWN = 20


@dataclass(frozen=True)
class Kind:
    """The arrays and settings of a kind of layer.

    Parameters
    ----------
    arrays : the number of axes of each required array
    optional : the same for each optional array
    settings : the names of all settings, as in the layer of `nn`
    required : the names of the required settings
    several : whether it reads two inputs or more, instead of one
    """

    arrays: Mapping[str, int] = field(default_factory=dict)
    optional: Mapping[str, int] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    several: bool = False


_WINDOW = ("stride", "padding", "dilation", "groups")
_POOL = ("stride", "padding", "ceil_mode")
_CONV, _LINEAR, _BIAS = {"weight": 4}, {"weight": 2}, {"bias": 1}

KINDS: dict[str, Kind] = {
    "conv2d": Kind(_CONV, _BIAS, _WINDOW),
    "linear": Kind(_LINEAR, _BIAS),
    "binary_conv2d": Kind(_CONV, _BIAS, (*_WINDOW, "pad_value", *BinaryLayer.takes)),
    "binary_linear": Kind(_LINEAR, _BIAS, BinaryLayer.takes),
    "binary_weight_conv2d": Kind(_CONV, _BIAS, (*_WINDOW, *BinaryWeightConv2d.takes)),
    "binary_weight_linear": Kind(_LINEAR, _BIAS, BinaryWeightConv2d.takes),
    "kbit_conv2d": Kind(_CONV, _BIAS, (*_WINDOW, "pad_value", *KBitLayer.takes)),
    "kbit_linear": Kind(_LINEAR, _BIAS, KBitLayer.takes),
    "batch_norm": Kind({"running_mean": 1, "running_var": 1}, {"weight": 1, "bias": 1}, ("eps", "momentum")),
    "affine": Kind({"scale": 1, "shift": 1}),  # constants
    "shift": Kind({"shift": 1}),
    "scale": Kind({}, {"channel": 1, "row": 1, "column": 1, "plane": 2, "map": 3}),
    "relu": Kind(),
    "prelu": Kind({"weight": 1}, settings=("learned",)),
    "hardtanh": Kind(),
    "sign": Kind(settings=("gradient",)),
    "max_pool2d": Kind(settings=("kernel_size", *_POOL), required=("kernel_size",)),
    "avg_pool2d": Kind(settings=("kernel_size", *_POOL, "count_include_pad"), required=("kernel_size",)),
    "global_avg_pool2d": Kind(),
    "identity_shortcut": Kind(settings=("out_channels", "stride"), required=("out_channels",)),
    "flatten": Kind(),
    "dropout": Kind(settings=("probability", "whole_channels")),
    "add": Kind(several=True),
    "concat": Kind(several=True),
}


@dataclass(frozen=True)
class Layer:
    """A layer. `inputs` name earlier layers, or "input", the normalised image.

    Raises
    ------
    InputError
        The kind is unknown or does not take what is given. The message names the layer.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kind = KINDS.get(self.kind)
        if kind is None:
            self.refuse(f"unknown kind; it must be one of {', '.join(KINDS)}")
        object.__setattr__(self, "inputs", tuple(self.inputs))
        if (len(self.inputs) < 2) if kind.several else (len(self.inputs) != 1):
            self.refuse(f"has {len(self.inputs)} inputs, but needs {'two or more' if kind.several else 'one'}")
        unknown = sorted(self.settings.keys() - set(kind.settings))
        if unknown:
            self.refuse(f"does not take {', '.join(unknown)}; it takes {', '.join(kind.settings) or 'nothing'}")
        known = {**kind.arrays, **kind.optional}
        missing = [f"the {what} {key!r}" for what, keys, have in
                   (("array", kind.arrays, self.arrays), ("setting", kind.required, self.settings))
                   for key in keys if key not in have]  # fmt: skip
        if missing:
            self.refuse(f"needs {', '.join(missing)}")
        for key, array in self.arrays.items():
            if key not in known:
                self.refuse(f"has no array {key!r}; its arrays are {', '.join(known) or 'none'}")
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
                self.refuse(f"{key} must be an array of numbers, got {getattr(array, 'dtype', type(array).__name__)}")
            if array.ndim != known[key] or not 0 < array.size <= MAX_VALUES:
                self.refuse(f"{key} must have {known[key]} axes and not be empty, got shape {array.shape}")
        object.__setattr__(self, "arrays", {key: self._single(key, array) for key, array in self.arrays.items()})

    def _single(self, key: str, array: NDArray) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            single = np.ascontiguousarray(array, np.float32)
        if not np.isfinite(single).all():
            self.refuse(f"{key} holds NaN, infinity, or a value too large for float32")
        return single

    def refuse(self, reason: str) -> NoReturn:
        """Raise InputError with the layer's name."""
        raise InputError(f"layer {self.name!r} ({self.kind}): {reason}")


@dataclass(frozen=True)
class Description:
    """A whole network.

    Parameters
    ----------
    layers : each after its inputs; the output of the last one is the logits
    input_shape : shape (C, H, W) of an image
    mean, std : number, or one number per channel; mean and standard deviation of pixel/255 that normalise raw pixels
    classes : names in label order; by default "0", "1", and so on
    source : origin of the network, for messages
    """

    layers: tuple[Layer, ...]
    input_shape: tuple[int, int, int]
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    classes: Sequence[str] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        shape = tuple(self.input_shape) if isinstance(self.input_shape, Iterable) else ()
        if len(shape) != 3:
            raise InputError(f"input_shape must be (C, H, W), got {self.input_shape!r}")
        object.__setattr__(self, "input_shape", tuple(check_integer("input_shape", size, 1, 2**20) for size in shape))
        names = self.classes
        if names is not None and (isinstance(names, str) or not isinstance(names, Sequence)):
            raise InputError(f"classes must be names in label order, got {names!r}")
        if not 1 <= len(self.layers) <= MAX_LAYERS:
            raise InputError(f"a network must have 1 to {MAX_LAYERS} layers, got {len(self.layers)}")
        seen = {INPUT}
        for layer in self.layers:
            if layer.name in seen:
                layer.refuse("its name is used twice")
            for source in layer.inputs:
                if source not in seen:
                    layer.refuse(f"reads {source!r}, which is not a layer before it")
            seen.add(layer.name)

    def table(self) -> list[tuple[str, str, str]]:
        """Return (name, kind, settings and arrays) of each layer as text."""
        return [(layer.name, layer.kind, _said(layer)) for layer in self.layers]


def _said(layer: Layer) -> str:
    arrays = (f"{key} {'x'.join(map(str, array.shape))}" for key, array in layer.arrays.items())
    settings = (f"{key}={getattr(value, 'name', value)}" for key, value in layer.settings.items())
    return ", ".join((*arrays, *settings))


def refuse_all(source: str, reasons: Iterable[tuple[str, str]]) -> None:
    """Raise one InputError that names each layer that cannot be imported, with the reason.

    Without reasons, do nothing.
    """
    lines = [f"{name}: {reason}" for name, reason in reasons]
    if lines:
        more = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        count = f"{len(lines)} layer{'s' * (len(lines) > 1)} cannot be converted"
        raise InputError("\n  ".join([f"{source}: {count}", *lines[:_SHOWN], *more]))


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Map names to different names that a model file can hold: letters, digits, `_`, `.` and `-`.

    >>> plain_names(["conv/1:0", "conv_1_0", "a.b"])
    {'conv/1:0': 'conv_1_0', 'conv_1_0': 'conv_1_0_2', 'a.b': 'a.b'}
    """
    plain: dict[str, str] = {}
    used = {INPUT}
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9_.\-]", "_", name)[:180].lstrip(".-") or "layer"
        found, count = stem, 2
        while found in used:
            found, count = f"{stem}_{count}", count + 1
        plain[name] = found
        used.add(found)
    return plain
