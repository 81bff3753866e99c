"""Quantisers: real numbers rounded to k bits (Rastegari et al. 2016, section 3.2).

    q_k(x) = 2 ([(2^k - 1)(x + 1)/2] / (2^k - 1) - 1/2),    x in [-1, 1]

takes 2^k evenly spaced levels from -1 to 1. [.] rounds, with halves upwards, so q_1 is sign with sign(0) = +1. Its
derivative is replaced by 1[|x| <= 1], as for sign.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xnor_ref.binary.rules import F32, Registry, Rule
from xnor_ref.binary.sign import sign, ste_mask
from xnor_ref.kernels.ops import bit_planes
from xnor_ref.kernels.ops.bit_planes import MAX_BITS as MAX_BITS
from xnor_ref.kernels.ops.bit_planes import Levels as Levels
from xnor_ref.kernels.ops.bit_planes import largest


class Quantizer(Rule):
    """How latent weights are rounded to k bits.

    A rule of your own defines `levels`. It also defines `derivative` if it needs another one than 1[|x| <= 1].
    """

    computes = ("levels", "derivative")

    def levels(self, x: F32, bits: int) -> NDArray[np.int16]:
        """Return odd integers from -(2^k - 1) to 2^k - 1 in the shape of x: 2^k - 1 times the rounded x."""
        raise NotImplementedError(f"{type(self).__name__} has no levels")

    def derivative(self, x: NDArray, bits: int) -> NDArray:
        """Return what replaces the derivative of the rounding, in the shape of x: 1[|x| <= 1]."""
        return ste_mask(x)


class Uniform(Quantizer):
    """Even levels."""

    name = "uniform"
    equation = "q_k(x) = 2 ([(2^k - 1)(x + 1)/2] / (2^k - 1) - 1/2)"
    source = "Rastegari et al. 2016, section 3.2"
    compiled = True

    def levels(self, x: F32, bits: int) -> NDArray[np.int16]:
        return bit_planes.levels(x, bits)


UNIFORM = Uniform()
QUANTIZERS = Registry("weight_quantizer", Quantizer, UNIFORM)


class Code(NamedTuple):
    """How weights are coded: the numbers B that replace W."""

    bits: int = 1
    quantizer: Quantizer = UNIFORM

    def values(self, weight: NDArray) -> NDArray:
        """Return B in the shape and dtype of W: sign(W), or the levels of a quantizer, from -1 to 1."""
        if self.bits == 1 and self.quantizer.mode:
            return sign(weight)
        return (self.levels(weight) / largest(self.bits)).astype(weight.dtype)

    def levels(self, weight: NDArray) -> NDArray[np.int16]:
        """Return (2^k - 1) B, odd integers."""
        return self.quantizer.levels(weight, self.bits)

    def derivative(self, weight: NDArray) -> NDArray:
        """Return what replaces dB/dW."""
        return self.quantizer.derivative(weight, self.bits)


SIGNS = Code()


def quantize(x: F32, bits: int) -> F32:
    """q_k(x) of float32 x, clipped to [-1, 1].

    >>> quantize(np.float32([-2, -0.1, 0, 0.4, 0.7]), 2).tolist() == np.float32([-1, -1/3, 1/3, 1/3, 1]).tolist()
    True
    """
    return Levels(bits).values(x)


def quantize_gradient(
    grad: F32,
    bits: int,
    *,
    rng: np.random.Generator | None = None,
    by_sample: bool = False,
    drawn: F32 | None = None,
    top: F32 | None = None,
) -> F32:
    """Return max|g| q_k(g / max|g|), or max|g| sign(g) with one bit (section 3.2).

    The scale is the maximum and not the mean, which eq. 6 would give. It preserves the largest change of each element.
    Elements that are exactly 0, such as most of a gradient behind max pooling, stay 0, as with `sign` in Torch, the
    library of the authors' code.

    Parameters
    ----------
    grad : float32, of any shape; the first axis counts samples
    bits : from 1 to 8
    rng : if given, draws which of the two neighbouring levels a number takes, so that its mean is right. Otherwise the
        nearer level is taken. DoReFa-Net adds noise before rounding (Zhou et al. 2016, eq. 12), which is the same
    by_sample : take the maximum over each sample, as in DoReFa-Net, instead of over the whole tensor
    drawn : the numbers from [0, 1) that `rng` would draw, in the shape of grad; replaces `rng`
    top : the maximum, of one element, where grad is a part of a batch

    >>> quantize_gradient(np.float32([[-0.2, 1], [0.1, 0.3]]), 1, by_sample=True).tolist()
    [[-1.0, 1.0], [0.30000001192092896, 0.30000001192092896]]
    """
    if top is None:
        top = np.abs(grad).max(axis=tuple(range(1, grad.ndim)) if by_sample else None, keepdims=True)
    top = np.where(top == 0, np.float32(1), top)
    if drawn is None and rng is not None:
        drawn = rng.random(grad.shape, np.float32)
    if drawn is None:
        levels = quantize(grad / top, bits)
    else:
        most = largest(bits)
        place = np.float32(most) * (grad / top)
        levels = 2 * np.floor((place - 1) / 2 + drawn) + 1
        levels = np.clip(levels, -most, most) / np.float32(most)
    return np.where(grad == 0, np.float32(0), levels * top)
