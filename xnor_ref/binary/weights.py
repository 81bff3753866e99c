"""Weight scales, rules for the gradient of latent weights, and projections.

A layer stores latent weights W (O, ...) and computes with W~ = alpha B. B is sign(W), or q_k(W) with k bits. alpha (O,)
has one scale per filter. Back-propagation yields G = dC/dW~. Sums run over the n weights of one filter.
"""

import numpy as np
from numpy.typing import NDArray

from xnor_ref.binary.kbit import SIGNS, Code
from xnor_ref.binary.rules import F32, Registry, Rule
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.modes import Finish
from xnor_ref.kernels.ops import binary_ops, bit_planes

Alpha = NDArray | None  # (O,); None if the layer has no scale


def per_filter(values: NDArray, weight: NDArray) -> NDArray:
    """Reshape values (O,) to broadcast against weights (O, ...)."""
    return values.reshape(-1, *(1,) * (weight.ndim - 1))


class WeightScale(Rule):
    """alpha, the scale of each filter of binary weights, as a function of the latent weights.

    A rule of your own defines `alpha`. If it also defines `alpha_gradient`, the gradient of the latent weights includes
    the path through alpha; otherwise alpha counts as a constant.
    """

    computes = ("alpha", "alpha_gradient")
    scales = True  # False: there is no alpha
    per_filter = False  # True: each filter's alpha depends only on that filter, so filters may be computed in pieces
    separate = False  # True: a separate `Scale` layer follows and learns the scale
    of_integers = False  # True: with several bits, alpha multiplies the integers Z, not the levels

    def alpha(self, weight: F32, code: Code = SIGNS) -> NDArray | None:
        """Return the scales (O,) of weights (O, ...) coded as `code`. The layer rounds them to float32."""
        raise NotImplementedError(f"{type(self).__name__} has no alpha")

    def alpha_gradient(self, dalpha: NDArray, weight: F32, code: Code = SIGNS) -> NDArray | None:
        """Return the part of dC/dW (O, ...) through alpha, from dC/dalpha (O,). None: alpha counts as a constant."""
        return None


class MeanAbs(WeightScale):
    """The least-squares scale, which minimises ||W - alpha B||^2. With one bit it is the mean of |W|."""

    name = "alpha"
    equation = "alpha = <W, B>/<B, B>, with one bit mean |W|"
    source = "Rastegari et al. 2016, eq. 6"
    compiled = True
    per_filter = True

    def alpha(self, weight: F32, code: Code = SIGNS) -> NDArray:
        if code == SIGNS:
            return binary_ops.weight_scale(weight)
        rows = weight.reshape(len(weight), -1).astype(np.float64)
        m = code.levels(weight).reshape(rows.shape).astype(np.float64)
        return (rows * m).sum(axis=1) / (m * m).sum(axis=1) * bit_planes.largest(code.bits)

    def alpha_gradient(self, dalpha: NDArray, weight: F32, code: Code = SIGNS) -> NDArray:
        b = code.values(weight)
        rows = b.reshape(len(b), -1)
        square = rows.dtype.type(rows.shape[1]) if code == SIGNS else (rows * rows).sum(axis=1)
        return b * per_filter(dalpha / square, weight)


class LayerScale(WeightScale):
    """One least-squares scale for the whole layer. With one bit it is the mean of |W| over all filters."""

    name = "layer"
    equation = "alpha = <W, B>/<B, B> over all filters, with one bit mean |W|"
    source = "Zhou et al. 2016, section 2.3"

    def alpha(self, weight: F32, code: Code = SIGNS) -> NDArray:
        b = code.values(weight).astype(np.float64)
        return np.full(len(weight), (weight * b).sum() / (b * b).sum())

    def alpha_gradient(self, dalpha: NDArray, weight: F32, code: Code = SIGNS) -> NDArray:
        b = code.values(weight)
        return b * (dalpha.sum() / (b * b).sum())


class NoScale(WeightScale):
    """No alpha: W~ = B."""

    name = "off"
    equation = "alpha = 1"
    source = "Hubara et al. 2016"
    scales = False

    def alpha(self, weight: F32, code: Code = SIGNS) -> None:
        return None


class LearnedScale(NoScale):
    """No alpha in the layer. A separate layer after it has the scales as parameters."""

    name = "learned"
    equation = "alpha is a parameter"
    source = "Rastegari et al. 2016, Table 3a"
    separate = True


class GivenScale(WeightScale):
    """Constant scales, such as those of an imported layer. `values` (O,) multiply the integers Z."""

    name = "given"
    equation = "alpha = constant"
    of_integers = True

    def __init__(self, values: NDArray):
        self.values = np.asarray(values, np.float32)

    def alpha(self, weight: F32, code: Code = SIGNS) -> NDArray:
        return self.values


class WeightGradient(Rule):
    """The rule from G = dC/dW~ to dC/dW, the gradient of the latent weights. A rule of your own defines `latent`."""

    computes = ("latent",)
    needs_alpha = False  # True: it differentiates alpha
    per_filter = False  # True: each filter's gradient depends only on that filter
    printed_for_mean = False  # True: derived for alpha = mean |W| and one bit only
    least_channels = 1  # input channels that a layer needs

    def latent(self, grad: NDArray, weight: NDArray, alpha: Alpha, scale: WeightScale, code: Code = SIGNS) -> NDArray:
        """Return dC/dW (O, ...) from G of the same shape.

        Parameters
        ----------
        grad, weight : float32 or float64 (O, ...)
        alpha : (O,), or None if the layer has none
        scale : the rule that computed alpha
        code : how the weights are coded
        """
        raise NotImplementedError(f"{type(self).__name__} has no latent")

    def check(self, scale: WeightScale, code: Code) -> None:
        """Raise InputError unless this rule applies to such weights."""
        if self.needs_alpha and not scale.scales:
            raise InputError(
                f"grad_mode {self.name!r} differentiates alpha, but weight_scale {scale.name!r} has no alpha; use 'ste'"
            )
        if self.printed_for_mean and (code != SIGNS or not scale.mode):
            raise InputError(
                f"grad_mode {self.name!r} is derived for weight_scale 'alpha' and 1 bit per weight, got "
                f"weight_scale {scale.name!r} and weight_bits {code.bits}; use 'corrected' or 'ste'"
            )


class Ste(WeightGradient):
    """The straight-through rule: alpha counts as a constant."""

    name = "ste"
    equation = "alpha 1[|W_i| <= 1] G_i"
    source = "the straight-through estimator alone"
    compiled = Finish.STE
    per_filter = True

    def latent(self, grad: NDArray, weight: NDArray, alpha: Alpha, scale: WeightScale, code: Code = SIGNS) -> NDArray:
        inside = code.derivative(weight)
        return grad * (inside if alpha is None else per_filter(alpha, weight) * inside)


class Corrected(WeightGradient):
    """The full Jacobian, in which alpha depends on every weight.

    With mean |W| the first term is s_i/n sum_j G_j s_j.
    """

    name = "corrected"
    equation = "(sum_j G_j B_j) dalpha/dW_i + alpha 1[|W_i| <= 1] G_i"
    source = "chain rule on Rastegari et al. 2016, eq. 6"
    compiled = Finish.CORRECTED
    per_filter = True
    needs_alpha = True

    def latent(self, grad: NDArray, weight: NDArray, alpha: Alpha, scale: WeightScale, code: Code = SIGNS) -> NDArray:
        straight = CONSTANT.latent(grad, weight, alpha, scale, code)
        dalpha = (grad * code.values(weight)).reshape(len(grad), -1).sum(axis=1)
        through_alpha = scale.alpha_gradient(dalpha, weight, code)
        return straight if through_alpha is None else through_alpha + straight


class Paper(WeightGradient):
    """The paper's rule, without the misprinted factor in its derivative of sign: the diagonal of the full Jacobian."""

    name = "paper"
    equation = "(1/n + alpha 1[|W_i| <= 1]) G_i"
    source = "Rastegari et al. 2016, section 3.1"
    compiled = Finish.PAPER
    per_filter = True
    needs_alpha = True
    printed_for_mean = True

    def latent(self, grad: NDArray, weight: NDArray, alpha: Alpha, scale: WeightScale, code: Code = SIGNS) -> NDArray:
        assert alpha is not None
        return grad * (1 / weight.dtype.type(weight[0].size) + per_filter(alpha, weight) * code.derivative(weight))


class Official(WeightGradient):
    """The rule of the authors' released code, with c input channels.

    The factor n matters for SGD, as released. With Adam it cancels (the released code then multiplies by 1e9 instead).
    The mask is strict, so weights clamped at 1 get only the 1/n term.
    """

    name = "official"
    equation = "(1/n + alpha 1[|W_i| < 1]) (1 - 1/c) n G_i"
    source = "github.com/allenai/XNOR-Net"
    compiled = Finish.OFFICIAL
    per_filter = True
    needs_alpha = True
    printed_for_mean = True
    least_channels = 2  # with one, the factor 1 - 1/c would be 0

    def latent(self, grad: NDArray, weight: NDArray, alpha: Alpha, scale: WeightScale, code: Code = SIGNS) -> NDArray:
        assert alpha is not None
        n, channels = weight.dtype.type(weight[0].size), weight.dtype.type(weight.shape[1])
        inside = np.abs(weight) < 1
        return grad * ((1 / n + per_filter(alpha, weight) * inside) * ((1 - 1 / channels) * n))


CONSTANT = Ste()
MEAN_ABS = MeanAbs()
WEIGHT_SCALES = Registry("weight_scale", WeightScale, MEAN_ABS, LayerScale(), NoScale(), LearnedScale())
WEIGHT_GRADIENTS = Registry("grad_mode", WeightGradient, Corrected(), Paper(), CONSTANT, Official())


def centre_weights(weight: NDArray[np.floating]) -> None:
    """W <- W - mean over input channels (axis 1), in place, as the authors' released code does."""
    weight -= weight.mean(axis=1, keepdims=True)


def clamp_weights(weight: NDArray[np.floating]) -> None:
    """W <- clip(W, -1, 1), in place. Beyond 1 the estimator's gradient is 0, so a weight would never come back."""
    np.clip(weight, -1, 1, out=weight)
