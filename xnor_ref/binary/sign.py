"""sign and its straight-through estimator."""

import numpy as np
from numpy.typing import NDArray


def sign(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """+1 where x >= 0, else -1, in the dtype of x; so sign(0) = sign(-0.0) = +1.

    Rastegari et al. 2016, section 3.1: B_i = +1 if W_i >= 0. NumPy's own `sign` gives 0 at 0.

    >>> sign(np.float32([-2, -0.0, 0.5]))
    array([-1.,  1.,  1.], dtype=float32)
    """
    return np.where(x >= 0, x.dtype.type(1), x.dtype.type(-1))


def stochastic_sign(x: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.floating]:
    """+1 with probability clip((x + 1)/2, 0, 1), the "hard sigmoid" of x, else -1 (Courbariaux et al. 2015, eq. 2, 3).

    >>> stochastic_sign(np.float32([-1, 1, 7]), np.random.default_rng(0))
    array([-1.,  1.,  1.], dtype=float32)
    """
    return np.where(2 * rng.random(x.shape, dtype=np.float32) - 1 < x, x.dtype.type(1), x.dtype.type(-1))


def ste_mask(x: NDArray[np.floating]) -> NDArray[np.bool_]:
    """1[|x| <= 1], which stands in for the derivative of sign (Hubara et al. 2016, eq. 4).

    The XNOR-Net paper prints `d sign/dr = r 1[|r| <= 1]`; the factor r would turn the descent direction of every
    negative value round, and neither the authors' code nor BinaryNet's has it.
    """
    return np.abs(x) <= 1


SIGN_GRADIENTS = ("ste", "bireal")


def sign_derivative(x: NDArray[np.floating], kind: str) -> NDArray:
    """What stands in for the derivative of sign, in the shape of x.

    | sign_gradient | |
    |---|---|
    | `ste` | 1[abs(x) <= 1], see `ste_mask` |
    | `bireal` | (2 - 2 abs(x)) 1[abs(x) < 1], that of 2x + x^2 below 0 and 2x - x^2 above (Liu et al. 2018, eq. 7) |
    """
    if kind == "ste":
        return ste_mask(x)
    return np.maximum(x.dtype.type(2) - x.dtype.type(2) * np.abs(x), x.dtype.type(0))
