"""The operations of a packed network in ONNX: what each node of docs/model-format.md becomes.

`Writer` uses standard operators only, `QonnxWriter` the nodes of QONNX for signs, levels and quantised weights. A value
has the name of its layer and, after a slash, what `PackedNetwork.trace` calls it: signs, levels, K, Z, output.

Signs come from comparisons. Sums of signs are whole numbers, which float32 holds up to 2**24. They are rounded to whole
numbers all the same: otherwise runtimes multiply alpha into the weights, sums that are 0 become 1e-9 or -1e-9, and the
next layer's signs are others.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.interop.onnx_out_graph import FLOAT, INT32, OPSET, QONNX_DOMAIN, QONNX_OPSET, Graph
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.modes import KMode
from xnor_ref.packed import contents
from xnor_ref.packed.file import ExaminedNode

Shape = tuple[int, ...]


class Layer:
    """One node of a packed network on its way into a graph: what is appended gets the node's name in front."""

    def __init__(self, graph: Graph, node: ExaminedNode, inputs: Sequence[Shape]) -> None:
        self.graph, self.node, self.shape = graph, node, inputs[0]
        self.attributes, self.tensors = node.attributes, node.tensors

    def add(self, op: str, *inputs: Any, name: str = "", **how: Any) -> str:
        """Append an operation; arrays and numbers among its inputs become constants. None is left out."""
        name = self.graph.free(f"{self.node.name}/{name or op}")
        given = [value for value in inputs if value is not None]
        names = [
            value if isinstance(value, str) else self.graph.constant(f"{name}/{place}", value)
            for place, value in enumerate(given)
        ]
        return self.graph.node(op, *names, name=name, **how)

    def constant(self, name: str, values: Any) -> str:
        """A constant that carries the layer's name."""
        return self.graph.constant(f"{self.node.name}/{name}", values)

    def tensor(self, key: str) -> str | None:
        """A tensor of the node as a constant; None where it has no such tensor."""
        return self.constant(key, self.tensors[key]) if key in self.tensors else None

    def per_channel(self, key: str, values: NDArray | None = None) -> str:
        """A tensor (C,), or values in its place, as a constant (C, 1, 1) beside images."""
        array = self.tensors[key] if values is None else values
        return self.constant(key, array.reshape(-1, *(1,) * (len(self.shape) - 1)))

    @property
    def groups(self) -> int:
        """Into how many the channels are cut."""
        return self.attributes.get("groups", 1)

    @property
    def window(self) -> Window:
        """What slides over its input."""
        said = self.attributes
        kernel = said.get("kernel_size") or said.get("kernel") or self.tensors["weight"].shape[2:]
        apart = said.get("dilation", (1, 1))
        return Window.of(tuple(kernel), tuple(said["stride"]), said["padding"], tuple(apart))


def _pads(window: Window) -> list[int]:
    (top, bottom), (left, right) = window.padding
    return [top, left, bottom, right]


class Writer:
    """Layers in standard operators.

    Parameters
    ----------
    unpacked : bool
        Binary weights as float32 numbers, instead of bits that the graph unpacks.
    """

    opset = OPSET

    def __init__(self, unpacked: bool = False) -> None:
        self.unpacked = unpacked

    def write(self, layer: Layer, *inputs: str) -> str:
        """Append a layer; the name of its result."""
        last = OPS[layer.node.op](self, layer, *inputs)
        assert last == layer.graph.nodes[-1].output[0]
        return layer.graph.rename_last(f"{layer.node.name}/output")

    # What a dialect may say in its own way

    def affine(self, layer: Layer, x: str) -> str:
        """x*scale + shift; two nodes, so that each rounds."""
        return layer.add("Add", layer.add("Mul", x, layer.per_channel("scale")), layer.per_channel("shift"))

    def linear(self, layer: Layer, x: str, weight: str | None = None) -> str:
        """Product with a matrix (O, I): these binary weights, or the layer's real ones."""
        return layer.add("Gemm", x, weight or layer.tensor("weight"), layer.tensor("bias"), transB=1)

    def weights(self, layer: Layer) -> str:
        """Binary weights, or odd integers of a few bits, float32 (O, C, KH, KW) or (O, I)."""
        values = contents.weights(layer.node)
        if self.unpacked:
            return layer.constant("weight", values.astype(np.float32))
        planes = layer.attributes.get("weight_bits", 1)
        levels = ((values.ravel().astype(np.int16) + 2**planes - 1) // 2).astype(np.uint8)  # 0 to 2**planes - 1
        bits = np.packbits(levels >> np.arange(planes, dtype=np.uint8)[:, None] & 1, axis=1, bitorder="little")
        rows = layer.add("BitShift", layer.constant("bits", bits[..., None]), _EIGHT, direction="RIGHT")
        rows = layer.add("Mod", rows, np.array([2], np.uint8))  # (planes, bytes, 8)
        if planes > 1 or values.size % 8:
            rows = layer.add("Reshape", rows, [planes, -1])
        if values.size % 8:
            rows = layer.add("Slice", rows, [0], [values.size], [1])
        worth = np.exp2(np.arange(1, planes + 1, dtype=np.float32)).reshape(-1, *(1,) * (planes > 1))
        doubled = layer.add("Mul", layer.add("Cast", rows, to=FLOAT), worth)
        if planes > 1:
            doubled = layer.add("ReduceSum", doubled, axes=[0], keepdims=1)
        return layer.add("Reshape", layer.add("Sub", doubled, 2.0**planes - 1), values.shape, name="weight")

    def _limited(self, layer: Layer, x: str) -> tuple[str, NDArray[np.float32] | None]:
        """Values, and the limit of each channel: signs are +1 where a value reaches it. None stands for 0."""
        if "threshold" not in layer.tensors:
            return x, None
        limit, flip = layer.tensors["threshold"], layer.tensors["flip"] == 1
        if flip.any():
            direction = np.where(flip, np.float32(-1), np.float32(1))  # x <= t is -x >= -t, exactly
            x, limit = layer.add("Mul", x, layer.per_channel("flip", direction)), direction * limit
        return x, limit

    def signs(self, layer: Layer, x: str) -> str:
        """+1 where x >= 0, or x reaches its threshold; else -1."""
        x, limit = self._limited(layer, x)
        below = layer.add("Less", x, 0.0 if limit is None else layer.per_channel("threshold", limit))
        return layer.add("Add", layer.add("Mul", layer.add("Cast", below, to=FLOAT), -2.0), 1.0, name="signs")

    def levels(self, layer: Layer, x: str) -> str:
        """Inputs of a few bits as integers."""
        if layer.attributes.get("input_levels") == "ternary":
            above, below = layer.add("Less", 0.5, x), layer.add("Less", x, -0.5)
            return layer.add("Sub", *(layer.add("Cast", side, to=FLOAT) for side in (above, below)), name="levels")
        clipped = layer.add("Clip", x, -1.0, 1.0)
        return self._odd(layer, layer.add("Floor", layer.add("Mul", clipped, _half(layer))))

    def _odd(self, layer: Layer, floors: str) -> str:
        return layer.add("Add", layer.add("Mul", floors, 2.0), 1.0, name="levels")

    def whole(self, layer: Layer, z: str) -> str:
        """Sums of whole numbers, kept whole."""
        return layer.add("Round", z, name="Z")

    # What is the same in every dialect

    def convolve(self, layer: Layer, x: str, weight: Any, bias: Any = None, border: float = 0.0) -> str:
        """Convolution beyond whose image stands `border`."""
        window = layer.window
        pads = _pads(window)
        if border and any(pads):
            top, left, bottom, right = pads
            x = layer.add("Pad", x, [0, 0, top, left, 0, 0, bottom, right], float(border), mode="constant")
            pads = [0] * 4
        how: dict[str, Any] = {"kernel_shape": window.kernel, "strides": window.stride, "dilations": window.dilation}
        return layer.add("Conv", x, weight, bias, pads=pads, group=layer.groups, **how)

    def product(self, layer: Layer, x: str, border: float = 0.0) -> str:
        """Binary or integer weights times x, which is an image or a row."""
        weight = self.weights(layer)
        if len(layer.shape) == 1:
            return self.linear(layer, x, weight)
        return self.convolve(layer, x, weight, border=border)

    def scaled(self, layer: Layer, z: str, x: str) -> str:
        """z times alpha and K, where the layer has them."""
        shape = layer.node.step.shape
        if "alpha" in layer.tensors:
            z = layer.add("Mul", z, layer.per_channel("alpha"))
        mode = layer.attributes.get("input_scale", KMode.OFF)
        if mode == KMode.OFF:
            return z
        size = layer.add("Abs", x)
        if len(shape) == 1:
            return layer.add("Mul", z, layer.add("ReduceMean", size, axes=[1], keepdims=1, name="K"))
        k, groups = self._scale_map(layer, size, mode), layer.groups
        if groups == 1:
            return layer.add("Mul", z, k)
        apart = layer.add("Reshape", z, [0, groups, -1, *shape[1:]])
        product = layer.add("Mul", apart, layer.add("Reshape", k, [0, groups, 1, *shape[1:]]))
        return layer.add("Reshape", product, [0, *shape])

    def _scale_map(self, layer: Layer, size: str, mode: str) -> str:
        """K (N, groups, OH, OW) from the absolute values of the input."""
        window, groups = layer.window, layer.groups
        if groups > 1:
            size = layer.add("Reshape", size, [0, groups, -1, *layer.shape[1:]])
        alone = window == Window((1, 1))
        how: dict[str, Any] = {"axes": [1 if groups == 1 else 2], "keepdims": int(groups == 1)}
        mean = layer.add("ReduceMean", size, name="K" if alone else "A", **how)
        if alone:
            return mean
        ones = np.ones((groups, 1, *window.kernel), np.float32)
        how = {"kernel_shape": window.kernel, "strides": window.stride, "dilations": window.dilation}
        total = layer.add("Conv", mean, ones, pads=_pads(window), group=groups, **how)
        taps: Any = float(np.prod(window.kernel))
        if mode == KMode.VALID:
            taps = np.maximum(_taps_inside(window, layer.shape[1:]), 1).astype(np.float32)
        return layer.add("Div", total, taps, name="K")


_EIGHT = np.arange(8, dtype=np.uint8)


def _half(layer: Layer) -> NDArray[np.float32]:
    """Half the largest level, by which inputs are multiplied before they are rounded down."""
    return np.array([2 ** layer.attributes["input_bits"] - 1], np.float32) / np.float32(2)


def _taps_inside(window: Window, size: Shape) -> NDArray[np.int64]:
    """How many taps of each window lie inside the image, (OH, OW)."""
    counts = []
    for axis in (0, 1):
        first = np.arange(window.count((size[0], size[1]))[axis]) * window.stride[axis] - window.before[axis]
        taps = first[:, None] + np.arange(window.kernel[axis]) * window.dilation[axis]
        counts.append(((taps >= 0) & (taps < size[axis])).sum(axis=1))
    return np.outer(*counts)


class QonnxWriter(Writer):
    """Layers with the quantisers of QONNX, in the places where FINN and Brevitas have them."""

    opset = QONNX_OPSET

    def __init__(self) -> None:
        super().__init__(unpacked=True)

    def affine(self, layer: Layer, x: str) -> str:
        """A BatchNormalization, which may stand before a quantiser."""
        scale = layer.tensors["scale"]
        still = layer.constant("mean", np.zeros_like(scale)), layer.constant("variance", np.ones_like(scale))
        return layer.add("BatchNormalization", x, layer.tensor("scale"), layer.tensor("shift"), *still, epsilon=0.0)

    def linear(self, layer: Layer, x: str, weight: str | None = None) -> str:
        """MatMul with a matrix (I, O), then the bias."""
        y = layer.add("MatMul", x, weight or layer.constant("weight", layer.tensors["weight"].T))
        return layer.add("Add", y, layer.tensor("bias")) if "bias" in layer.tensors else y

    def weights(self, layer: Layer) -> str:
        """Float32 numbers through a quantiser that leaves them as they are; those of a matrix are (I, O)."""
        values = contents.weights(layer.node).astype(np.float32)
        values = values.T if values.ndim == 2 else values
        planes = layer.attributes.get("weight_bits", 1)
        stored = layer.constant("stored", values)
        if planes == 1:
            return self._bipolar(layer, stored, "weight", values.shape)
        return self._quant(layer, stored, planes + 1, 1, "ROUND", "weight", values.shape)

    def signs(self, layer: Layer, x: str) -> str:
        """BipolarQuant of x, or of x less its threshold."""
        x, limit = self._limited(layer, x)
        if limit is not None:
            largest = np.finfo(np.float32).max
            x = layer.add("Sub", x, layer.per_channel("threshold", np.clip(limit, -largest, largest)))
        return self._bipolar(layer, x, "signs", (layer.graph.batch, *layer.shape))

    def levels(self, layer: Layer, x: str) -> str:
        """Quant to the nearest of -1, 0, 1, or down to signed integers q, of which 2q + 1 are the levels."""
        shape: Sequence[int | str] = (layer.graph.batch, *layer.shape)
        if layer.attributes.get("input_levels") == "ternary":
            return self._quant(layer, x, 2, 1, "ROUND", "levels", shape)
        bits = layer.attributes["input_bits"]
        return self._odd(layer, self._quant(layer, layer.add("Mul", x, _half(layer)), bits, 0, "FLOOR", "Quant", shape))

    def whole(self, layer: Layer, z: str) -> str:
        """As they are: compilers of QONNX find out themselves that they are whole."""
        return z

    def _bipolar(self, layer: Layer, x: str, name: str, shape: Sequence[int | str]) -> str:
        y = layer.add("BipolarQuant", x, 1.0, name=name, domain=QONNX_DOMAIN)
        layer.graph.say_shape(y, shape)
        return y

    def _quant(
        self, layer: Layer, x: str, bits: int, narrow: int, rounding: str, name: str, shape: Sequence[int | str]
    ) -> str:
        how = {"signed": 1, "narrow": narrow, "rounding_mode": rounding}
        y = layer.add("Quant", x, 1.0, 0.0, float(bits), name=name, domain=QONNX_DOMAIN, **how)
        layer.graph.say_shape(y, shape)
        return y


def _conv2d(writer: Writer, layer: Layer, x: str) -> str:
    return writer.convolve(layer, x, layer.tensor("weight"), layer.tensor("bias"))


def _prelu(writer: Writer, layer: Layer, x: str) -> str:
    return layer.add("PRelu", x, layer.per_channel("slope"))


def _pool(layer: Layer, op: str, x: str, **how: Any) -> str:
    window = layer.window
    return layer.add(op, x, kernel_shape=window.kernel, strides=window.stride, pads=_pads(window), **how)


def _avg_pool(writer: Writer, layer: Layer, x: str) -> str:
    return _pool(layer, "AveragePool", x, count_include_pad=layer.attributes.get("count_include_pad", 1))


def _global_avg_pool(writer: Writer, layer: Layer, x: str) -> str:
    return layer.add("Flatten", layer.add("GlobalAveragePool", x), axis=1)


def _scale(writer: Writer, layer: Layer, x: str) -> str:
    """x times Gamma, which is put together from its factors in the graph, in the order of the format."""
    axes = {"channel": (0,), "row": (1,), "column": (2,), "plane": (1, 2), "map": (0, 1, 2)}
    gamma: Any = None
    for name, kept in axes.items():
        if name in layer.tensors:
            shape = [size if axis in kept else 1 for axis, size in enumerate(layer.shape)]
            factor = layer.constant(name, layer.tensors[name].reshape(shape))
            gamma = factor if gamma is None else layer.add("Mul", gamma, factor, name="Gamma")
    return layer.add("Mul", x, gamma)


def _binary(writer: Writer, layer: Layer, x: str) -> str:
    signs = writer.signs(layer, x)
    z = writer.whole(layer, writer.product(layer, signs, layer.attributes.get("pad_value", 0)))
    return writer.scaled(layer, z, x)


def _kbit(writer: Writer, layer: Layer, x: str) -> str:
    said = layer.attributes
    if said["input_bits"] == 1:
        return _binary(writer, layer, x)
    top = 1 if said.get("input_levels") == "ternary" else 2 ** said["input_bits"] - 1
    z = writer.whole(layer, writer.product(layer, writer.levels(layer, x), top * said.get("pad_value", 0)))
    return writer.scaled(layer, z, x)


def _sign_weight(writer: Writer, layer: Layer, x: str) -> str:
    return writer.scaled(layer, writer.product(layer, x), x)


OPS: dict[str, Callable[..., str]] = {
    "conv2d": _conv2d,
    "linear": lambda writer, layer, x: writer.linear(layer, x),
    "affine": lambda writer, layer, x: writer.affine(layer, x),
    "relu": lambda writer, layer, x: layer.add("Relu", x),
    "prelu": _prelu,
    "hardtanh": lambda writer, layer, x: layer.add("Clip", x, -1.0, 1.0),
    "max_pool": lambda writer, layer, x: _pool(layer, "MaxPool", x),
    "avg_pool": _avg_pool,
    "global_avg_pool": _global_avg_pool,
    "flatten": lambda writer, layer, x: layer.add("Flatten", x, axis=1),
    "add": lambda writer, layer, x, y: layer.add("Add", x, y),
    "concat": lambda writer, layer, *inputs: layer.add("Concat", *inputs, axis=1),
    "sign": lambda writer, layer, x: writer.signs(layer, x),
    "scale": _scale,
    "binary_conv2d": _binary,
    "binary_linear": _binary,
    "sign_weight_conv2d": _sign_weight,
    "sign_weight_linear": _sign_weight,
    "kbit_conv2d": _kbit,
    "kbit_linear": _kbit,
}


def write_image(graph: Graph, name: str, table: NDArray[np.float32]) -> str:
    """From pixels, uint8 (N, H, W, C), to the normalised image (N, C, H, W), by a table of what each pixel becomes."""
    index = graph.node("Cast", name, name=f"{name}/index", to=INT32)
    if (table != table[:, :1]).any():  # channels have tables of their own, one after the other
        starts = np.arange(table.shape[1], dtype=np.int32) * len(table)
        index = graph.node("Add", index, graph.constant(f"{name}/starts", starts), name=f"{name}/place")
    else:
        table = table[:, :1]
    values = graph.constant(f"{name}/table", np.ascontiguousarray(table.T).ravel())
    pixels = graph.node("Gather", values, index, name=f"{name}/pixels", axis=0)
    return graph.node("Transpose", pixels, name=f"{name}/normalised", perm=[0, 3, 1, 2])
