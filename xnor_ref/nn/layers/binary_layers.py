"""Layers with binary weights and binary inputs: XNOR-Net's convolution and fully connected layer.

Forward (Rastegari et al. 2016, eq. 11): Y = (sign(X) (*) sign(W)) alpha K, where the integer convolution Z runs on
packed bits. Backward, with D = dC/dY: the gradient of the binarised weight is G = corr(sign(X), D K), and
`binary.weight_gradient` turns it into that of the latent weight; the input gets 1[|X| <= 1] convT(D K, alpha sign(W))
and, if `k_grad`, the path through K as well.
"""

import numpy as np
from numpy.typing import NDArray

from xnor_ref import binary
from xnor_ref.autodiff import Tensor, apply
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics import checks, geometry
from xnor_ref.kernels.basics.geometry import Pair
from xnor_ref.kernels.ops import binary_ops, float_ops
from xnor_ref.nn import functional, fused
from xnor_ref.nn.backend import binary_backend as binary_backend
from xnor_ref.nn.backend import current_backend as current_backend
from xnor_ref.nn.layers.real_layers import glorot_bound, he_normal, pair, positive, uniform
from xnor_ref.nn.module import Module, Parameter


def bit_count(value: int, name: str, caller: str) -> int:
    """Validate a number of bits, from 1 to 8."""
    if positive(value, name, caller) > binary.MAX_BITS:
        raise InputError(f"{caller}: {name} must be from 1 to {binary.MAX_BITS}, got {value}")
    return int(value)


class BinaryLayer(Module):
    """What all layers with binary weights share: the latent weight, its scale and its gradient rule.

    Parameters
    ----------
    weight_scale : "alpha" for mean|W| a filter (eq. 6), or "off".
    input_scale : "off"; "plain" for K of eq. 11; "valid" for K over the taps inside the image only.
    grad_mode : one of `binary.GRAD_MODES`; by default "corrected" with alpha, "ste" without.
    k_grad : whether the gradient flows through K too; off by default, as in the published codes.
    centre, clamp : project the latent weights after each step (mean over input channels 0; into [-1, 1]).
    glorot : latent weights drawn evenly from [-1, 1], and learning rates times 1/sqrt(1.5/(fan_in + fan_out)), as in
        the codes of BinaryConnect (Courbariaux et al. 2015, section 2.6) and BinaryNet.
    grad_bits : bits that the gradient is rounded to before it meets the weights, see `binary.quantize_gradient`
        (section 3.2, "binary gradient"); None leaves it real. The gradient of the weights takes the real one.
    sign_gradient : one of `binary.SIGN_GRADIENTS`, what stands in for the derivative of sign(X).
    """

    input_scales: tuple[str, ...] = ("off", "plain")

    def __init__(
        self,
        shape: tuple[int, ...],
        weight_scale: str,
        input_scale: str,
        grad_mode: str | None,
        k_grad: bool,
        centre: bool,
        clamp: bool,
        glorot: bool,
        rng: np.random.Generator | None,
        grad_bits: int | None = None,
        sign_gradient: str = "ste",
    ):
        caller = type(self).__name__
        if weight_scale not in ("alpha", "off"):
            raise InputError(f"{caller}: weight_scale must be 'alpha' or 'off', got {weight_scale!r}")
        if input_scale not in self.input_scales:
            raise InputError(
                f"{caller}: input_scale must be one of {', '.join(self.input_scales)}, got {input_scale!r}"
            )
        if grad_mode is None:
            grad_mode = "corrected" if weight_scale == "alpha" else "ste"
        if grad_mode not in binary.GRAD_MODES:
            raise InputError(f"{caller}: grad_mode must be one of {', '.join(binary.GRAD_MODES)}, got {grad_mode!r}")
        if weight_scale == "off" and grad_mode != "ste":
            raise InputError(f"{caller}: grad_mode {grad_mode!r} needs weight_scale 'alpha'; without it use 'ste'")
        if k_grad and input_scale == "off":
            raise InputError(f"{caller}: k_grad is the gradient through K; input_scale 'off', as with cbap, has no K")
        if shape[1] == 1 and (centre or grad_mode == "official"):
            raise InputError(f"{caller}: centring over one input channel would make every weight 0")
        if sign_gradient not in binary.SIGN_GRADIENTS:
            raise InputError(
                f"{caller}: sign_gradient must be one of {', '.join(binary.SIGN_GRADIENTS)}, got {sign_gradient!r}"
            )
        self.grad_bits = None if grad_bits is None else bit_count(grad_bits, "grad_bits", caller)
        self.sign_gradient = sign_gradient
        self.weight_scale = weight_scale
        self.input_scale = input_scale
        self.grad_mode = grad_mode
        self.k_grad = k_grad
        self.centre = centre
        self.clamp = clamp
        self.glorot = glorot
        self.weight = self._latent(shape, rng)
        self.after_step()

    def _latent(self, shape: tuple[int, ...], rng: np.random.Generator | None) -> Parameter:
        """The latent weight at first."""
        if self.glorot:
            return Parameter(uniform(shape, rng), latent=True, lr_scale=1 / glorot_bound(shape))
        return Parameter(he_normal(shape, rng), latent=True)

    @property
    def plain(self) -> bool:
        """Whether it computes with one bit and the straight-through estimator, forward and backward."""
        return self.grad_bits is None and self.sign_gradient == "ste"

    @property
    def fuses_alone(self) -> bool:
        """Whether `nn.fused` can compute it without what stands before it."""
        return self.grad_bits is None and not self.k_grad

    @property
    def fuses(self) -> bool:
        """Whether `nn.fused` can compute it together with a BatchNorm before it."""
        return self.plain and self.fuses_alone and current_backend() in ("auto", "simd")

    def after_step(self) -> None:
        if self.centre:
            binary.centre_weights(self.weight.data)
        if self.clamp:
            binary.clamp_weights(self.weight.data)

    def alpha(self) -> NDArray[np.float32] | None:
        """The weight scale (O,), or None."""
        return self.analytic_scale() if self.weight_scale == "alpha" else None

    def analytic_scale(self) -> NDArray[np.float32]:
        """mean|W| of each filter (O,), eq. 6, whether or not the layer multiplies by it."""
        return binary_ops.weight_scale(self.weight.data)

    def latent_gradient(self, grad: NDArray[np.float32], alpha: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """The gradient of the latent weight from that of the binary one, both in its shape."""
        return binary.weight_gradient(grad, self.weight.data, alpha, self.grad_mode)

    def scaled_signs(self, alpha: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """What stands for the weights in the gradient of the input: alpha sign(W)."""
        signs = binary.sign(self.weight.data)
        if alpha is not None:
            signs *= alpha.reshape(-1, *(1,) * (signs.ndim - 1))
        return signs

    def _for_input(self, dz: NDArray[np.float32]) -> NDArray[np.float32]:
        """The gradient that meets the weights on its way to the input."""
        return dz if self.grad_bits is None else binary.quantize_gradient(dz, self.grad_bits)

    def through_sign(self, x: NDArray[np.float32], dx: NDArray[np.float32]) -> NDArray[np.float32]:
        """dx times what stands in for the derivative of sign(x), in place."""
        if self.sign_gradient == "ste":
            return float_ops.mask_ste(x, dx)
        dx *= binary.sign_derivative(x, self.sign_gradient)
        return dx


class BinaryConv2d(BinaryLayer):
    """sign(X) (*) sign(W), scaled by alpha and K: (N, C, H, W) -> (N, O, OH, OW).

    `pad_value` says what stands beyond the border of sign(X): 0 contributes nothing, +1 and -1 count as such.
    The remaining parameters are those of every binary layer, see `BinaryLayer`.
    """

    input_scales = ("off", "plain", "valid")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        pad_value: int = 0,
        weight_scale: str = "alpha",
        input_scale: str = "plain",
        grad_mode: str | None = None,
        k_grad: bool = False,
        centre: bool = False,
        clamp: bool = False,
        glorot: bool = False,
        rng: np.random.Generator | None = None,
        grad_bits: int | None = None,
        sign_gradient: str = "ste",
    ):
        self.in_channels = positive(in_channels, "in_channels", "BinaryConv2d")
        self.out_channels = positive(out_channels, "out_channels", "BinaryConv2d")
        self.kernel_size = pair(kernel_size, "kernel_size", "BinaryConv2d")
        self.stride = pair(stride, "stride", "BinaryConv2d")
        self.padding = pair(padding, "padding", "BinaryConv2d", 0)
        if isinstance(pad_value, bool) or pad_value not in (-1, 0, 1):
            raise InputError(f"BinaryConv2d: pad_value must be 0, +1 or -1, got {pad_value!r}")
        self.pad_value = int(pad_value)
        shape = (self.out_channels, self.in_channels, *self.kernel_size)
        scales = weight_scale, input_scale, grad_mode, k_grad
        super().__init__(shape, *scales, centre, clamp, glorot, rng, grad_bits, sign_gradient)

    def forward(self, x: Tensor) -> Tensor:
        functional.require_images(x, self.in_channels, "BinaryConv2d")
        functional.require_window(x, self.kernel_size, self.padding, "BinaryConv2d")
        if self.fuses_alone and fused.applies(x):
            return self._fused(x)
        images = np.ascontiguousarray(x.data)
        z = self._integers(images)
        alpha = self.alpha()
        scale_map = None
        if self.input_scale != "off":
            scale_map = binary_ops.input_scale_map(
                images, self.kernel_size, self.stride, self.padding, self.input_scale
            )
        data = float_ops.scale_output(z, alpha, scale_map)

        def backward(dy):
            dz = np.ascontiguousarray(dy if scale_map is None else dy * scale_map)
            grad = self._correlate(dz, images)
            dx = None
            if x.requires_grad:
                size, signs = geometry.spatial(images), self.scaled_signs(alpha)
                dx = float_ops.conv2d_input_gradient(self._for_input(dz), signs, size, self.stride, self.padding)
                self.through_sign(images, dx)
                if self.k_grad and scale_map is not None:
                    dx += self._gradient_through_k(dy, z, alpha, images)
            return dx, self.latent_gradient(grad, alpha)

        return apply("binary_conv2d", data, (x, self.weight), backward)

    def _fused(self, x: Tensor) -> Tensor:
        return fused.binary_conv2d(x, None, self)

    def fits(self, x: Tensor) -> bool:
        """Whether images (N, C, H, W) are what it takes."""
        return x.shape[1] == self.in_channels and functional.window_fits(x.shape, self.kernel_size, self.padding)

    def _integers(self, images: NDArray[np.float32]) -> NDArray[np.int32]:
        """Z, the convolution of signs."""
        if current_backend() == "float":
            checks.require_exact_float(self.weight.data[0].size, "BinaryConv2d")
        return binary_ops.sign_conv2d(
            images, self.weight.data, self.stride, self.padding, self.pad_value, backend=current_backend()
        )

    def _correlate(self, dz: NDArray[np.float32], images: NDArray[np.float32]) -> NDArray[np.float32]:
        """G = corr(sign(X), dz)."""
        window = self.kernel_size, self.stride, self.padding
        return float_ops.conv2d_weight_gradient(dz, images, *window, signs=True, pad_value=self.pad_value)

    def _gradient_through_k(self, dy, z, alpha, images):
        """dK = sum_o D alpha Z; K is a box mean of A = mean_c |X|, so dX = sign(X)/C times the box spread of dK."""
        scaled = z if alpha is None else z * alpha[:, None, None]
        dk = (dy * scaled).sum(axis=1, keepdims=True).astype(np.float32)
        size = geometry.spatial(images)
        box = np.ones((1, 1, *self.kernel_size), np.float32)
        if self.input_scale == "valid":
            ones = np.ones((1, 1, *size), np.float32)
            dk /= np.maximum(float_ops.conv2d(ones, box, None, self.stride, self.padding), 1)
        else:
            box /= box.size
        da = float_ops.conv2d_input_gradient(dk, box, size, self.stride, self.padding)
        return binary.sign(images) * (da / np.float32(self.in_channels))

    def describe(self) -> str:
        return (
            f"{self.in_channels} -> {self.out_channels}, kernel {self.kernel_size}, stride {self.stride}, "
            f"padding {self.padding} with {self.pad_value:+d}, weight scale {self.weight_scale}, "
            f"input scale {self.input_scale}"
        )


class BinaryLinear(BinaryLayer):
    """sign(x) sign(W).T, scaled by alpha and K = mean|x| of each sample: (N, I) -> (N, O).

    A fully connected layer is a convolution whose kernel covers its input (Rastegari et al. 2016, footnote 1).
    The parameters are those of every binary layer, see `BinaryLayer`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        weight_scale: str = "alpha",
        input_scale: str = "plain",
        grad_mode: str | None = None,
        k_grad: bool = False,
        centre: bool = False,
        clamp: bool = False,
        glorot: bool = False,
        rng: np.random.Generator | None = None,
        grad_bits: int | None = None,
        sign_gradient: str = "ste",
    ):
        self.in_features = positive(in_features, "in_features", "BinaryLinear")
        self.out_features = positive(out_features, "out_features", "BinaryLinear")
        shape = (self.out_features, self.in_features)
        scales = weight_scale, input_scale, grad_mode, k_grad
        super().__init__(shape, *scales, centre, clamp, glorot, rng, grad_bits, sign_gradient)

    def forward(self, x: Tensor) -> Tensor:
        functional.require_rows(x, self.in_features, "BinaryLinear")
        rows = np.ascontiguousarray(x.data)
        z = self._integers(rows)
        alpha = self.alpha()
        scale = binary_ops.input_scale_rows(rows) if self.input_scale == "plain" else None
        data = float_ops.scale_output(z, alpha, scale)

        def backward(dy):
            dz = np.ascontiguousarray(dy) if scale is None else dy * scale
            grad = float_ops.linear_weight_gradient(dz, self._coded(rows))
            dx = None
            if x.requires_grad:
                dx = float_ops.linear_input_gradient(self._for_input(dz), self.scaled_signs(alpha))
                self.through_sign(rows, dx)
                if self.k_grad and scale is not None:
                    scaled = z if alpha is None else z * alpha
                    dk = (dy * scaled).sum(axis=1, keepdims=True).astype(np.float32)
                    dx += binary.sign(rows) * (dk / np.float32(self.in_features))
            return dx, self.latent_gradient(grad, alpha)

        return apply("binary_linear", data, (x, self.weight), backward)

    def _integers(self, rows: NDArray[np.float32]) -> NDArray[np.int32]:
        """Z, the products of signs."""
        if current_backend() == "float":
            checks.require_exact_float(self.in_features, "BinaryLinear")
        return binary_ops.sign_linear(rows, self.weight.data, backend=current_backend())

    def _coded(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """What stands for the input in the product: its signs."""
        return binary.sign(rows)

    def describe(self) -> str:
        return (
            f"{self.in_features} -> {self.out_features}, weight scale {self.weight_scale}, "
            f"input scale {self.input_scale}"
        )
