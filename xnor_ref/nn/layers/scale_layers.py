"""Learned scales as separate layers: Gamma of XNOR-Net++, and the scale layer that XNOR-Net compares with alpha.

The room's page lists the factors of Gamma.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff import Tensor
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.geometry import Pair
from xnor_ref.nn import functional
from xnor_ref.nn.layers.real_layers import pair, positive
from xnor_ref.nn.module import Module, Parameter

GAMMAS: dict[str, dict[str, tuple[int, ...]]] = {  # each factor, with its axes of (N, O, H, W)
    "o": {"channel": (1,)},
    "ohw": {"map": (1, 2, 3)},
    "o-hw": {"channel": (1,), "plane": (2, 3)},
    "o-h-w": {"channel": (1,), "row": (2,), "column": (3,)},
}


class Scale(Module):
    """x times Gamma, for x (N, C, H, W) of the given size, or (N, C) with gamma "o". The shape stays the same.

    Parameters
    ----------
    channels : C
    gamma : one of `GAMMAS`
    size : (H, W); needed by every gamma but "o"
    alpha : the initial Gamma at all pixels: float32 (C,), or a function that returns it; ones by default
    """

    def __init__(
        self,
        channels: int,
        gamma: str = "o",
        size: int | Pair | None = None,
        alpha: NDArray[np.float32] | Callable[[], NDArray[np.float32]] | None = None,
    ):
        if gamma not in GAMMAS:
            raise InputError(f"Scale: gamma must be one of {', '.join(GAMMAS)}, got {gamma!r}")
        if gamma != "o" and size is None:
            raise InputError(f"Scale: gamma {gamma!r} needs `size`, the (H, W) of the image")
        self.channels = positive(channels, "channels", "Scale")
        self.gamma = gamma
        self.size = None if gamma == "o" or size is None else pair(size, "size", "Scale")
        self._alpha = alpha
        shape = (1, self.channels, *(self.size or ()))
        for name, axes in GAMMAS[gamma].items():
            setattr(self, name, Parameter(np.empty([shape[axis] for axis in axes], np.float32)))
        self.reset()

    def reset(self) -> None:
        """Set Gamma to its initial value, from the current alpha. Raises InputError if alpha has a wrong shape."""
        for factor in self.factors().values():
            factor.data[...] = 1
        if self._alpha is not None:
            alpha = self._alpha() if callable(self._alpha) else self._alpha
            first = next(iter(self.factors().values())).data
            if alpha.shape != (self.channels,):
                raise InputError(f"Scale: alpha must be ({self.channels},), got {alpha.shape}")
            first *= alpha.reshape(-1, *(1,) * (first.ndim - 1))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            functional.require_images(x, self.channels, "Scale")
        else:
            functional.require_rows(x, self.channels, "Scale")
        if self.size is not None and x.shape[2:] != self.size:
            raise InputError(
                f"Scale: gamma {self.gamma!r} was made for images of size {self.size}, got {x.shape[2:]}; only gamma "
                "'o' takes any size"
            )
        return functional.scale(x, list(self.factors().values()), list(GAMMAS[self.gamma].values()))

    def factors(self) -> dict[str, Parameter]:
        """Return the factors of Gamma by name. Gamma is their outer product."""
        return {name: getattr(self, name) for name in GAMMAS[self.gamma]}

    def describe(self) -> str:
        return f"{self.channels}, gamma {self.gamma}{f', size {self.size}' if self.size else ''}"
