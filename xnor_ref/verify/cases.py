"""Inside of what the conformance kit draws cases for this project's kernels, and the cases that only they have."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from hypothesis import strategies as st

from xnor_ref.conformance.basics import oracle
from xnor_ref.conformance.basics.arrays import KINDS, MEMORY, Case, Data
from xnor_ref.conformance.basics.restrictions import Restrictions
from xnor_ref.conformance.trying import cases as kit
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.rungs import has_vectors, jit_disabled

JIT = not jit_disabled()
VECTORS = has_vectors()
BACKENDS = ("simd", "simd", "numba", "numba", "reference", "float") if VECTORS else ("numba", "reference", "float")
CANARIES = 64  # elements around a result that must keep their value


def _sides(most: int) -> tuple[Any, ...]:
    """Padding of both axes by sides, half of it alike on both sides."""
    alike = [(p, p) for p in range(most + 1)]
    axis = alike * (most + 1) + list(product(range(most + 1), repeat=2))
    return tuple(dict.fromkeys(sorted(product(axis, repeat=2), key=lambda pads: np.sum(pads))))


LIMITS = Restrictions(  # without the compiler, the same kernels are plain Python: small shapes only
    channels=None if JIT else (1, 2, 31, 33, 63, 64, 65),
    out_channels=None if JIT else (1, 2, 9),
    kernels=None if JIT else (1, 2, 3, (1, 3), (3, 2)),
    paddings=_sides(5 if JIT else 3),
    dilations=(1, 1, 2, 3, (1, 2), (3, 1)),
    groups=(1, 1, 1, 2, 3, 4, 64) if JIT else (1, 1, 2, 4),
    batch=3 if JIT else 2,
    largest_image=6 if JIT else 3,
    memory=MEMORY,
    options={"backend": BACKENDS, "threads": (1, 2, 3)},
)
CHANNELS, OUT_CHANNELS = LIMITS.channel_counts, LIMITS.out_channel_counts


@dataclass(frozen=True)
class Conv:
    """A convolution of the kit's, with its options by name."""

    case: Case

    @property
    def x(self) -> Data:
        return self.case.data["x"]

    @property
    def weight(self) -> Data:
        return self.case.data["weight"]

    @property
    def options(self) -> dict[str, Any]:
        """Its keyword arguments."""
        return self.case.settings | self.case.keywords

    @property
    def geometry(self) -> dict[str, Any]:
        """Those that are no choice of how it is computed."""
        return {name: value for name, value in self.options.items() if name not in ("backend", "threads")}

    @property
    def window(self) -> Window:
        height, width = self.weight.shape[2:]
        return Window.of((height, width), *(self.options[name] for name in ("stride", "padding", "dilation")))

    @property
    def groups(self) -> int:
        return self.options["groups"]

    @property
    def pad_value(self) -> int:
        return self.options["pad_value"]

    @property
    def backend(self) -> str:
        return self.options["backend"]

    @property
    def threads(self) -> int:
        return self.options["threads"]

    def sums(self) -> np.ndarray:
        """What it must compute."""
        return oracle.sign_convolution(self.x.array(), self.weight.array(), **self.geometry)

    def scale_map(self, mode: str) -> np.ndarray:
        """Its K."""
        place = {name: value for name, value in self.geometry.items() if name != "pad_value"}
        return oracle.input_scale(self.x.array(), self.window.kernel, mode=mode, **place)


def convs(scaled: bool = False, grouped: bool = True, even: bool = False) -> st.SearchStrategy[Conv]:
    """Those of the kit: small images, any channel count, padding that may exceed the kernel.

    Dilations up to 3 and padding of two sides, unless `even`; groups up to as many as channels, if `grouped`.
    """
    limits = LIMITS if grouped else replace(LIMITS, groups=(1,))
    if even:
        pads = [(p, p) for p in range(6 if JIT else 4)]
        limits = replace(limits, dilations=(1,), paddings=tuple(product(pads, repeat=2)))
    return kit.conv2d(limits, scaled).map(Conv)


@st.composite
def chunked(draw) -> Case:
    """Convolutions with enough work for several chunks, so that threads really share it."""
    channels = draw(st.sampled_from((65, 192)))
    size = draw(st.integers(12, 15))
    of_x, of_weight = draw(st.sampled_from(KINDS)), draw(st.sampled_from(KINDS))
    return Case(
        "conv2d",
        {"x": Data((3, channels, size, size), of_x, seed=1), "weight": Data((70, channels, 3, 3), of_weight, seed=2)},
        {
            "stride": (1, 1),
            "padding": draw(st.sampled_from((((0, 0),) * 2, ((1, 1),) * 2, ((1, 1), (2, 2))))),
            "pad_value": draw(st.sampled_from((0, 1, -1))),
        },
        {
            "dilation": (1, 1),
            "groups": 1,
            "backend": draw(st.sampled_from(BACKENDS)) if JIT else "reference",
            "threads": draw(st.sampled_from((2, 3))),
        },
    )


@dataclass(frozen=True)
class Packing:
    """An array to pack and unpack: any dtype, any axis."""

    data: Data
    dtype: str
    axis: int

    def array(self) -> np.ndarray:
        x = self.data.array()
        if np.dtype(self.dtype).kind == "f":
            with np.errstate(over="ignore"):  # an infinity has a sign too
                return x.astype(self.dtype)
        return np.clip(np.nan_to_num(x), -100, 100).astype(np.int8).astype(self.dtype)


def data(shape: tuple[int, ...]) -> st.SearchStrategy[Data]:
    """Any array of this shape."""
    return st.builds(Data, st.just(shape), st.sampled_from(KINDS), st.sampled_from(MEMORY), st.integers(0, 2**32 - 1))


@st.composite
def packings(draw) -> Packing:
    n_bits = draw(st.sampled_from(CHANNELS))
    others = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    axis = draw(st.integers(0, len(others)))
    shape = (*others[:axis], n_bits, *others[axis:])
    dtype = draw(
        st.sampled_from(("float32", "float16", "float64", "int8", "int16", "int32", "int64", "uint8", "uint64"))
    )
    return Packing(draw(data(shape)), dtype, axis - draw(st.sampled_from((0, len(shape)))))
