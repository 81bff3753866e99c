"""Figures of latent weights: the share that flips in a step, the share that is dead, their histogram."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.nn import Module, Parameter
from xnor_ref.training.fitting.trainer import Callback, Step, Trainer

OBSERVED = 16  # about so many steps of an epoch in which flips are counted
BINS = 40  # bins of a layer's histogram
COUNTED = 2**16  # about the number of latent weights in a layer's histogram, at most twice as many


class LatentFigures(Callback):
    """Adds "flips", "dead" and "latent" to the figures of an epoch, if there are latent weights."""

    def __init__(self, model: Module) -> None:
        self._latent = {
            name.removesuffix(".weight"): parameter for name, parameter in model.named_parameters() if parameter.latent
        }
        self._size = sum(parameter.size for parameter in self._latent.values())
        self._before: list[NDArray[np.bool_]] = []
        self._flips, self._steps = 0, 0

    def before_epoch(self, trainer: Trainer) -> None:
        if trainer.position.step == 0:
            self._flips, self._steps = 0, 0

    def after_backward(self, trainer: Trainer, step: Step) -> None:
        observed = step.number % max(1, trainer.steps // OBSERVED) == 0
        self._before = [parameter.data >= 0 for parameter in self._latent.values()] if observed else []

    def after_step(self, trainer: Trainer, step: Step) -> None:
        pairs = zip(self._latent.values(), self._before)  # empty in steps that are not observed
        self._flips += sum(int(np.count_nonzero((parameter.data >= 0) != before)) for parameter, before in pairs)
        self._steps += bool(self._before)
        self._before = []

    def figures(self, trainer: Trainer) -> dict[str, Any]:
        if not self._latent:
            return {}
        dead = sum(int(np.count_nonzero(np.abs(parameter.data) > 1)) for parameter in self._latent.values())
        return {
            "flips": self._flips / (self._steps * self._size) if self._steps else None,
            "dead": dead / self._size,
            "latent": {name: _histogram(parameter) for name, parameter in self._latent.items()},
        }

    def state_dict(self) -> dict[str, NDArray]:
        return {"flips": np.array([self._flips, self._steps], np.int64)} if self._latent else {}

    def load_state_dict(self, state: dict[str, NDArray]) -> None:
        counted = state.get("flips")  # older checkpoints lack it
        if counted is not None:
            self._flips, self._steps = map(int, counted)


def _histogram(parameter: Parameter) -> dict[str, Any]:
    """Return counts of latent weights in equal bins from -reach to reach."""
    values = parameter.data.reshape(-1)[:: max(1, parameter.size // COUNTED)]
    reach = float(np.abs(values).max())
    counts = np.histogram(values, BINS, (-reach, reach))[0] if 0 < reach < np.inf else np.zeros(BINS, np.int64)
    return {"reach": reach, "counts": counts.tolist()}
