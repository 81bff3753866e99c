"""Layers with binary weights and binary inputs: XNOR-Net's convolution and fully connected layer.

Forward (Rastegari et al. 2016, eq. 11): Y = (sign(X) (*) sign(W)) alpha K. The integer convolution Z runs on packed
bits. Backward, with D = dC/dY: the gradient of the binary weight is G = corr(sign(X), D K), and `grad_mode` turns it
into the gradient of the latent weight. The gradient of the input is convT(D K, alpha sign(W)) times `sign_gradient`,
plus the path through K if `k_grad` is set.

Each of these steps is a method that a subclass may override. The fused path (`nn.fused`) calls the overriding method,
or leaves the layer to the readable path.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref import binary
from xnor_ref.autodiff import Tensor, apply
from xnor_ref.binary import Code, InputScale, SignGradient, WeightGradient, WeightScale
from xnor_ref.binary.weights import CONSTANT, per_filter
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics import checks
from xnor_ref.kernels.basics.geometry import Padding, Pair, spatial
from xnor_ref.kernels.basics.modes import Finish
from xnor_ref.kernels.basics.threads import parallel_chunks
from xnor_ref.kernels.ops import binary_ops, bit_planes, float_ops
from xnor_ref.nn import functional, fused, shards
from xnor_ref.nn.backend import binary_backend as binary_backend
from xnor_ref.nn.backend import current_backend as current_backend
from xnor_ref.nn.layers.real_layers import Convolution, glorot_bound, he_normal, positive, uniform
from xnor_ref.nn.module import Module, Parameter, bias_of, overrides
from xnor_ref.nn.settings import LayerSettings, checked

F32 = NDArray[np.float32]
PIECE = 1 << 15  # weights per piece, at least


def _of_filters(some: Callable[[int, int], Any], out: NDArray, weight: F32, apart: bool) -> NDArray:
    """Compute `some(start, stop)` for all filters, into `out` (O, ...).

    If filters do not depend on each other (`apart`), they are computed in pieces that fit a cache, by several threads.
    """

    def piece(start: int, stop: int) -> None:
        out[start:stop] = some(start, stop)

    parallel_chunks(piece, len(out), max(1, PIECE // weight[0].size) if apart else len(out))
    return out


class BinaryLayer(Module):
    """Base of layers with binary weights: the latent weight, its scale and its gradient rule.

    `settings` are the fields of `LayerSettings` named in the class's `takes`; each becomes an attribute. `bias` adds a
    real number to each filter's output.
    """

    takes: tuple[str, ...] = tuple(
        name
        for name in LayerSettings.names()
        if name not in ("stochastic", "weight_bits", "input_bits", "input_levels", "weight_quantizer")
    )
    weight_scale: WeightScale
    input_scale: InputScale
    grad_mode: WeightGradient
    sign_gradient: SignGradient
    k_grad: bool
    centre: bool
    clamp: bool
    glorot: bool
    stochastic: bool
    weight_bits: int
    input_bits: int
    input_levels: str
    grad_bits: int | None
    grad_rounding: str
    grad_range: str
    grad_for: str

    def __init__(
        self, shape: tuple[int, ...], rng: np.random.Generator | None, settings: dict[str, Any], bias: bool = False
    ):
        caller = type(self).__name__
        unknown = settings.keys() - set(self.takes)
        if unknown:
            raise TypeError(f"{caller} does not take {', '.join(sorted(unknown))}; it takes {', '.join(self.takes)}")
        of_layer = checked(caller, settings)
        for field in fields(of_layer):
            setattr(self, field.name, getattr(of_layer, field.name))
        if shape[1] < max(1 + self.centre, self.grad_mode.least_channels):
            raise InputError(
                f"{caller}: centre needs more than one input channel; with one, every weight would become 0"
            )
        self.code: Code = of_layer.code
        self.weight = self._latent(shape, rng)
        self.bias = Parameter(np.zeros(shape[0], np.float32)) if bias else None
        self.after_step()

    def _latent(self, shape: tuple[int, ...], rng: np.random.Generator | None) -> Parameter:
        """Return the initial latent weight."""
        if self.glorot:
            return Parameter(uniform(shape, rng), latent=True, lr_scale=1 / glorot_bound(shape))
        return Parameter(he_normal(shape, rng), latent=True)

    def after_step(self) -> None:
        if self.centre:
            binary.centre_weights(self.weight.data)
        if self.clamp:
            binary.clamp_weights(self.weight.data)

    @property
    def inputs(self) -> bit_planes.Levels:
        """The levels to which inputs are rounded."""
        return bit_planes.Levels(self.input_bits, self.input_levels == "ternary")

    def weight_levels(self) -> NDArray[np.int16]:
        """Return m_W = (2^k - 1) B, odd integers in the shape of the weight."""
        return self.code.levels(self.weight.data)

    def plus_bias(self, y: Tensor) -> Tensor:
        """Return y (N, O[, H, W]) plus the bias, if there is one."""
        return y if self.bias is None else y + self.bias.reshape(-1, *(1,) * (y.ndim - 2))

    def alpha(self) -> F32 | None:
        """Return the weight scale (O,), or None."""
        return self.analytic_scale() if self.weight_scale.scales else None

    def analytic_scale(self) -> F32:
        """Return the scale (O,) by the layer's rule, or by least squares (eq. 6) if it has no rule."""
        rule, weight = self.weight_scale if self.weight_scale.scales else binary.MEAN_ABS, self.weight.data

        def some(a: int, b: int) -> NDArray:
            alpha = np.asarray(rule.alpha(weight[a:b], self.code))
            if alpha.shape != (b - a,):
                raise InputError(
                    f"{type(self).__name__}: weight_scale {rule.name!r} returned an alpha of shape {alpha.shape} for "
                    f"weights of shape {weight[a:b].shape}; the shape must be ({b - a},)"
                )
            return alpha

        return _of_filters(some, np.empty(len(weight), np.float32), weight, rule.per_filter)

    def latent_gradient(self, grad: F32, alpha: F32 | None) -> F32:
        """Return the gradient of the latent weight from that of the binary weight. Both have the weight's shape."""
        weight, scale, rule = self.weight.data, self.weight_scale, self.grad_mode

        def some(a: int, b: int) -> NDArray:
            return rule.latent(grad[a:b], weight[a:b], None if alpha is None else alpha[a:b], scale, self.code)

        return _of_filters(some, np.empty_like(weight), weight, rule.per_filter and scale.per_filter)

    def through_alpha(self, straight: F32, dalpha: F32) -> F32:
        """Add the gradient through alpha to `straight` (O, ...), in place. dalpha (O,) is the gradient of alpha."""
        weight, scale = self.weight.data, self.weight_scale

        def both(a: int, b: int) -> NDArray:
            through = scale.alpha_gradient(dalpha[a:b], weight[a:b], self.code)
            return straight[a:b] if through is None else straight[a:b] + through

        return _of_filters(both, straight, weight, scale.per_filter)

    @property
    def alpha_is_mean(self) -> bool:
        """Whether alpha is the mean of |W|, which compiled kernels compute while they pack the weights."""
        return bool(self.weight_scale.mode) and not overrides(self, BinaryLayer, "alpha", "analytic_scale")

    def finish(self, alpha: F32 | None) -> Finish:
        """Return how a compiled kernel finishes G for this alpha. With `RAW`, `latent_gradient` does it."""
        rule, scale = self.grad_mode, self.weight_scale
        if rule.mode is None or self.code != binary.SIGNS or overrides(self, BinaryLayer, "latent_gradient"):
            return Finish.RAW
        if alpha is None:
            return Finish.CLIPPED if rule is CONSTANT else Finish.RAW
        constant = type(scale).alpha_gradient is WeightScale.alpha_gradient and "alpha_gradient" not in vars(scale)
        if rule.mode is Finish.CORRECTED and not scale.mode:
            return Finish.STE if constant else Finish.SPLIT
        return rule.mode

    def scaled_signs(self, alpha: F32 | None) -> F32:
        """Return what multiplies the gradient on its way to the input: alpha sign(W)."""
        signs = binary.sign(self.weight.data)
        if alpha is not None:
            signs *= per_filter(alpha, signs)
        return signs

    def _for_input(self, dz: F32) -> F32:
        """Return the gradient that is multiplied by the weights to give the input's gradient."""
        if self.grad_bits is None:
            return dz
        drawn, shard = None, shards.current()
        if self.grad_rounding == "random":
            drawn = shard.drawn(np.random.default_rng(self.draw_position()), dz.shape)
        by_sample = self.grad_range == "sample"
        top = None if by_sample else shard.largest(np.abs(dz).max(keepdims=True))
        return binary.quantize_gradient(dz, self.grad_bits, by_sample=by_sample, drawn=drawn, top=top)

    def through_sign(self, x: F32, dx: F32) -> F32:
        """Multiply dx by what replaces the derivative of sign(x), in place."""
        if self.sign_gradient.mode:
            return float_ops.mask_ste(x, dx)
        dx *= self.sign_gradient.derivative(x)
        return dx

    @property
    def sign_is_compiled(self) -> bool:
        """Whether compiled kernels have this replacement of the derivative of sign."""
        return bool(self.sign_gradient.mode) and not overrides(self, BinaryLayer, "through_sign")

    def _checked_scale(self, k: NDArray | None, shape: tuple[int, ...]) -> F32 | None:
        """Return the K of a rule, after checking its shape."""
        if k is not None and k.shape != shape:
            raise InputError(
                f"input_scale '{self.input_scale}' returned a K of shape {k.shape}; the shape must be {shape}"
            )
        return None if k is None else np.ascontiguousarray(k, np.float32)

    def describe_scales(self) -> str:
        return f"weight scale {self.weight_scale}, input scale {self.input_scale}"


class BinaryConv2d(BinaryLayer, Convolution):
    """sign(X) (*) sign(W), scaled by alpha and K: (N, C, H, W) -> (N, O, OH, OW).

    `Convolution` describes the sizes. A layer with groups is as many layers side by side, each with its own K.
    `pad_value` is the value of sign(X) beyond the border: 0 contributes nothing, +1 and -1 count as signs.
    `LayerSettings` describes `settings`.
    """

    packed_as: tuple[str, ...] = ("forward", "_integers", "scale_map")  # methods whose results a packed file reproduces
    fused_as: tuple[str, ...] = (  # and methods that `nn.fused` replaces
        "_integers",
        "scaled_signs",
        "_for_input",
        "_correlate",
        "_gradient_through_k",
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: Padding = 0,
        pad_value: int = 0,
        *,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = False,
        rng: np.random.Generator | None = None,
        **settings: Any,
    ):
        Convolution.__init__(self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        if isinstance(pad_value, bool) or pad_value not in (-1, 0, 1):
            raise InputError(f"{type(self).__name__}: pad_value must be 0, +1 or -1, got {pad_value!r}")
        self.pad_value = int(pad_value)
        BinaryLayer.__init__(self, self.weight_shape, rng, settings, bias)

    @property
    def fuses_alone(self) -> bool:
        """Whether `nn.fused` can compute it without the layer before it."""
        known = self.grad_bits is None and not self.k_grad and not overrides(self, BinaryConv2d, *self.fused_as)
        return known and (fused.takes(self) or self.adds_in_float32)

    @property
    def adds_in_float32(self) -> bool:
        """Whether float32 kernels can add its integers without rounding. Those kernels pad with zeros."""
        exact = bit_planes.exact_in_float32(self.weight.data[0].size, (self.input_bits, self.weight_bits))
        return exact and self.pad_value == 0 and fused.takes_groups(self)

    @property
    def fuses(self) -> bool:
        """Whether `nn.fused` can compute it together with a BatchNorm before it."""
        return (
            self.fuses_alone
            and fused.takes(self)
            and current_backend() in ("auto", "simd")
            and self.sign_is_compiled
            and self.k_mode is not None
            and not overrides(self, BinaryConv2d, "forward", "forward_through", "__call__")
        )

    @property
    def k_mode(self) -> str | None:
        """The name of its K in compiled kernels, or None if only `scale_map` can compute it."""
        return None if overrides(self, BinaryConv2d, "scale_map") else self.input_scale.mode

    def forward(self, x: Tensor) -> Tensor:
        window = self.window_on(x, type(self).__name__)
        if fused.applies(x) and self.fuses_alone:
            return self.plus_bias(self._fused(x))
        images = np.ascontiguousarray(x.data)
        z = self._integers(images)
        alpha, k = self.alpha(), self.scale_map(images)

        def backward(dy):
            dz = np.ascontiguousarray(dy if k is None else dy * float_ops.for_outputs(k, dy.shape[1]))
            rounded = self._for_input(dz)
            grad = self._correlate(rounded if self.grad_for == "all" else dz, images)
            dx = None
            if x.requires_grad:
                signs = self.scaled_signs(alpha)
                place = spatial(images), window, self.groups
                dx = float_ops.conv2d_input_gradient(rounded, signs, *place)
                dx = self.through_sign(images, dx)
                if self.k_grad and k is not None:
                    dx += self._gradient_through_k(dy, z, alpha, images)
            return dx, self.latent_gradient(grad, alpha)

        return self.plus_bias(apply("binary_conv2d", float_ops.scale_output(z, alpha, k), (x, self.weight), backward))

    def _fused(self, x: Tensor) -> Tensor:
        return fused.binary_conv2d(x, None, self) if fused.takes(self) else fused.integer_conv2d(x, self)

    def fits(self, x: Tensor) -> bool:
        """Whether the images (N, C, H, W) have the channels and size that it takes."""
        size = x.shape[2], x.shape[3]
        return x.shape[1] == self.in_channels and min(self.window(size).count(size)) > 0

    def scale_map(self, images: F32) -> F32 | None:
        """Return K of images (N, C, H, W): float32 (N, groups, OH, OW), or None."""
        size, parts = spatial(images), self._parts(images)
        window = self.window(size)
        k = self._checked_scale(self.input_scale.of_images(parts, window), (len(parts), 1, *window.count(size)))
        return None if k is None else k.reshape(len(images), -1, *k.shape[2:])

    def _parts(self, images: F32) -> F32:
        """Return the channels of each group as separate images: (N * groups, C/groups, H, W)."""
        return images.reshape(len(images) * self.groups, -1, *images.shape[2:])

    def _integers(self, images: F32) -> NDArray[np.int32]:
        """Return Z, the convolution of signs."""
        if current_backend() == "float":
            checks.require_exact_float(self.weight.data[0].size, type(self).__name__)
        place = self.window(spatial(images)), self.pad_value, current_backend()
        return binary_ops.sign_conv2d(images, self.weight.data, *place, groups=self.groups)

    def _correlate(self, dz: F32, images: F32) -> F32:
        """Return G = corr(sign(X), dz)."""
        place = self.window(spatial(images)), self.groups
        return float_ops.conv2d_weight_gradient(dz, images, *place, signs=True, pad_value=self.pad_value)

    def _gradient_through_k(self, dy: F32, z: NDArray[np.int32], alpha: F32 | None, images: F32) -> F32:
        """Return the part of dX that flows through K. The gradient of K is dK = sum_o D alpha Z."""
        scaled = z if alpha is None else z * alpha[:, None, None]
        dk = self._parts(dy * scaled).sum(axis=1, keepdims=True).astype(np.float32)
        window = self.window(spatial(images))
        return self.input_scale.images_gradient(dk, self._parts(images), window).reshape(images.shape)

    def describe(self) -> str:
        return f"{Convolution.describe(self)} with {self.pad_value:+d}, {self.describe_scales()}"


class BinaryLinear(BinaryLayer):
    """sign(x) sign(W).T, scaled by alpha and K = mean|x| of each sample: (N, I) -> (N, O).

    A fully connected layer is a convolution whose kernel covers its input (Rastegari et al. 2016, footnote 1).
    `LayerSettings` describes `settings`.
    """

    packed_as: tuple[str, ...] = ("forward", "_integers", "scale_rows")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        rng: np.random.Generator | None = None,
        **settings: Any,
    ):
        self.in_features = positive(in_features, "in_features", type(self).__name__)
        self.out_features = positive(out_features, "out_features", type(self).__name__)
        super().__init__((self.out_features, self.in_features), rng, settings, bias)
        self.input_scale = self.input_scale.for_rows

    def forward(self, x: Tensor) -> Tensor:
        functional.require_rows(x, self.in_features, type(self).__name__)
        rows = np.ascontiguousarray(x.data)
        z = self._integers(rows)
        alpha, k = self.alpha(), self.scale_rows(rows)

        def backward(dy):
            dz = np.ascontiguousarray(dy) if k is None else dy * k
            rounded = self._for_input(dz)
            grad = float_ops.linear_weight_gradient(rounded if self.grad_for == "all" else dz, self._coded(rows))
            dx = None
            if x.requires_grad:
                dx = float_ops.linear_input_gradient(rounded, self.scaled_signs(alpha))
                dx = self.through_sign(rows, dx)
                if self.k_grad and k is not None:
                    dk = (dy * (z if alpha is None else z * alpha)).sum(axis=1, keepdims=True).astype(np.float32)
                    dx += self.input_scale.rows_gradient(dk, rows)
            return dx, self.latent_gradient(grad, alpha)

        return self.plus_bias(apply("binary_linear", float_ops.scale_output(z, alpha, k), (x, self.weight), backward))

    def scale_rows(self, rows: F32) -> F32 | None:
        """Return K of rows (N, I): float32 (N, 1), or None."""
        return self._checked_scale(self.input_scale.of_rows(rows), (len(rows), 1))

    def _integers(self, rows: F32) -> NDArray[np.int32]:
        """Return Z, the matrix product of signs."""
        if current_backend() == "float":
            checks.require_exact_float(self.in_features, type(self).__name__)
        return binary_ops.sign_linear(rows, self.weight.data, backend=current_backend())

    def _coded(self, rows: F32) -> F32:
        """Return the binary form of the input that is multiplied: its signs."""
        return binary.sign(rows)

    def describe(self) -> str:
        return f"{self.in_features} -> {self.out_features}{bias_of(self)}, {self.describe_scales()}"
