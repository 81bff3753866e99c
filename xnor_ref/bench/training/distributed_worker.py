"""One rank of `bench distributed`: takes steps, and times them and what travels. Rank 0 prints the figures as JSON."""

import json
import statistics
import time
from typing import Any

import numpy as np

from xnor_ref.bench.training.train_worker import Ours, Task
from xnor_ref.kernels.basics.threads import get_threads
from xnor_ref.training.distributed.ranks import MpiRanks
from xnor_ref.training.distributed.team import Team

SIZES = (1 << 12, 1 << 16, 1 << 20)  # numbers of the exchanges that the link is measured by
WARM = 2  # steps before those that are timed


def main(text: str) -> None:
    """Measure; `text` is a JSON object with the arguments of `measured`."""
    ranks = MpiRanks(patience=600.0)
    found = measured(ranks, **json.loads(text))
    ranks.leave()
    if ranks.rank == 0:
        print(json.dumps(found))


def measured(
    ranks: MpiRanks, network: str, size: int, classes: int, method: str, images: int, steps: int, compress: str | None
) -> dict[str, Any]:
    """What steps of `images` a rank cost, in seconds of a step, and what the link between the ranks is like."""
    task = Task(network, size, classes, method, batch=images * ranks.size, threads=get_threads())
    trainer = Ours(task, "auto", {}, team=Team(ranks.size, ranks=ranks, compress=compress))
    trainer.model.train()
    for _ in range(WARM):
        trainer.step()
    before, began = dict(ranks.totals), time.perf_counter()
    for _ in range(steps):
        trainer.step()
    seconds = (time.perf_counter() - began) / steps
    totals = {name: (ranks.totals[name] - before[name]) / steps for name in before}
    rows = ranks.gather(np.array([seconds, *totals.values()])).mean(axis=0)
    link = [{"numbers": numbers, "seconds": _exchange(ranks, numbers)} for numbers in SIZES]
    return {
        "ranks": ranks.size,
        "threads": task.threads,
        "images": images,
        "parameters": sum(parameter.size for parameter in trainer.model.parameters()),
        "seconds": float(rows[0]),
        **dict(zip(totals, rows[1:].tolist(), strict=True)),
        "meeting": _meeting(ranks),
        "link": link,
    }


def _meeting(ranks: MpiRanks) -> float:
    """Seconds until all know a few numbers of all."""
    return statistics.median(_timed(lambda: ranks.gather(np.zeros(64))) for _ in range(20))


def _exchange(ranks: MpiRanks, numbers: int) -> float:
    """Seconds until float32 numbers of all are added up, as gradients are."""
    own = np.ones((ranks.size, -(-numbers // ranks.size)), np.float32)

    def add_up() -> None:
        ranks.whole(ranks.pieces(own).sum(axis=0))

    def exchange() -> None:
        ranks.gather(np.zeros(1))  # begin together
        ranks.later(add_up)()

    meeting = _meeting(ranks)
    return max(1e-7, statistics.median(_timed(exchange) for _ in range(5)) - meeting)


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
