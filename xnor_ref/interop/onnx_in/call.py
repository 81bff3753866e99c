"""A node of a graph on its way to layers: its inputs, its options, and where layers are added."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.interop.onnx_in.file import Node
from xnor_ref.interop.onnx_in.fold import Unsupported
from xnor_ref.interop.onnx_in.values import ONE, REAL, SINGLE, ZERO, Layers, Numbers, Value

Operand = Value | NDArray | None


@dataclass
class Context:
    """What operations need to know besides their inputs."""

    layers: Layers
    readers: Counter
    batch: int
    opset: int
    differences: dict[str, tuple[str, Any]] = field(default_factory=dict)  # x - y, by name: y's name, and x
    table: NDArray | None = None  # what the file turns pixels into, by value and channel


@dataclass
class Call:
    """A node with its inputs; constants are arrays, None is what is left out."""

    node: Node
    inputs: list[Operand]
    context: Context

    @property
    def layers(self) -> Layers:
        return self.context.layers

    @property
    def name(self) -> str:
        """A name for layers: the node's, without its last part where that only says the operation."""
        text = self.node.name or self.node.outputs[0]
        *head, last = [part for part in text.split("/") if part] or [text]
        spelled = re.sub(r"[_.]?\d+$", "", last).lower() == self.node.op.lower()
        plain = last in _PARTS or spelled
        return ".".join([*head, *([] if head and plain else [last])])

    def option(self, key: str, default: Any = None) -> Any:
        value = self.node.attributes.get(key)
        return default if value is None else value

    def value(self, index: int = 0) -> Value:
        """An input that depends on the image."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if not isinstance(found, Value):
            raise Unsupported(f"its input {index + 1} must depend on the image")
        return found

    def constant(self, index: int, what: str) -> NDArray:
        """An input that must be a constant."""
        found = self.optional(index, what)
        if found is None:
            raise Unsupported(f"{what} is missing")
        return found

    def optional(self, index: int, what: str) -> NDArray | None:
        """An input that may be left out and must be a constant."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if isinstance(found, Value):
            raise Unsupported(f"{what} depends on the image; it must be a constant")
        return found

    def real(self, value: Value) -> Value:
        """A value as the plain result of a layer."""
        of = self.layers.real(value, self.name)
        return value.now(of=of, code=REAL, a=ONE, b=ZERO, at=ZERO, name="")

    def alone(self, value: Value) -> bool:
        """Whether this node alone reads an input, so that the layer it comes from may be changed."""
        names = [name for name, given in zip(self.node.inputs, self.inputs) if given is value]
        return not value.shared and [self.context.readers[name] for name in names] == [1]

    def layer(
        self, kind: str, value: Value, shape: tuple[int, ...] | None = None, settings: Any = None, **arrays
    ) -> Value:
        """A layer that reads one value."""
        x = self.real(value)
        shape = x.shape if shape is None else shape
        return x.now(of=self.layers.add(self.name, kind, [x.of], shape, settings, **arrays), shape=shape)

    def numbers(self, array: NDArray, value: Value) -> Numbers:
        """Constants beside a value: one number, one a channel (C,), or an array of the shape of x."""
        if array.dtype.kind not in "fiub":
            raise Unsupported(f"a constant of {array.dtype}")
        array = array.astype(np.float64)
        sizes = value.sizes(1)
        if array.size == 1 and array.ndim <= len(sizes):
            return array.reshape(())
        if array.ndim > len(sizes):
            raise Unsupported(f"a constant of shape {array.shape} beside a value of {len(sizes)} axes")
        array = array.reshape((1,) * (len(sizes) - array.ndim) + array.shape)
        if any(have not in (1, size) for have, size in zip(array.shape, sizes)):
            raise Unsupported(f"a constant of shape {array.shape} beside a value {sizes}")
        at = [axis for axis in value.axes if axis != SINGLE]
        moved = array.reshape([n for n, axis in zip(array.shape, value.axes) if axis != SINGLE])
        moved = np.transpose(moved, np.argsort(at))[0]  # as x is, without the batch
        if value.order is not None and moved.size > 1:
            given, moved = moved, np.empty_like(moved)
            moved[value.order] = given
        if moved.ndim == 3 and (moved == moved[:, :1, :1]).all():
            moved = moved[:, 0, 0]
        return moved

    def like(self, value: Value, other: Value) -> None:
        """Refuse two values whose axes are arranged in different ways."""
        if value.sizes(1) != other.sizes(1) or not np.array_equal(value.places, other.places):
            raise Unsupported(f"results of shapes {value.sizes(1)} and {other.sizes(1)}, or of other order, meet")
        if value.axes != other.axes:
            raise Unsupported("results whose axes are arranged in different ways meet")


_PARTS = ("output", "Z", "signs", "levels", "Quant")  # what files of this project name values by
