"""Learned scales as a layer of their own: Gamma of XNOR-Net++, and the scale layer that XNOR-Net compares alpha with.

The room's page says what Gamma is made of.
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

GAMMAS: dict[str, dict[str, tuple[int, ...]]] = {  # factors, and the axes of (N, O, H, W) that each has
    "o": {"channel": (1,)},
    "ohw": {"map": (1, 2, 3)},
    "o-hw": {"channel": (1,), "plane": (2, 3)},
    "o-h-w": {"channel": (1,), "row": (2,), "column": (3,)},
}


class Scale(Module):
    """x times Gamma: (N, C, H, W) of the given size, or (N, C) with gamma "o", to the same shape.

    Parameters
    ----------
    channels : C
    gamma : one of `GAMMAS`
    size : (H, W), which gammas other than "o" need
    alpha : what Gamma is at first, over all pixels: float32 (C,), or a function that returns it; by default ones
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
            raise InputError(f"Scale: gamma {gamma!r} needs the size of the image")
        self.channels = positive(channels, "channels", "Scale")
        self.gamma = gamma
        self.size = None if gamma == "o" or size is None else pair(size, "size", "Scale")
        self._alpha = alpha
        shape = (1, self.channels, *(self.size or ()))
        for name, axes in GAMMAS[gamma].items():
            setattr(self, name, Parameter(np.empty([shape[axis] for axis in axes], np.float32)))
        self.reset()

    def reset(self) -> None:
        """Make Gamma what it is at first, by what alpha is now. Raises InputError if alpha has a wrong shape."""
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
                f"Scale: gamma {self.gamma!r} was made for images of {self.size}, got {x.shape[2:]}; only gamma 'o' "
                "takes any resolution"
            )
        return functional.scale(x, list(self.factors().values()), list(GAMMAS[self.gamma].values()))

    def factors(self) -> dict[str, Parameter]:
        """What Gamma is the outer product of, by name."""
        return {name: getattr(self, name) for name in GAMMAS[self.gamma]}

    def describe(self) -> str:
        return f"{self.channels}, gamma {self.gamma}{f', size {self.size}' if self.size else ''}"
