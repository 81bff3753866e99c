"""AdaMax, and BinaryNet's version of it that multiplies by shifts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.binary import ap2
from xnor_ref.optim.optimizers import Moments


class AdaMax(Moments):
    """AdaMax, Adam with the infinity norm (Kingma and Ba 2015, algorithm 2).

    g = grad + weight_decay param;  m = beta1 m + (1 - beta1) g;  u = max(beta2 u, |g|);
    param -= lr / (1 - beta1^t) m / (u + eps), where t is the number of steps of the optimiser.

    The parameters are those of `Adam`, without `decoupled`. eps is 2^-27 by default. The paper has no eps, and would
    divide 0 by 0 where the gradient is always 0.
    """

    slots = ("mean", "largest")
    default_eps = 2.0**-27
    shift = False  # whether factors are rounded to powers of two

    def _update(self, rung: Any, arrays: tuple[NDArray[np.float32], ...], lr: float, decay: float) -> None:
        beta1, beta2 = self.betas
        rate = np.array([lr / (1 - beta1**self.steps)], np.float32)
        rate = (ap2(rate) if self.shift else rate)[0]
        numbers = (np.float32(value) for value in (beta1, 1 - beta1, beta2, rate, self.eps, decay))
        self._in_chunks(rung.adamax, arrays, *numbers, self.shift)


class ShiftAdaMax(AdaMax):
    """Shift-based AdaMax (Hubara et al. 2016, algorithm 4, as in the authors' code): multiplications become shifts.

    m and u as for AdaMax;  param -= AP2(lr / (1 - beta1^t)) m / (AP2(u) + eps), where AP2 is the nearest power of two
    (`binary.ap2`) and eps is 2^-27. The parameters are those of `AdaMax`.
    """

    shift = True
