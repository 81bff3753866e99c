"""k-bit quantisation of weights, inputs and gradients (Rastegari et al. 2016, section 3.2), and its gradient rules.

    q_k(x) = 2 ([(2^k - 1)(x + 1)/2] / (2^k - 1) - 1/2),    x in [-1, 1]

takes 2^k even levels from -1 to 1; [.] rounds, halves upwards, so that q_1 is sign with sign(0) = +1. Its derivative is
taken to be 1[|x| <= 1], as that of sign.

The scale of k-bit weights is the least-squares one: min ||W - alpha Q||^2 over alpha gives alpha = <W, Q>/<Q, Q> for
each filter, with Q = q_k(W). With one bit that is mean|W| (eq. 6).
"""

import numpy as np
from numpy.typing import NDArray

from xnor_ref.binary.sign import ste_mask
from xnor_ref.binary.weights import weight_gradient
from xnor_ref.errors import InputError
from xnor_ref.kernels.ops.bit_planes import MAX_BITS as MAX_BITS
from xnor_ref.kernels.ops.bit_planes import largest, levels

F32 = NDArray[np.float32]


def quantize(x: F32, bits: int) -> F32:
    """q_k(x) of float32 x, clipped to [-1, 1].

    >>> quantize(np.float32([-2, -0.1, 0, 0.4, 0.7]), 2).tolist() == np.float32([-1, -1/3, 1/3, 1/3, 1]).tolist()
    True
    """
    return levels(x, bits).astype(np.float32) / np.float32(largest(bits))


def quantize_gradient(grad: F32, bits: int) -> F32:
    """max|g| q_k(g / max|g|), the maximum over the whole tensor; with one bit max|g| sign(g) (section 3.2).

    The maximum, in place of the mean that eq. 6 would give, keeps the largest change of every element. What is exactly
    0, as most of a gradient behind max pooling, stays 0, as it does with the `sign` of Torch, the authors' library.
    """
    top = np.abs(grad).max()
    if top == 0:
        return grad
    return np.where(grad == 0, np.float32(0), quantize(grad / top, bits) * top)


def weight_scale(weight: F32, m: NDArray[np.int16]) -> NDArray[np.float64]:
    """<W, m>/<m, m> of each filter, for weight and its integers m = (2^k - 1) q_k(W), both (O, ...): float64 (O,)."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    whole = m.reshape(len(m), -1).astype(np.float64)
    return (rows * whole).sum(axis=1) / (whole * whole).sum(axis=1)


def kbit_weight_gradient(grad: F32, weight: F32, bits: int, alpha: F32 | None, mode: str) -> F32:
    """From G = dC/dW~, W~ = alpha q_k(W), to the gradient of the latent weight W.

    | grad_mode | dC/dW_i |
    |---|---|
    | `corrected` | Q_i/<Q, Q> sum_j G_j Q_j + alpha 1[abs(W_i) <= 1] G_i, since alpha = <W, Q>/<Q, Q> |
    | `ste` | alpha 1[abs(W_i) <= 1] G_i |

    With one bit these and the other modes are those of `weight_gradient`. Without alpha it is taken as 1.

    Parameters
    ----------
    grad, weight : float32 (O, ...)
    bits : of the weights
    alpha : float32 (O,), or None

    Raises
    ------
    InputError : a mode that is not defined for so many bits.
    """
    if bits == 1:
        return weight_gradient(grad, weight, alpha, mode)
    if mode not in ("corrected", "ste"):
        raise InputError(f"kbit_weight_gradient: mode {mode!r} is for 1 bit, got {bits}; use corrected or ste")
    if alpha is None:
        return grad * ste_mask(weight)
    per_filter = (-1,) + (1,) * (weight.ndim - 1)
    straight = grad * (alpha.reshape(per_filter) * ste_mask(weight))
    if mode == "ste":
        return straight
    q = quantize(weight, bits)
    rows = q.reshape(len(q), -1)
    shared = (grad.reshape(rows.shape) * rows).sum(axis=1) / (rows * rows).sum(axis=1)
    return q * shared.reshape(per_filter) + straight
