"""Numbers of k bits in place of real ones (Rastegari et al. 2016, section 3.2).

    q_k(x) = 2 ([(2^k - 1)(x + 1)/2] / (2^k - 1) - 1/2),    x in [-1, 1]

takes 2^k even levels from -1 to 1; [.] rounds, halves upwards, so that q_1 is sign with sign(0) = +1. Its derivative is
taken to be 1[|x| <= 1], as that of sign.
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
    """What rounds latent weights to k bits.

    A rule of one's own defines `levels`, and `derivative` if that of the straight-through estimator does not suit.
    """

    computes = ("levels", "derivative")

    def levels(self, x: F32, bits: int) -> NDArray[np.int16]:
        """Odd integers from -(2^k - 1) to 2^k - 1 in the shape of x: 2^k - 1 times the rounded x."""
        raise NotImplementedError(f"{type(self).__name__} has no levels")

    def derivative(self, x: NDArray, bits: int) -> NDArray:
        """What stands in for the derivative of the rounded x, in its shape: 1[|x| <= 1]."""
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
    """How weights are held: the numbers B that stand for W."""

    bits: int = 1
    quantizer: Quantizer = UNIFORM

    def values(self, weight: NDArray) -> NDArray:
        """B in the shape and dtype of W: sign(W), or the levels of a quantizer, from -1 to 1."""
        if self.bits == 1 and self.quantizer.mode:
            return sign(weight)
        return (self.levels(weight) / largest(self.bits)).astype(weight.dtype)

    def levels(self, weight: NDArray) -> NDArray[np.int16]:
        """(2^k - 1) B, odd integers."""
        return self.quantizer.levels(weight, self.bits)

    def derivative(self, weight: NDArray) -> NDArray:
        """What stands in for dB/dW."""
        return self.quantizer.derivative(weight, self.bits)


SIGNS = Code()


def quantize(x: F32, bits: int) -> F32:
    """q_k(x) of float32 x, clipped to [-1, 1].

    >>> quantize(np.float32([-2, -0.1, 0, 0.4, 0.7]), 2).tolist() == np.float32([-1, -1/3, 1/3, 1/3, 1]).tolist()
    True
    """
    return Levels(bits).values(x)


def quantize_gradient(grad: F32, bits: int, *, rng: np.random.Generator | None = None, by_sample: bool = False) -> F32:
    """max|g| q_k(g / max|g|); with one bit max|g| sign(g) (section 3.2).

    The maximum, in place of the mean that eq. 6 would give, keeps the largest change of every element. What is exactly
    0, as most of a gradient behind max pooling, stays 0, as it does with the `sign` of Torch, the authors' library.

    Parameters
    ----------
    grad : float32, of any shape; the first axis counts samples
    bits : from 1 to 8
    rng : draws which of the two levels around it a number takes, so that it is right on average; without it the nearer
        one is taken. DoReFa-Net adds noise before it rounds (Zhou et al. 2016, eq. 12), which is the same
    by_sample : take the maximum over each sample, as DoReFa-Net does, and not over the whole tensor

    >>> quantize_gradient(np.float32([[-0.2, 1], [0.1, 0.3]]), 1, by_sample=True).tolist()
    [[-1.0, 1.0], [0.30000001192092896, 0.30000001192092896]]
    """
    top = np.abs(grad).max(axis=tuple(range(1, grad.ndim)) if by_sample else None, keepdims=True)
    top[top == 0] = 1
    if rng is None:
        levels = quantize(grad / top, bits)
    else:
        most = largest(bits)
        place = np.float32(most) * (grad / top)
        levels = 2 * np.floor((place - 1) / 2 + rng.random(grad.shape, np.float32)) + 1
        levels = np.clip(levels, -most, most) / np.float32(most)
    return np.where(grad == 0, np.float32(0), levels * top)
