"""The blocks of networks: a convolution or linear layer with its BatchNorm, activation and pooling.

The room's page lists the orders of these parts and explains them. In B-A-C-P, the option `relu` puts a ReLU before the
pooling. In BinaryNet the activation is the sign, which the next layer takes of its input.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.geometry import Pair, Window
from xnor_ref.nn.layers.binary_layers import BinaryConv2d, BinaryLayer, BinaryLinear
from xnor_ref.nn.layers.binary_weight_layers import BinaryWeightConv2d, BinaryWeightLinear
from xnor_ref.nn.layers.kbit_layers import KBitConv2d, KBitLinear
from xnor_ref.nn.layers.react_layers import Shift, rprelu
from xnor_ref.nn.layers.real_layers import (
    AvgPool2d,
    BatchNorm,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Convolution,
    Linear,
    MaxPool2d,
    ReLU,
    Sign,
    pair,
)
from xnor_ref.nn.layers.scale_layers import Scale
from xnor_ref.nn.layers.shift_norm import ShiftBatchNorm1d, ShiftBatchNorm2d
from xnor_ref.nn.methods import METHODS as METHODS
from xnor_ref.nn.methods import BinaryOptions as BinaryOptions
from xnor_ref.nn.methods import Method
from xnor_ref.nn.module import Module, Residual, Sequential

_OFFICIAL_EPS = {"first": 1e-5, "hidden": 1e-4, "last": 1e-3}


@dataclass
class Builder:
    """Builds the blocks of a network for one method. All weights are drawn from one generator.

    Parameters
    ----------
    method, options : the method's name and its options, checked by `methods.options_of`
    rng : generator of the initial weights
    size : (H, W) of the image, then of each next block's input; some Gammas depend on it
    """

    method: str
    options: BinaryOptions
    rng: np.random.Generator
    size: Pair
    how: Method = field(init=False)

    def __post_init__(self):
        self.how = METHODS[self.method]

    @property
    def real_inputs(self) -> bool:
        """Whether hidden layers have real inputs; activations are then ReLU."""
        return not self.how.inputs

    @property
    def sign_first(self) -> bool:
        """Whether hidden blocks take the signs of their own input: B-A-C-P and A-C-B-P."""
        return self.how.inputs and not self.how.ends and self.options.block_order != "cbap"

    @property
    def norm_first(self) -> bool:
        """Whether hidden blocks begin with BatchNorm: B-A-C-P."""
        return self.sign_first and self.options.block_order == "bacp" and self.options.batch_norm != "none"

    @property
    def binary_ends(self) -> bool:
        """Whether the weights of the first and the last layer are binary."""
        return self.how.ends if self.options.ends is None else self.options.ends == "binary"

    def conv(
        self, inputs: int, outputs: int, kernel, stride=1, padding=0, pool: MaxPool2d | AvgPool2d | None = None, **more
    ) -> Sequential:
        """Return a hidden convolution block. `more` may hold the convolution's `dilation` and `groups`."""
        conv, before = self.hidden_conv(inputs, outputs, kernel, stride, padding, **more), self.size
        self._follow(conv.window(before))
        if not self.sign_first:
            return self._block(conv, outputs, pool)
        body = self._body(inputs, outputs, "conv", conv, self.size)
        if self.options.shortcut == "bireal":
            shortcut = self._shortcut(inputs, outputs, before, pair(stride, "stride", "Builder"))
            body = {"sum": Residual(_sequence(**body), shortcut)}
        self._through(pool)
        return _sequence(**body, act=self._after(outputs), pool=pool)

    def _body(
        self,
        inputs: int,
        outputs: int,
        name: str,
        layer: Module,
        size: Pair | None,
        kind: type[BatchNorm] = BatchNorm2d,
    ) -> dict[str, Module | None]:
        """Return a hidden layer with its signs, its scale, and BatchNorm before the signs or at the end."""
        scale = self._scale(layer, outputs, size)
        if self.norm_first:
            return {"bn": self.norm(inputs, kind=kind), **self._sign(inputs), name: layer, "scale": scale}
        return {**self._sign(inputs), name: layer, "scale": scale, "bn": self.norm(outputs, kind=kind)}

    def _after(self, channels: int) -> Module | None:
        """Return the activation after a binary layer, or None."""
        if self.options.react or self.options.rprelu:
            return rprelu(channels)
        return ReLU() if self.options.relu else None

    def _sign(self, channels: int) -> dict[str, Module | None]:
        """Return what stands between BatchNorm and a hidden layer: a shift, and a sign before real weights."""
        return {
            "shift": Shift(channels) if self.options.react else None,
            "sign": None if self.how.weights else Sign(self.options.sign_gradient),
        }

    def _shortcut(self, inputs: int, outputs: int, before: Pair, stride: Pair) -> Module | None:
        """Return the shortcut past a convolution that turns images of size `before` into images of `self.size`.

        It is the identity if shapes agree. Otherwise it is the mean over stride x stride pixels, a real 1x1 convolution
        and BatchNorm (Liu et al. 2018, section 3.3).
        """
        if self.size != (before[0] // stride[0], before[1] // stride[1]):
            raise InputError(
                "build: shortcut 'bireal' needs convolutions that change the image's size by their stride only; one "
                "of "
                f"stride {stride} changes {before} to {self.size}"
            )
        if inputs == outputs and stride == (1, 1):
            return None
        mean = AvgPool2d(stride) if stride != (1, 1) else None
        return _sequence(pool=mean, conv=Conv2d(inputs, outputs, 1, rng=self.rng), bn=self.norm(outputs))

    def conv_and_norm(
        self, inputs: int, outputs: int, kernel, stride=1, padding=0, names: tuple[str, str] = ("conv", "bn")
    ) -> dict[str, Module]:
        """Return a hidden convolution and its BatchNorm, for blocks that combine them in another order."""
        conv = self.hidden_conv(inputs, outputs, kernel, stride, padding)
        scale = self._scale(conv, outputs, None)
        layers = {names[0]: conv, f"{names[0]}_scale": scale, names[1]: self.norm(outputs)}
        return {name: layer for name, layer in layers.items() if layer is not None}

    def hidden_conv(self, inputs: int, outputs: int, kernel, stride=1, padding=0, **more) -> Convolution:
        """Return the convolution of a hidden block."""
        place = inputs, outputs, kernel, stride, padding
        if not self.how.weights:
            return Conv2d(*place, rng=self.rng, **more)
        if self.real_inputs:
            return self._binary_weight_conv(*place, **more)
        kind = BinaryConv2d if self._one_bit else KBitConv2d
        more |= self.options.of_layer(kind.takes)
        return kind(*place, self.options.pad_value, rng=self.rng, **more)

    def _binary_weight_conv(self, inputs: int, outputs: int, kernel, stride, padding, **more) -> Convolution:
        more |= self.options.of_layer(BinaryWeightConv2d.takes)
        return BinaryWeightConv2d(inputs, outputs, kernel, stride, padding, rng=self.rng, **more)

    def linear(self, inputs: int, outputs: int) -> Sequential:
        """Return a hidden fully connected block."""
        linear = self._linear(inputs, outputs)
        if self.sign_first:
            body = self._body(inputs, outputs, "linear", linear, None, BatchNorm1d)
            return _sequence(**body, act=self._after(outputs))
        scale = self._scale(linear, outputs, None)
        return _sequence(linear=linear, scale=scale, bn=self.norm(outputs, kind=BatchNorm1d), **self._activation())

    def stem(
        self, inputs: int, outputs: int, kernel, stride=1, padding=0, pool: MaxPool2d | AvgPool2d | None = None
    ) -> Sequential:
        """Return the block of the first convolution.

        With three input channels, binary inputs save nothing (section 3.2), so the inputs are real. The weights are
        real too, unless the method binarises its first and last layers.
        """
        place = inputs, outputs, kernel, stride, padding
        conv = self._binary_weight_conv(*place) if self.binary_ends else Conv2d(*place, rng=self.rng)
        self._follow(conv.window(self.size))
        return self._block(conv, outputs, pool, first=True)

    def before_classifier(self, channels: int, batch_norm: type[BatchNorm] = BatchNorm2d) -> Sequential:
        """Return a BatchNorm before the last layer, if blocks begin with BatchNorm, and ReLU before real weights."""
        return _sequence(
            bn=self.norm(channels, "last", batch_norm) if self.norm_first else None,
            relu=ReLU() if self.sign_first and not self.binary_ends else None,
        )

    def norm(self, channels: int, place: str = "hidden", kind: type[BatchNorm] = BatchNorm2d) -> BatchNorm | None:
        """Return a BatchNorm, or None if the network has none. `place` is "first", "hidden" or "last" (before it).

        BinaryConnect and BinaryNet use eps 1e-4, as in their authors' code. `batch_norm="official"` follows the
        AlexNets released by the XNOR-Net authors: eps is 1e-3 everywhere for real inputs; for binary inputs it is 1e-5,
        1e-4 and 1e-3 at the three places. Scales are drawn uniformly from [0, 1), as in Torch 7.
        """
        if self.options.batch_norm == "none":
            return None
        if self.options.shift_batch_norm:
            return (ShiftBatchNorm2d if kind is BatchNorm2d else ShiftBatchNorm1d)(channels)
        if self.options.batch_norm == "plain":
            return kind(channels, 1e-4) if self.how.ends else kind(channels)
        norm = kind(channels, 1e-3 if self.real_inputs else _OFFICIAL_EPS[place])
        norm.weight.data[:] = self.rng.random(channels, np.float32)
        return norm

    def last_linear(self, inputs: int, classes: int) -> Module:
        """Return the last layer, (N, inputs) -> (N, classes)."""
        if not self.binary_ends:
            return Linear(inputs, classes, rng=self.rng)
        return _sequence(linear=self._linear(inputs, classes), bn=self.norm(classes, "last", BatchNorm1d))

    def last_conv(self, inputs: int, classes: int) -> Module:
        """Return the last layer, (N, inputs, H, W) -> (N, classes, H, W)."""
        if not self.binary_ends:
            return Conv2d(inputs, classes, 1, bias=True, rng=self.rng)
        return _sequence(conv=self.hidden_conv(inputs, classes, 1), bn=self.norm(classes, "last"))

    def _linear(self, inputs: int, outputs: int) -> Module:
        """Return the layer of a hidden fully connected block."""
        if not self.how.weights:
            return Linear(inputs, outputs, bias=False, rng=self.rng)
        kind: Any = BinaryLinear if self._one_bit else KBitLinear
        if self.real_inputs:
            kind = BinaryWeightLinear
        return kind(inputs, outputs, **self.options.of_layer(kind.takes), rng=self.rng)

    @property
    def _one_bit(self) -> bool:
        return self.options.weight_bits == self.options.input_bits == 1

    def _scale(self, layer: Module, outputs: int, size: Pair | None) -> Scale | None:
        """Return the learned scale after a hidden layer with outputs of this size, or None if the method has none."""
        if "gamma" in self.how.options:
            gamma = self.options.gamma if size else "o"
            alpha = layer.analytic_scale if self.options.gamma_init == "alpha" else None  # type: ignore[attr-defined]
            return Scale(outputs, gamma, size, alpha)
        if not isinstance(layer, BinaryLayer):
            return None
        return Scale(outputs, alpha=layer.analytic_scale) if self.options.weight_scale.separate else None

    def _block(self, conv: Module, outputs: int, pool: MaxPool2d | AvgPool2d | None, first: bool = False) -> Sequential:
        """Return a block C-B-A-P, or C-P-B-A if the first and last layers are binary."""
        scale = None if first else self._scale(conv, outputs, self.size)
        bn = self.norm(outputs, "first" if first else "hidden")
        self._through(pool)
        if self.how.ends:
            return _sequence(conv=conv, scale=scale, pool=pool, bn=bn, **self._activation())
        return _sequence(conv=conv, scale=scale, bn=bn, **self._activation(first), pool=pool)

    def _activation(self, first: bool = False) -> dict[str, Module]:
        """Return the activation after BatchNorm: a ReLU; a sign, if pooling follows; nothing, if a sign follows."""
        if self.real_inputs or (first and self.norm_first):
            return {"relu": ReLU()}
        return {} if self.how.ends or self.sign_first else {"sign": Sign()}

    def _through(self, pool: MaxPool2d | AvgPool2d | None) -> None:
        if pool is not None:
            self._follow(pool.window(self.size))

    def _follow(self, window: Window) -> None:
        """Update the size of the image after a window."""
        self.size = window.count(self.size)
        if min(self.size) < 1:
            raise InputError(f"build: the image is too small for a window of {window.extent}")


def _sequence(**layers: Module | None) -> Sequential:
    """Chain the layers that are not None."""
    return Sequential(**{name: layer for name, layer in layers.items() if layer is not None})
