"""What the properties are tried on: arrays and convolutions that Hypothesis draws, shrinks and prints.

An array is drawn as a short recipe, so that a failing example prints in a line and can be made again.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.rungs import has_vectors, jit_disabled
from xnor_ref.verify import oracle

JIT = not jit_disabled()
VECTORS = has_vectors()
CHANNELS: tuple[int, ...] = (1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 192, 256)
OUT_CHANNELS: tuple[int, ...] = (1, 2, 8, 9, 33, 64, 65, 130)
VALUES: dict[str, list[float]] = {  # that arrays are made of; those of the kind "random" are normal
    "plus": [1],
    "minus": [-1],
    "edges": [0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0, 3e38, -3e38],
    "negative zero": [-0.0],
    "subnormal": [1e-45, -1e-45],
    "saturated": [1, -1],
}
KINDS = ("random", *VALUES)
EXTREMES = (("plus", "minus"), ("minus", "plus"), ("plus", "plus"), ("minus", "minus"))  # the largest counts and sums
LAYOUTS = (
    "plain",
    "read-only",
    "reversed",
    "strided",
    "column-major",
    "column-major",
    "byte-swapped",
    "misaligned",
    "broadcast",
)
BACKENDS = ("simd", "simd", "numba", "numba", "reference", "float") if VECTORS else ("numba", "reference", "float")
if not JIT:  # the same kernels as plain Python: small shapes only
    CHANNELS, OUT_CHANNELS = (1, 2, 31, 33, 63, 64, 65), (1, 2, 9)

MOST_GROUPS = 65 if JIT else 4
CANARIES = 64  # elements around a result that must keep their value


@dataclass(frozen=True)
class Data:
    """Recipe of a float32 array."""

    shape: tuple[int, ...]
    kind: str
    layout: str
    seed: int

    def array(self) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        if self.kind == "random":
            x = rng.standard_normal(self.shape, np.float32)
        else:
            x = rng.choice(np.array(VALUES[self.kind], np.float32), self.shape)
        return lay_out(x, self.layout)


def lay_out(x: np.ndarray, layout: str) -> np.ndarray:
    """The same values in another memory layout (but "broadcast" repeats the first entry of the first axis)."""
    if layout == "read-only":
        x = x.copy()
        x.flags.writeable = False
    elif layout == "reversed":
        x = np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    elif layout == "strided":
        wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
        wide[..., ::2] = x
        x = wide[..., ::2]
    elif layout == "column-major":
        x = np.asfortranarray(x)
    elif layout == "byte-swapped":
        x = x.astype(x.dtype.newbyteorder())
    elif layout == "misaligned":
        octets = np.zeros(x.nbytes + 1, np.uint8)
        target = octets[1:].view(x.dtype).reshape(x.shape)
        target[...] = x
        x = target
    elif layout == "broadcast":
        x = np.broadcast_to(x[:1], x.shape)
    return x


def data(shape: tuple[int, ...], kind: str | None = None) -> st.SearchStrategy[Data]:
    """Any array of this shape, or only of one kind."""
    kinds = st.sampled_from(KINDS) if kind is None else st.just(kind)
    return st.builds(Data, st.just(shape), kinds, st.sampled_from(LAYOUTS), st.integers(0, 2**32 - 1))


def pairs_of_kinds(kinds: tuple[str, ...] = KINDS) -> st.SearchStrategy[tuple[str, str]]:
    """Kinds of two operands, every third time such that the sums become extreme."""
    any_two = st.tuples(st.sampled_from(kinds), st.sampled_from(kinds))
    return st.integers(0, 2).flatmap(lambda third: st.sampled_from(EXTREMES) if third == 0 else any_two)


@dataclass(frozen=True)
class Conv:
    """A convolution to try: operands and options."""

    x: Data
    weight: Data
    window: Window
    groups: int
    pad_value: int
    backend: str
    threads: int

    @property
    def geometry(self) -> dict[str, Any]:
        """Its keyword arguments that are no choice of how it is computed."""
        place = {name: getattr(self.window, name) for name in ("stride", "padding", "dilation")}
        return place | {"pad_value": self.pad_value, "groups": self.groups}

    @property
    def options(self) -> dict[str, Any]:
        return self.geometry | {"backend": self.backend, "threads": self.threads}

    def sums(self) -> np.ndarray:
        """What it must compute."""
        return oracle.sign_convolution(self.x.array(), self.weight.array(), **self.geometry)

    def scale_map(self, mode: str) -> np.ndarray:
        """Its K."""
        place = {name: value for name, value in self.geometry.items() if name != "pad_value"}
        return oracle.input_scale(self.x.array(), self.window.kernel, mode=mode, **place)


@st.composite
def convs(draw, kinds: tuple[str, ...] = KINDS, grouped: bool = True, even: bool = False) -> Conv:
    """Small images, any channel count, kernels up to 4x4, strides up to 3, padding that may exceed the kernel.

    Dilations up to 3 and padding of two sides, unless `even`; groups up to as many as channels, if `grouped`.
    """
    channels = draw(st.sampled_from(CHANNELS))
    of_x, of_weight = draw(pairs_of_kinds(kinds))
    n = draw(st.integers(1, 3 if JIT else 2))
    most = 5 if JIT else 3
    size, axes = [], []
    for _ in range(2):
        kernel, dilation = draw(st.integers(1, 4 if JIT else 3)), draw(st.sampled_from((1,) if even else (1, 1, 2, 3)))
        before = draw(st.integers(0, most))
        after = before if even else draw(st.one_of(st.just(before), st.integers(0, most)))
        least = max(1, dilation * (kernel - 1) + 1 - before - after)
        size.append(draw(st.integers(least, max(least, 6 if JIT else 3))))
        axes.append((kernel, draw(st.integers(1, 3)), (before, after), dilation))
    possible = [n for n in (1, 1, 1, 2, 3, 4, channels) if channels % n == 0 and n <= MOST_GROUPS]
    groups = draw(st.sampled_from(possible)) if grouped else 1
    outputs = -(-draw(st.sampled_from(OUT_CHANNELS)) // groups) * groups
    window = Window(*zip(*axes))
    return Conv(
        draw(data((n, channels, *size), of_x)),
        draw(data((outputs, channels // groups, *window.kernel), of_weight)),
        window,
        groups,
        draw(st.sampled_from((0, 1, -1))),
        draw(st.sampled_from(BACKENDS)),
        draw(st.sampled_from((1, 2, 3))),
    )


@st.composite
def chunked_convs(draw) -> Conv:
    """Enough work for several chunks, so that threads really share it."""
    channels = draw(st.sampled_from((65, 192)))
    size = draw(st.integers(12, 15))
    return Conv(
        draw(data((3, channels, size, size))),
        draw(data((70, channels, 3, 3))),
        Window.of(3, padding=draw(st.sampled_from((0, 1, (1, 2))))),
        1,
        draw(st.sampled_from((0, 1, -1))),
        draw(st.sampled_from(BACKENDS)) if JIT else "reference",
        draw(st.sampled_from((2, 3))),
    )


@st.composite
def longest_dots(draw) -> Conv:
    """n_bits = 3072 * 5 * 5 = 76,800: more than 16 bits hold."""
    of_x, of_weight = draw(st.sampled_from((*EXTREMES, ("random", "random"))))
    return Conv(
        Data((1, 3072, 5, 5), of_x, "plain", 1),
        Data((2, 3072, 5, 5), of_weight, "plain", 2),
        Window.of(5, padding=draw(st.sampled_from((0, 1)))),
        1,
        draw(st.sampled_from((0, 1, -1))),
        draw(st.sampled_from(BACKENDS)) if JIT else draw(st.sampled_from(("reference", "float"))),
        1,
    )


@dataclass(frozen=True)
class Linear:
    """A matrix product to try."""

    x: Data
    weight: Data
    backend: str
    threads: int


@st.composite
def linears(draw) -> Linear:
    features = draw(st.sampled_from(CHANNELS))
    of_x, of_weight = draw(pairs_of_kinds())
    return Linear(
        draw(data((draw(st.integers(1, 5)), features), of_x)),
        draw(data((draw(st.sampled_from(OUT_CHANNELS)), features), of_weight)),
        draw(st.sampled_from(BACKENDS)),
        draw(st.sampled_from((1, 2, 3))),
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
