"""Recipes of the arrays and arguments to try. A recipe prints in one line and makes the same array again."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xnor_ref.conformance.basics.roles import ROLES

VALUES: dict[
    str, tuple[float, ...]
] = {  # values of each kind of array; the kind "normal" has normally distributed numbers
    "plus": (1.0,),
    "minus": (-1.0,),
    "signs": (1.0, -1.0),
    "zeros": (0.0, -0.0, 1.0, -1.0),
    "subnormal": (1e-45, -1e-45, 1e-40, -1e-40, 1.0, -1.0),
    "extreme": (3e38, -3e38, 1.2e-38, -1.2e-38),
}
KINDS = (*VALUES, "normal")
VALUES["tenths"] = (0.1,)  # gives the largest error of a long float32 sum; not drawn at random
MEMORY = (
    "plain",
    "read-only",
    "reversed",
    "strided",
    "column-major",
    "byte-swapped",
    "misaligned",
    "broadcast",
)


@dataclass(frozen=True)
class Data:
    """The recipe of a float32 array."""

    shape: tuple[int, ...]
    kind: str = "normal"
    memory: str = "plain"
    seed: int = 0

    def array(self) -> np.ndarray:
        """Return a new array, with the same values each time."""
        rng = np.random.default_rng(self.seed)
        if self.kind == "normal":
            x = rng.standard_normal(self.shape, np.float32)
        else:
            values = np.array(VALUES[self.kind], np.float32)
            x = values[rng.integers(0, len(values), self.shape, np.uint8)]
        return lay_out(x, self.memory)


@dataclass(frozen=True)
class Given:
    """An array instead of a recipe: a recipe's array, made simpler."""

    values: np.ndarray

    def array(self) -> np.ndarray:
        return self.values.copy()


def lay_out(x: np.ndarray, memory: str) -> np.ndarray:
    """Return the same values in another memory layout ("broadcast" repeats the first entry of the first axis)."""
    if memory == "read-only":
        x = x.copy()
        x.flags.writeable = False
    elif memory == "reversed":
        x = np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    elif memory == "strided":
        wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
        wide[..., ::2] = x
        x = wide[..., ::2]
    elif memory == "column-major":
        x = np.asfortranarray(x)
    elif memory == "byte-swapped":
        x = x.astype(x.dtype.newbyteorder())
    elif memory == "misaligned":
        octets = np.zeros(x.nbytes + 1, np.uint8)
        target = octets[1:].view(x.dtype).reshape(x.shape)
        target[...] = x
        x = target
    elif memory == "broadcast":
        x = np.broadcast_to(x[:1], x.shape)
    return x


@dataclass(frozen=True)
class Case:
    """The arguments of one call of a role."""

    role: str
    data: dict[str, Any]  # recipes of the arrays, by parameter
    settings: dict[str, Any] = field(default_factory=dict)  # the other parameters: stride, padding, n, ...
    keywords: dict[str, Any] = field(default_factory=dict)  # passed by name: dilation, groups and further options

    def arguments(self) -> dict[str, Any]:
        """Return the positional arguments, in order: new arrays each time, without the keywords.

        The caller makes the words of `unpack` and `dot` from "x", or from "a" and "b".
        """
        made = {name: recipe.array() for name, recipe in self.data.items()} | self.settings
        order = [name for name in ROLES[self.role].parameters if name in made]
        return {name: made[name] for name in [*order, *(name for name in made if name not in order)]}
