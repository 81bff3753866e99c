"""From a Keras model's layers to those of a description: results, their shapes, and what each layer may ask for."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError, ModelFileError
from xnor_ref.interop.description import INPUT, Layer, Reasons
from xnor_ref.interop.keras.config import MAX_DEPTH, Call, Config, is_model, parsed
from xnor_ref.interop.keras.files import Place, Weights
from xnor_ref.interop.keras.quantizers import Quantizer, named, quantizer
from xnor_ref.kernels.basics.geometry import NO_PADDING, Pads, Window

Shape = tuple[int, ...]
MAX_VALUES = 2**28  # of one image, anywhere in the network
ACTIVATIONS = {"relu": "relu", "hard_tanh": "hardtanh"}


class Unknown(Exception):
    """A layer reads one that was rejected."""


@dataclass(frozen=True)
class Value:
    """A result of a layer of the description, and how Keras sees it.

    Parameters
    ----------
    name : of the layer
    shape : (C, H, W) or (I,); None where a layer before it was rejected
    parts : of a flat result, the images that Keras flattened, one after the other; () where the order is the same
    pads : zeros that Keras has put around it and the layer has not
    signs : whether all values are +1 or -1
    ended : whether a softmax was left out
    """

    name: str
    shape: Shape | None
    parts: tuple[Shape, ...] = ()
    pads: Pads = NO_PADDING
    signs: bool = False
    ended: bool = False

    @property
    def known(self) -> Shape:
        """Its shape. Raises Unknown where a layer before it was rejected."""
        if self.shape is None:
            raise Unknown
        return self.shape

    @property
    def image(self) -> Shape:
        """The shape of an image, without the zeros around it. Raises InputError for what is flat."""
        if len(self.known) != 3:
            raise InputError(f"needs an image (H, W, C), gets {self.shape}")
        return self.known

    @property
    def size(self) -> tuple[int, int]:
        """(H, W), with the zeros around it."""
        return Window(kernel=(1, 1), padding=self.pads).padded((self.image[1], self.image[2]))

    def ordered(self, array: NDArray) -> NDArray:
        """Values for the flat features of Keras, along the last axis, in the order that they have here."""
        if not self.parts:
            return array
        ours = np.empty_like(array)
        ours[..., _order(self.parts)] = array
        return ours


def _order(parts: Iterable[Shape]) -> NDArray[np.intp]:
    """For each flat value of Keras, where it is here."""
    orders, start = [], 0
    for part in parts:
        size = math.prod(part)
        orders.append(np.arange(start, start + size).reshape(part).transpose(1, 2, 0).ravel())
        start += size
    return np.concatenate(orders)


@dataclass(frozen=True)
class Rule:
    """What a layer of Keras becomes.

    Parameters
    ----------
    make : from the translation, the layer's place and configuration, and the result that it reads, to its own
    several : whether it reads any number of results, as a list
    trains : whether it does something else in training
    """

    make: Callable[["Translation", Place, Config, Any], "Value"]
    several: bool = False
    trains: bool = False


@dataclass
class Translation:
    """The layers of a description in the making, by the rules of each class of layers."""

    weights: Weights
    rules: Mapping[str, Rule]
    layers: list[Layer] = field(default_factory=list)
    reasons: Reasons = field(default_factory=list)
    _names: set[str] = field(default_factory=lambda: {INPUT})

    def model(self, config: Any, inputs: list[Value], place: Place) -> Value:
        """The result of a model, by itself or within another."""
        if len(place.names) > MAX_DEPTH:
            raise InputError(f"models in models, more than {MAX_DEPTH} deep")
        model = parsed(config)
        values = {(model.inputs[0], 0): inputs[0]}
        for call in model.calls:
            at = Place((*place.names, call.name), (*place.keys, model.keys[call.name]), place.calls * call.calls)
            values[call.name, call.index] = self.call(call, [values[read] for read in call.reads], at)
        return values[model.output]

    def call(self, call: Call, inputs: list[Value], at: Place) -> Value:
        """The result of a layer; where it cannot be imported, that is noted, and nothing is known of the result."""
        try:
            if is_model(call.config.values):
                if len(inputs) != 1:
                    raise InputError(f"reads {len(inputs)} results; one is needed")
                return self.model(call.config.values, inputs, at)
            rule = self.rules.get(call.kind)
            if rule is None:
                code = call.kind == "Lambda"
                raise InputError(
                    "holds Python code, which is never run" if code else "there is no equivalent layer here"
                )
            if call.trains and rule.trains:
                raise InputError("is called with training=True")
            if any(value.ended for value in inputs):
                raise InputError("reads a softmax, which is understood at the end only")
            if not rule.several and len(inputs) != 1:
                raise InputError(f"reads {len(inputs)} results; one is needed")
            return rule.make(self, at, call.config, inputs if rule.several else inputs[0])
        except (InputError, ModelFileError) as error:
            self.reasons.append((f"layer {at.name[:100]!r} ({call.kind[:60]})", str(error)))
        except Unknown:
            pass
        return Value("", None)

    def add(
        self,
        name: str,
        kind: str,
        inputs: Value | list[Value],
        shape: Shape,
        settings: dict[str, Any] | None = None,
        arrays: dict[str, NDArray | None] | None = None,
        **seen: Any,
    ) -> Value:
        """Add a layer, under this name or the next that is free, and give its result."""
        if math.prod(shape) > MAX_VALUES:
            raise InputError(f"would make {shape} of one image, more than {MAX_VALUES} values")
        free, count = name, 2
        while free in self._names:
            free, count = f"{name}_{count}", count + 1
        self._names.add(free)
        sources = tuple(value.name for value in (inputs if isinstance(inputs, list) else [inputs]))
        kept = {key: array for key, array in (arrays or {}).items() if array is not None}
        self.layers.append(Layer(free, kind, sources, settings or {}, kept))
        return Value(free, shape, **seen)

    def plain(self, x: Value) -> Value:
        """A result with its zeros around it."""
        if x.known and x.pads == NO_PADDING:
            return x
        channels = x.image[0]
        ones = np.ones((channels, 1, 1, 1), np.float32)
        settings = {"padding": x.pads, "groups": channels}
        return self.add(f"{x.name}_padded", "conv2d", x, (channels, *x.size), settings, {"weight": ones})

    def arrays(self, at: Place, *shapes: Shape | None) -> list[Any]:
        """The weights of a layer; None for those that it has not."""
        if at.calls > 1:
            raise InputError(f"is used {at.calls} times; weights that several places share cannot be imported")
        found = iter(self.weights.of(at, [shape for shape in shapes if shape is not None]))
        return [None if shape is None else next(found) for shape in shapes]

    def product(
        self, name: str, x: Value, weight: NDArray, bias: Any, ways: "Ways", settings: dict[str, Any], shape: Shape
    ) -> Value:
        """A convolution, or with a weight (O, I) a linear layer; real or binary on either side.

        `settings` are those of the window; zeros around x may be part of its padding.
        """
        suffix = "conv2d" if weight.ndim == 4 else "linear"
        arrays = {"weight": weight, "bias": bias}
        if ways.weight is None:
            if ways.input is not None:
                x = self.sign(f"{name}_sign", self.plain(x), ways.input)
            return self.add(name, suffix, x, shape, settings, arrays)
        if ways.weight.clipped:
            arrays["weight"] = np.clip(weight, -1, 1)
        told = {"weight_scale": ways.scale, "grad_mode": ways.weight.grad_mode, "clamp": ways.clamp, **settings}
        if ways.input is None and not x.signs:
            return self.add(name, f"binary_weight_{suffix}", x, shape, told, arrays)
        told |= {"input_scale": "off", "sign_gradient": "ste" if ways.input is None else ways.input.gradient}
        if suffix == "conv2d":
            told["pad_value"] = ways.pad_value
        return self.add(name, f"binary_{suffix}", x, shape, told, arrays)

    def sign(self, name: str, x: Value, rounding: Quantizer) -> Value:
        """The signs of a result."""
        return self.add(name, "sign", x, x.known, {"gradient": rounding.gradient}, parts=x.parts, signs=True)

    def convolution(
        self, name: str, x: Value, weight: NDArray, bias: Any, ways: "Ways", settings: dict[str, Any]
    ) -> Value:
        """A convolution with a weight (O, C/groups, KH, KW), by `settings` of its window and groups."""
        counts = windows(x, weight.shape[2:], settings)
        fits = settings["padding"] != "same" and not (ways.input is not None and ways.weight is None)
        if x.pads != NO_PADDING and not fits:
            x = self.plain(x)
        if x.pads != NO_PADDING:
            settings = {**settings, "padding": x.pads}
            ways = replace(ways, pad_value=int(ways.input is not None))  # sign(0) = +1
        return self.product(name, x, weight, bias, ways, settings, (len(weight), *counts))

    def activation(self, name: str, value: Any, x: Value) -> Value:
        """The result of an activation as it stands in a configuration."""
        kind, _ = named(value)
        if value is None or kind == "linear":
            return x
        x = self.plain(x)
        if kind == "softmax":
            return replace(x, ended=True)
        if kind in ACTIVATIONS:
            return self.add(name, ACTIVATIONS[kind], x, x.known, parts=x.parts)
        try:
            rounding = quantizer(value)
        except InputError as error:
            known = ", ".join((*ACTIVATIONS, "softmax"))
            reason = str(error) if "not signs" in str(error) else f"the activation {kind!r:.60} is not one of {known}"
            raise InputError(reason) from None
        if rounding is not None and rounding.scaled:
            raise InputError(f"the scale of {kind} depends on the whole batch")
        return x if rounding is None else self.sign(name, x, rounding)


@dataclass(frozen=True)
class Ways:
    """How a layer rounds what it reads and its weights, None for not at all; what stands beyond the border.

    `scale` is the weight scale of signs, and `clamp` keeps latent weights in [-1, 1].
    """

    input: Quantizer | None = None
    weight: Quantizer | None = None
    pad_value: int = 0
    scale: str = "off"
    clamp: bool = False

    @classmethod
    def of(cls, config: Config, weight: str = "kernel", scale: str = "alpha") -> "Ways":
        """From larq's configuration of a layer, for its weights of this name."""
        of_input, of_weight = (quantizer(config.get(f"{key}_quantizer")) for key in ("input", weight))
        if of_input is not None and of_input.scaled:
            raise InputError("the scale of a magnitude-aware input_quantizer depends on the whole batch")
        pad = 0.0 if config.get("padding") != "same" else config.number("pad_values", 0.0)
        if pad not in (-1, 0, 1):
            raise InputError(f"its pad_values is {pad}; 0, 1 and -1 can be imported")
        if pad and of_weight is None:
            raise InputError(f"its pad_values is {pad} and its weights are real; only zeros can be imported")
        kind, settings = named(config.get(f"{weight}_constraint"))
        clamp = kind == "weight_clip" and settings.get("clip_value", 1) == 1
        scaled = of_weight is not None and of_weight.scaled
        return cls(of_input, of_weight, int(pad), scale if scaled else "off", clamp)


def windows(x: Value, kernel: Sequence[int], settings: Mapping[str, Any]) -> tuple[int, int]:
    """(OH, OW): how many windows slide over an image with the zeros around it; `settings` are those of the window."""
    dilation = settings.get("dilation", 1)
    window = Window.of((kernel[0], kernel[1]), settings["stride"], settings["padding"], dilation, x.size)
    if min(window.count(x.size)) < 1:
        raise InputError(f"its kernel {tuple(kernel)} is larger than the image {x.size}")
    return window.count(x.size)
