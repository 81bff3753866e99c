"""How fast a run is, and how long it will still take."""

from collections import deque
from statistics import fmean
from typing import Any

from xnor_ref.training.storing.checkpoint import Position

FIRST, LAST = 10, 100  # the first steps may compile kernels and do not count; the speed is the mean of the last ones


class Pace:
    """The speed of a run since it began or was resumed.

    Parameters
    ----------
    epochs, steps : int
        Epochs of the run, and steps of an epoch.
    batch_size : int
        Images of a step.
    """

    def __init__(self, epochs: int, steps: int, batch_size: int):
        self.epochs, self.steps, self.batch_size = epochs, steps, batch_size
        self.taken = 0  # steps since the run began or was resumed
        self.validation: float | None = None  # seconds of the last one
        self._recent: deque[float] = deque(maxlen=LAST)

    def step(self, seconds: float) -> None:
        """A step took so long."""
        self.taken += 1
        if self.taken == FIRST + 1:
            self._recent.clear()
        self._recent.append(seconds)

    def figures(self, position: Position) -> dict[str, Any]:
        """`images_per_second`, and `seconds_left` from `position` to the end of the last epoch; {} before a step.

        The time left holds the validations to come `with_validation` only, that is once one was timed.
        """
        if not self.taken:
            return {}
        step, epochs = max(fmean(self._recent), 1e-9), self.epochs - position.epoch
        return {
            "images_per_second": self.batch_size / step,
            "seconds_left": step * (epochs * self.steps - position.step) + epochs * (self.validation or 0.0),
            "with_validation": self.validation is not None,
        }
