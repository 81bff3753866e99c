"""Layers with binary weights and real inputs: Binary-Weight-Networks and BinaryConnect.

Forward: Y = (X (+) B) alpha with B = sign(W), a convolution by additions and subtractions (Rastegari et al. 2016,
section 3.1). Without alpha it is BinaryConnect's layer (Courbariaux et al. 2015, eq. 1). Backward, with D = dC/dY and
W~ = alpha B: dC/dX = convT(D, W~), and G = dC/dW~ = corr(X, D). `grad_mode` turns G into the gradient of the latent
weight ("backward using W~ instead of W", Rastegari et al. 2016, algorithm 1).

In training the convolution is a matrix product with W~. In inference it is the fixed-order sum of
`kernels.ops.sign_sums` times alpha, which equals the packed network's result bit for bit.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref import binary
from xnor_ref.autodiff import Tensor, apply, is_grad_enabled
from xnor_ref.kernels.basics.geometry import Padding, Pair, spatial
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.ops import float_ops, sign_sums
from xnor_ref.nn import functional, fused
from xnor_ref.nn.layers.binary_layers import BinaryLayer, current_backend
from xnor_ref.nn.layers.real_layers import Convolution, positive
from xnor_ref.nn.module import bias_of

F32 = NDArray[np.float32]


class _BinaryWeightLayer(BinaryLayer):
    """The common part of the convolution and the linear layer."""

    takes = ("weight_scale", "grad_mode", "centre", "clamp", "glorot", "stochastic")
    packed_as = ("forward", "_words")

    def __init__(self, shape: tuple[int, ...], rng: np.random.Generator | None, settings: dict[str, Any], bias: bool):
        super().__init__(shape, rng, settings, bias)
        self.input_scale = binary.INPUT_SCALES["off"]

    def _product(self, x: Tensor, forward, backward) -> Tensor:
        """Return forward(W~). Its gradients are backward(dy, W~) = (dX, G)."""
        alpha = self.alpha()
        signs = self.filters(alpha)

        def gradients(dy):
            dx, grad = backward(np.ascontiguousarray(dy), signs)
            return dx, self.latent_gradient(grad, alpha)

        return self.plus_bias(apply(type(self).__name__, forward(signs), (x, self.weight), gradients))

    def filters(self, alpha: F32 | None) -> F32:
        """Return W~, or random signs if `stochastic` and in training."""
        if self.stochastic and self.training:
            return binary.stochastic_sign(self.weight.data, np.random.default_rng(self.draw_position()))
        return self.scaled_signs(alpha)

    def _in_training(self) -> bool:
        return is_grad_enabled() or (self.stochastic and self.training)

    def describe_scales(self) -> str:
        return f"weight scale {self.weight_scale}{', stochastic' if self.stochastic else ''}"

    def _words(self) -> NDArray[np.uint64]:
        """Return the signs packed as in a model file."""
        return sign_sums.compact_bits(self.weight.data)


def _backend() -> str:
    """Return the backend of the fixed-order sum: the chosen one, or the fastest for float32 weights."""
    backend = current_backend()
    return "float" if backend == "auto" and has_vectors() else backend


class BinaryWeightConv2d(_BinaryWeightLayer, Convolution):
    """X (*) sign(W), scaled by alpha: (N, C, H, W) -> (N, O, OH, OW).

    `Convolution` describes the sizes, `LayerSettings` the `settings`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: Padding = 0,
        *,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = False,
        rng: np.random.Generator | None = None,
        **settings: Any,
    ):
        Convolution.__init__(self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        _BinaryWeightLayer.__init__(self, self.weight_shape, rng, settings, bias)

    def forward(self, x: Tensor) -> Tensor:
        window = self.window_on(x, type(self).__name__)
        images = np.ascontiguousarray(x.data)
        if not self._in_training():
            sums = sign_sums.conv2d(images, self._words(), window, _backend(), groups=self.groups)
            return self.plus_bias(Tensor(sign_sums.scale_filters(sums, self.alpha())))

        if fused.applies(x) and fused.takes(self):
            return self.plus_bias(fused.binary_weight_conv2d(x, self))

        def backward(dy, weight):
            dx = None
            if x.requires_grad:
                dx = float_ops.conv2d_input_gradient(dy, weight, spatial(images), window, self.groups)
            return dx, float_ops.conv2d_weight_gradient(dy, images, window, self.groups)

        def forward(weight):
            return float_ops.conv2d(images, weight, None, window, self.groups, training=True)

        return self._product(x, forward, backward)

    def describe(self) -> str:
        return f"{Convolution.describe(self)}, {self.describe_scales()}"


class BinaryWeightLinear(_BinaryWeightLayer):
    """x sign(W).T, scaled by alpha: (N, I) -> (N, O). `LayerSettings` describes `settings`."""

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

    def forward(self, x: Tensor) -> Tensor:
        functional.require_rows(x, self.in_features, type(self).__name__)
        rows = np.ascontiguousarray(x.data)
        if not self._in_training():
            sums = sign_sums.linear(rows, self._words(), _backend())
            return self.plus_bias(Tensor(sign_sums.scale_filters(sums, self.alpha())))

        def backward(dy, weight):
            dx = float_ops.linear_input_gradient(dy, weight) if x.requires_grad else None
            return dx, float_ops.linear_weight_gradient(dy, rows)

        return self._product(x, lambda weight: float_ops.linear(rows, weight, None, training=True), backward)

    def describe(self) -> str:
        return f"{self.in_features} -> {self.out_features}{bias_of(self)}, {self.describe_scales()}"
