"""sign, and the rules that replace its derivative."""

import numpy as np
from numpy.typing import NDArray

from xnor_ref.binary.rules import F32, Registry, Rule


def sign(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """+1 where x >= 0, else -1, in the dtype of x; so sign(0) = sign(-0.0) = +1.

    Rastegari et al. 2016, section 3.1: B_i = +1 if W_i >= 0. NumPy's own `sign` gives 0 at 0.

    >>> sign(np.float32([-2, -0.0, 0.5]))
    array([-1.,  1.,  1.], dtype=float32)
    """
    return np.where(x >= 0, x.dtype.type(1), x.dtype.type(-1))


def stochastic_sign(x: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.floating]:
    """+1 with probability clip((x + 1)/2, 0, 1), the "hard sigmoid", else -1 (Courbariaux et al. 2015, eq. 2, 3).

    >>> stochastic_sign(np.float32([-1, 1, 7]), np.random.default_rng(0))
    array([-1.,  1.,  1.], dtype=float32)
    """
    return np.where(2 * rng.random(x.shape, dtype=np.float32) - 1 < x, x.dtype.type(1), x.dtype.type(-1))


def ste_mask(x: NDArray[np.floating]) -> NDArray[np.bool_]:
    """1[|x| <= 1], which replaces the derivative of sign (Hubara et al. 2016, eq. 4).

    The XNOR-Net paper prints `d sign/dr = r 1[|r| <= 1]`. The factor r would reverse the direction of descent for every
    negative value. Neither the authors' code nor BinaryNet has it.
    """
    return np.abs(x) <= 1


class SignGradient(Rule):
    """What replaces the derivative of sign. A rule of your own defines `derivative`."""

    computes = ("derivative",)

    def derivative(self, x: F32) -> NDArray:
        """Return the factor of dC/dsign(x), in the shape of x."""
        raise NotImplementedError(f"{type(self).__name__} has no derivative")


class StraightThrough(SignGradient):
    """The straight-through estimator; see `ste_mask`."""

    name = "ste"
    equation = "1[|x| <= 1]"
    source = "Hubara et al. 2016, eq. 4"
    compiled = True

    def derivative(self, x: F32) -> NDArray:
        return ste_mask(x)


class BiReal(SignGradient):
    """The derivative of two parabolas: 2x + x^2 below 0 and 2x - x^2 above."""

    name = "bireal"
    equation = "(2 - 2|x|) 1[|x| < 1]"
    source = "Liu et al. 2018, eq. 7"

    def derivative(self, x: F32) -> NDArray:
        return np.maximum(x.dtype.type(2) - x.dtype.type(2) * np.abs(x), x.dtype.type(0))


STE = StraightThrough()
SIGN_GRADIENTS = Registry("sign_gradient", SignGradient, STE, BiReal())
