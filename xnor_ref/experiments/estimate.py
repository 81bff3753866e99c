"""Estimates how long an experiment takes: two steps of each row are timed, and nothing is saved."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from xnor_ref import datasets
from xnor_ref.datasets import Dataset, Split
from xnor_ref.experiments.execute import State, network_of, planned_runs, work_left
from xnor_ref.experiments.plan import Plan, Run
from xnor_ref.kernels.basics.rungs import reference_only
from xnor_ref.kernels.basics.threads import set_threads
from xnor_ref.nn import LOSSES
from xnor_ref.nn.backend import backward_in
from xnor_ref.packed.freeze import freeze
from xnor_ref.training import job
from xnor_ref.training.allocator import keep_freed_memory
from xnor_ref.training.fitting.observer import Observer
from xnor_ref.training.fitting.trainer import steps_per_epoch

FEW, SOME = 2, 8  # images of the shorter step; fewest images of the longer step
PARTS, FAR = 16, 8  # the longer step is at least this part of a batch; a batch of so many longer steps is far
SECONDS = 0.15  # that the longer step may take if it has more than `SOME` images
VALIDATED = 2
NETWORK = 10e9  # default bits per second between machines
_EVALUATIONS_AT_THE_END = 2  # of the float and of the packed network


def estimate(
    plan: Plan,
    data: Dataset,
    states: dict[str, State],
    observer: Observer | None = None,
    machines: Sequence[int] = (),
    bits_per_second: float = NETWORK,
) -> list[dict[str, Any]]:
    """Return the remaining work of each run: images, epochs, and seconds by a short measurement of its row.

    Each run has its name, label, seed, finished (the folder of a finished run, or None), epochs and images to train on,
    images_per_second (None for a finished run), seconds, seconds_so_far (the running sum) and on_machines. The last
    holds the seconds by `shared` for each number of `machines` as fast as this one, at `bits_per_second` between them.
    """
    observer = observer or Observer()
    runs, left = planned_runs(plan, states), work_left(plan, data, states)
    measured: dict[str, tuple[float, float]] = {}
    lines, total = [], 0.0
    for index, run in enumerate(runs):
        state = states[run.name]
        row = repr(
            run.config.identity() | {"lr": None, "epochs": None, "seed": None}
        )  # settings that do not change a step's time
        if left[run.name] and row not in measured:
            observer.progress("measuring steps", index, len(runs))
            measured[row] = measure(run, data)
        step, validation = measured.get(row, (0.0, 0.0))
        epochs, images = run.config.epochs - state.epochs_done, left[run.name]
        evaluated = 0 if state.report else len(data.val) * (epochs + _EVALUATIONS_AT_THE_END)
        seconds = images * step + evaluated * validation
        total += seconds
        gradients = 4 * sum(p.size for p in network_of(run, data).parameters()) if machines and images else 0
        batches = images / min(run.config.batch_size, len(data.train))
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
                "on_machines": {n: shared(seconds, batches, gradients, n, bits_per_second) for n in machines},
            }
        )
    observer.progress("measuring steps", len(runs), len(runs))
    return lines


def shared(seconds: float, steps: float, gradients: int, machines: int, bits_per_second: float = NETWORK) -> float:
    """Return the seconds of work that several machines share: computed, not measured.

    Each machine computes its part of a batch. After a step, `gradients` bytes are summed around a ring: every machine
    sends and receives 2 (n - 1)/n of them (Patarasuk and Yuan 2009). No transfer overlaps with computing.
    """
    return seconds / machines + steps * 2 * (machines - 1) / machines * 8 * gradients / bits_per_second


def measure(run: Run, data: Dataset) -> tuple[float, float]:
    """Return the seconds per image in training and in validation.

    A step takes a constant time plus a time per image. Two steps on few images give both, faster than a whole batch.
    """
    config = run.config
    with reference_only(config.backend == "reference"), backward_in(config.backward):
        set_threads(config.threads)
        keep_freed_memory()
        job.compile_steps(config)
        model, steps = network_of(run, data), steps_per_epoch(len(data.train), config.batch_size)
        callbacks = job.make_callbacks(dataclasses.replace(config, mst_start=None), model, data, steps)
        optimizer = job.make_optimizer(config, model, steps)

        def step(images: int, number: int = 1) -> float:
            trainer = job.make_trainer(
                model,
                dataclasses.replace(data, train=_some(data.train, 2 * images)),
                optimizer,
                lambda step: config.lr,
                epochs=1,
                batch_size=images,
                loss=partial(LOSSES[config.loss], **config.options_of("loss")),
                augment=datasets.default_augment(config.dataset) if config.augment else None,
                callbacks=callbacks,
            )
            trainer.position.step = number
            return _seconds(trainer.step)

        batch = min(config.batch_size, len(data.train))
        few = min(FEW, batch)
        step(few, 0)  # compiles kernels, and finds the trees that filters are pulled along
        short = step(few)
        some = min(batch, max(SOME, batch // PARTS, int(SECONDS * few / short)))
        long = step(some)
        if batch > FAR * some:  # the quicker of two of each, since noise is extrapolated with them
            short, long = min(short, step(few)), min(long, step(some))
        if some < batch:
            long += (batch - some) * max(long - short, 0.0) / (some - few)
        logits = freeze(model, **job.about_training(config, data)).logits
        logits(_some(data.val, FEW).images[:])
        return long / batch, _seconds(lambda: logits(_some(data.val, VALIDATED).images[:])) / VALIDATED


def _some(split: Split, count: int) -> Split:
    chosen = np.arange(count) % len(split)
    return split.subset(chosen)


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
