"""Tell an observer how far a run is, how fast it is and how long it will still take."""

import time
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from xnor_ref.training.fitting.observer import Observer
from xnor_ref.training.fitting.trainer import Callback, Step, Trainer
from xnor_ref.training.storing.checkpoint import Position

FIRST, LAST = 10, 100  # the first steps may compile kernels and do not count; the speed is the mean of the last ones
TRIAL, LONG = 20, 600  # steps after which a run is estimated, and the seconds that are worth telling


class Progress(Callback):
    """Reports each step and each epoch to an observer."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def before_training(self, trainer: Trainer) -> None:
        self._pace = Pace(trainer.epochs, trainer.steps, trainer.batch_size)

    def before_epoch(self, trainer: Trainer) -> None:
        self._last = time.monotonic()

    def after_step(self, trainer: Trainer, step: Step) -> None:
        before, self._last = self._last, time.monotonic()
        self._pace.step(self._last - before)
        position, figures = trainer.position, self._pace.figures(trainer.position)
        if self._pace.taken == TRIAL and figures["seconds_left"] > LONG:
            saved = trainer.checkpoints
            self._observer.note(
                f"about {figures['seconds_left'] / 60:.0f} minutes to the end of epoch {trainer.epochs}"
                f"{'' if figures['with_validation'] else ', without validation'}"
                + (f"; saved every {saved.every:g} seconds, --resume auto goes on" if saved else "")
            )
        self._observer.progress(
            f"epoch {position.epoch + 1}/{trainer.epochs}",
            position.step,
            trainer.steps,
            loss=position.loss_sum / position.seen,
            accuracy=position.correct / position.seen,
            **figures,
        )

    def after_epoch(self, trainer: Trainer, line: dict[str, Any]) -> None:
        self._pace.validation = line["val_seconds"]
        self._observer.epoch(line | self._pace.figures(trainer.position))


@dataclass
class Pace:
    """The speed of a run since it began or was resumed."""

    epochs: int  # of the run
    steps: int  # of an epoch
    batch_size: int  # images of a step
    taken: int = 0  # steps since the run began or was resumed
    validation: float | None = None  # seconds of the last one
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=LAST))

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
