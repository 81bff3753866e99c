"""Tests whether the time per image grows with the size of the data set, and memory with the number of epochs.

The images are random bytes in a file, mapped into memory like those of a prepared data set. One process for each number
of images trains on them, in turns. One more process trains for several epochs on the smallest set.
"""

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from xnor_ref.bench.measuring import roof
from xnor_ref.bench.measuring.timing import Pace
from xnor_ref.bench.training.train import Say, Task, ours, ratio_of, started, take_turns, throughput
from xnor_ref.errors import InputError

COUNTS, QUICK_COUNTS = (10_000, 100_000), (256, 1024)
EPOCHS = 5
_PART = 1000  # images written at a time


def measure_scale(
    task: Task, counts: tuple[int, ...], pace: Pace, epochs: int = EPOCHS, say: Say = lambda text: None
) -> dict[str, Any]:
    """Train on `counts` images in turns, then for some epochs on the fewest.

    Returns
    -------
    dict of JSON values
        "sets": for each count, images per second with quartiles over the rounds; "ratio", its seconds per image divided
        by those of the smallest set, with quartiles of the ratios of each round; "input_seconds" per image. "memory":
        the process's own bytes after each epoch over the smallest set; None except on Linux.

    Raises InputError for fewer than two batches of images or less than one epoch.
    """
    roof.require_compiler()
    counts = tuple(sorted(set(counts)))
    if not counts or counts[0] < 2 * task.batch:
        raise InputError(
            f"bench: scale needs at least two batches of {task.batch} images, got {min(counts, default=0)}"
        )
    if epochs < 1:
        raise InputError(f"bench: epochs must be at least 1, got {epochs}")
    (setup,) = ours(task, ("auto",), ("plain",)).values()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="xnor_ref-bench-")))
        say(f"writing {counts[-1]:,} images")
        _write_images(folder / "images", counts[-1], task.size)
        setups = {str(count): {**setup, "path": str(folder / "images"), "images": count} for count in counts}
        say("in turns")
        workers = {name: stack.enter_context(started(setup)) for name, setup in setups.items()}
        turns = take_turns(workers, pace)
        memory = []
        with started(setups[str(counts[0])]) as worker:
            for epoch in range(epochs):
                say(f"epoch {epoch + 1} of {epochs}")
                worker.ask("steps", count=counts[0] // task.batch)
                memory.append(worker.ask("memory")["own"])
    first = [turn["seconds"] / task.batch for turn in turns[str(counts[0])]]
    sets = []
    for count in counts:
        seconds = [turn["seconds"] / task.batch for turn in turns[str(count)]]
        data = statistics.median(turn["data"] for turn in turns[str(count)]) / task.batch
        ratio = ratio_of(seconds, first)
        sets.append({"images": count, **throughput(seconds), "ratio": ratio, "input_seconds": data})
    return {**vars(task), "sets": sets, "memory": None if None in memory else memory}


def _write_images(path: Path, count: int, size: int) -> None:
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        for first in range(0, count, _PART):
            file.write(rng.bytes(min(_PART, count - first) * size * size * 3))
