"""From the gradient of a binarised weight to that of the real (latent) weight behind it, and projections of the latter.

A layer holds latent weights W (O, ...), computes with W~ = alpha * sign(W), one alpha = mean|W| a filter
(Rastegari et al. 2016, eq. 6), and back-propagation yields G = dC/dW~. Sums run over the n weights of one filter.

| grad_mode | dC/dW_i | what it is |
|---|---|---|
| `corrected` | s_i/n sum_j G_j s_j + alpha 1[abs(W_i) <= 1] G_i | the full Jacobian: alpha depends on every weight |
| `paper` | (1/n + alpha 1[abs(W_i) <= 1]) G_i | as printed, less the factor r: the diagonal of the above |
| `ste` | alpha 1[abs(W_i) <= 1] G_i | alpha held constant |
| `official` | (1/n + alpha 1[abs(W_i) < 1]) (1 - 1/c) n G_i | the authors' released code, c input channels |

The factor n of `official` is there for SGD, as released; with Adam it cancels (the released code multiplies by 1e9
instead). All four are tested against their closed forms, and `corrected` against finite differences.
"""

import numpy as np
from numpy.typing import NDArray

from xnor_ref.binary.sign import sign, ste_mask
from xnor_ref.errors import InputError

GRAD_MODES = ("corrected", "paper", "ste", "official")


def weight_gradient(
    grad: NDArray[np.floating],
    weight: NDArray[np.floating],
    alpha: NDArray[np.floating] | None,
    mode: str,
) -> NDArray[np.floating]:
    """Gradient with respect to the latent weight by one of the rules above.

    Parameters
    ----------
    grad : (O, ...) G, the gradient with respect to W~ = alpha sign(W); float32 or float64.
    weight : (O, C, ...) latent weights, same shape and dtype.
    alpha : (O,) weight scale; None for W~ = sign(W), where only `ste` has a meaning.
    mode : one of `GRAD_MODES`.

    Raises
    ------
    InputError : unknown mode, or a mode that needs alpha without one.
    """
    if mode not in GRAD_MODES:
        raise InputError(f"weight_gradient: mode must be one of {', '.join(GRAD_MODES)}, got {mode!r}")
    if alpha is None:
        if mode != "ste":
            raise InputError(f"weight_gradient: mode {mode!r} differentiates alpha, but there is none; use 'ste'")
        return grad * ste_mask(weight)
    dtype = weight.dtype.type
    n = dtype(weight[0].size)
    per_filter = (-1,) + (1,) * (weight.ndim - 1)
    scale = alpha.reshape(per_filter)
    if mode == "official":
        channels = dtype(weight.shape[1])
        mask = np.abs(weight) < 1  # strict: weights clamped at 1 keep only the 1/n term
        return grad * ((1 / n + scale * mask) * ((1 - 1 / channels) * n))
    through_sign = scale * ste_mask(weight)
    if mode == "ste":
        return grad * through_sign
    if mode == "paper":
        return grad * (1 / n + through_sign)
    signs = sign(weight)
    shared = (grad * signs).reshape(len(grad), -1).sum(axis=1).reshape(per_filter) / n
    return signs * shared + grad * through_sign


def centre_weights(weight: NDArray[np.floating]) -> None:
    """W <- W - mean over input channels (axis 1), in place, as the authors' released code does."""
    weight -= weight.mean(axis=1, keepdims=True)


def clamp_weights(weight: NDArray[np.floating]) -> None:
    """W <- clip(W, -1, 1), in place: beyond 1 the estimator would never bring a weight back."""
    np.clip(weight, -1, 1, out=weight)
