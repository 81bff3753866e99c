"""What an experiment would cost: a few steps of each row are timed, nothing is kept."""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from xnor_ref.datasets import Dataset
from xnor_ref.experiments.execute import State, chosen_runs, work_left
from xnor_ref.experiments.plan import Plan, Run
from xnor_ref.training.fitting.interrupt import Interrupted
from xnor_ref.training.fitting.observer import Observer
from xnor_ref.training.job import train_run
from xnor_ref.training.storing.runs import RunFolder

STEPS = 5  # of which the first is left out: it compiles kernels and makes buffers
VALIDATED = 100
_EVALUATIONS_AT_THE_END = 2  # of the float and of the packed network


class _Watch(Observer):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def progress(self, what: str, done: int, total: int, **figures: Any) -> None:
        if "loss" in figures:
            self.ends.append(time.perf_counter())


def estimate(
    plan: Plan, data: Dataset, states: dict[str, State], observer: Observer | None = None
) -> list[dict[str, Any]]:
    """What each run has left to do: images, epochs, and seconds by a short measurement of its row.

    Returns
    -------
    list of dict
        name, label, seed, finished (the folder of a finished run, or None), epochs and images to train on,
        images_per_second (None for a finished run), seconds, seconds_so_far (the running sum).
    """
    observer = observer or Observer()
    runs, left = chosen_runs(plan), work_left(plan, data, states)
    measured: dict[str, tuple[float, float]] = {}
    lines, total = [], 0.0
    for index, run in enumerate(runs):
        state, row = states[run.name], run.row.name
        if left[run.name] and row not in measured:
            observer.progress("measuring steps", index, len(runs))
            measured[row] = measure(run, data)
        step, validation = measured.get(row, (0.0, 0.0))
        epochs = 0 if state.report else run.config.epochs - state.epochs_done
        images, seconds = left[run.name], 0.0
        if not state.report:
            evaluated = len(data.val) * (epochs + _EVALUATIONS_AT_THE_END)
            seconds = images * step + evaluated * validation
        total += seconds
        lines.append(
            {
                "name": run.name,
                "label": run.row.label,
                "seed": run.seed,
                "finished": str(state.folder) if state.report else None,
                "epochs": epochs,
                "images": images,
                "images_per_second": 1 / step if images and step else None,
                "seconds": seconds,
                "seconds_so_far": total,
            }
        )
    observer.progress("measuring steps", len(runs), len(runs))
    return lines


def measure(run: Run, data: Dataset) -> tuple[float, float]:
    """Seconds that one image takes in training and in validation, by a run of a few steps whose folder is removed."""
    batch = min(run.config.batch_size, len(data.train))
    changes: dict[str, Any] = dict.fromkeys(run.config.options_of("schedule"))  # milestones lie beyond the one epoch
    changes |= {"schedule": "constant", "warmup_epochs": 0.0, "epochs": 1, "checkpoint_every": 1e9, "mst_start": None}
    config = dataclasses.replace(run.config, **changes, limit_train=batch * STEPS, limit_val=VALIDATED)
    watch = _Watch()
    with tempfile.TemporaryDirectory(prefix="xnor_ref-") as folder:
        out = Path(folder) / "run"
        try:
            train_run(config, out=out, observer=watch)
        except Interrupted as interrupt:
            raise Interrupted(interrupt.signal_number, "stopped; nothing was trained") from None
        (line,) = RunFolder(out).metrics()
    steps = [after - before for before, after in zip(watch.ends, watch.ends[1:])]
    of_one = statistics.median(steps) / batch if steps else line["seconds"] / batch
    return of_one, line["val_seconds"] / min(VALIDATED, len(data.val))
