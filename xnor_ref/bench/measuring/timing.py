"""Measuring side by side, in turns; the room's page says why.

Each turn starts with a call that is not timed (it fills the caches and wakes threads) and repeats the contender for at
least `Pace.turn` seconds. Python's garbage collector is off meanwhile.
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

BUSY = 0.3  # other processes that want to run, on average
WAKING = 0.03  # seconds until the system has spread threads that have just woken over its processors
BYSTANDERS = 0.1  # processors that others may use while we measure
UNSTEADY = 0.1  # how far a loop in registers may vary


@dataclass(frozen=True)
class Pace:
    """How long to measure: `rounds` turns of `turn` seconds for each contender, within `budget` seconds for each.

    A contender whose single call is slow has fewer turns, at least three; of one call, none before it.
    """

    rounds: int = 15
    turn: float = 0.01
    budget: float = 1.5
    quick: bool = False  # whether less should be measured as well


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
    """Time each of `contenders`, functions without arguments, against one another.

    Parameters
    ----------
    threads : what the contenders use. With more than one, each turn begins when the threads of the one before have gone
        to sleep (they wait for more work for up to 0.2 s, computing nothing at full speed), and its first `WAKING`
        seconds are not timed.
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
            names.append(names.pop(0))  # nobody always follows the same one
    return {name: turn.timing() for name, turn in turns.items()}


def rates(loads: dict[str, roof.Load], pace: Pace, threads: int = 1) -> dict[str, float]:
    """Work per second of each of `loads`, on `threads` threads."""
    timings = measure({name: load.run for name, load in loads.items()}, pace, threads)
    return {name: load.work / timings[name].seconds for name, load in loads.items()}


class _Turn:
    """One contender: how often it is called in a turn, in which rounds, and what was measured."""

    def __init__(self, run: Callable[[], Any], pace: Pace):
        self.run = run
        self.pace = pace
        self.samples: list[float] = []
        run()  # the first call may compile, allocate, page in
        seconds = min(self._time(1), self._time(1))
        self.slow = seconds > pace.turn
        self.calls = max(1, round(pace.turn / max(seconds, 1e-7)))
        self.rounds = min(pace.rounds, max(3, int(pace.budget / (self.calls * seconds))))

    def takes_part(self, number: int) -> bool:
        """Whether it has a turn in this round; the turns are spread evenly."""
        return (number + 1) * self.rounds // self.pace.rounds > number * self.rounds // self.pace.rounds

    def take(self, warm_up: float) -> None:
        """One turn, after calls that are not timed: one, or as many as `warm_up` seconds take."""
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
    """Sleep until no thread of this process computes any more."""
    end = time.perf_counter() + longest
    while time.perf_counter() < end:
        start, used = time.perf_counter(), time.process_time()
        time.sleep(0.01)  # the system may count the time of a running thread every few milliseconds only
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
    """Hold every BLAS to `threads` threads; contenders bring their own setting for whatever else they use."""
    with threadpool_limits(limits=threads, user_api="blas"):
        yield


def load_warning() -> str | None:
    """A warning where other processes want the processors: at this moment, or else by the load of the last minute."""
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
    """Processes that run or wait for a processor, on average over a tenth of a second, without this one; Linux only."""
    total = 0
    for _ in range(samples):
        time.sleep(0.0025)
        with open("/proc/stat", encoding="ascii") as file:
            total += int(next(line for line in file if line.startswith("procs_running")).split()[1]) - 1
    return total / samples


class Bystanders:
    """How much other processes compute, from the making of this object on; Linux only."""

    def __init__(self) -> None:
        self._start, self._used = time.perf_counter(), _seconds_of_others()

    def warning(self) -> str | None:
        """A warning if they took so much of the processors that figures cannot be trusted."""
        used, wall = _seconds_of_others(), time.perf_counter() - self._start
        if used is None or self._used is None or used - self._used <= BYSTANDERS * wall:
            return None
        return (
            f"other processes used {(used - self._used) / wall:.0%} of a processor while this was measured; measure "
            "again when the machine is idle"
        )


def _seconds_of_others() -> float | None:
    """Processor seconds since the start of the system that were not spent by this process and its children."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, interrupts, more_interrupts, stolen = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    ticks = user + nice + system + interrupts + more_interrupts + stolen
    return ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def pace_warning(seconds: float = 0.1) -> str | None:
    """A warning where a loop that touches nothing but registers varies: other work, or a clock that changes."""
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
        "takes the processor, or its clock changes"
    )
