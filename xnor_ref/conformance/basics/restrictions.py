"""The limits of an implementation, as data. Cases are drawn within these limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

from xnor_ref.conformance.basics.arrays import MEMORY
from xnor_ref.errors import InputError, check_integer, is_integer

CHANNELS = (1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 192, 256)  # around word boundaries
OUT_CHANNELS = (1, 2, 8, 9, 33, 64, 65, 130)
LONGEST = 76_800  # more than 16 bits can hold


@dataclass(frozen=True)
class multiple_of:
    """All multiples of a number."""

    of: int

    def __post_init__(self) -> None:
        check_integer("multiple_of", self.of, 1)

    def __contains__(self, value: int) -> bool:
        return value % self.of == 0


def _allowed(limit: Any, proposed: tuple[int, ...]) -> tuple[int, ...]:
    """Return the numbers to try: the proposed ones that are allowed; also the smallest multiples, or the whole list."""
    if limit is None:
        return proposed
    if isinstance(limit, multiple_of):
        few = {limit.of * factor for factor in (1, 2, 3, 4, 5)}
        return tuple(
            sorted({n for n in proposed if n in limit} | {n for n in few if n <= max(max(proposed), limit.of)})
        )
    return tuple(limit) if isinstance(limit, tuple | list | range) else (limit,)


def _pairs(values: Any) -> tuple[Any, ...]:
    """Turn each int into a pair for both axes. Other values stay unchanged, lists become tuples."""
    values = values if isinstance(values, tuple | list) else (values,)
    return tuple((v, v) if is_integer(v) else _tuples(v) for v in values)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, tuple | list) else value


def _check_pairs(name: str, values: Any, least: int) -> None:
    """Raise InputError unless each value is an int or a pair. Paddings may also be two pairs or "same"."""
    padding = name == "paddings"
    for value in _pairs(values):
        if padding and value == "same":
            continue
        sides: tuple[Any, ...] = value if isinstance(value, tuple) and len(value) == 2 else (None,)
        if padding and all(isinstance(side, tuple) and len(side) == 2 for side in sides):
            sides = tuple(p for side in sides for p in side)
        if not all(is_integer(side) and side >= least for side in sides):
            more = ', two pairs ((top, bottom), (left, right)) or "same"' if padding else ""
            raise InputError(f"Kit: {name} must be ints of at least {least}, pairs of them{more}; got {value!r}")


def _check_counts(name: str, values: Any) -> None:
    for value in values if isinstance(values, tuple | list | range) else (values,):
        check_integer(f"Kit: {name}", value, 1)


@dataclass(frozen=True)
class Restrictions:
    """The limits within which cases are drawn. None means no limit.

    An int among `kernels`, `strides`, `paddings` or `dilations` applies to both axes. A pair is (vertical, horizontal).
    """

    channels: Any = None  # of x; multiple_of(32), or a tuple of numbers
    out_channels: Any = None
    kernels: Any = None  # ints and pairs; None: up to 4 x 4
    strides: Any = None  # None: up to 3 along each axis
    paddings: Any = None  # ints, pairs, two pairs ((top, bottom), (left, right)), "same"; None: up to 3
    pad_values: Any = (0, 1, -1)
    dilations: Any = None  # None: the function takes no dilation
    groups: Any = None  # None: the function takes no groups
    batch: Any = 3  # largest number of images (or rows), or a tuple of numbers
    largest_image: int = 6  # height and width
    largest_dot: int = LONGEST  # n, the largest number of terms of a sum
    square: bool = False  # image, kernel, stride and padding are equal along both axes
    image_covers_kernel: bool = False  # the image is at least as large as the kernel
    zero_free: bool = False  # x and weights hold no zeros
    subnormal_free: bool = False
    signs_only: bool = False  # x and weights hold only +1 and -1
    memory: Any = ("plain",)  # memory layouts from `arrays.MEMORY`
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # further keywords, each with its values

    def __post_init__(self) -> None:
        lists = "channels", "out_channels", "kernels", "strides", "paddings", "dilations", "groups", "batch", "memory"
        for name in (*lists, "pad_values"):
            if getattr(self, name) in ((), []):
                raise InputError(f"Kit: {name} is empty: no case can be drawn")
        for name in ("largest_image", "largest_dot"):
            check_integer(f"Kit: {name}", getattr(self, name), 1)
        for name in ("channels", "out_channels", "groups", "batch"):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), multiple_of):
                _check_counts(name, getattr(self, name))
        for name in ("kernels", "strides", "dilations", "paddings"):
            if getattr(self, name) is not None:
                _check_pairs(name, getattr(self, name), 0 if name == "paddings" else 1)
        for name, known in (("pad_values", (0, 1, -1)), ("memory", MEMORY)):
            values = getattr(self, name)
            for value in values if isinstance(values, tuple | list) else (values,):
                if value not in known:
                    raise InputError(f"Kit: {name} must be among {', '.join(map(repr, known))}, got {value!r}")
        for name, values in self.options.items():
            if not isinstance(values, tuple | list) or not values:
                raise InputError(f"Kit: options must be names with tuples of values, got {name!r}: {values!r}")

    @cached_property
    def channel_counts(self) -> tuple[int, ...]:
        return tuple(n for n in _allowed(self.channels, CHANNELS) if n <= self.largest_dot)

    def takes_channels(self, n: int) -> bool:
        """Whether this number of channels is allowed."""
        return self.channels is None or n in (
            self.channels if hasattr(self.channels, "__contains__") else (self.channels,)
        )

    @cached_property
    def out_channel_counts(self) -> tuple[int, ...]:
        return _allowed(self.out_channels, OUT_CHANNELS)

    @cached_property
    def batches(self) -> tuple[int, ...]:
        return tuple(range(1, self.batch + 1)) if is_integer(self.batch) else _allowed(self.batch, (1,))

    def _axes(self, values: Any, default: range) -> tuple[Any, ...]:
        pairs = tuple(product(default, repeat=2)) if values is None else _pairs(values)
        return tuple(p for p in pairs if not self.square or isinstance(p, str) or p[0] == p[1])

    @cached_property
    def kernel_pairs(self) -> tuple[tuple[int, int], ...]:
        pairs = self._axes(self.kernels, range(1, 5))
        return pairs if self.kernels is not None else ((1, 1), (3, 3)) * 4 + pairs

    @cached_property
    def stride_pairs(self) -> tuple[tuple[int, int], ...]:
        return self._axes(self.strides, range(1, 4))

    @cached_property
    def padding_pairs(self) -> tuple[Any, ...]:
        return self._axes(self.paddings, range(4))

    @cached_property
    def dilation_pairs(self) -> tuple[tuple[int, int], ...]:
        return ((1, 1),) if self.dilations is None else self._axes(self.dilations, range(1, 2))

    @cached_property
    def group_counts(self) -> tuple[int, ...]:
        return (1,) if self.groups is None else _allowed(self.groups, (1,))

    @cached_property
    def asked_pad_values(self) -> tuple[int, ...]:
        return tuple(self.pad_values) if isinstance(self.pad_values, tuple | list) else (self.pad_values,)

    @cached_property
    def memory_layouts(self) -> tuple[str, ...]:
        return tuple(self.memory) if isinstance(self.memory, tuple | list) else (self.memory,)
