"""What the values of an ONNX graph are in terms of layers here.

A value is `a code(x) + b`: x is the result of a layer, the code a sign, a level of a few bits, or nothing, and a and b
are numbers, or one a channel. A layer is made of it only when something needs it as real numbers. So a sign that a
convolution with weights of one magnitude reads becomes part of a binary layer, whatever the file spells it with.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.interop.description import INPUT, Layer
from xnor_ref.interop.onnx_in.fold import Unsupported
from xnor_ref.kernels.basics.geometry import Pads, Window

Shape = tuple[int, ...]
Numbers = Any  # float64 array, one number () or one a channel (C,)
ONE, ZERO = np.ones(()), np.zeros(())
NCHW, ROWS = (0, 1, 2, 3), (0, 1)
SINGLE = -1  # an axis of one entry that no axis of the image stands behind
NO_PADS: Pads = ((0, 0), (0, 0))


@dataclass(frozen=True)
class Code:
    """What is made of x before a and b: `kind` "real" is x itself.

    clip : x clipped to [low, high]
    step : +1 where x >= at (a number a channel), else -1
    sign0 : 1, 0 or -1, the sign of x; `mode` is the node that says so
    even : the odd integer m of `bits` bits, as in kbit layers; ternary : -1, 0 or 1, as in those
    abs, mean : |x|, and its mean over the channels of each group; box : sums of means over windows; k : K of `mode`
    pixel : raw pixels
    """

    kind: str = "real"
    low: float = -1.0
    high: float = 1.0
    bits: int = 1
    groups: int = 1
    window: Window | None = None
    mode: str = ""

    @property
    def counts(self) -> bool:
        """Whether it takes few values, with which a and b multiply out exactly."""
        return self.kind in ("step", "sign0", "even", "ternary")

    @property
    def merges(self) -> bool:
        """Whether factors and sums are put together: where that rounds nothing, or a quantiser may follow."""
        return self.counts or self.kind in ("pixel", "clip")

    @property
    def top(self) -> int:
        """The largest of those values."""
        return 2**self.bits - 1 if self.kind == "even" else 1


REAL = Code()


@dataclass(frozen=True, eq=False)
class Value:
    """A value of the graph.

    Parameters
    ----------
    of : the layer that x comes from, or "input"
    shape : of x for one image, (C, H, W) or (I,)
    at : thresholds of a step, a number or (C,)
    axes : for each axis of the ONNX value, the axis of (N, C, H, W) or (N, I) behind it
    order : of flat values, the position in x of each position of the ONNX value; None where they are the same
    pads, border : padding that was added, and the number that stands in it
    split : into how many groups an axis of its own cuts the channels
    name : of the operation that made this of x, for the layer that it becomes
    shared : whether others read x, too, so that its layer must stay as it is
    after : operations that were left out after x, since only the order of the logits counts
    """

    of: str
    shape: Shape
    code: Code = REAL
    a: Numbers = field(default_factory=lambda: ONE)
    b: Numbers = field(default_factory=lambda: ZERO)
    at: Numbers = field(default_factory=lambda: ZERO)
    axes: tuple[int, ...] = NCHW
    order: NDArray[np.int64] | None = None
    pads: Pads = NO_PADS
    border: float = 0.0
    split: int = 0
    name: str = ""
    shared: bool = False
    after: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether nothing is done to x."""
        return self.code == REAL and self.unscaled

    @property
    def places(self) -> NDArray[np.int64]:
        """`order`, also where nothing is moved; of images that nothing moves."""
        return np.arange(self.shape[0] if len(self.shape) == 1 else 0) if self.order is None else self.order

    @property
    def unscaled(self) -> bool:
        """Whether a is 1 and b is 0."""
        return not self.b.any() and bool((self.a == 1).all())

    @property
    def padded(self) -> bool:
        """Whether padding was added."""
        return self.pads != NO_PADS

    def sizes(self, batch: int) -> tuple[int, ...]:
        """The shape of the ONNX value."""
        if self.split:
            return (batch, self.split, self.shape[0] // self.split, *self.shape[1:])
        sizes = (batch, *self.shape)
        return tuple(1 if axis == SINGLE else sizes[axis] for axis in self.axes)

    def now(self, **changes: Any) -> "Value":
        """The same but for some of it."""
        return replace(self, **changes)

    def outcomes(self, function: Any) -> "Value":
        """`function` of a value that takes two: again two values."""
        high, low = function(self.a + self.b), function(self.b - self.a)
        return self.now(a=np.asarray((high - low) / 2), b=np.asarray((high + low) / 2))


def same(x: Numbers, y: Numbers) -> bool:
    """Whether numbers, or one a channel, are the same."""
    return bool(np.all(x == y))


class Layers:
    """The layers in the making."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.inputs: dict[str, tuple[str, ...]] = {}
        self.settings: dict[str, dict[str, Any]] = {}
        self.arrays: dict[str, dict[str, NDArray]] = {}
        self.shapes: dict[str, Shape] = {}
        self.zeros: dict[str, list[str]] = {}  # signs whose sign of 0 is 0, by the chance that a 0 comes
        self.pixels: tuple[Numbers, Numbers] | None = (
            None  # raw pixels times the first plus the second, a number a channel
        )
        self._made: dict[tuple, str] = {}

    def add(
        self,
        name: str,
        kind: str,
        inputs: Sequence[str],
        shape: Shape,
        settings: dict[str, Any] | None = None,
        **arrays: NDArray | None,
    ) -> str:
        """Append a layer whose result has this shape; its name. An equal layer without weights is used again."""
        settings = settings or {}
        given = {key: array for key, array in arrays.items() if array is not None}
        digest = tuple((k, v.shape, v.tobytes()) for k, v in sorted(given.items())) if kind not in _LEARNED else None
        key = (kind, tuple(inputs), repr(sorted(settings.items())), digest)
        if digest is not None and key in self._made:
            return self._made[key]
        found, count = name, 2
        while found in self.kinds or found == INPUT:
            found, count = f"{name}_{count}", count + 1
        self.kinds[found], self.inputs[found], self.shapes[found] = kind, tuple(inputs), shape
        self.settings[found], self.arrays[found] = settings, given
        self._made[key] = found
        return found

    def needed(self, last: str) -> tuple[Layer, ...]:
        """The layers that `last` depends on, in order."""
        wanted, left = set(), [last]
        while left:
            name = left.pop()
            if name != INPUT and name not in wanted:
                wanted.add(name)
                left += self.inputs[name]
        names = [name for name in self.kinds if name in wanted]
        return tuple(Layer(n, self.kinds[n], self.inputs[n], self.settings[n], self.arrays[n]) for n in names)

    # From values to layers

    def real(self, value: Value, name: str) -> str:
        """The layer that gives a value as real numbers."""
        if value.padded:
            raise Unsupported("padding that no convolution reads")
        if value.split:
            raise Unsupported("channels in groups, of which only K of an XNOR-Net is made")
        code, name = value.code, value.name or name
        if code.kind == "clip":
            value = self._clipped(value, name)
        elif code.kind == "step":
            value = value.now(of=self.add(name, "sign", [self.compared(value, f"{name}.at")], value.shape), code=REAL)
        elif code.kind == "sign0":
            value = self.exact_sign(value, name)
            return self.real(value, name)
        elif code.kind in ("even", "ternary"):
            value = value.now(of=self._quantised(value, name), code=REAL)
        elif code.kind == "pixel":
            scale = np.broadcast_to(value.a, value.shape[:1]), np.broadcast_to(value.b, value.shape[:1])
            if self.pixels is not None and not (same(scale[0], self.pixels[0]) and same(scale[1], self.pixels[1])):
                raise Unsupported("pixels that are normalised in two ways")
            self.pixels = scale
            return value.of
        elif code.kind != "real":
            raise Unsupported("the mean of absolute values is read as K of an XNOR-Net alone")
        return self.affine(value.of, value.shape, value.a, value.b, name)

    def affine(self, of: str, shape: Shape, a: Numbers, b: Numbers, name: str) -> str:
        """x*a + b of a layer, with both rounded to float32."""
        scale, shift = (np.broadcast_to(v, shape[:1]).astype(np.float32) for v in (a, b))
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            raise Unsupported("its numbers are not finite")
        if (scale == 1).all() and not shift.any():
            return of
        if (scale == 1).all():
            return self.add(name, "shift", [of], shape, shift=shift)
        if not shift.any():
            return self.add(name, "scale", [of], shape, channel=scale)
        return self.add(name, "affine", [of], shape, scale=scale, shift=shift)

    def compared(self, value: Value, name: str) -> str:
        """The layer whose results are at least 0 where the x of a step reaches its threshold."""
        at = np.broadcast_to(value.at, value.shape[:1]).astype(np.float64)
        always, never = at == -np.inf, at == np.inf
        scale = np.where(always | never, 0.0, 1.0)
        shift = np.where(always, 1.0, np.where(never, -1.0, -np.where(always | never, 0, at)))
        kind = self.kinds.get(value.of)
        if not at.any() or kind not in ("scale", "affine"):
            return self.affine(value.of, value.shape, scale, shift, name)
        # x*a >= t of a layer that scales alone: one affine layer, with the same two roundings.
        arrays = self.arrays[value.of]
        if kind == "scale" and arrays.keys() == {"channel"}:
            (source,) = self.inputs[value.of]
            return self.affine(source, value.shape, scale * arrays["channel"], shift, name)
        return self.affine(value.of, value.shape, scale, shift, name)

    def exact_sign(self, value: Value, name: str) -> Value:
        """ONNX's Sign, whose sign of 0 is 0: binary where no 0 comes by itself, else of three levels."""
        chance = zero_comes(self, value.of)
        self.zeros.setdefault(chance, []).append(value.code.mode)
        if chance != "likely":
            return value.now(code=Code("step"), at=ZERO)
        raised = self.affine(value.of, value.shape, np.float64(2.0**64), ZERO, f"{name}.zero")
        return value.now(of=raised, code=Code("ternary", bits=2))

    def notes(self) -> list[str]:
        """What is to be said of signs of 0."""
        said = {
            "likely": "values of exactly 0 have the sign 0, so inputs have three levels",
            "unlikely": "the sign of a value that is exactly 0 is +1 here, and 0 in the file",
        }
        found = []
        for chance, text in said.items():
            names = list(dict.fromkeys(self.zeros.get(chance, ())))
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                found.append(f"{', '.join(names[:3])}{more}: {text}")
        return found

    def _clipped(self, value: Value, name: str) -> Value:
        """max and min with constants, in terms of ReLU and hardtanh."""
        low, high, of, shape = value.code.low, value.code.high, value.of, value.shape
        if math.isinf(low) and math.isinf(high):
            return value.now(code=REAL)
        if math.isinf(high):
            moved = self.affine(of, shape, ONE, np.float64(-low), f"{name}.low")
            bare = self.add(name, "relu", [moved], shape)
            return value.now(of=self.affine(bare, shape, ONE, np.float64(low), f"{name}.up"), code=REAL)
        if math.isinf(low):
            moved = self.affine(of, shape, -ONE, np.float64(high), f"{name}.high")
            bare = self.add(name, "relu", [moved], shape)
            return value.now(of=self.affine(bare, shape, -ONE, np.float64(high), f"{name}.down"), code=REAL)
        half, middle = np.float64((high - low) / 2), np.float64((high + low) / 2)
        inner = self.affine(of, shape, 1 / half, -middle / half, f"{name}.in")
        bare = self.add(name, "hardtanh", [inner], shape)
        return value.now(of=self.affine(bare, shape, half, middle, f"{name}.out"), code=REAL)

    def _quantised(self, value: Value, name: str) -> str:
        """The integers of a code as a layer's result: of a depthwise layer of k bits on images, else a sum of signs."""
        code, shape = value.code, value.shape
        if code.kind == "even" and len(shape) == 3:
            weight = np.full((shape[0], 1, 1, 1), code.top, np.float32)
            settings = {"groups": shape[0], "input_bits": code.bits, "input_scale": "off"}
            return self.add(f"{name}.levels", "kbit_conv2d", [value.of], shape, settings, weight=weight)
        if code.bits > 4:
            raise Unsupported(f"flat values of {code.bits} bits that a layer of real weights reads")
        if code.kind == "ternary":
            limits = np.array([-0.5, np.nextafter(np.float32(0.5), np.float32(1))], np.float64)
        else:
            limits = np.arange(1 - 2 ** (code.bits - 1), 2 ** (code.bits - 1)) * 2.0 / code.top
        steps = [value.now(code=Code("step"), at=np.float64(at), a=ONE, b=ZERO) for at in limits]
        total = self.add(f"{name}.levels", "add", [self.real(step, name) for step in steps], shape)
        return total if code.kind == "even" else self.affine(total, shape, np.float64(0.5), ZERO, name)

    def grid(self, x: Value, g: Numbers, h: Numbers, low: int, high: int, name: str, towards: str = "nearest") -> Value:
        """q = g x + h rounded `towards` "nearest" (halves upwards), "down" or "up", in [low, high]; x is real."""
        if towards == "up":
            q = self.grid(x, -g, -h, -high, -low, name, "down")
            return q.now(a=-q.a, b=-q.b)
        count, middle = high - low + 1, (low + high) / 2
        a, b = g * x.a, g * x.b + h - (0.5 if towards == "down" else 0)
        if count < 2:
            raise Unsupported(f"a quantiser of {count} levels")
        if count == 2:
            of = self.affine(x.of, x.shape, a, b - middle, name)
            return x.now(of=of, code=Code("step"), at=ZERO, a=np.float64(0.5), b=np.float64(middle))
        if count == 3:
            of = self.affine(x.of, x.shape, a, b - middle, name)
            return x.now(of=of, code=Code("ternary", bits=2), a=ONE, b=np.float64(middle))
        bits = count.bit_length() - 1
        if count == 2**bits and bits <= 8:
            step = 2 / (count - 1)
            of = self.affine(x.of, x.shape, a * step, (b - middle) * step, name)
            return x.now(of=of, code=Code("even", bits=bits), a=np.float64(0.5), b=np.float64(middle))
        if count == 2 ** (bits + 1) - 1 and bits < 8:  # one more level, which ReLU keeps away
            moved = self.affine(x.of, x.shape, a, b - low, f"{name}.narrow")
            bare = self.add(f"{name}.narrow", "relu", [moved], x.shape)
            q = self.grid(x.now(of=bare, code=REAL, a=ONE, b=ZERO), ONE, ZERO, -1, high - low, name)
            return q.now(b=q.b + low)
        raise Unsupported(f"a quantiser of {count} levels; 2, 4, 8, ... 256 can be imported, and one fewer")


_LEARNED = {"conv2d", "linear", "binary_conv2d", "binary_linear", "binary_weight_conv2d", "binary_weight_linear"}
_THROUGH = {"prelu", "hardtanh", "max_pool2d", "avg_pool2d", "global_avg_pool2d", "flatten", "scale", "dropout"}


def zero_comes(layers: Layers, name: str) -> str:
    """Whether a layer's results are exactly 0: "never", "unlikely" (by a coincidence of rounding), or "likely"."""
    while name != INPUT and layers.kinds[name] in _THROUGH:
        (name,) = layers.inputs[name]
    kind = "input" if name == INPUT else layers.kinds[name]
    if kind in ("input", "relu", "sign"):
        return "never" if kind == "sign" else "likely"
    if kind in ("binary_conv2d", "binary_linear"):
        return "likely" if 0 in _integers(layers, name) else "never"
    if kind in ("affine", "shift", "batch_norm"):
        (source,) = layers.inputs[name]
        scale, shift = _affine_of(kind, layers.arrays[name], layers.settings[name])
        if source != INPUT and layers.kinds[source] in ("binary_conv2d", "binary_linear"):
            with np.errstate(all="ignore"):
                z = _integers(layers, source)[:, None].astype(np.float32) * _alpha_of(layers, source)
                return "likely" if (z * scale + shift == 0).any() else "never"
        return "unlikely" if shift.all() else max("unlikely", zero_comes(layers, source), key=_CHANCES.index)
    if kind in ("add", "concat"):
        chances = [zero_comes(layers, source) for source in layers.inputs[name]]
        if kind == "add":
            return (
                "likely"
                if all(chance == "likely" or c for chance, c in zip(chances, _whole(layers, name)))
                else "unlikely"
            )
        return max(chances, key=_CHANCES.index)
    return "unlikely"


_CHANCES = ("never", "unlikely", "likely")


def _whole(layers: Layers, name: str) -> list[bool]:
    """Of a sum, which terms are whole numbers."""
    return [source != INPUT and layers.kinds[source] in ("sign", "binary_conv2d", "binary_linear")
            for source in layers.inputs[name]]  # fmt: skip


def _integers(layers: Layers, name: str) -> NDArray[np.int64]:
    """The integers that a binary layer's sums can be."""
    weight, settings = layers.arrays[name]["weight"], layers.settings[name]
    n = weight[0].size
    bare = settings.get("pad_value", 0) == 0 and settings.get("padding", NO_PADS) not in (NO_PADS, 0)
    return np.arange(-n, n + 1, 1 if bare else 2)


def _alpha_of(layers: Layers, name: str) -> NDArray[np.float32]:
    weight = layers.arrays[name]["weight"]
    return np.abs(weight).reshape(len(weight), -1).max(axis=1)


def _affine_of(kind: str, arrays: dict[str, NDArray], settings: dict[str, Any]) -> tuple[NDArray, NDArray]:
    if kind == "batch_norm":
        scale = arrays["weight"] / np.sqrt(arrays["running_var"].astype(np.float64) + settings["eps"])
        return scale.astype(np.float32), (arrays["bias"] - arrays["running_mean"] * scale).astype(np.float32)
    shift = arrays["shift"]
    return arrays.get("scale", np.ones_like(shift)), shift
