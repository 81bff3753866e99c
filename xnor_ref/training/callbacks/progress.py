"""Progress of a run for an observer: position, speed and time left."""

import time
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from xnor_ref.training.fitting.observer import Observer
from xnor_ref.training.fitting.trainer import Callback, Step, Trainer
from xnor_ref.training.storing.checkpoint import Position

FIRST, LAST = 10, 100  # skip the first steps, which may compile kernels; speed is a mean over the last steps
TRIAL, LONG = 20, 600  # steps before the run's time is estimated, and the least seconds that are announced


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
                + (f"; saved every {saved.every:g} seconds, --resume auto resumes it" if saved else "")
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
    """The speed of a run since it was started or resumed."""

    epochs: int  # number of epochs of the run
    steps: int  # steps per epoch
    batch_size: int  # images per step
    taken: int = 0  # steps since the run was started or resumed
    validation: float | None = None  # seconds of the last validation
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=LAST))

    def step(self, seconds: float) -> None:
        """Record the seconds of a step."""
        self.taken += 1
        if self.taken == FIRST + 1:
            self._recent.clear()
        self._recent.append(seconds)

    def figures(self, position: Position) -> dict[str, Any]:
        """Return `images_per_second`, and `seconds_left` from `position` to the end of training; {} before a step.

        `with_validation` says whether the time left includes validations, which needs one timed validation.
        """
        if not self.taken:
            return {}
        step, epochs = max(fmean(self._recent), 1e-9), self.epochs - position.epoch
        return {
            "images_per_second": self.batch_size / step,
            "seconds_left": step * (epochs * self.steps - position.step) + epochs * (self.validation or 0.0),
            "with_validation": self.validation is not None,
        }
