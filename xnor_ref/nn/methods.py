"""The papers' methods: the weights, inputs and blocks that each gives a network.

The room's page compares them.
"""

from dataclasses import dataclass
from typing import Any

from xnor_ref.binary import STE
from xnor_ref.errors import InputError
from xnor_ref.nn.settings import LayerSettings

BLOCK_ORDERS = ("bacp", "acbp", "cbap")
SHORTCUTS = ("none", "bireal")
GAMMA_INITS = ("ones", "alpha")
BATCH_NORMS = ("plain", "official", "none")
ENDS = ("real", "binary")


@dataclass(frozen=True, kw_only=True)
class BinaryOptions(LayerSettings):
    """Options of a network: the settings that all its binary layers share, and those of its blocks.

    `input_scale` and `clamp` depend on the other settings if they are None. See `BinaryConv2d`, `Scale` and `Builder`
    for the rest.
    """

    input_scale: Any = None  # None: "plain", but "off" with "cbap", where inputs are signs and K is 1
    clamp: Any = None  # None: True with several bits per weight, which cover [-1, 1]; else False
    pad_value: int = 0
    gamma: str = "o-h-w"
    gamma_init: str = "ones"
    block_order: str = "bacp"
    shift_batch_norm: bool = False
    shortcut: str = "none"  # "bireal": around every binary convolution (Liu et al. 2018)
    relu: bool = False  # after every binary layer, the "non-binary activation" of Rastegari et al. 2016, section 3.2
    react: bool = False  # shifted signs, and a shifted PReLU after every binary layer (Liu et al. 2020)
    rprelu: bool = False  # that PReLU alone: a BatchNorm before the signs has a shift of its own
    batch_norm: str = "plain"  # "official": eps and initial scales of the authors' released code, see `Builder.norm`
    ends: str | None = None  # weights of the first and last layer, "real" or "binary"; None: the method's default

    def __post_init__(self) -> None:
        if self.input_scale is None:
            object.__setattr__(self, "input_scale", "off" if self.block_order == "cbap" else "plain")
        super().__post_init__()
        for name, choices in (
            ("gamma_init", GAMMA_INITS),
            ("block_order", BLOCK_ORDERS),
            ("shortcut", SHORTCUTS),
            ("batch_norm", BATCH_NORMS),
            ("ends", ENDS),
        ):
            if getattr(self, name) not in choices and (name, self.ends) != ("ends", None):
                raise InputError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.weight_bits > 1 and self.clamp is False:
            raise InputError(
                f"clamp (=False) needs weight_bits 1, got {self.weight_bits}: weights of several bits cover [-1, 1]"
            )
        chosen = [name for name in ("relu", "react", "rprelu") if getattr(self, name)]
        if len(chosen) > 1:
            raise InputError(f"{' and '.join(chosen)} are activations of the same place; choose one")
        for name, order in (("block_order", "acbp"), ("batch_norm", "none")):
            if self.relu and getattr(self, name) == order:
                raise InputError(
                    f"relu with {name} {order} would make every following sign +1; choose rprelu, or neither"
                )
        if self.ends == "binary" and self.weight_bits > 1:
            raise InputError(f"ends (=binary) needs weight_bits 1, got {self.weight_bits}")
        if self.block_order == "cbap":
            plain = {
                "input_bits": 1,
                "sign_gradient": STE,
                "shortcut": "none",
                "relu": False,
                "react": False,
                "rprelu": False,
            }
            for name, value in plain.items():
                if getattr(self, name) != value:
                    raise InputError(
                        f"{name} (={getattr(self, name)}) needs block_order bacp or acbp: with cbap, a separate layer "
                        "takes the signs, before pooling"
                    )
            if self.input_scale.scales:
                raise InputError(
                    f"input_scale (={self.input_scale}) needs block_order bacp or acbp: with cbap, a layer's inputs "
                    "are "
                    "signs, so K, the mean of their |x|, is 1"
                )
        if self.clamp is None:
            object.__setattr__(self, "clamp", self.weight_bits > 1)

    def of_layer(self, takes: tuple[str, ...]) -> dict[str, Any]:
        """Return the settings that a kind of layer takes."""
        return {name: getattr(self, name) for name in takes}


@dataclass(frozen=True)
class Method:
    """The definition of a method.

    Parameters
    ----------
    summary : one line for the list of methods
    inputs, weights : whether inputs and weights of hidden layers are binary
    ends : whether the weights of the first and the last layer are binary as well
    options : the settings of `BinaryOptions` that a user may choose
    fixed : the settings that the method fixes; a user may change only those that are also in `options`
    """

    summary: str
    inputs: bool = False
    weights: bool = True
    ends: bool = False
    options: tuple[str, ...] = ()
    fixed: tuple[tuple[str, Any], ...] = ()

    @property
    def on_bits(self) -> bool:
        """Whether hidden layers multiply signs by signs."""
        return self.inputs and self.weights


_LATENT = ("grad_mode", "centre", "clamp")
_UNSCALED = (("weight_scale", "off"), ("input_scale", "off"))
_ROUNDED = ("grad_bits", "grad_rounding", "grad_range", "grad_for")
_KBIT = ("weight_bits", "input_bits", "input_levels", "weight_quantizer", *_ROUNDED)
_EXTRAS = ("sign_gradient", "shortcut", "relu", "react", "rprelu")
_CLIPPED = (*_UNSCALED, ("clamp", True), ("glorot", True))

METHODS = {
    "xnor": Method(
        "binary weights and inputs, scaled by alpha and K",
        inputs=True,
        options=("weight_scale", "input_scale", "pad_value", *_LATENT, "k_grad", "block_order")
        + ("batch_norm", "ends", *_KBIT, *_EXTRAS),
    ),
    "full": Method("the full-precision twin", weights=False),
    "binary-inputs": Method(
        "real weights, binary inputs: the first stage of two-stage training",
        inputs=True,
        weights=False,
        options=_EXTRAS,
    ),
    "binary-inputs++": Method(
        "real weights, binary inputs, scaled by a learned Gamma: the first stage of xnor++ in two stages",
        inputs=True,
        weights=False,
        options=("gamma", *_EXTRAS),
    ),
    "bwn": Method("binary weights, scaled by alpha", options=("weight_scale", *_LATENT, "batch_norm", "ends")),
    "xnor++": Method(
        "binary weights and inputs, scaled by a learned Gamma",
        inputs=True,
        options=("gamma", "gamma_init", "pad_value", "centre", "clamp", *_KBIT, *_EXTRAS),
        fixed=_UNSCALED,
    ),
    "binaryconnect": Method(
        "binary weights without a scale", ends=True, options=("stochastic", "glorot", "ends"), fixed=_CLIPPED
    ),
    "bnn": Method(
        "binary weights and inputs without scales",
        inputs=True,
        ends=True,
        options=("pad_value", "glorot", "ends", "shift_batch_norm", *_ROUNDED, "sign_gradient"),
        fixed=_CLIPPED,
    ),
}


def methods_with(option: str) -> tuple[str, ...]:
    """Return the methods that allow a setting of `BinaryOptions` to be chosen."""
    return tuple(name for name, method in METHODS.items() if option in method.options)


def options_of(method: str, chosen: dict[str, Any]) -> BinaryOptions:
    """Return all settings for a method. Raises InputError for an unknown method, or an option that it does not take."""
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    known = METHODS[method]
    if chosen and not known.options:
        raise InputError(f"build: method {method!r} has no binary layers, so {', '.join(chosen)} would have no effect")
    foreign = [name for name in chosen if name not in known.options]
    if foreign:
        raise InputError(
            f"build: method {method!r} does not take {', '.join(foreign)}; its options are {', '.join(known.options)}"
        )
    return BinaryOptions(**{**dict(known.fixed), **chosen})
