"""Operations on constants, computed while a graph is read: unpacked bits, reshaped weights, quantised weights.

Each function takes arrays and the node's attributes. The size of a result is known, and bounded, before it is made.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.interop.onnx_in.file import DTYPES, Node

MAX_BYTES = 2**30  # of one result
QUANTISERS = ("", "ai.onnx", "qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas", "brevitas", "finn")


class Unsupported(Exception):
    """Why a node is not read."""


def fold(node: Node, inputs: list[NDArray | None], opset: int) -> list[NDArray]:
    """The results of a node whose inputs are constants; None stands for one that is left out.

    Raises
    ------
    Unsupported : an operation or an option that is not known, or inputs that do not fit
    """
    if node.op not in FOLDS or node.domain not in QUANTISERS:
        raise Unsupported("the operation is not supported, even for constants")
    try:
        with np.errstate(all="ignore"):
            found = FOLDS[node.op](_Given(node, inputs, opset))
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, ZeroDivisionError) as error:
        raise Unsupported(f"its constants do not fit together: {error}") from None
    results = found if isinstance(found, list) else [found]
    return [np.asarray(array) for array in results]


class _Given:
    """A node with its constant inputs."""

    def __init__(self, node: Node, inputs: list[NDArray | None], opset: int):
        self.node, self.inputs, self.opset = node, inputs, opset
        if not inputs and node.op not in ("Constant",):
            raise Unsupported("it has no input")

    def __getitem__(self, index: int) -> NDArray:
        array = self.get(index)
        if array is None:
            raise Unsupported(f"its input {index + 1} is missing")
        return array

    def get(self, index: int) -> NDArray | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def option(self, name: str, default: Any = None) -> Any:
        value = self.node.attributes.get(name)
        return default if value is None else value

    def axes(self, index: int, default: Any = None) -> Any:
        """Axes, an input in newer versions of ONNX and an attribute in older ones."""
        given = self.get(index)
        found = self.option("axes") if given is None else [int(v) for v in given.reshape(-1)[:64]]
        return default if found is None else tuple(found)


def sized(shape: tuple[int, ...] | list[int], dtype: Any) -> tuple[int, ...]:
    """A shape, if an array of it may be made."""
    if any(size < 0 for size in shape) or math.prod(map(int, shape)) * np.dtype(dtype).itemsize > MAX_BYTES:
        raise Unsupported(f"an array of shape {tuple(shape)} would be larger than {MAX_BYTES} bytes")
    return tuple(map(int, shape))


def reshaped(array: NDArray, target: list[int], allow_zero: bool = False) -> NDArray:
    """ONNX's Reshape: 0 stands for the size that there was, -1 for what is left."""
    sizes = [array.shape[i] if size == 0 and not allow_zero else size for i, size in enumerate(target)]
    return array.reshape(sizes)


def shape_of(node: Node, sizes: tuple[int, ...]) -> NDArray[np.int64]:
    """ONNX's Shape: the sizes from axis `start` to `end`."""
    return np.array(sizes, np.int64)[slice(node.attributes.get("start", 0), node.attributes.get("end"))]


def cast(array: NDArray, kind: Any) -> NDArray:
    """To the type of ONNX's number."""
    if kind not in DTYPES:
        raise Unsupported(f"a cast to type {kind} is not supported")
    sized(array.shape, DTYPES[kind])
    return array != 0 if DTYPES[kind] == "?" else array.astype(DTYPES[kind])


def bounds_of(signed: bool, narrow: bool, bits: float) -> tuple[int, int]:
    """The least and the greatest integer of a QONNX quantiser."""
    if not 1 <= bits <= 32 or bits != int(bits):
        raise Unsupported(f"a bit width of {bits} is not supported")
    if signed:
        return -(2 ** (int(bits) - 1)) + bool(narrow), 2 ** (int(bits) - 1) - 1
    return 0, 2 ** int(bits) - 1 - bool(narrow)


ROUNDINGS: dict[str, Callable[[NDArray], NDArray]] = {
    "ROUND": np.round,
    "HALF_EVEN": np.round,
    "FLOOR": np.floor,
    "CEIL": np.ceil,
    "DOWN": np.trunc,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - 0.5),
}


def _quant(of: _Given) -> NDArray:
    x, scale, zero, bits = (of[i] for i in range(4))
    signed, narrow = bool(of.option("signed", 1)), bool(of.option("narrow", of.option("narrow_range", 0)))
    rounding = str(of.option("rounding_mode", "ROUND")).upper()
    if rounding not in ROUNDINGS:
        raise Unsupported(f"rounding_mode {rounding!r} is not supported")
    _broadcast(x, scale, zero)
    low, high = bounds_of(signed, narrow, float(bits.reshape(-1)[0]) if bits.size == 1 else math.nan)
    q = x / scale + zero
    q = np.where(q >= 0, 1, -1).astype(q.dtype) if signed and high == 0 else ROUNDINGS[rounding](np.clip(q, low, high))
    return ((q - zero) * scale).astype(np.float32)


def _bipolar(of: _Given) -> NDArray:
    _broadcast(of[0], of[1])
    return np.where(of[0] >= 0, of[1], -of[1]).astype(np.float32)


def _broadcast(*arrays: NDArray) -> None:
    sized(np.broadcast_shapes(*(array.shape for array in arrays)), np.result_type(*arrays))


def _binary(function: Callable) -> Callable[[_Given], NDArray]:
    def apply(of: _Given) -> NDArray:
        _broadcast(of[0], of[1])
        return function(of[0], of[1])

    return apply


def _unary(function: Callable) -> Callable[[_Given], NDArray]:
    return lambda of: np.asarray(function(of[0]), of[0].dtype)


def _divide(a: NDArray, b: NDArray) -> NDArray:
    if a.dtype.kind not in "iu":
        return a / b
    if not b.all():
        raise Unsupported("a division by 0")
    return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)


def _shift(of: _Given) -> NDArray:
    if of[0].dtype.kind != "u":
        raise Unsupported(f"bits of {of[0].dtype} are not shifted")
    _broadcast(of[0], of[1])
    left = of.option("direction") == "LEFT"
    amount = np.minimum(of[1], 8 * of[0].dtype.itemsize - 1)
    whole = of[1] > amount
    return np.where(whole, 0, of[0] << amount if left else of[0] >> amount).astype(of[0].dtype)


def _slice(of: _Given) -> NDArray:
    x = of[0]
    if len(of.inputs) > 1:
        starts, ends = (of[i].reshape(-1).tolist() for i in (1, 2))
        given = [None if (v := of.get(i)) is None else v.reshape(-1).tolist() for i in (3, 4)]
    else:
        starts, ends, given = of.option("starts", []), of.option("ends", []), [of.option("axes"), None]
    axes, steps = given[0] or list(range(len(starts))), given[1] or [1] * len(starts)
    index: list[slice] = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        if step == 0:
            raise Unsupported("a slice of step 0")
        start = start + size if start < 0 else start
        end = end + size if end < 0 else end
        if step > 0:
            index[axis] = slice(min(max(start, 0), size), min(max(end, 0), size), step)
        else:
            last = min(max(end, -1), size - 1)
            index[axis] = slice(min(max(start, 0), size - 1), None if last < 0 else last, step)
    return x[tuple(index)]


def _gather(of: _Given) -> NDArray:
    x, index = of[0], of[1]
    axis = of.option("axis", 0)
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis:][1:]) if axis >= 0 else None
    sized(shape or (x.size * max(index.size, 1),), x.dtype)
    return np.take(x, index, axis=axis)


def _squeeze(of: _Given) -> NDArray:
    return np.squeeze(of[0], of.axes(1))


def _unsqueeze(of: _Given) -> NDArray:
    return np.expand_dims(of[0], of.axes(1, ()))


def _constant(of: _Given) -> NDArray:
    for key, dtype in {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64,
                       "value_ints": np.int64}.items():  # fmt: skip
        if key in of.node.attributes:
            return np.array(of.node.attributes[key], dtype)
    value = of.option("value")
    if not isinstance(value, np.ndarray):
        raise Unsupported("a constant of this kind is not supported")
    return value


def _filled(of: _Given) -> NDArray:
    value = np.asarray(of.option("value", np.zeros(1, np.float32)))
    return np.full(sized(of[0].reshape(-1).tolist(), value.dtype), value.reshape(-1)[0], value.dtype)


def _expand(of: _Given) -> NDArray:
    shape = np.broadcast_shapes(of[0].shape, tuple(of[1].reshape(-1).tolist()))
    return np.broadcast_to(of[0], sized(shape, of[0].dtype)).copy()


def _tile(of: _Given) -> NDArray:
    repeats = of[1].reshape(-1).tolist()
    sized([size * times for size, times in zip(of[0].shape, repeats, strict=True)], of[0].dtype)
    return np.tile(of[0], repeats)


def _range(of: _Given) -> NDArray:
    start, limit, step = (of[i].reshape(-1)[0] for i in range(3))
    count = max(math.ceil((float(limit) - float(start)) / float(step)), 0)
    sized([count], of[0].dtype)
    return (start + np.arange(count) * step).astype(of[0].dtype)


def _concat(of: _Given) -> NDArray:
    arrays = [of[i] for i in range(len(of.inputs))]
    sized([sum(array.size for array in arrays)], arrays[0].dtype)
    return np.concatenate(arrays, axis=of.option("axis", 0))


def _matmul(of: _Given) -> NDArray:
    sized((of[0].size // max(of[0].shape[-1], 1) * max(of[1].shape[-1], 1),), of[0].dtype)
    if of[0].ndim != 2 or of[1].ndim != 2:
        raise Unsupported("a product of constants that are no matrices")
    return of[0] @ of[1]


def _reduce(function: Callable) -> Callable[[_Given], NDArray]:
    def apply(of: _Given) -> NDArray:
        if not of[0].size:
            raise Unsupported("a sum of nothing")
        axes = of.axes(1) or None
        if axes is None and of.option("noop_with_empty_axes", 0):
            return of[0]
        return np.asarray(function(of[0], axis=axes, keepdims=bool(of.option("keepdims", 1)))).astype(of[0].dtype)

    return apply


def _clip(of: _Given) -> NDArray:
    low, high = (of.option(key) if (v := of.get(i)) is None else v for i, key in ((1, "min"), (2, "max")))
    return np.clip(of[0], low, high).astype(of[0].dtype)


def _dequantise(of: _Given) -> NDArray:
    scale, zero = of[1], of.get(2)
    zero = np.zeros((), np.float32) if zero is None else zero.astype(np.float32)
    shape = [1] * of[0].ndim
    if scale.ndim == 1 and scale.size > 1:
        shape[of.option("axis", 1)] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape) if zero.size > 1 else zero
    _broadcast(of[0], scale)
    return ((of[0].astype(np.float32) - zero) * scale).astype(scale.dtype)


def _where(of: _Given) -> NDArray:
    _broadcast(of[0], of[1], of[2])
    return np.where(of[0] != 0, of[1], of[2])


def _flatten(of: _Given) -> NDArray:
    axis = of.option("axis", 1)
    axis = axis + of[0].ndim if axis < 0 else axis
    return of[0].reshape(math.prod(of[0].shape[:axis]), -1)


FOLDS: dict[str, Callable[[_Given], Any]] = {
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Identity": lambda of: of[0],
    "Dropout": lambda of: of[0],
    "Cast": lambda of: cast(of[0], of.option("to")),
    "CastLike": lambda of: of[0].astype(of[1].dtype),
    "Reshape": lambda of: reshaped(of[0], of[1].reshape(-1).tolist(), bool(of.option("allowzero", 0))),
    "Flatten": _flatten,
    "Transpose": lambda of: np.transpose(of[0], of.option("perm")),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Slice": _slice,
    "Gather": _gather,
    "Expand": _expand,
    "Tile": _tile,
    "Range": _range,
    "Shape": lambda of: shape_of(of.node, of[0].shape),
    "Size": lambda of: np.array(of[0].size, np.int64),
    "Where": _where,
    "Clip": _clip,
    "MatMul": _matmul,
    "BitShift": _shift,
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Div": _binary(_divide),
    "Pow": lambda of: _binary(np.power)(of).astype(of[0].dtype),
    "Mod": lambda of: _binary(np.fmod if of.option("fmod", 0) else np.mod)(of),
    "Min": _binary(np.minimum),
    "Max": _binary(np.maximum),
    "BitwiseAnd": _binary(np.bitwise_and),
    "BitwiseOr": _binary(np.bitwise_or),
    "BitwiseXor": _binary(np.bitwise_xor),
    "BitwiseNot": _unary(np.bitwise_not),
    "And": _binary(np.logical_and),
    "Or": _binary(np.logical_or),
    "Xor": _binary(np.logical_xor),
    "Not": _unary(np.logical_not),
    "Equal": _binary(np.equal),
    "Greater": _binary(np.greater),
    "GreaterOrEqual": _binary(np.greater_equal),
    "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal),
    "Neg": _unary(np.negative),
    "Abs": _unary(np.abs),
    "Sign": _unary(np.sign),
    "Sqrt": _unary(np.sqrt),
    "Exp": _unary(np.exp),
    "Log": _unary(np.log),
    "Tanh": _unary(np.tanh),
    "Sigmoid": _unary(lambda x: 1 / (1 + np.exp(-x))),
    "Reciprocal": _unary(np.reciprocal),
    "Floor": _unary(np.floor),
    "Ceil": _unary(np.ceil),
    "Round": _unary(np.round),
    "Relu": _unary(lambda x: np.maximum(x, 0)),
    "ReduceMean": _reduce(np.mean),
    "ReduceSum": _reduce(np.sum),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceL1": _reduce(lambda x, **how: np.abs(x).sum(**how)),
    "ReduceL2": _reduce(lambda x, **how: np.sqrt(np.square(x).sum(**how))),
    "DequantizeLinear": _dequantise,
    "Quant": _quant,
    "IntQuant": _quant,
    "BipolarQuant": _bipolar,
}
