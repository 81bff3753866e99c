"""Conventions on which correct implementations differ, as data: their values, and the roles that show them.

A convention is not a fault. The kit detects which conventions hold, reports them, and compares under them. A convention
given to `Kit` is demanded.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from xnor_ref.errors import InputError

VALUES: dict[str, tuple[Any, ...]] = {  # the first value is this project's
    "layout": (
        "NCHW OIHW",
        "NHWC HWIO",
        "NHWC OHWI",
        "NHWC OIHW",
        "NCHW HWIO",
    ),  # layout of x and the result, layout of the weights
    "transposed": (False, True),  # linear: whether weights are (I, O) instead of (O, I)
    "kernel": ("correlation", "convolution"),  # of a convolution the kernel is flipped
    "form": ("dot", "agreements", "disagreements", "(dot + n)/2", "(n - dot)/2"),
    "scale": ("none", "alpha", "layer", "alpha K", "alpha K valid"),
    "centring": ("none", "filter", "channels"),  # mean subtracted from weights before taking signs
    "sign_of_zero": (1, -1, 0, "sign bit"),
    "weight_sign_of_zero": (1, -1, 0, "sign bit"),
    "subnormals": ("kept", "flushed"),
    "weight_subnormals": ("kept", "flushed"),
    "pad_value": ("as asked", -1, 0, 1),
    "bit_order": ("least first", "most first", "most first in bytes"),
    "polarity": (1, -1),  # the sign that a set bit represents
    "word_size": (64, 32, 16, 8),
    "rows": ("padded", "joined"),  # whether each row begins a new word
    "tail": (0, 1, "any"),  # bits after the last sign of a row
    "values": ("+1, -1", "1, 0", "0, 1"),  # results of `unpack` for +1 and -1
    "mean": ("alpha", "layer", "sum"),  # result of `alpha`: mean of |W| of each filter or of all filters, or the sum
    "divisor": ("plain", "valid"),  # K: all taps of the kernel, or only those inside the image
    "summation": ("naive", "careful", "once"),  # of scaled results; see `definitions.py`
    "gradient": ("|x| <= 1", "|x| < 1", "identity", "bireal"),
}


@dataclass(frozen=True)
class Conventions:
    """A set of conventions, with one value for each."""

    layout: str = "NCHW OIHW"
    transposed: bool = False
    kernel: str = "correlation"
    form: str = "dot"
    scale: str = "none"
    centring: str = "none"
    sign_of_zero: int | str = 1
    weight_sign_of_zero: int | str = 1
    subnormals: str = "kept"
    weight_subnormals: str = "kept"
    pad_value: Any = "as asked"  # or the value used whatever is requested, or {requested: found}
    bit_order: str = "least first"
    polarity: int = 1
    word_size: int = 64
    rows: str = "padded"
    tail: int | str = 0
    values: str = "+1, -1"
    mean: str = "alpha"
    divisor: str = "plain"
    summation: str = "naive"
    gradient: str = "|x| <= 1"

    def but(self, **changes: Any) -> "Conventions":
        return replace(self, **changes)

    def border(self, asked: int) -> int:
        """Return the padding value when `asked` is requested."""
        if isinstance(self.pad_value, dict):
            return self.pad_value[asked]
        return asked if self.pad_value == "as asked" else self.pad_value


NAMES = tuple(field.name for field in fields(Conventions))


@dataclass(frozen=True)
class Output:
    """The scaling of results."""

    scale: str


exact = Output("none")


def scaled(*factors: str) -> Output:
    """Return the output of sums of signs times these factors: "alpha", "layer", "K" or "K valid".

    "alpha" is the mean of |W| of each filter, "layer" the mean of |W| of all filters, "K" the mean of |x| over each
    window.
    """
    scale = " ".join(factors or ("alpha",))
    if scale not in VALUES["scale"]:
        raise InputError(
            f"scaled: {factors!r} is not a known scale; it must be one of {', '.join(VALUES['scale'][1:])}"
        )
    return Output(scale)
