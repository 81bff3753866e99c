"""A node of a packed network while it is checked, and the step that it becomes.

Nodes come from untrusted files. Nothing is computed from an attribute before its range is checked.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import ModelFileError, is_integer
from xnor_ref.kernels.basics.geometry import Pair as Pair
from xnor_ref.kernels.basics.geometry import Window as Window

F32 = NDArray[np.float32]
Shape = tuple[int, ...]

MAX_SIDE = 1024  # largest kernel, stride, padding or dilation
MAX_GROUPED = 2**24  # most binary weights of a layer with groups: vector code takes up to 64 bytes for each


@dataclass(frozen=True)
class Settings:
    """Settings of a run, which do not change the result. Binary layers record their values in `notes`."""

    threads: int | None = None
    backend: str = "auto"
    notes: dict[str, NDArray[Any]] | None = None

    def note(self, **arrays: NDArray[Any] | None) -> None:
        """Record copies of arrays if requested. None means that the layer has no such array."""
        if self.notes is not None:
            self.notes.update({name: array.copy() for name, array in arrays.items() if array is not None})


@dataclass(frozen=True)
class Step:
    """The computation of a checked node."""

    shape: Shape
    run: Callable[..., F32]  # run(settings, *inputs): inputs and output have a leading batch axis
    work: int = 0  # multiplications and additions, without one for each output
    workspace: int = 0  # bytes needed while it runs, without inputs and output
    weight_bits: int = 0  # number of bits of binary weights
    arguments: dict[str, Any] = field(default_factory=dict)  # checked arguments for the planner
    weight_shape: Shape | None = None  # (O, C, KH, KW) or (O, I)
    words: Callable[[], NDArray[np.uint64]] | None = None  # binary weights: (O, KH, KW, words) or (O, words), in planes


@dataclass
class Node:
    """One node of a description, to be checked."""

    op: str
    name: str
    attributes: dict[str, Any]
    tensors: dict[str, NDArray]
    seen: set[str] = field(default_factory=set)

    def need(self, condition: bool, message: str) -> None:
        """Raise ModelFileError for the node unless the condition holds."""
        if not condition:
            raise ModelFileError(f"node {self.name!r} ({self.op}): {message}")

    def integer(self, key: str, low: int, high: int) -> int:
        """Return the attribute `key`, an integer in [low, high]."""
        value = self._attribute(key)
        ok = is_integer(value) and low <= value <= high
        self.need(ok, f"{key} must be an integer from {low} to {high}, got {shown(value)}")
        return value

    def pair(self, key: str, low: int, high: int = MAX_SIDE) -> Pair:
        """Return the attribute `key`, two integers in [low, high], for rows and for columns."""
        return self._two(key, self._attribute(key), low, high)

    def _two(self, key: str, value: Any, low: int, high: int) -> Pair:
        ok = isinstance(value, list) and len(value) == 2 and all(is_integer(v) and low <= v <= high for v in value)
        self.need(ok, f"{key} must be two integers from {low} to {high}, got {shown(value)}")
        return value[0], value[1]

    def size_of_input(self, key: str, size: int) -> None:
        """Raise ModelFileError unless the attribute `key` equals `size`, its input's size."""
        found = self.integer(key, 1, 2**31 - 1)
        self.need(found == size, f"{key} is {found}, but its input has {size}")

    def choice(self, key: str, options: tuple) -> Any:
        """Return the attribute `key`, one of `options`."""
        value = self._attribute(key)
        ok = not isinstance(value, (bool, float, list, dict)) and value in options
        self.need(ok, f"{key} must be one of {options}, got {shown(value)}")
        return value

    def _attribute(self, key: str) -> Any:
        self.seen.add(key)
        self.need(key in self.attributes, f"attribute {key!r} is missing")
        return self.attributes[key]

    def optional(self, key: str, dtype: type, shape: tuple[int | None, ...]) -> NDArray | None:
        """Return the tensor `key`, or None if missing. None in `shape` means any size but 0."""
        self.seen.add(key)
        return self.tensor(key, dtype, shape) if key in self.tensors else None

    def tensor(self, key: str, dtype: type, shape: tuple[int | None, ...]) -> NDArray:
        """Return the tensor `key`, checked to be finite and of this dtype and shape."""
        self.seen.add(key)
        self.need(key in self.tensors, f"tensor {key!r} is missing")
        array = self.tensors[key]
        fits = array.ndim == len(shape) and all(
            size == want if want is not None else size > 0 for size, want in zip(array.shape, shape)
        )
        wanted = str(shape).replace("None", "any")
        self.need(
            array.dtype == dtype and fits,
            f"tensor {key!r} is {array.dtype} {array.shape}, but {np.dtype(dtype).name} {wanted} is needed",
        )
        if dtype is np.float32 and key != "threshold":
            self.need(bool(np.isfinite(array).all()), f"tensor {key!r} holds NaN or infinity")
        return array

    def image(self, shape: Shape) -> tuple[int, int, int]:
        """Return the input's shape, which must be (C, H, W)."""
        self.need(len(shape) == 3, f"needs an input (C, H, W), but gets {shape}")
        return shape[0], shape[1], shape[2]

    def row(self, shape: Shape) -> int:
        """Return the size of the input, which must be (I,)."""
        self.need(len(shape) == 1, f"needs a flat input (I,), but gets {shape}")
        return shape[0]

    def window(self, x: Shape, kernel: Pair, dilation: Pair = (1, 1)) -> tuple[Window, Pair]:
        """Return the window over the input (C, H, W), and the height and width of the output."""
        padding = self._attribute("padding")
        if uneven(padding):
            self.need(len(padding) == 2, f"padding must be two integers or two pairs of integers, got {shown(padding)}")
            sides = tuple(self._two("padding", side, 0, MAX_SIDE) for side in padding)
        else:
            sides = tuple((side, side) for side in self.pair("padding", 0))
        window = Window(kernel, self.pair("stride", 1), (sides[0], sides[1]), dilation)
        size, far = window.count((x[1], x[2])), f" with dilation {dilation}" if dilation != (1, 1) else ""
        self.need(
            min(size) > 0, f"kernel {kernel}{far} is larger than the input {x} with padding {window.brief_padding}"
        )
        return window, size

    def dilation(self) -> Pair:
        """Return the attribute `dilation`, two integers of at least 1. The default is 1."""
        return self.pair("dilation", 1) if "dilation" in self.attributes else (1, 1)

    def groups(self, channels: int, optional: bool = True) -> int:
        """Return the attribute `groups`, which must divide the input channels. If optional and missing, it is 1."""
        groups = 1 if optional and "groups" not in self.attributes else self.integer("groups", 1, channels)
        self.need(channels % groups == 0, f"{channels} input channels cannot be cut into {groups} groups")
        return groups

    def need_groups(self, groups: int, outputs: int, weights: int) -> None:
        """Raise ModelFileError unless groups divide the outputs and the binary weights are few enough."""
        self.need(outputs % groups == 0, f"{outputs} output channels cannot be cut into {groups} groups")
        many = f"{weights} weights are too many for a layer with groups; the limit is {MAX_GROUPED}"
        self.need(groups == 1 or weights <= MAX_GROUPED, many)


def uneven(padding: Any) -> bool:
    """Whether an attribute `padding` gives both sides of each axis."""
    return isinstance(padding, list) and any(isinstance(side, list) for side in padding)


def shown(value: Any) -> str:
    """Return an untrusted value as text, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
