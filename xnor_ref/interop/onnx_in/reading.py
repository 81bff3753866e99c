"""Importing networks from ONNX and QONNX files."""

import heapq
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref import nn
from xnor_ref.errors import InputError, ModelFileError
from xnor_ref.interop import build
from xnor_ref.interop.description import INPUT, Description, refuse_all
from xnor_ref.interop.onnx_in.call import Call, Context
from xnor_ref.interop.onnx_in.file import STANDARD, Node, OnnxGraph, ValueInfo, read_onnx
from xnor_ref.interop.onnx_in.fold import FOLDS, QUANTISERS, Unsupported, fold
from xnor_ref.interop.onnx_in.nodes import EASY, LAST, OPS
from xnor_ref.interop.onnx_in.values import NCHW, ROWS, Code, Layers, Value
from xnor_ref.kernels.ops.float_ops import pixel_table

NHWC = (0, 2, 3, 1)
MAX_CONSTANTS = 8 * 2**30  # most bytes of all computed constants


@dataclass(frozen=True)
class Failed:
    """A value that cannot be imported, or depends on such a value."""


@dataclass(frozen=True)
class Reading:
    """The contents of a file.

    Parameters
    ----------
    description : the network
    notes : what was assumed or differs from the file
    image : the graph's input, its dtype, and whether its channels come last
    last : operations at the end of the file that were left out
    custom : whether it has operations outside the ONNX standard
    """

    description: Description
    notes: tuple[str, ...]
    image: ValueInfo
    channels_last: bool
    last: tuple[str, ...]
    custom: bool


def from_onnx(
    path: str | os.PathLike[str],
    *,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    input_shape: tuple[int, int, int] | None = None,
) -> nn.Graph:
    """Import a binary network from an ONNX or QONNX file.

    No other package is needed. Arguments that are not given are taken from the file if it has them.

    Parameters
    ----------
    path : str or PathLike
        The file is untrusted. Weights in other files are read only from the same folder and below.
    mean, std : number, or a number per channel
        Mean and standard deviation of pixel/255 that normalise raw pixels before the file's input; by default those in
        the file, else 0 and 1. A file that takes raw pixels (uint8) normalises them itself.
    classes : names in label order, optional
    input_shape : (C, H, W), optional
        Shape of an image, if the file leaves it open or takes flat rows of C*H*W numbers.

    Returns
    -------
    nn.Graph
        In inference mode. It can be trained further, and `freeze` packs it.

    Raises
    ------
    ModelFileError
        The file is missing, damaged, or of an unsupported kind.
    InputError
        Nodes cannot be imported (the message names each with the reason), or arguments are wrong.
    """
    return build.network(read(path, mean=mean, std=std, classes=classes, input_shape=input_shape).description)


def read(
    path: str | os.PathLike[str],
    *,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    input_shape: tuple[int, int, int] | None = None,
) -> Reading:
    """Return what `from_onnx` builds a network from. Arguments and errors are the same."""
    graph = read_onnx(path)
    source = Path(path).name
    if len(graph.inputs) != 1 or not graph.outputs:
        names = ", ".join(info.name for info in graph.inputs) or "none"
        raise InputError(f"{source}: a network must have one input and an output; the inputs here are {names}")
    nodes = _in_order(source, graph)
    info = graph.inputs[0]
    shape, axes, rows = _input(source, info, nodes, input_shape)
    batch = info.shape[0] if info.shape and info.shape[0] else 1
    readers = Counter(name for node in nodes for name in node.inputs) + Counter([graph.outputs[0].name])
    layers = Layers()
    layers.shapes[INPUT] = shape
    context = Context(layers, readers, batch, graph.opset)
    first = Value(INPUT, shape, axes=axes, code=Code("pixel") if info.dtype == np.uint8 else Code())
    if rows:
        first = first.now(
            of=layers.add("rows", "flatten", [INPUT], (int(np.prod(shape)),)), shape=(int(np.prod(shape)),)
        )
    reader = _Reader({info.name: first, **graph.constants}, context, readers)
    last = reader.value(source, nodes, graph.outputs[0].name)
    final = _logits(source, layers, last)
    said = _said(graph)
    notes = layers.notes()
    given = {key: value for key, value in (("mean", mean), ("std", std)) if value is not None}
    if info.dtype == np.uint8 and given:
        raise InputError(
            f"{source}: it takes raw pixels and normalises them itself; so {' and '.join(given)} cannot be given"
        )
    if context.table is not None:
        normalised = _of_table(source, context.table, said)
    elif layers.pixels is not None:
        normalised = _of_pixels(source, *layers.pixels)
    else:
        normalised = {"mean": 0.0, "std": 1.0} | {key: said[key] for key in said if key != "classes"} | given
        if not given and "mean" not in said:
            notes.append("the file does not say how images are normalised: pixel/255 is assumed (mean 0, std 1)")
    if rows and input_shape is None:
        notes.append(f"rows of {int(np.prod(shape))} numbers are taken as images {shape}")
    if last.after:
        notes.append(f"{', '.join(last.after)} at the end is left out: the outputs are logits")
    if len(graph.outputs) > 1:
        notes.append(f"of {len(graph.outputs)} outputs, {graph.outputs[0].name!r} is used")
    description = Description(
        layers.needed(final) or _only_pixels(source),
        shape,
        normalised["mean"],
        normalised["std"],
        said.get("classes") if classes is None else classes,
        source,
    )
    custom = any(node.domain not in STANDARD for node in nodes)
    return Reading(description, tuple(notes), info, axes == NHWC, last.after, custom)


def _only_pixels(source: str) -> Any:
    raise InputError(f"{source}: its output does not depend on any layer")


def _in_order(source: str, graph: OnnxGraph) -> list[Node]:
    """Return the nodes on which the output depends, each after its inputs. Raises ModelFileError for a cycle."""
    makers: dict[str, int] = {}
    known = {*graph.constants, *(info.name for info in graph.inputs)}
    for index, node in enumerate(graph.nodes):
        for name in filter(None, node.outputs):
            if name in makers or name in known:
                raise ModelFileError(f"{source}: damaged: two values have the name {name!r}")
            makers[name] = index
    wanted: set[int] = set()
    left = [graph.outputs[0].name]
    while left:
        name = left.pop()
        if name in makers and makers[name] not in wanted:
            wanted.add(makers[name])
            left += graph.nodes[makers[name]].inputs
        elif name and name not in makers and name not in known:
            raise ModelFileError(f"{source}: damaged: no node computes the value {name!r}")
    waits = {at: {makers[name] for name in graph.nodes[at].inputs if name in makers} for at in wanted}
    readers: dict[int, list[int]] = {}
    for at, sources in waits.items():
        for other in sources:
            readers.setdefault(other, []).append(at)
    count = {at: len(sources) for at, sources in waits.items()}
    ready = [at for at in wanted if not count[at]]
    heapq.heapify(ready)
    order: list[Node] = []
    while ready:
        at = heapq.heappop(ready)
        order.append(graph.nodes[at])
        for reader in readers.get(at, ()):
            count[reader] -= 1
            if not count[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(wanted):
        stuck = next(str(graph.nodes[at]) for at in sorted(wanted) if count[at])
        raise ModelFileError(f"{source}: damaged: its nodes form a cycle, such as {stuck}")
    return order


def _input(
    source: str, info: ValueInfo, nodes: list[Node], given: tuple[int, int, int] | None
) -> tuple[tuple[int, int, int], tuple[int, ...], bool]:
    """Return (C, H, W) of an image, the file's order of axes, and whether it takes flat rows."""
    if info.dtype not in (np.float32, np.float64, np.float16, np.uint8) or info.shape is None:
        raise InputError(
            f"{source}: its input {info.name!r} is not a float32 or uint8 array with a known number of axes"
        )
    sizes, shape = info.shape, given and tuple(given)  # type: Any, Any
    if len(sizes) == 2:
        count = sizes[1] or (shape and math.prod(shape))
        if not count:
            raise InputError(f"{source}: it leaves the size of its rows open; give input_shape (C, H, W)")
        shape = shape or _square(count)
        if math.prod(shape) != count:
            raise InputError(f"{source}: it takes rows of {count} numbers; input_shape {shape} has {math.prod(shape)}")
        return _checked(source, shape), ROWS, True
    if len(sizes) != 4:
        raise InputError(f"{source}: its input has the shape {sizes}; images must have 4 axes, rows 2")
    axes = NHWC if _channels_last(info, nodes) else NCHW
    found = tuple(sizes[axes.index(axis)] for axis in (1, 2, 3))
    shape = shape or found
    if len(shape) != 3 or any(n not in (None, m) for n, m in zip(found, shape)):
        raise InputError(f"{source}: its images are (C, H, W) = {found}, but input_shape is {shape}")
    if None in shape:
        raise InputError(f"{source}: it leaves the size of its images open, (C, H, W) = {shape}; give input_shape")
    return _checked(source, shape), axes, False


def _checked(source: str, shape: tuple) -> tuple[int, int, int]:
    if len(shape) != 3 or not all(1 <= size <= 16_384 for size in shape) or shape[0] > 4096:
        raise InputError(f"{source}: images (C, H, W) of {shape} are not supported; C is at most 4096, H and W 16384")
    return int(shape[0]), int(shape[1]), int(shape[2])


def _square(count: int) -> tuple[int, int, int]:
    """Return the image shape of a row: square with one or three channels, or else one pixel."""
    for channels in (1, 3):
        side = round((count / channels) ** 0.5)
        if side > 1 and side * side * channels == count:
            return channels, side, side
    return count, 1, 1


def _channels_last(info: ValueInfo, nodes: list[Node]) -> bool:
    """Whether images are (N, H, W, C): the first operation that shows it moves the channels forward."""
    name = info.name
    while True:
        following = [node for node in nodes if name in node.inputs]
        if not following:
            return False
        perm = following[0].attributes.get("perm")
        if following[0].op == "Transpose":
            return perm == [0, 3, 1, 2]
        if following[0].op not in _ENTRY or len(following) > 1:
            return following[0].op == "MatMul"
        name = following[0].outputs[0]


_ENTRY = {
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Cast",
    "Gather",
    "Quant",
    "IntQuant",
    "BipolarQuant",
    "Identity",
    "Clip",
    "MultiThreshold",
}


@dataclass
class _Reader:
    """Values by name. Constants are arrays."""

    values: dict[str, Any]
    context: Context
    readers: Counter
    bytes: int = 0

    def value(self, source: str, nodes: list[Node], output: str) -> Value:
        """Return the output's value. Raises InputError, which names each node that cannot be imported."""
        reasons: dict[str, list[tuple[str, str]]] = {}  # of values that cannot be imported, by name
        left = Counter(name for node in nodes for name in node.inputs)
        for node in nodes:
            inputs = [self.values.get(name) if name else None for name in node.inputs]
            behind = [entry for name in node.inputs for entry in reasons.get(name, ())]
            try:
                if any(isinstance(value, Failed) for value in inputs):
                    results = self._around(node, inputs)
                else:
                    results, behind = self._results(node, inputs), []
            except Unsupported as error:
                results = [Failed()] * len(node.outputs)
                behind = [*behind, (str(node), str(error))]
            for name, result in zip(node.outputs, results):
                self.values[name] = result
                if isinstance(result, Failed):
                    reasons[name] = list(dict.fromkeys(behind))
            left.subtract(node.inputs)
            for name in node.inputs:
                if not left[name] and isinstance(self.values.get(name), np.ndarray):
                    self.values[name] = None  # a constant that is no longer needed
        refuse_all(source, reasons.get(output, ()))
        found = self.values[output]
        if not isinstance(found, Value):
            raise InputError(f"{source}: its output {output!r} does not depend on the image")
        return found

    def _results(self, node: Node, inputs: list[Any]) -> list[Any]:
        if node.domain not in QUANTISERS:
            raise Unsupported(f"operations of the domain {node.domain!r} are not supported")
        if not any(isinstance(value, Value) for value in inputs):
            results = fold(node, inputs, self.context.opset)
            self.bytes += sum(array.nbytes for array in results)
            if self.bytes > MAX_CONSTANTS:
                raise Unsupported("constants of too many bytes")
            return results
        if node.op not in OPS:
            raise Unsupported(
                "it is supported only for constants" if node.op in FOLDS else "the operation is not supported"
            )
        after = next((value.after for value in inputs if isinstance(value, Value) and value.after), ())
        if after and node.op not in LAST | EASY:
            raise Unsupported(f"it follows {after[-1]}, which is supported only at the end of a network")
        call = Call(node, inputs, self.context)
        self._remember(node, inputs)
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                result: Any = OPS[node.op](call)
            except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
                raise Unsupported(f"its values do not match: {error}") from None
        if isinstance(result, Value):
            before = [(name, v) for name, v in zip(node.inputs, inputs) if isinstance(v, Value) and v.of == result.of]
            result = result.now(shared=any(v.shared or self.readers[name] > 1 for name, v in before))
        return [result] + [result if node.op == "TopK" else None] * (len(node.outputs) - 1)

    def _remember(self, node: Node, inputs: list[Any]) -> None:
        """Record x - y. A later sum with y is x again; straight-through estimators are written this way."""
        if (
            node.op == "Sub"
            and len(inputs) == 2
            and isinstance(inputs[0], Value)
            and not isinstance(inputs[1], np.ndarray)
        ):
            self.context.differences[node.outputs[0]] = node.inputs[1], inputs[0]

    def _around(self, node: Node, inputs: list[Any]) -> list[Any]:
        """Return the outputs of a node that do not depend on its unsupported inputs."""
        self._remember(node, inputs)
        if node.op == "Add" and len(inputs) == 2:
            for minus, other in ((0, 1), (1, 0)):
                found = self.context.differences.get(node.inputs[minus])
                if found and found[0] == node.inputs[other]:
                    return [found[1]]
        if node.domain not in QUANTISERS or node.op not in OPS.keys() | FOLDS.keys():
            where = (
                f"operations of the domain {node.domain!r} are" if node.domain not in STANDARD else "the operation is"
            )
            raise Unsupported(f"{where} not supported")
        return [Failed()] * len(node.outputs)


def _logits(source: str, layers: Layers, value: Value) -> str:
    """Return the layer whose output is the logits. Raises InputError if the output is not a row."""
    if len(value.shape) == 3 and value.shape[1:] == (1, 1) and value.code.kind not in ("abs", "mean", "box", "k"):
        of = layers.add("logits.flat", "flatten", [value.of], value.shape[:1])
        value = value.now(of=of, shape=value.shape[:1], axes=ROWS)
    if len(value.shape) != 1 or value.axes[0] != 0:
        raise InputError(f"{source}: its output has shape {value.sizes(1)}; it must have one number per class")
    try:
        of = layers.real(value.now(order=None), "logits")
    except Unsupported as error:
        raise InputError(f"{source}: its output is {error}") from None
    if value.order is None or (value.order == np.arange(len(value.order))).all():
        return of
    weight = np.zeros((value.shape[0], value.shape[0]), np.float32)
    weight[np.arange(value.shape[0]), value.order] = 1
    return layers.add("logits", "linear", [of], value.shape, weight=weight)


def _said(graph: OnnxGraph) -> dict[str, Any]:
    """Return mean, std and classes, if the metadata has them."""
    found: dict[str, Any] = {}
    for key in ("mean", "std", "classes"):
        try:
            values = json.loads(graph.metadata.get(key, "null"))
        except (ValueError, RecursionError):
            continue
        kind = str if key == "classes" else (int, float)
        if (
            isinstance(values, list)
            and values
            and all(type(v) in (str, int, float) and isinstance(v, kind) for v in values)
        ):
            found[key] = values
    return found if "mean" not in found or "std" in found else {k: v for k, v in found.items() if k == "classes"}


def _of_pixels(source: str, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> dict[str, Any]:
    """Return mean and std if pixels become pixel*scale + shift in each channel."""
    if not (scale > 0).all():
        raise InputError(f"{source}: its normalised pixels do not increase with the pixel values")
    std = 1 / (255 * scale)
    return {"mean": (-shift * std).tolist(), "std": std.tolist()}


def _of_table(source: str, table: NDArray[np.float32], said: dict[str, Any]) -> dict[str, Any]:
    """Return mean and std of a normalisation table (C, 256). `said` are those that the file gives."""
    if "mean" in said:
        mean, std = (np.broadcast_to(np.asarray(said[key], float), (len(table),)).tolist() for key in ("mean", "std"))
        if np.array_equal(pixel_table(mean, std), table.T):
            return {"mean": mean, "std": std}
    first, last = table[:, 0].astype(np.float64), table[:, 255].astype(np.float64)
    found = _of_pixels(source, (last - first) / 255, first)
    near = pixel_table(found["mean"], found["std"])
    if not np.allclose(near, table.T, rtol=1e-5, atol=1e-6 * float((last - first).max())):
        raise InputError(f"{source}: its normalisation is not (pixel/255 - mean)/std")
    return found
