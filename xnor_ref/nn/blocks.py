"""The unit that networks are built from: a convolution or linear map with its BatchNorm, activation and pooling.

Order matters (Rastegari et al. 2016, section 3.2 and Table 3b). A full-precision block is C-B-A-P: convolution,
BatchNorm, ReLU, pooling. XNOR-Net's is B-A-C-P: BatchNorm first, so that inputs are centred when their sign is taken;
pooling last, because the maximum of signs is almost always +1.
"""

from dataclasses import dataclass, fields

import numpy as np

from xnor_ref.errors import InputError
from xnor_ref.nn.binary_layers import BinaryConv2d, BinaryLinear
from xnor_ref.nn.layers import BatchNorm1d, BatchNorm2d, Conv2d, Linear, ReLU
from xnor_ref.nn.module import Module, Sequential

METHODS = ("xnor", "full")


@dataclass(frozen=True)
class BinaryOptions:
    """Settings that all binary layers of a network share; see `BinaryConv2d`."""

    weight_scale: str = "alpha"
    input_scale: str = "plain"
    pad_value: int = 0
    grad_mode: str | None = None
    k_grad: bool = False
    centre: bool = False
    clamp: bool = False

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all settings."""
        return tuple(field.name for field in fields(cls))

    def for_linear(self) -> dict:
        """The settings that a linear layer takes; without a border, "valid" is the same as "plain"."""
        options = {name: getattr(self, name) for name in self.names() if name != "pad_value"}
        if self.input_scale == "valid":
            options["input_scale"] = "plain"
        return options

    def for_conv(self) -> dict:
        """The settings that a convolution takes."""
        return {name: getattr(self, name) for name in self.names()}


@dataclass
class Builder:
    """Makes the hidden blocks of a network for one method, drawing all weights from one generator."""

    method: str
    options: BinaryOptions
    rng: np.random.Generator

    def __post_init__(self):
        if self.method not in METHODS:
            raise InputError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")

    def conv(self, inputs: int, outputs: int, kernel, stride=1, padding=0, pool: Module | None = None) -> Sequential:
        """A hidden convolution block: B-A-C-P when binary, C-B-A-P when real."""
        if self.method == "full":
            return self.stem(inputs, outputs, kernel, stride, padding, pool)
        options = self.options.for_conv()
        conv = BinaryConv2d(inputs, outputs, kernel, stride, padding, **options, rng=self.rng)
        return _sequence(bn=BatchNorm2d(inputs), conv=conv, pool=pool)

    def linear(self, inputs: int, outputs: int) -> Sequential:
        """A hidden fully connected block."""
        if self.method == "xnor":
            return Sequential(
                bn=BatchNorm1d(inputs),
                linear=BinaryLinear(inputs, outputs, **self.options.for_linear(), rng=self.rng),
            )
        return Sequential(
            linear=Linear(inputs, outputs, bias=False, rng=self.rng), bn=BatchNorm1d(outputs), relu=ReLU()
        )

    def stem(self, inputs: int, outputs: int, kernel, stride=1, padding=0, pool: Module | None = None) -> Sequential:
        """The first convolution, real in every method: three channels leave nothing to gain (section 3.2)."""
        conv = Conv2d(inputs, outputs, kernel, stride, padding, rng=self.rng)
        return _sequence(conv=conv, bn=BatchNorm2d(outputs), relu=ReLU(), pool=pool)

    def before_classifier(self, channels: int, batch_norm=BatchNorm2d) -> Sequential:
        """BatchNorm and ReLU after the last binary block; a real block ends with both already."""
        if self.method == "xnor":
            return Sequential(bn=batch_norm(channels), relu=ReLU())
        return Sequential()


def _sequence(**layers: Module | None) -> Sequential:
    """The layers that are there."""
    return Sequential(**{name: layer for name, layer in layers.items() if layer is not None})
