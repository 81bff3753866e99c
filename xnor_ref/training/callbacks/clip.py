"""Clipping of gradients."""

import numpy as np

from xnor_ref.training.fitting.trainer import Callback, Step, Trainer


class ClipNorm(Callback):
    """Scales all gradients by one factor if their common norm exceeds `limit` (Pascanu et al. 2013)."""

    def __init__(self, limit: float) -> None:
        self._limit = limit

    def after_backward(self, trainer: Trainer, step: Step) -> None:
        gradients = [parameter.grad for parameter in trainer.model.parameters() if parameter.grad is not None]
        norm = np.sqrt(sum(float(np.square(grad, dtype=np.float64).sum()) for grad in gradients))
        if norm > self._limit:
            for grad in gradients:
                grad *= np.float32(self._limit / norm)
