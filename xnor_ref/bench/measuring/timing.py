"""Timing several contenders in turns. The room's page explains why.

Each turn starts with a call that is not timed (it fills the caches and wakes threads) and repeats the contender for at
least `Pace.turn` seconds. Python's garbage collector is off during the measurement.
"""

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from threadpoolctl import threadpool_limits

from xnor_ref.bench.measuring import roof
from xnor_ref.kernels.basics.threads import available_threads

BUSY = 0.3  # average number of other processes that want to run
WAKING = 0.03  # seconds that the system needs to distribute newly woken threads over its processors
BYSTANDERS = 0.1  # processors that other processes may use while we measure
UNSTEADY = 0.1  # largest relative variation of a loop in registers


@dataclass(frozen=True)
class Pace:
    """How long to measure: `rounds` turns of `turn` seconds for each contender, within `budget` seconds for each.

    A contender with a slow call has fewer turns, but at least three, of one call each and without a call before it.
    """

    rounds: int = 15
    turn: float = 0.01
    budget: float = 1.5
    quick: bool = False  # whether to measure fewer things, too


FULL = Pace()
QUICK = Pace(rounds=3, turn=0.0005, budget=0.05, quick=True)


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median over the rounds, and the quartiles."""

    seconds: float
    low: float
    high: float
    rounds: int
    calls: int  # in each round

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        quartiles = [self.low, self.high]
        return {"seconds": self.seconds, "quartiles": quartiles, "rounds": self.rounds, "calls": self.calls}


def measure(contenders: dict[str, Callable[[], Any]], pace: Pace = FULL, threads: int = 1) -> dict[str, Timing]:
    """Time each of `contenders`, functions without arguments, in turns.

    Parameters
    ----------
    threads : what the contenders use. With more than one thread, each turn starts after the previous contender's
        threads have gone to sleep (while waiting for work, they use the processor for up to 0.2 s). The first
        `WAKING` seconds of a turn are then not timed.
    """
    turns = {name: _Turn(run, pace) for name, run in contenders.items()}
    names = list(turns)
    with _collector_off():
        for number in range(pace.rounds):
            for name in names:
                if turns[name].takes_part(number):
                    if threads > 1:
                        let_threads_sleep()
                    turns[name].take(WAKING if threads > 1 else 0.0)
            names.append(names.pop(0))  # so that no contender always follows the same one
    return {name: turn.timing() for name, turn in turns.items()}


def rates(loads: dict[str, roof.Load], pace: Pace, threads: int = 1) -> dict[str, float]:
    """Return the work per second of each of `loads`, on `threads` threads."""
    timings = measure({name: load.run for name, load in loads.items()}, pace, threads)
    return {name: load.work / timings[name].seconds for name, load in loads.items()}


class _Turn:
    """One contender: its calls per turn, its rounds, and its times."""

    def __init__(self, run: Callable[[], Any], pace: Pace):
        self.run = run
        self.pace = pace
        self.samples: list[float] = []
        run()  # the first call may compile, allocate or load pages
        seconds = min(self._time(1), self._time(1))
        self.slow = seconds > pace.turn
        self.calls = max(1, round(pace.turn / max(seconds, 1e-7)))
        self.rounds = min(pace.rounds, max(3, int(pace.budget / (self.calls * seconds))))

    def takes_part(self, number: int) -> bool:
        """Return whether it has a turn in this round; turns are spread evenly."""
        return (number + 1) * self.rounds // self.pace.rounds > number * self.rounds // self.pace.rounds

    def take(self, warm_up: float) -> None:
        """Take one turn, after one call that is not timed, or as many as fill `warm_up` seconds."""
        end = time.perf_counter() + warm_up
        if not self.slow:
            self.run()
        while time.perf_counter() < end:
            self.run()
        self.samples.append(self._time(self.calls) / self.calls)

    def timing(self) -> Timing:
        low, median, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return Timing(median, low, high, len(self.samples), self.calls)

    def _time(self, calls: int) -> float:
        run = self.run
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return time.perf_counter() - start


def let_threads_sleep(longest: float = 0.3) -> None:
    """Sleep until no thread of this process uses a processor."""
    end = time.perf_counter() + longest
    while time.perf_counter() < end:
        start, used = time.perf_counter(), time.process_time()
        time.sleep(0.01)  # the system may update a running thread's time only every few milliseconds
        if time.process_time() - used < 0.1 * (time.perf_counter() - start):
            return


@contextmanager
def _collector_off() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Limit every BLAS to `threads` threads; contenders set the threads of other libraries themselves."""
    with threadpool_limits(limits=threads, user_api="blas"):
        yield


def load_warning() -> str | None:
    """Return a warning if other processes want the processors now, or wanted them in the last minute; else None."""
    try:
        others, when = _others_running(), "now"
    except (OSError, StopIteration, ValueError):
        try:
            others, when = os.getloadavg()[0], "in the last minute"
        except (AttributeError, OSError):
            return None
    if others <= BUSY:
        return None
    return f"the machine is busy: {others:.1f} other processes want its {available_threads()} processors {when}"


def _others_running(samples: int = 40) -> float:
    """Average number of other processes that run or wait for a processor, over a tenth of a second; Linux only."""
    total = 0
    for _ in range(samples):
        time.sleep(0.0025)
        with open("/proc/stat", encoding="ascii") as file:
            total += int(next(line for line in file if line.startswith("procs_running")).split()[1]) - 1
    return total / samples


class Bystanders:
    """The processor time of other processes since this object was made; Linux only."""

    def __init__(self) -> None:
        self._start, self._used = time.perf_counter(), _seconds_of_others()

    def warning(self) -> str | None:
        """Return a warning if they used so much that the measurements cannot be trusted; else None."""
        used, wall = _seconds_of_others(), time.perf_counter() - self._start
        if used is None or self._used is None or used - self._used <= BYSTANDERS * wall:
            return None
        return (
            f"other processes used {(used - self._used) / wall:.0%} of a processor during the measurement; measure "
            "again when the machine is idle"
        )


def _seconds_of_others() -> float | None:
    """Return the processor seconds since the system's start that other processes used, without this one's children."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, interrupts, more_interrupts, stolen = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    ticks = user + nice + system + interrupts + more_interrupts + stolen
    return ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def pace_warning(seconds: float = 0.1) -> str | None:
    """Return a warning if a loop that uses registers only varies: because of other work, or a changing clock."""
    load = roof.clock(200_000)
    samples: list[float] = []
    end = time.perf_counter() + seconds
    load.run()
    while time.perf_counter() < end or len(samples) < 10:
        start = time.perf_counter()
        load.run()
        samples.append(time.perf_counter() - start)
    tenths = statistics.quantiles(samples, n=10, method="inclusive")
    variation = tenths[-1] / tenths[0] - 1
    if variation <= UNSTEADY:
        return None
    return (
        f"the machine is not steady: a loop in registers varies by {variation:.0%} within {seconds:g} s; other work "
        "uses the processor, or its clock changes"
    )
