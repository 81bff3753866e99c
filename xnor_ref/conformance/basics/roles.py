"""The roles of an implementation, their arguments and results, and binding functions to roles.

Every role is a function of NumPy arrays. Every role is optional. Arguments are positional, in the order below. Images x
are float32 (N, C, H, W) and weights float32 (O, C, KH, KW), unless a layout says otherwise. A sign is +1 or -1.

| role | arguments | result |
|---|---|---|
| `conv2d` | x, weight, stride, padding, pad_value | (N, O, OH, OW): sums of products of signs |
| `linear` | x (N, I), weight (O, I) | (N, O): the same |
| `pack` | x (rows, n) | words (rows, n in bits, rounded up), any integer dtype |
| `unpack` | words (rows, ...), n | (rows, n): signs; the words come from `pack` |
| `dot` | a_words (...), b_words (...), n | a number: the sum of n products of signs; words of one row each |
| `alpha` | weight | (O,): the mean of abs(W) of each filter |
| `scale_map` | x, kernel, stride, padding | (N, 1, OH, OW): K, the mean of abs(x) over each window |
| `binarize` | weight | weights prepared for a convolution: their signs, possibly scaled, in the same shape |
| `ste` | x, dy | dx, same shape: dy times the replacement of the derivative of sign |
| `layer` | x | a layer with its own weight: give `Layer(function, weight, ...)` |

`stride` and `kernel` are pairs of ints (vertical, horizontal). `padding` is also a pair; it is "same" or two pairs only
if the restrictions allow these. `pad_value` is 0, 1 or -1. `conv2d` gets the keywords `dilation=` (a pair) and
`groups=` only if the restrictions name them. `options` adds further keywords to the roles that compute with them.
Results may have any dtype that holds the numbers: bool, integers, floats.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xnor_ref.errors import InputError, InputTypeError


class Crashed(Exception):
    """The process of foreign code has died. The message says how. The next call starts a new process."""


class Late(Crashed):
    """There was no answer in time. Such a case is not made smaller, since each try would take as long."""


@dataclass(frozen=True)
class Role:
    """One function of an implementation."""

    name: str
    parameters: tuple[str, ...]  # positional, in this order
    conventions: tuple[str, ...]  # conventions that its results can show
    what: str


WEIGHTS = ("weight_sign_of_zero", "weight_subnormals", "centring")
SUMS = ("form", "scale", "sign_of_zero", "subnormals", *WEIGHTS)
WORDS = ("bit_order", "polarity", "word_size", "rows", "tail", "sign_of_zero", "subnormals")

ROLES: dict[str, Role] = {
    role.name: role
    for role in (
        Role(
            "conv2d",
            ("x", "weight", "stride", "padding", "pad_value"),
            ("layout", "kernel", "pad_value", *SUMS),
            "binary convolution",
        ),
        Role("linear", ("x", "weight"), ("transposed", *SUMS), "binary matrix product"),
        Role("pack", ("x",), WORDS, "signs to words"),
        Role("unpack", ("words", "n"), ("values", "bit_order", "polarity", "word_size"), "words to signs"),
        Role("dot", ("a_words", "b_words", "n"), ("form", "word_size"), "dot product of words"),
        Role("alpha", ("weight",), ("mean",), "scale of each filter"),
        Role("scale_map", ("x", "kernel", "stride", "padding"), ("divisor",), "K, the scale of each window"),
        Role("binarize", ("weight",), ("scale", *WEIGHTS), "weight preparation"),
        Role("ste", ("x", "dy"), ("gradient",), "gradient of sign"),
        Role("layer", ("x",), ("kernel", "pad_value", *SUMS), "a whole layer"),
    )
}


@dataclass(frozen=True)
class Layer:
    """A function of images (N, C, H, W) or rows (N, I) with its own weight (O, C, KH, KW) or (O, I)."""

    function: Callable
    weight: np.ndarray
    stride: tuple[int, int] = (1, 1)
    padding: Any = (0, 0)
    pad_value: int = 0
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        if self.weight.ndim not in (2, 4):
            raise InputError(f"Layer: weight must be (O, C, KH, KW) or (O, I), got shape {self.weight.shape}")


def bind(role: str, function: Any) -> Callable:
    """Return the callable for a role: the function itself, or the result of its method `for_role(role)`."""
    bound = function.for_role(role) if hasattr(function, "for_role") else function
    if isinstance(bound, Layer) and role == "layer":
        return bound.function
    if not callable(bound):
        raise InputTypeError(f"Kit: {role} must be a function, or have for_role(), got {type(function).__name__}")
    return bound
