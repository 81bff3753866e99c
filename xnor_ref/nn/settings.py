"""Settings of layers with binary weights, in one record that is checked when it is made."""

from dataclasses import dataclass, fields
from typing import Any

from xnor_ref import binary
from xnor_ref.errors import InputError

INPUT_LEVELS = ("even", "ternary")
GRAD_ROUNDINGS = ("nearest", "random")
GRAD_RANGES = ("layer", "sample")
GRAD_USES = ("inputs", "all")
_CHOICES = {
    "input_levels": INPUT_LEVELS,
    "grad_rounding": GRAD_ROUNDINGS,
    "grad_range": GRAD_RANGES,
    "grad_for": GRAD_USES,
}
RULES = {
    registry.option: registry
    for registry in (
        binary.WEIGHT_SCALES,
        binary.INPUT_SCALES,
        binary.WEIGHT_GRADIENTS,
        binary.SIGN_GRADIENTS,
        binary.QUANTIZERS,
    )
}


@dataclass(frozen=True, kw_only=True)
class LayerSettings:
    """Settings of a layer with binary weights. A rule is given by name or as an object, and stored as an object.

    Parameters
    ----------
    weight_scale : alpha, one of `binary.WEIGHT_SCALES`
    input_scale : K, one of `binary.INPUT_SCALES`
    grad_mode : rule from the gradient of binary weights to that of latent weights, one of `binary.WEIGHT_GRADIENTS`;
        the default is "corrected" with an alpha, "ste" without
    sign_gradient : what replaces the derivative of sign(X), one of `binary.SIGN_GRADIENTS`
    k_grad : whether the gradient also flows through K; off by default, as in the published codes
    centre, clamp : project the latent weights after each step: `centre` subtracts their mean over input channels,
        `clamp` limits them to [-1, 1]
    glorot : latent weights are drawn uniformly from [-1, 1], and learning rates multiplied by
        1/sqrt(1.5/(fan_in + fan_out)), as in the codes of BinaryConnect (Courbariaux et al. 2015, section 2.6) and
        BinaryNet
    stochastic : in training each weight is +1 with probability clip((w + 1)/2, 0, 1), else -1, drawn anew at each step
        (Courbariaux et al. 2015, eq. 2 and 3). Only for layers with real inputs and without alpha. Inference uses
        sign(W), so that it can be packed. The authors' code evaluates such networks with the real weights
    weight_bits, input_bits : bits of a weight and of an input, from 1 to 8
    input_levels : "even": 2^k evenly spaced numbers from -1 to 1; "ternary", with 2 bits: 0 where |x| <= 1/2, else
        sign(x)
    weight_quantizer : how latent weights are rounded to several bits, one of `binary.QUANTIZERS`
    grad_bits : bits to which the gradient is rounded before it is multiplied by the weights, see
        `binary.quantize_gradient` (Rastegari et al. 2016, section 3.2, "binary gradient"); None: not rounded
    grad_rounding : "nearest" rounds to the nearest level, "random" to one of the two neighbours
    grad_range : the range of the levels is the largest gradient of the "layer" or of each "sample"
    grad_for : "inputs": only the inputs' gradient uses the rounded one; "all": the weights' gradient, too.
        DoReFa-Net uses "random", "sample" and "all" (Zhou et al. 2016, eq. 12)

    Raises
    ------
    InputError : an unknown rule, or incompatible settings.
    """

    weight_scale: Any = "alpha"
    input_scale: Any = "plain"
    grad_mode: Any = None
    sign_gradient: Any = "ste"
    k_grad: bool = False
    centre: bool = False
    clamp: bool = False
    glorot: bool = False
    stochastic: bool = False
    weight_bits: int = 1
    input_bits: int = 1
    input_levels: str = "even"
    weight_quantizer: Any = "uniform"
    grad_bits: int | None = None
    grad_rounding: str = "nearest"
    grad_range: str = "layer"
    grad_for: str = "inputs"

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of all settings."""
        return tuple(field.name for field in fields(cls))

    def __post_init__(self) -> None:
        if self.grad_mode is None:
            scales = binary.WEIGHT_SCALES.find(self.weight_scale).scales
            object.__setattr__(self, "grad_mode", "corrected" if scales else "ste")
        for name, registry in RULES.items():
            object.__setattr__(self, name, registry.find(getattr(self, name)))
        for name in ("weight_bits", "input_bits", "grad_bits"):
            bits = getattr(self, name)
            if name == "grad_bits" and bits is None:
                continue
            if type(bits) is not int or not 1 <= bits <= binary.MAX_BITS:
                raise InputError(f"{name} must be an integer from 1 to {binary.MAX_BITS}, got {bits!r}")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
            if name.startswith("grad") and value != choices[0] and self.grad_bits is None:
                raise InputError(f"{name} (={value}) needs grad_bits")
        if self.input_levels == "ternary" and self.input_bits != 2:
            raise InputError(f"input_levels 'ternary' needs input_bits 2, got {self.input_bits}")
        self.grad_mode.check(self.weight_scale, self.code)
        if self.k_grad and not self.input_scale.scales:
            raise InputError("k_grad is the gradient through K; input_scale 'off', as with cbap, has no K")
        if self.input_bits > 1 and self.sign_gradient is not binary.STE:
            raise InputError(f"sign_gradient (={self.sign_gradient}) needs input_bits 1, got {self.input_bits}")
        if self.weight_bits == 1 and self.weight_quantizer is not binary.QUANTIZERS["uniform"]:
            raise InputError(f"weight_quantizer (={self.weight_quantizer}) needs weight_bits above 1")
        if self.stochastic and self.weight_scale.scales:
            raise InputError(
                f"stochastic signs need weight_scale 'off', got '{self.weight_scale}': alpha is the best scale for "
                "sign(W) only"
            )

    @property
    def code(self) -> binary.Code:
        """The code of the weights: their bits and quantiser."""
        return binary.Code(self.weight_bits, self.weight_quantizer)


def checked(caller: str, settings: dict[str, Any]) -> LayerSettings:
    """Return the settings of a layer. Error messages begin with `caller`, the layer's name."""
    try:
        return LayerSettings(**settings)
    except InputError as error:
        raise InputError(f"{caller}: {error}") from None
