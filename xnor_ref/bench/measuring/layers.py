"""The layers that are measured, in sets, and their random data."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError, check_integer
from xnor_ref.kernels.basics.checks import check_n_bits
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.memory import check_memory

F32 = NDArray[np.float32]

LARGEST = 65_536  # channels, pixels per side, taps per side


@dataclass(frozen=True)
class Conv:
    """A convolution of square images (channels, size, size) with a square kernel, padded by half of it with zeros."""

    channels: int
    size: int
    kernel: int
    out_channels: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    uneven: bool = False  # whether all zeros of an axis are on one side

    @property
    def name(self) -> str:
        """'256@14x14 3x3 -> 256', with '/2' after the kernel for stride 2; unusual arguments are at the end."""
        stride = f"/{self.stride}" if self.stride > 1 else ""
        image, kernel = f"{self.channels}@{self.size}x{self.size}", f"{self.kernel}x{self.kernel}{stride}"
        more = f", dilation {self.dilation}" if self.dilation > 1 else ""
        more += f", {self.groups} groups" if self.groups > 1 else ""
        return f"{image} {kernel} -> {self.out_channels}{more}{', uneven padding' if self.uneven else ''}"

    @property
    def usual(self) -> bool:
        """Whether every peer can compute it."""
        return (self.dilation, self.groups, self.uneven) == (1, 1, False)

    @property
    def padding(self) -> int:
        """Zeros on each side of an axis; with uneven padding, half of those on one side."""
        return (self.dilation * (self.kernel - 1) + 1) // 2

    @property
    def window(self) -> Window:
        """The window that slides over the images."""
        p = self.padding
        return Window.of(self.kernel, self.stride, ((0, 2 * p), (2 * p, 0)) if self.uneven else p, self.dilation)

    @property
    def geometry(self) -> dict[str, Any]:
        """Arguments of the public functions."""
        w = self.window
        return {"stride": w.stride, "padding": w.padding, "dilation": w.dilation, "groups": self.groups}

    @property
    def out_size(self) -> int:
        """Pixels per side of the output."""
        return self.window.count((self.size, self.size))[0]

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(O, C/groups, KH, KW)."""
        return self.out_channels, self.channels // self.groups, self.kernel, self.kernel

    @property
    def n_bits(self) -> int:
        """Length of one dot product."""
        return self.channels // self.groups * self.kernel**2

    def rows(self, batch: int) -> int:
        """The number of images computed together."""
        return batch

    def macs(self, batch: int) -> int:
        """Multiply-accumulates, including those with padded zeros."""
        return batch * self.n_bits * self.out_channels * self.out_size**2

    def input_shape(self, batch: int) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return batch, self.channels, self.size, self.size


@dataclass(frozen=True)
class Linear:
    """A fully connected layer; `fixed_rows` vectors at a time, or as many as the batch has images."""

    inputs: int
    outputs: int
    fixed_rows: int | None = None

    @property
    def name(self) -> str:
        """'linear 9216 -> 4096', or 'GEMM 64x4096x9216' (rows, outputs, inputs)."""
        if self.fixed_rows is None:
            return f"linear {self.inputs} -> {self.outputs}"
        return f"GEMM {self.fixed_rows}x{self.outputs}x{self.inputs}"

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(O, I)."""
        return self.outputs, self.inputs

    @property
    def n_bits(self) -> int:
        """Length of one dot product."""
        return self.inputs

    def rows(self, batch: int) -> int:
        """The number of vectors computed together."""
        return batch if self.fixed_rows is None else self.fixed_rows

    def macs(self, batch: int) -> int:
        """Multiply-accumulates."""
        return self.rows(batch) * self.inputs * self.outputs

    def input_shape(self, batch: int) -> tuple[int, ...]:
        """(N, I)."""
        return self.rows(batch), self.inputs


Layer = Conv | Linear

PAPER = Conv(256, 14, 3, 256)  # the reference layer of Rastegari et al. 2016, section 4.1

LAYER_SETS: dict[str, tuple[Layer, ...]] = {
    "paper": (
        PAPER,
        Conv(96, 27, 5, 256),
        Conv(256, 13, 3, 384),
        Conv(384, 13, 3, 384),
        Conv(64, 56, 3, 64),
        Conv(128, 28, 3, 128),
        Conv(512, 7, 3, 512),
    ),
    "alexnet": (
        Conv(96, 27, 5, 256),
        Conv(256, 13, 3, 384),
        Conv(384, 13, 3, 384),
        Conv(384, 13, 3, 256),
        Linear(9216, 4096),
        Linear(4096, 4096),
    ),
    "resnet18": (
        Conv(64, 56, 3, 64),
        Conv(64, 56, 3, 128, 2),
        Conv(128, 28, 3, 128),
        Conv(128, 28, 3, 256, 2),
        Conv(256, 14, 3, 256),
        Conv(256, 14, 3, 512, 2),
        Conv(512, 7, 3, 512),
    ),
    "gemm": (Linear(1024, 1024, 1024), Linear(9216, 4096, 64)),
    "geometry": (
        PAPER,
        Conv(256, 14, 3, 256, dilation=2),
        Conv(256, 14, 3, 256, groups=4),
        Conv(256, 14, 3, 256, groups=256),
        Conv(256, 14, 3, 256, uneven=True),
        Conv(64, 56, 3, 64),
        Conv(64, 56, 3, 64, dilation=2),
    ),
}


def parse_layer(text: str) -> Conv:
    """Return a convolution from 'C,H,K,O' or 'C,H,K,O,STRIDE'. Raises InputError."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (4, 5):
        raise InputError(
            "bench: a layer is C,H,K,O or C,H,K,O,STRIDE (channels, pixels per side, kernel, output channels), such "
            "as "
            f"256,14,3,256; got {text!r}"
        )
    for name, number in zip(("C", "H", "K", "O", "STRIDE"), numbers):
        check_integer(f"bench: layer {text}: {name}", number, 1, LARGEST)
    channels, size, kernel, outputs, stride = numbers if len(numbers) == 5 else (*numbers, 1)
    layer = Conv(channels, size, kernel, outputs, stride)
    if layer.kernel > layer.size + 2 * layer.padding:
        raise InputError(
            f"bench: layer {text}: the kernel ({layer.kernel}) exceeds the padded image "
            f"({layer.size} + 2*{layer.padding})"
        )
    return layer


def layer_set(name: str) -> tuple[Layer, ...]:
    """Return the layers of a set. Raises InputError."""
    if name not in LAYER_SETS:
        raise InputError(f"bench: there is no layer set {name!r}; there are {', '.join(LAYER_SETS)}")
    return LAYER_SETS[name]


def check_size(layer: Layer, batch: int) -> None:
    """Raise InputError if the arrays of a layer do not fit into the machine's memory."""
    check_n_bits("bench", layer.n_bits, f"{layer.name}: n_bits", "numba")
    inputs, weights = np.prod(layer.input_shape(batch), dtype=object), np.prod(layer.weight_shape, dtype=object)
    outputs = layer.macs(batch) // layer.n_bits
    columns = layer.n_bits * layer.out_size**2 if isinstance(layer, Conv) else 0
    check_memory("bench", 4 * (8 * inputs + 8 * weights + 8 * outputs + 2 * columns), f"({layer.name}, batch {batch})")


def check_batch(batch: int, size: int = 1) -> None:
    """Raise InputError if a batch of images of `size` pixels per side does not fit into memory."""
    check_integer("bench: batch", batch, 1)
    check_memory("bench", 4 * 64 * batch * size * size, f"(batch {batch} of {size}x{size} pixels)")


def random_data(layer: Layer, batch: int, seed: int = 0) -> tuple[F32, F32]:
    """Return (x, weight), standard normal float32: x (N, C, H, W) or (N, I), weight (O, C, KH, KW) or (O, I)."""
    rng = np.random.default_rng(seed)
    shapes = layer.input_shape(batch), layer.weight_shape
    return rng.standard_normal(shapes[0], np.float32), rng.standard_normal(shapes[1], np.float32)


def signs(x: F32) -> F32:
    """Return the signs of x as +1 and -1."""
    return np.where(x >= 0, np.float32(1), np.float32(-1))
