"""larq's quantisers: which of them are signs, and the gradients that they train with."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.binary import SIGNS, STE, Code, SignGradient
from xnor_ref.binary.weights import Alpha, WeightGradient, WeightScale, per_filter
from xnor_ref.errors import InputError

F32 = NDArray[np.float32]


class Clipped(SignGradient):
    """The straight-through estimator with another bound than 1, or none."""

    name = "clipped"
    equation = "1[|x| <= bound]"
    source = "larq.quantizers.SteSign"

    def __init__(self, bound: float | None):
        self.bound = bound

    def derivative(self, x: F32) -> NDArray:
        return np.ones_like(x) if self.bound is None else np.abs(x) <= self.bound


class Swish(SignGradient):
    """The derivative of SignSwish, a smooth sign."""

    name = "swish"
    equation = "beta (2 - beta x tanh(beta x/2)) / (1 + cosh(beta x))"
    source = "Darabi et al. 2018, section 3.1"

    def __init__(self, beta: float):
        self.beta = beta

    def derivative(self, x: F32) -> NDArray:
        scaled = np.minimum(np.abs(self.beta * x), 80)  # even; beyond it is 0 in float32
        return self.beta * (2 - scaled * np.tanh(scaled / 2)) / (1 + np.cosh(scaled))


class ThroughSign(WeightGradient):
    """alpha counts as a constant, and sign has another derivative than the straight-through estimator."""

    name = "through sign"
    equation = "alpha d(W_i) G_i"
    source = "larq"
    per_filter = True

    def __init__(self, gradient: SignGradient):
        self.gradient = gradient

    def latent(self, grad: NDArray, weight: NDArray, alpha: Alpha, scale: WeightScale, code: Code = SIGNS) -> NDArray:
        straight = grad * self.gradient.derivative(weight)
        return straight if alpha is None else straight * per_filter(alpha, weight)


@dataclass(frozen=True)
class Quantizer:
    """A sign, and how it is used.

    Parameters
    ----------
    gradient : what stands in for its derivative
    scaled : whether weights are multiplied by the mean of their absolute values
    clipped : whether weights are clipped to [-1, 1] first, and the gradient flows through their scale
    """

    gradient: Any = STE
    scaled: bool = False
    clipped: bool = False

    @property
    def grad_mode(self) -> Any:
        """From the gradient of binary weights to that of latent ones."""
        if self.clipped:
            return "corrected"
        return "ste" if self.gradient is STE else ThroughSign(self.gradient)


NOT_SIGNS = {
    "ste_heaviside": "gives 0 and 1, not signs",
    "ste_tern": "gives -1, 0 and 1, not signs",
    "do_re_fa": "gives several levels from 0 to 1, not signs",
}
ALIASES = {"dorefa_quantizer": "do_re_fa", "do_re_fa_quantizer": "do_re_fa"}


def plain(name: Any) -> str:
    """A class's or a function's name as larq's aliases are written: "Larq>SteSign" is "ste_sign"."""
    text = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", str(name).rpartition(">")[2])
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", text).lower()


def named(value: Any) -> tuple[str, dict[str, Any]]:
    """(name, settings) of an object as Keras serialises it: a name, a function, or a class with its configuration."""
    if not isinstance(value, dict):
        return plain(value), {}
    config = value.get("config")
    if isinstance(config, str):
        return plain(config), {}  # a function
    return plain(value.get("class_name")), config if isinstance(config, dict) else {}


def quantizer(value: Any) -> Quantizer | None:
    """A quantiser as it stands in a configuration; None where nothing is rounded. Raises InputError for others."""
    if value is None:
        return None
    name, config = named(value)
    name = ALIASES.get(name, name)
    if name in ("ste_sign", "magnitude_aware_sign"):
        return Quantizer(_clipped(config.get("clip_value", 1.0)), scaled=name == "magnitude_aware_sign")
    if name == "approx_sign":
        return Quantizer("bireal")
    if name == "swish_sign":
        return Quantizer(Swish(_positive("beta", config.get("beta", 5.0))))
    if name == "xnor_weight_scale":  # of larq-zoo's XNOR-Net
        return Quantizer(scaled=True, clipped=True)
    if name == "no_op":
        return None
    raise InputError(f"the quantiser {name!r:.60} {NOT_SIGNS.get(name, 'is not known')}")


def _clipped(bound: Any) -> SignGradient:
    if bound is None:
        return Clipped(None)
    return STE if _positive("clip_value", bound) == 1 else Clipped(float(bound))


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise InputError(f"{name} must be a positive number, got {value!r:.60}")
    return float(value)
