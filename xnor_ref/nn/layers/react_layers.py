"""ReActNet's activations with learned shifts (Liu et al. 2020, section 4.2).

RSign is sign(x - t) and RPReLU is PReLU(x - g) + z, with one t, g, z and slope per channel. A `Shift` before a binary
layer turns its sign into an RSign. If the layer has a K, K is computed from the shifted input.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xnor_ref.autodiff import Tensor, apply
from xnor_ref.errors import InputError
from xnor_ref.nn import fused
from xnor_ref.nn.layers.real_layers import PReLU, is_stock, positive
from xnor_ref.nn.module import Module, Parameter, Sequential


class Shift(Module):
    """x + shift[c] for x (N, C[, H, W]). The shift is learned, and 0 at first."""

    def __init__(self, channels: int):
        self.channels = positive(channels, "channels", "Shift")
        self.shift = Parameter(np.zeros(self.channels, np.float32))

    def forward_through(self, x: Tensor, following: Sequence[Module]) -> tuple[Tensor, int]:
        """With a PReLU after it, and a second shift after that: one node of the tape."""
        prelu: Any = following[0] if following else None
        if not (isinstance(prelu, PReLU) and prelu.is_compiled(x) and self._fits(x)):
            return self(x), 0
        after: Any = following[1] if len(following) > 1 else None
        if not (isinstance(after, Shift) and after._fits(x)):
            return fused.prelu(x, prelu, self), 1
        return fused.prelu(x, prelu, self, after), 2

    def _fits(self, x: Tensor) -> bool:
        return is_stock(self, Shift) and x.shape[1] == self.channels

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != self.channels:
            raise InputError(f"Shift: input has shape {x.shape}, but the layer needs (N, {self.channels}, ...)")
        axes = (0, *range(2, x.ndim))

        def backward(dy):
            return dy, dy.sum(axis=axes, dtype=np.float64).astype(np.float32)

        return apply("shift", x.data + self.shift.data.reshape(-1, *(1,) * (x.ndim - 2)), (x, self.shift), backward)

    def describe(self) -> str:
        return f"{self.channels}"


def rprelu(channels: int) -> Sequential:
    """Return PReLU(x - g) + z, with one g, z and slope per channel."""
    return Sequential(before=Shift(channels), prelu=PReLU(channels), after=Shift(channels))
