"""AdaMax, and BinaryNet's version of it by shifts."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff import Tensor
from xnor_ref.binary import ap2
from xnor_ref.errors import InputTypeError
from xnor_ref.optim._checks import number
from xnor_ref.optim.optimizers import Optimizer


class AdaMax(Optimizer):
    """AdaMax, Adam with the infinity norm (Kingma and Ba 2015, algorithm 2).

    g = grad + weight_decay param;  m = beta1 m + (1 - beta1) g;  u = max(beta2 u, |g|);
    param -= lr / (1 - beta1^t) m / (u + eps), where t is the number of steps of the optimiser.

    Parameters
    ----------
    params, lr, weight_decay, backend, threads
        See Optimizer.
    betas : pair of float
        Each in [0, 1).
    eps : float
        At least 1.2e-38, the smallest normal float32; the paper has none, and divides 0 by 0 without a gradient.
    """

    slots = ("mean", "largest")
    kernel = "adamax"

    def __init__(
        self,
        params: Iterable[Tensor | tuple[str, Tensor]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 2.0**-27,
        weight_decay: float = 0.0,
        *,
        backend: str = "auto",
        threads: int | None = None,
    ):
        caller = type(self).__name__
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise InputTypeError(f"{caller}: betas must be a pair of numbers, got {betas!r}")
        self.betas = tuple(number(caller, f"betas[{i}]", beta, 0, 1) for i, beta in enumerate(betas))
        self.eps = number(caller, "eps", eps, float(np.finfo(np.float32).tiny))
        super().__init__(params, lr, weight_decay=weight_decay, backend=backend, threads=threads)

    def _update(self, rung: Any, arrays: tuple[NDArray[np.float32], ...], lr: float, decay: float) -> None:
        beta1, beta2 = self.betas
        numbers = beta1, 1 - beta1, beta2, self._rate(lr / (1 - beta1**self.steps)), self.eps, decay
        self._in_chunks(getattr(rung, self.kernel), arrays, *(np.float32(value) for value in numbers))

    def _rate(self, rate: float) -> float:
        return rate


class ShiftAdaMax(AdaMax):
    """Shift-based AdaMax (Hubara et al. 2016, algorithm 4, as in the authors' code): multiplications become shifts.

    m and u as for AdaMax;  param -= AP2(lr / (1 - beta1^t)) m / (AP2(u) + eps), AP2 the nearest power of two
    (`binary.ap2`), eps 2^-27. The parameters are those of `AdaMax`.
    """

    kernel = "shift_adamax"

    def _rate(self, rate: float) -> float:
        return float(ap2(np.array([rate], np.float32))[0])
