"""Training steps of whole networks, ours and torch's full-precision twin: forward, backward and update.

Each contender trains in a separate process. So its memory can be measured alone, and torch's allocator can be
configured before it starts. A turn takes one or two seconds. All of torch's ways are tried first, one setting after the
other. Only the best one takes part in the rounds.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from xnor_ref.bench.measuring import roof
from xnor_ref.bench.measuring.process import Worker
from xnor_ref.bench.measuring.timing import Pace
from xnor_ref.bench.peers import baselines
from xnor_ref.bench.peers.baselines import parse_names
from xnor_ref.bench.training.train_worker import BACKWARDS
from xnor_ref.bench.training.train_worker import Task as Task
from xnor_ref.errors import InputError
from xnor_ref.nn.methods import METHODS, methods_with

BATCHES = {"alexnet": 128}  # larger, since the update of its 38 million weights is then shared by more images
PRECISIONS = {"torch": "fp32", "torch-bf16": "bf16"}
USUAL = BACKWARDS[:2]
INPUT_SCALES = ("off", "plain")
SLOW = 0.25  # seconds; if a step takes longer, the cold caches at the start of a turn are negligible
FULL = Pace(rounds=5, turn=1.5)
QUICK = Pace(rounds=2, turn=0.0, quick=True)

_OTHER_BATCH = {64: 128, 128: 64}  # the batch that torch may use instead
_WORKER = "from xnor_ref.bench.training.train_worker import main; main()"
_TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
_COMPILER = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # more threads would remain and wait for work

Say = Callable[[str], None]


@dataclass(frozen=True)
class Way:
    """One of torch's ways to train."""

    precision: str
    batch: int
    layout: str = "NHWC"
    compiled: bool = False
    tuned: bool = True  # whether the allocator keeps freed memory

    @property
    def name(self) -> str:
        """'torch fp32, compile, NHWC, batch 64, allocator tuned'."""
        mode = "compile" if self.compiled else "eager"
        allocator = "tuned" if self.tuned else "as it comes"
        return f"torch {self.precision}, {mode}, {self.layout}, batch {self.batch}, allocator {allocator}"


def measure_training(
    task: Task,
    names: tuple[str, ...] = tuple(PRECISIONS),
    pace: Pace = FULL,
    *,
    backwards: tuple[str, ...] = USUAL,
    input_scales: tuple[str, ...] = ("off",),
    weight_scales: tuple[str, ...] = ("alpha",),
    plugin: str | None = None,
    compiled: bool = True,
    cold: bool = False,
    profiled: bool = False,
    jpegs: bool = False,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Measure one network and torch in the precisions `names`, some of `PRECISIONS`.

    Parameters
    ----------
    backwards, input_scales, weight_scales : ours is measured in all combinations that the method supports
    plugin : a plugin file that registers some of them
    compiled : whether to try torch.compile, which takes half a minute each time
    cold : whether to measure the start without compiled kernels, too
    profiled : whether to run `train_profile.profile`, too
    jpegs : whether ours decodes each image from a JPEG (see `train_worker.Ours`)
    say : called with each line of progress

    Returns
    -------
    dict of JSON values
        "contenders", ours first: images per second, with quartiles over the rounds; "ratios", its throughput divided by
        that of torch's best way in each precision, with quartiles of the ratios of each round; "memory" in bytes, of
        the network and its training ("network") and the largest of the whole process ("peak"), None except on Linux;
        "data", the share of a step spent on its input; "start", seconds from the start of the process to the end of the
        first step, with kernels "cached" and, if asked for, "cold"; "profile" if asked for. "tried" are rough images
        per second of torch's ways. "absent" says why others are missing.

    Raises
    ------
    InputError : a setting that the network does not support
    """
    roof.require_compiler()
    absent: dict[str, str] = {}
    tried: dict[str, float] = {}
    workers: dict[str, Worker] = {}
    contenders: dict[str, dict[str, Any]] = {}
    best: dict[str, str] = {}
    with ExitStack() as stack:
        for name, setup in ours(task, backwards, input_scales, weight_scales, plugin, jpegs).items():
            say(f"{task.network}: {name}")
            try:
                with started(setup):  # compiles what is not in the cache, in a separate process
                    pass
                begun = time.perf_counter()
                workers[name] = stack.enter_context(started(setup))
                start = {"cached": time.perf_counter() - begun}
                if cold:
                    start["cold"] = _cold_start(setup)
                contenders[name] = {"name": name, "ours": True, "batch": task.batch, "start": start}
            except baselines.Unavailable as reason:
                absent[name] = str(reason)
        for group in names:
            precision = PRECISIONS[group]
            try:
                way = best_way(task, precision, compiled, tried, absent, say)
                workers[way.name] = stack.enter_context(started(_torch_setup(task, way), _environment(way)))
                contenders[way.name] = {"name": way.name, "ours": False, "batch": way.batch}
                best[precision] = way.name
            except baselines.Unavailable as reason:
                absent[f"torch {precision}"] = str(reason)
        say(f"{task.network}: in turns")
        rounds = take_turns(workers, pace)
        for name, one in contenders.items():
            one["memory"] = _memory(workers[name].ask("memory"))
            if profiled and one["ours"]:
                one["profile"] = workers[name].ask("profile", count=1 if pace.quick else 5, threads=task.threads)
    seconds = {name: [turn["seconds"] / one["batch"] for turn in rounds[name]] for name, one in contenders.items()}
    for name, one in contenders.items():
        one |= throughput(seconds[name])
        one["ratios"] = {precision: ratio_of(seconds[other], seconds[name]) for precision, other in best.items()}
        one["data"] = statistics.median(turn["data"] / turn["seconds"] for turn in rounds[name])
    found = {"best": best, "contenders": list(contenders.values()), "tried": tried, "absent": absent}
    return {**vars(task), **found}


def ours(
    task: Task,
    backwards: tuple[str, ...],
    input_scales: tuple[str, ...] = ("off",),
    weight_scales: tuple[str, ...] = ("alpha",),
    plugin: str | None = None,
    jpegs: bool = False,
) -> dict[str, dict[str, Any]]:
    """Return the settings of each contender of ours, by name. Raises InputError if there is none."""
    taken = METHODS[task.method].options
    setups: dict[str, dict[str, Any]] = {}
    for k, alpha, backward in product(input_scales, weight_scales, backwards):
        if backward == "int8" and not METHODS[task.method].on_bits:
            continue
        options = {key: value for key, value in (("input_scale", k), ("weight_scale", alpha)) if key in taken}
        way = "layer by layer" if backward == "reference" else f"{backward} backward"
        name = f"ours, {way}" + (", K" if options.get("input_scale") == "plain" else "")
        name += "" if options.get("weight_scale", "alpha") == "alpha" else f", {alpha}"
        setups[name] = {"kind": "ours", "task": vars(task), "backward": backward, "options": options, "plugin": plugin}
        if jpegs:
            setups[name]["jpegs"] = True
    if not setups:
        raise InputError(
            f"backward int8 needs binary layers with binary inputs, which method {task.method} does not have"
        )
    return setups


@contextmanager
def started(setup: dict[str, Any], environment: dict[str, str] | None = None) -> Iterator[Worker]:
    """Start a process that has built a network and taken its first step. Raises baselines.Unavailable, InputError."""
    with Worker(_WORKER, environment) as worker:
        worker.ask("begin", **setup)
        yield worker


def _cold_start(setup: dict[str, Any]) -> float:
    """Return the seconds until the first step is done, with no kernel compiled."""
    # The process that compiles ahead may still write its last kernel after its parent has ended.
    with tempfile.TemporaryDirectory(prefix="xnor_ref-bench-", ignore_cleanup_errors=True) as folder:
        begun = time.perf_counter()
        with started(setup, {"NUMBA_CACHE_DIR": folder}):
            return time.perf_counter() - begun


def _environment(way: Way) -> dict[str, str]:
    return {**_COMPILER, **(_TUNED if way.tuned else {})}


def _torch_setup(task: Task, way: Way) -> dict[str, Any]:
    how = {"precision": way.precision, "layout": way.layout, "compiled": way.compiled}
    return {"kind": "torch", "task": vars(replace(task, batch=way.batch)), **how}


def best_way(
    task: Task, precision: str, compiled: bool, tried: dict[str, float], absent: dict[str, str], say: Say
) -> Way:
    """Return torch's fastest way per image. It changes one setting after the other and writes all rates to `tried`.

    Raises baselines.Unavailable if none works.
    """
    baselines.require("torch")
    best = Way(precision, task.batch)
    changes: list[dict[str, Any]] = [{}, {"layout": "NCHW"}]
    changes += [{"compiled": True}] if compiled else []
    changes += [{"batch": _OTHER_BATCH[task.batch]}] if task.batch in _OTHER_BATCH else []
    changes += [{"tuned": False}]
    for change in changes:
        way = replace(best, **change)
        say(f"{task.network}: trying {way.name}")
        try:
            tried[way.name] = _rate(task, way)
        except baselines.Unavailable as reason:
            absent[way.name] = str(reason)
            continue
        if tried[way.name] > tried.get(best.name, 0):
            best = way
    if best.name not in tried:
        raise baselines.Unavailable(f"none of torch's ways works: {absent.pop(best.name)}")
    return best


def _rate(task: Task, way: Way) -> float:
    """Return rough images per second."""
    with started(_torch_setup(task, way), _environment(way)) as worker:
        return way.batch / worker.ask("steps", count=2, before=1)["seconds"]


def take_turns(workers: dict[str, Worker], pace: Pace) -> dict[str, list[dict[str, float]]]:
    """Let each of `workers` train for `pace.turn` seconds in each round; return the seconds per step of each turn."""
    names = list(workers)
    plans = {}
    for name, worker in workers.items():
        seconds = worker.ask("steps", count=1, before=1)["seconds"]
        plans[name] = {"count": max(1, round(pace.turn / seconds)), "before": int(seconds < SLOW)}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(pace.rounds):
        for name in names:
            turns[name].append(workers[name].ask("steps", **plans[name]))
        names.append(names.pop(0))  # so that no worker always follows the same one
    return turns


def throughput(seconds: list[float]) -> dict[str, Any]:
    """Return images per second, from the seconds per image in each round."""
    low, median, high = quartiles(seconds)
    return {"images_per_second": 1 / median, "quartiles": [1 / high, 1 / low], "rounds": len(seconds)}


def ratio_of(theirs: list[float], ours: list[float]) -> dict[str, Any]:
    low, _, high = quartiles([a / b for a, b in zip(theirs, ours)])
    return {"ratio": statistics.median(theirs) / statistics.median(ours), "quartiles": [low, high]}


def quartiles(values: list[float]) -> list[float]:
    """Return the three quartiles of `values`."""
    return statistics.quantiles(values, n=4, method="inclusive")


def _memory(found: dict[str, Any]) -> dict[str, int] | None:
    if found["peak"] is None or found["before"] is None:
        return None
    return {"network": found["peak"] - found["before"], "peak": found["peak"]}


# --- from the command line -------------------------------------------------------------------------------------


def batch_of(network: str, quick: bool = False) -> int:
    """Return the default batch for a network."""
    return 4 if quick else BATCHES.get(network, 64)


def parse_scales(method: str, text: str | None) -> tuple[str, ...]:
    """Parse some of `INPUT_SCALES`; None means "off". Raises InputError for a method that has no K."""
    if text is None:
        return INPUT_SCALES[:1]
    if method not in methods_with("input_scale"):
        raise InputError(f"bench: method {method!r} has no K, so input-scale (={text}) would have no effect")
    return parse_names("input scale", text, INPUT_SCALES)
