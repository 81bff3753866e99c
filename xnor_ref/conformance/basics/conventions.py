"""Conventions on which correct implementations differ, as data: what each may be, and which role shows which.

A convention is no fault. The kit finds out which ones hold, says so, and compares under them; whoever states one to
`Kit` demands it.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from xnor_ref.errors import InputError

VALUES: dict[str, tuple[Any, ...]] = {  # the first is this project's own
    "layout": ("NCHW OIHW", "NHWC HWIO", "NHWC OHWI", "NHWC OIHW", "NCHW HWIO"),  # of x and the result, of the weights
    "transposed": (False, True),  # linear: whether the weights are (I, O) rather than (O, I)
    "kernel": ("correlation", "convolution"),  # of a convolution the kernel is flipped
    "form": ("dot", "agreements", "disagreements", "(dot + n)/2", "(n - dot)/2"),
    "scale": ("none", "alpha", "layer", "alpha K", "alpha K valid"),
    "centring": ("none", "filter", "channels"),  # what is subtracted from weights before their sign is taken: a mean
    "sign_of_zero": (1, -1, 0, "sign bit"),
    "weight_sign_of_zero": (1, -1, 0, "sign bit"),
    "subnormals": ("kept", "flushed"),
    "weight_subnormals": ("kept", "flushed"),
    "pad_value": ("as asked", -1, 0, 1),
    "bit_order": ("least first", "most first", "most first in bytes"),
    "polarity": (1, -1),  # what a bit that is set stands for
    "word_size": (64, 32, 16, 8),
    "rows": ("padded", "joined"),  # whether each row begins a word of its own
    "tail": (0, 1, "any"),  # bits behind the last of a row
    "values": ("+1, -1", "1, 0", "0, 1"),  # of what `unpack` gives for +1 and -1
    "mean": ("alpha", "layer", "sum"),  # of what `alpha` gives: mean of |W| of a filter or of all, or the sum
    "divisor": ("plain", "valid"),  # K: all taps of the kernel, or only those inside the image
    "summation": ("naive", "careful", "once"),  # of scaled results; see `definitions.py`
    "gradient": ("|x| <= 1", "|x| < 1", "identity", "bireal"),
}


@dataclass(frozen=True)
class Conventions:
    """One value for each convention."""

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
    pad_value: Any = "as asked"  # or the value that surrounds an image whatever is asked, or {asked: found}
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
        """The value around an image where `asked` is asked for."""
        if isinstance(self.pad_value, dict):
            return self.pad_value[asked]
        return asked if self.pad_value == "as asked" else self.pad_value


NAMES = tuple(field.name for field in fields(Conventions))


@dataclass(frozen=True)
class Output:
    """How results are scaled."""

    scale: str


exact = Output("none")


def scaled(*factors: str) -> Output:
    """Results of which each is a sum of signs times these factors: "alpha", "layer", "K" or "K valid".

    "alpha" is the mean of |W| of each filter, "layer" that of all filters, "K" the mean of |x| over each window.
    """
    scale = " ".join(factors or ("alpha",))
    if scale not in VALUES["scale"]:
        raise InputError(f"scaled: {factors!r} is no known scale; known are {', '.join(VALUES['scale'][1:])}")
    return Output(scale)
