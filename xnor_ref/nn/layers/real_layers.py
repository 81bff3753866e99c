"""Real-valued layers. Sizes are checked at construction, inputs at the call."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff import Tensor
from xnor_ref.binary import SIGN_GRADIENTS, SignGradient
from xnor_ref.errors import InputError, InputTypeError, check_integer, is_integer
from xnor_ref.kernels.basics.checks import check_groups, check_padding
from xnor_ref.kernels.basics.geometry import FEW_CHANNELS, Padding, Pair, Window
from xnor_ref.kernels.basics.memory import check_memory
from xnor_ref.nn import functional, fused, shards
from xnor_ref.nn.module import Module, Parameter, bias_of, overrides


def positive(value: int, name: str, caller: str) -> int:
    """Return a size as an int, after checking that it is at least 1 and below 2**31."""
    value = check_integer(f"{caller}: {name}", value, 1)
    if value >= 2**31:
        raise InputError(f"{caller}: {name} must be below 2**31, got {value}")
    return value


def pair(value: int | Pair, name: str, caller: str, minimum: int = 1) -> Pair:
    """Return an int or a pair of ints as a pair. Each must be at least `minimum`."""
    both = value if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2 or not all(map(is_integer, both)):
        raise InputTypeError(f"{caller}: {name} must be an int or a pair of ints, got {value!r}")
    if min(both) < minimum or max(both) >= 2**31:
        raise InputError(f"{caller}: {name} must be at least {minimum}, got {value}")
    return int(both[0]), int(both[1])


def sides(value: Any, caller: str) -> Padding:
    """Return checked padding for `Window.of`: "same", a pair, or two pairs if the sides of an axis differ."""
    padding = check_padding(caller, value)
    return padding if padding == "same" else Window.of(1, 1, padding).brief_padding


def _generator(rng: np.random.Generator | None) -> np.random.Generator:
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise InputTypeError(f"rng must be a numpy.random.Generator, such as np.random.default_rng(3), got {rng!r:.60}")
    return rng or np.random.default_rng()


def he_normal(shape: tuple[int, ...], rng: np.random.Generator | None) -> NDArray[np.float32]:
    """Draw from N(0, 2 / fan_in), the initialisation in the XNOR-Net authors' code (He et al. 2015, eq. 10).

    Raises InputError, before drawing, if the array does not fit into memory.
    """
    rng = _generator(rng)
    fan_in = math.prod(shape[1:])
    check_memory("he_normal", 2 * 4 * math.prod(shape), f"(a weight {shape} and its gradient)")
    weight = rng.standard_normal(shape, dtype=np.float32)
    weight *= np.float32(math.sqrt(2 / fan_in))
    return weight


def uniform(shape: tuple[int, ...], rng: np.random.Generator | None) -> NDArray[np.float32]:
    """Draw uniformly from [-1, 1). Raises InputError if the array does not fit into memory."""
    rng = _generator(rng)
    check_memory("uniform", 2 * 4 * math.prod(shape), f"(a weight {shape} and its gradient)")
    return rng.random(shape, dtype=np.float32) * np.float32(2) - np.float32(1)


def glorot_bound(shape: tuple[int, ...]) -> float:
    """sqrt(1.5 / (fan_in + fan_out)) of a weight (O, C, KH, KW) or (O, I): half of Glorot and Bengio 2010, eq. 16."""
    taps = math.prod(shape[2:])
    return math.sqrt(1.5 / ((shape[0] + shape[1]) * taps))


class Convolution(Module):
    """Base of all convolutions: their sizes.

    `padding` is an int, a pair (vertical, horizontal), two pairs ((top, bottom), (left, right)), "valid" for none, or
    "same" as in TensorFlow. "same" depends on the image: OH = ceil(H / stride), and the smaller half of the padding is
    at the top and left. `dilation`, an int or a pair, is the distance between taps in pixels. `groups` cuts input and
    output channels into as many parts; each output part sees only its input part. With as many groups as input
    channels, the layer is a depthwise convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair,
        padding: Padding,
        dilation: int | Pair,
        groups: int,
    ):
        caller = type(self).__name__
        self.in_channels = positive(in_channels, "in_channels", caller)
        self.out_channels = positive(out_channels, "out_channels", caller)
        self.kernel_size = pair(kernel_size, "kernel_size", caller)
        self.stride = pair(stride, "stride", caller)
        self.padding = sides(padding, caller)
        self.dilation = pair(dilation, "dilation", caller)
        check_groups(caller, groups, self.in_channels, self.out_channels)
        self.groups = int(groups)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """The shape of the weight, (O, C/groups, KH, KW)."""
        return self.out_channels, self.in_channels // self.groups, *self.kernel_size

    def window(self, size: Pair) -> Window:
        """Return the window for images of this size (H, W)."""
        return Window.of(self.kernel_size, self.stride, self.padding, self.dilation, size)

    def window_on(self, x: Tensor, caller: str) -> Window:
        """Return the window for images x (N, C, H, W). Raises InputTypeError or InputError for unsuitable images."""
        functional.require_images(x, self.in_channels, caller)
        window = self.window((x.shape[2], x.shape[3]))
        functional.require_window(x, window, caller)
        return window

    def describe(self) -> str:
        sizes = f"{self.in_channels} -> {self.out_channels}, kernel {self.kernel_size}"
        dilation = f", dilation {self.dilation}" if self.dilation != (1, 1) else ""
        groups = f", groups {self.groups}" if self.groups > 1 else ""
        return f"{sizes}, stride {self.stride}, padding {self.padding}{dilation}{groups}{bias_of(self)}"


class Conv2d(Convolution):
    """Convolution (cross-correlation) with real weights (O, C/groups, KH, KW). `Convolution` describes the sizes.

    `bias` is off by default: before a BatchNorm a bias has no effect, and its gradient there is only rounding noise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: Padding = 0,
        groups: int = 1,
        bias: bool = False,
        rng: np.random.Generator | None = None,
        *,
        dilation: int | Pair = 1,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        self.weight = Parameter(he_normal(self.weight_shape, rng), decay=True)
        self.bias = Parameter(np.zeros(self.out_channels, np.float32)) if bias else None

    def forward_through(self, x: Tensor, following: Sequence[Module]) -> tuple[Tensor, int]:
        """With BatchNorm and the layers that it includes, as one node, if images of few channels need no gradient."""
        norm: Any = following[0] if following else None
        few = fused.takes(self) and self.in_channels <= FEW_CHANNELS and self.dilation[1] == 1
        alone = not few or self.bias is not None or x.requires_grad
        known = is_stock(self, Conv2d) and is_stock(norm, BatchNorm2d)
        if alone or not (known and norm.training and fused.applies(x)):
            return self(x), 0
        size = self.window_on(x, "conv2d").count((x.shape[2], x.shape[3]))
        if norm.channels != self.out_channels or len(x.data) * size[0] * size[1] < 2 or size == (1, 1):
            return self(x), 0
        relu, pool, more = _after_norm((len(x.data), self.out_channels, *size), following[1:])
        return fused.conv_norm(x, self, norm, relu, pool), 1 + more

    def forward(self, x: Tensor) -> Tensor:
        window = self.window_on(x, "conv2d")
        if fused.applies(x) and fused.takes_groups(self):
            return fused.conv2d(x, self, self.bias)
        return functional.conv2d(x, self.weight, self.bias, window, self.groups)


class Linear(Module):
    """x (N, I) -> x W.T + b (N, O) with real weights W (O, I)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, rng: np.random.Generator | None = None):
        self.in_features = positive(in_features, "in_features", "Linear")
        self.out_features = positive(out_features, "out_features", "Linear")
        weight = he_normal((self.out_features, self.in_features), rng)
        self.weight = Parameter(weight * np.float32(math.sqrt(0.5)), decay=True)  # no ReLU follows: 1 / fan_in
        self.bias = Parameter(np.zeros(self.out_features, np.float32)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def describe(self) -> str:
        return f"{self.in_features} -> {self.out_features}{bias_of(self)}"


class BatchNorm(Module):
    """Batch normalisation of each channel (Ioffe and Szegedy 2015).

    Training normalises by the batch's statistics and moves the running statistics towards them by `momentum`. The
    running variance is the unbiased one. Inference computes y = x * scale + shift in float32, the form that a packed
    network stores. Without `affine`, gamma is 1 and beta is 0, and neither is trained.
    """

    buffer_names = ("running_mean", "running_var")
    ndim = 0
    normalize = staticmethod(functional.batch_norm)
    fuses_alone = True  # whether `nn.fused` can compute it

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True):
        caller = type(self).__name__
        self.channels = positive(channels, "channels", caller)
        if not (0 < eps < 1 and 0 < momentum <= 1):
            raise InputError(
                f"{caller}: eps must be in (0, 1) and momentum in (0, 1], got eps={eps}, momentum={momentum}"
            )
        self.eps = eps
        self.momentum = momentum
        kind = Parameter if affine else Tensor
        self.weight = kind(np.ones(channels, np.float32))
        self.bias = kind(np.zeros(channels, np.float32))
        self.running_mean = np.zeros(channels, np.float32)
        self.running_var = np.ones(channels, np.float32)

    def forward(self, x: Tensor) -> Tensor:
        caller = type(self).__name__
        if self.ndim == 4:
            functional.require_images(x, self.channels, caller)
        else:
            functional.require_rows(x, self.channels, caller)
        if not self.training:
            return functional.affine(x, *self.inference_affine())
        count = x.size // self.channels
        if count * shards.current().of_norms.count < 2:
            raise InputError(f"{caller}: training needs more than one value per channel, got input {x.shape}")
        if self.fuses_alone and fused.applies(x):
            return fused.norm(x, self)
        return self.normalize(x, self)

    def moments(
        self, mean: NDArray[np.float64], var: NDArray[np.float64], count: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and biased variance of the batch, from those of the images here, of `count` values a channel.

        The running statistics move towards them.
        """
        return shards.current().normalised(self, mean, var, count)

    def move(self, mean: NDArray[np.float64], var: NDArray[np.float64], count: int) -> None:
        """Move the running statistics towards a batch with `count` values per channel. `var` is the biased variance."""
        keep = 1 - self.momentum
        unbiased = var * (count / (count - 1))
        self.running_mean[...] = keep * self.running_mean + self.momentum * mean
        self.running_var[...] = keep * self.running_var + self.momentum * unbiased

    def training_affine(
        self, mean: NDArray[np.float64], var: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return (scale, shift), float32 (C,), like `inference_affine` but from a batch's statistics."""
        scale = self.weight.data / np.sqrt(var + self.eps)
        return scale.astype(np.float32), (self.bias.data - mean * scale).astype(np.float32)

    def inference_affine(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return (scale, shift), float32 (C,): gamma / sqrt(var + eps) and beta - mean * scale, each rounded once."""
        scale = self.weight.data / np.sqrt(self.running_var.astype(np.float64) + self.eps)
        shift = self.bias.data - self.running_mean * scale
        return scale.astype(np.float32), shift.astype(np.float32)

    def describe(self) -> str:
        return f"{self.channels}{'' if self.weight.requires_grad else ', not affine'}"


class BatchNorm1d(BatchNorm):
    """BatchNorm of (N, C)."""

    ndim = 2


class BatchNorm2d(BatchNorm):
    """BatchNorm of (N, C, H, W)."""

    ndim = 4

    def forward_through(self, x: Tensor, following: Sequence[Module]) -> tuple[Tensor, int]:
        """As one node of the tape with a following binary convolution, ReLU, or ReLU and max pooling."""
        if overrides(self, BatchNorm2d, "forward", "__call__"):
            return self(x), 0
        if not (self.training and fused.applies(x) and x.shape[1] == self.channels):
            return self(x), 0
        if x.size // self.channels * shards.current().of_norms.count < 2:
            return self(x), 0
        after: Any = following[0] if following else None
        if getattr(after, "fuses", False) and after.fits(x):
            return after.plus_bias(fused.binary_conv2d(x, self, after)), 1
        relu, pool, more = _after_norm(x.shape, following)
        return fused.norm(x, self, relu, pool), more


def is_stock(module: Any, kind: type[Module]) -> bool:
    """Whether a module is of this class and overrides nothing of it."""
    return type(module) is kind and not overrides(module, kind, "forward", "__call__")


def _after_norm(shape: tuple[int, ...], following: Sequence[Module]) -> tuple[bool, "MaxPool2d | None", int]:
    """Return the layers after a BatchNorm that can join its node: (ReLU or not, max pooling or None, their count)."""
    if not following or not is_stock(following[0], ReLU):
        return False, None, 0
    pool = _max_pool(shape, following[1:])
    return True, pool, 1 if pool is None else 2


def _max_pool(shape: tuple[int, ...], following: Sequence[Module]) -> "MaxPool2d | None":
    """Return the next layer if it is max pooling that can be one node with a ReLU before it, else None."""
    pool: Any = following[0] if following else None
    return pool if is_stock(pool, MaxPool2d) and pool.fits(shape) and math.prod(pool.kernel_size) < 256 else None


class Affine(Module):
    """x * scale[c] + shift[c] for x (N, C[, H, W]) with constants that do not train.

    Each product and each sum is rounded.
    """

    buffer_names = ("scale", "shift")

    def __init__(self, channels: int):
        self.channels = positive(channels, "channels", "Affine")
        self.scale = np.ones(channels, np.float32)
        self.shift = np.zeros(channels, np.float32)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != self.channels:
            raise InputError(f"Affine: input has shape {x.shape}, but the layer needs (N, {self.channels}, ...)")
        return functional.affine(x, self.scale, self.shift)

    def describe(self) -> str:
        return f"{self.channels}"


class ReLU(Module):
    """max(x, 0)."""

    def forward_through(self, x: Tensor, following: Sequence[Module]) -> tuple[Tensor, int]:
        """As one node of the tape with a following max pooling."""
        pool = _max_pool(x.shape, following) if is_stock(self, ReLU) and fused.applies(x) else None
        return (self(x), 0) if pool is None else (fused.max_pool2d(x, pool, True), 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x)


class PReLU(Module):
    """x where x >= 0, else a slope times x, with one slope or one for each channel.

    The slope is learned. With `learned=False` it is a constant (a leaky ReLU) and not part of the state.
    """

    def __init__(self, channels: int = 1, slope: float = 0.25, learned: bool = True):
        self.channels = positive(channels, "channels", "PReLU")
        self.weight: Tensor = (Parameter if learned else Tensor)(np.full(self.channels, slope, np.float32))

    def is_compiled(self, x: Tensor) -> bool:
        """Whether a kernel computes it, alone or with a shift on either side."""
        return is_stock(self, PReLU) and fused.applies(x) and self.channels in (1, x.shape[1])

    def forward_through(self, x: Tensor, following: Sequence[Module]) -> tuple[Tensor, int]:
        """As one node of the tape."""
        return (fused.prelu(x, self) if self.is_compiled(x) else self(x)), 0

    def forward(self, x: Tensor) -> Tensor:
        if self.channels not in (1, x.shape[1]):
            raise InputError(f"PReLU: input has C={x.shape[1]}, but the layer has {self.channels} slopes")
        return functional.prelu(x, self.weight)


class Hardtanh(Module):
    """x clipped to [-1, 1]; its gradient is 1[|x| <= 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.hardtanh(x)


class Sign(Module):
    """+1 where x >= 0, else -1, as a separate layer. `gradient` is one of `binary.SIGN_GRADIENTS`."""

    def __init__(self, gradient: str | SignGradient = "ste"):
        self.gradient = SIGN_GRADIENTS.find(gradient, "Sign")

    def forward(self, x: Tensor) -> Tensor:
        return functional.sign(x, self.gradient)


class _Pool(Module):
    """Base of pooling layers: windows of at most 256 taps, by default without overlap.

    Padding is as in `Convolution`, and at most half the kernel. With `ceil_mode`, a last window may reach beyond the
    image, so that no pixel is left out.
    """

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
    ):
        caller = type(self).__name__
        self.kernel_size = pair(kernel_size, "kernel_size", caller)
        self.stride = self.kernel_size if stride is None else pair(stride, "stride", caller)
        self.padding, self.ceil_mode = sides(padding, caller), ceil_mode
        both = Window.of(1, 1, self.padding, size=(1, 1)).padding
        if any(2 * max(ends) > taps for ends, taps in zip(both, self.kernel_size)):
            raise InputError(f"{caller}: padding {self.padding} is more than half the kernel {self.kernel_size}")
        if self.kernel_size[0] * self.kernel_size[1] > 256:
            raise InputError(f"{caller}: at most 256 taps, got kernel {self.kernel_size}")

    def window(self, size: Pair) -> Window:
        """Return the window for images of this size (H, W)."""
        window = Window.of(self.kernel_size, self.stride, self.padding, size=size)
        return window.to_the_end(size) if self.ceil_mode else window

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the window fits into images of this shape (N, C, H, W)."""
        return min(self.window((shape[2], shape[3])).count((shape[2], shape[3]))) > 0

    def describe(self) -> str:
        ceil = ", ceil_mode" if self.ceil_mode else ""
        return f"kernel {self.kernel_size}, stride {self.stride}, padding {self.padding}{ceil}"


class MaxPool2d(_Pool):
    """Maximum of each window. Padding never wins."""

    def forward(self, x: Tensor) -> Tensor:
        functional.require_images(x, None, "max_pool2d")
        if fused.applies(x) and self.fits(x.shape):
            return fused.max_pool2d(x, self)
        return functional.max_pool2d(x, self.window((x.shape[2], x.shape[3])))


class AvgPool2d(_Pool):
    """Mean of each window, over all its taps (`count_include_pad`) or over the taps inside the image.

    By default all taps count, including padded zeros, as in PyTorch. With padding "same", or with `ceil_mode` and no
    padding, only taps inside the image count, as in TensorFlow and PyTorch.
    """

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool | None = None,
    ):
        super().__init__(kernel_size, stride, padding, ceil_mode)
        bare = self.padding == "same" or (ceil_mode and self.padding == (0, 0))
        self.count_include_pad = not bare if count_include_pad is None else count_include_pad
        if ceil_mode and self.count_include_pad:
            raise InputError(
                f"AvgPool2d: ceil_mode with padding {self.padding} needs count_include_pad=False, since taps beyond "
                "the padding do not count"
            )

    def forward(self, x: Tensor) -> Tensor:
        functional.require_images(x, None, "avg_pool2d")
        if fused.applies(x) and self.fits(x.shape):
            return fused.avg_pool2d(x, self)
        return functional.avg_pool2d(x, self.window((x.shape[2], x.shape[3])), self.count_include_pad)

    def describe(self) -> str:
        return f"{super().describe()}, {'all taps' if self.count_include_pad else 'taps inside'}"


class GlobalAvgPool2d(Module):
    """Mean over all pixels: (N, C, H, W) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        functional.require_images(x, None, "global_avg_pool2d")
        if fused.applies(x):
            return fused.global_avg_pool2d(x)
        return functional.global_avg_pool2d(x)


class Dropout(Module):
    """Set elements to 0 at random in training and scale the rest. Does nothing in inference.

    With `whole_channels`, all pixels of a channel are dropped together (spatial dropout, Tompson et al. 2015).
    """

    def __init__(self, probability: float = 0.5, whole_channels: bool = False):
        if not 0 <= probability < 1:
            raise InputError(f"Dropout: probability must be in [0, 1), got {probability}")
        self.probability = probability
        self.whole_channels = whole_channels

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        return functional.dropout(x, self.probability, self.draw_position(), self.whole_channels)

    def describe(self) -> str:
        return f"{self.probability}"


class Flatten(Module):
    """(N, C, H, W) -> (N, C*H*W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1)
