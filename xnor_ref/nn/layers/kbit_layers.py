"""Layers with several bits: weights, inputs or both are rounded to 2^k levels by q_k instead of taking signs.

Forward (Rastegari et al. 2016, eq. 11, with q_k of section 3.2 instead of sign): Y = (q_a(X) (*) q_b(W)) alpha K. Let
m = (2^k - 1) q_k, which are integers. The convolution Z = m_X (*) m_W is exact on bit planes
(`kernels.ops.bit_planes`):

    Y = (Z s) K,    s = alpha / ((2^a - 1)(2^b - 1)), rounded once

Ternary inputs (`input_levels`) are m_X = q(X) in {-1, 0, 1}, stored as two planes of signs. 1 replaces 2^a - 1.

alpha = <W, q_b(W)>/<q_b(W), q_b(W)> is the least-squares scale of each filter. With one bit it is mean|W|. The
gradients are those of the binary layers with q instead of sign: dX = 1[|X| <= 1] convT(D K, alpha q_b(W)) and G =
corr(q_a(X), D K). `grad_mode` turns G into the gradient of the latent weight. K is still the mean of |X|.

q_k covers [-1, 1]. Latent weights of several bits are drawn uniformly from that range and clamped to it.
"""

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff import Tensor
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.geometry import Window, spatial
from xnor_ref.kernels.ops import bit_planes, float_ops
from xnor_ref.nn import fused
from xnor_ref.nn.layers import binary_layers
from xnor_ref.nn.layers.binary_layers import BinaryConv2d, BinaryLayer, BinaryLinear
from xnor_ref.nn.layers.real_layers import uniform
from xnor_ref.nn.module import Parameter, overrides
from xnor_ref.nn.settings import LayerSettings

F32 = NDArray[np.float32]
_EVEN = float(np.sqrt(1 / 3))  # the root mean square of weights uniform on [-1, 1]


class KBitLayer(BinaryLayer):
    """The common part of the convolution and the linear layer. `weight_bits` or `input_bits` is above 1."""

    takes = tuple(name for name in LayerSettings.names() if name != "stochastic")
    fuses = False

    def __init__(self, *sizes, **settings):
        caller = type(self).__name__
        if settings.get("weight_bits", 1) != 1:
            settings["clamp"] = True
        super().__init__(*sizes, **settings)
        if self.weight_bits == self.input_bits == 1:
            raise InputError(f"{caller}: with one bit everywhere use {type(self).__mro__[2].__name__}")
        terms, bits = self.weight.data[0].size, (self.input_bits, self.weight_bits)
        if not bit_planes.fits(terms, bits):
            raise InputError(
                f"{caller}: {terms} products of {bits[0]}-bit inputs and {bits[1]}-bit weights may overflow 32-bit "
                "integers; use fewer bits"
            )

    def _latent(self, shape: tuple[int, ...], rng: np.random.Generator | None) -> Parameter:
        """Draw initial weights.

        Those of several bits are uniform on [-1, 1], and their learning rate scales with that spread.
        """
        if self.weight_bits > 1 and not self.glorot:
            he_normal = np.sqrt(2 / np.prod(shape[1:]))  # the spread with one bit
            return Parameter(uniform(shape, rng), latent=True, lr_scale=float(_EVEN / he_normal))
        return super()._latent(shape, rng)

    @property
    def _unit(self) -> float:
        """The divisor of alpha when it multiplies integers."""
        return self.inputs.top * bit_planes.largest(self.weight_bits)

    def alpha(self) -> F32:
        """Return s of each filter (O,), the factor of the integers Z."""
        alpha = super().alpha()
        if alpha is not None and self.weight_scale.of_integers:
            return alpha
        return np.divide(np.ones(len(self.weight.data)) if alpha is None else alpha, self._unit, dtype=np.float32)

    def spread(self) -> None:
        """Multiply latent weights that were real or had one bit by one number, so that they spread like new ones.

        This multiplies alpha and the output. BatchNorm cancels the factor, a shortcut does not.
        """
        weight = self.weight.data
        if distance := np.sqrt(np.mean(np.square(weight, dtype=np.float64))):
            weight *= np.float32(_EVEN / distance)

    def latent_gradient(self, grad: F32, alpha: F32 | None) -> F32:
        scale = None if alpha is None or not self.weight_scale.scales else alpha * np.float32(self._unit)
        return super().latent_gradient(grad, scale)

    def scaled_signs(self, alpha: F32 | None) -> F32:
        m = self.weight_levels().astype(np.float32)
        scale = self.alpha() if alpha is None else alpha
        return m * (scale * np.float32(self.inputs.top)).reshape(-1, *(1,) * (m.ndim - 1))

    def _products(
        self, x: F32, weight: NDArray[np.int16], window: Window, pad_value: int, groups: int = 1
    ) -> NDArray[np.int32]:
        place = window, pad_value, binary_layers.current_backend()
        return bit_planes.conv2d(self.inputs.of(x), weight, self.inputs, self.weight_bits, *place, groups=groups)

    def describe(self) -> str:
        inputs = "ternary inputs" if self.inputs.ternary else f"{self.input_bits} an input"
        return f"{super().describe()}, {self.weight_bits} bit{'s' * (self.weight_bits > 1)} a weight, {inputs}"


class KBitConv2d(KBitLayer, BinaryConv2d):
    """q_a(X) (*) q_b(W), scaled by alpha and K: (N, C, H, W) -> (N, O, OH, OW).

    Sizes and settings are those of `BinaryConv2d`, and also `weight_bits`, `input_bits`, `input_levels` and
    `weight_quantizer`.
    """

    packed_as = (*BinaryConv2d.packed_as, "_products")
    fused_as = ("_integers", "_for_input", "_correlate", "_gradient_through_k", "_products")

    @property
    def fuses_alone(self) -> bool:
        alone = self.grad_bits is None and not self.k_grad and not overrides(self, KBitConv2d, *self.fused_as)
        return alone and self.adds_in_float32

    def _fused(self, x: Tensor) -> Tensor:
        return fused.integer_conv2d(x, self)

    def _integers(self, images: F32) -> NDArray[np.int32]:
        place = self.window(spatial(images)), self.pad_value, self.groups
        return self._products(images, self.weight_levels(), *place)

    def _correlate(self, dz: F32, images: F32) -> F32:
        q = self.inputs.values(images)
        place = self.window(spatial(images)), self.groups
        return float_ops.conv2d_weight_gradient(dz, q, *place, pad_value=self.pad_value)


class KBitLinear(KBitLayer, BinaryLinear):
    """q_a(x) q_b(W).T, scaled by alpha and K: (N, I) -> (N, O). Sizes and settings are those of `BinaryLinear`."""

    packed_as = (*BinaryLinear.packed_as, "_products")

    def _integers(self, rows: F32) -> NDArray[np.int32]:
        weight = self.weight_levels()[:, :, None, None]
        return self._products(rows[:, :, None, None], weight, Window((1, 1)), 0)[:, :, 0, 0]

    def _coded(self, rows: F32) -> F32:
        return self.inputs.values(rows)
