"""Training that is killed again and again: `python -m tests.harness.kills --count 2000`.

A small run is started, killed by SIGKILL, and resumed, until it is finished; then the next run begins. Every second
kill comes at a random moment, every other one at a chosen point of writing a file: after it was opened, with half of it
written, before it is flushed to the disk, before and after it takes the place of the old one. After each kill every
file that stands under its final name must be readable, and the newest checkpoint must hold the last step that was
saved. A finished run must have the bytes of one that was never stopped, and leave no temporary file behind.

Children are forked from a process that has loaded everything, so that a kill costs a tenth of a second.
"""

import argparse
import builtins
import io
import json
import mmap
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.training.training_samples import result_bytes
from xnor_ref import storage
from xnor_ref.cli import main
from xnor_ref.errors import XnorRefError
from xnor_ref.packed import load_packed
from xnor_ref.storage import TEMPORARY
from xnor_ref.training.storing import checkpoint
from xnor_ref.training.storing.float_file import load_float

RUN = "run"
OPTIONS = (
    *("train", "--train-size", "48", "--val-size", "24", "--batch-size", "12", "--epochs", "3", "--lr", "0.01"),
    *("--model-option", "width=4", "--checkpoint-every", "0", "--threads", "1", "--quiet"),
)
POINTS = ("opened", "half written", "before a flush", "before it takes its place", "in its place")


class Notes:
    """What a child tells its parent, in memory that outlives it: see the names below."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 24)

    def __getitem__(self, place: int) -> int:
        return int.from_bytes(self._memory[place * 8 : place * 8 + 8], "little")

    def __setitem__(self, place: int, value: int) -> None:
        self._memory[place * 8 : place * 8 + 8] = value.to_bytes(8, "little")


PASSED, KIND, SAVED = 0, 1, 2  # the points passed, which of `POINTS` the last one was, the step last saved


def arrange(notes: Notes, fatal: int | None, fatal_step: int | None) -> None:
    """In this process, count the points of writing that are passed; die at number `fatal`, or at `fatal_step`."""

    def passed(kind: int) -> None:
        notes[PASSED], notes[KIND] = notes[PASSED] + 1, kind
        if notes[PASSED] == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    class Half:
        """An open file that passes a point with half of what it is given written."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Half":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, data: bytes) -> int:
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            passed(1)
            return len(data) // 2 + self.file.write(data[len(data) // 2 :])

    def opened(path: Any, *more: Any) -> int:
        descriptor = os.open(path, *more)
        if more[0] & os.O_CREAT:
            passed(0)
        return descriptor

    def flushed(descriptor: int) -> None:
        passed(2)
        os.fsync(descriptor)

    def replaced(source: Any, target: Any) -> None:
        passed(3)
        os.replace(source, target)
        passed(4)

    names = {name: getattr(os, name) for name in dir(os) if not name.startswith("__")}
    storage.os = SimpleNamespace(**{**names, "open": opened, "fsync": flushed, "replace": replaced})  # type: ignore
    storage.open = lambda file, *mode: (
        Half(builtins.open(file, *mode))
        if isinstance(file, int)
        else builtins.open(  # type: ignore[attr-defined]
            file, *mode
        )
    )
    save = checkpoint.CheckpointFolder.save

    def saved(self: Any, model: Any, optimizer: Any, position: Any, global_step: int, **more: Any) -> Path:
        path = save(self, model, optimizer, position, global_step, **more)
        notes[SAVED] = max(notes[SAVED], global_step)
        if global_step == fatal_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return path

    checkpoint.CheckpointFolder.save = saved  # type: ignore[method-assign]


def start(
    folder: Path,
    options: Sequence[str],
    notes: Notes,
    fatal: int | None = None,
    fatal_step: int | None = None,
    log: Path | None = None,
    user: int | None = None,
) -> int:
    """The process number of a child that goes on with the run in `folder`, or begins it. See `arrange`.

    What it prints goes to `log`, or to log.txt in `folder`; it runs as `user`, if one is given.
    """
    notes[PASSED] = 0
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.chdir(folder)
        printed = os.open(log or "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # not those of a test
        if user is not None:
            os.setuid(user)
        arrange(notes, fatal, fatal_step)
        code = main([*options, "--out", RUN, "--resume", "auto"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def faults_after_a_kill(folder: Path, saved: int) -> list[str]:
    """What is wrong with the files of a run that was killed when `saved` was the last step saved."""
    faults = []
    run = folder / RUN
    steps = []
    for path in sorted(run.rglob("*")):
        if path.name.startswith(TEMPORARY) or not path.is_file():
            continue
        try:
            if path.parent.name == "checkpoints":
                checkpoint.read(path)
                steps.extend([int(path.stem[5:])] if path.stem.startswith("step-") else [])
            elif path.suffix == ".safetensors":
                load_packed(path) if path.stem == "model" else load_float(path)
            elif path.suffix == ".json":
                json.loads(path.read_text("utf-8"))
        except (XnorRefError, ValueError) as error:
            faults.append(f"{path.relative_to(folder)}: {error}")
    if saved and max(steps, default=0) < saved:
        faults.append(f"step {saved} was saved, and the newest checkpoint is of step {max(steps, default=0)}")
    return faults


def never_stopped(folder: Path, options: Sequence[str], notes: Notes) -> tuple[dict[str, bytes], int, float]:
    """(the results of a run, the points that it passed, its seconds), with all kernels loaded for the runs after it."""
    folder.mkdir()
    with redirect_stdout(io.StringIO()):
        if main([*options, "--out", str(folder / "first")]):
            raise SystemExit("the run that loads everything failed")
    notes[SAVED], began = 0, time.perf_counter()
    _, status = os.waitpid(start(folder, options, notes), 0)
    if status:
        raise SystemExit((folder / "log.txt").read_text())
    return result_bytes(folder / RUN), notes[PASSED], time.perf_counter() - began


def trial(folder: Path, rng: random.Random, at_random: bool, seconds: float, points: int, notes: Notes):
    """One kill: ("random", a point, or None where the run came to its end first)."""
    fatal = None if at_random else rng.randint(1, points)
    pid = start(folder, OPTIONS, notes, fatal)
    if at_random:
        time.sleep(rng.uniform(0, seconds))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        return None, os.WEXITSTATUS(status)
    return ("random moment" if at_random else POINTS[notes[KIND]]), 0


def run(count: int, seed: int) -> int:
    """Kill `count` times; print what was found, and return the number of faults."""
    rng, notes, kills, faults, finished = random.Random(seed), Notes(), Counter[str](), [], 0
    with tempfile.TemporaryDirectory(prefix="xnor_ref-kills-") as place:
        wanted, points, seconds = never_stopped(Path(place) / "whole", OPTIONS, notes)
        while sum(kills.values()) < count and not faults:
            folder = Path(place) / str(finished)
            folder.mkdir()
            notes[SAVED] = 0
            while True:
                at_random = sum(kills.values()) % 2 == 0
                kind, code = trial(folder, rng, at_random, seconds, points, notes)
                if kind is None:
                    break
                kills[kind] += 1
                faults += faults_after_a_kill(folder, notes[SAVED])
                if faults or sum(kills.values()) >= count:
                    break
            if kind is not None and not faults:
                _, status = os.waitpid(start(folder, OPTIONS, notes), 0)
                code = os.waitstatus_to_exitcode(status)
            if code:
                faults.append(f"exit code {code}: {(folder / 'log.txt').read_text()[-2000:]}")
            elif not faults:
                finished += 1
                if result_bytes(folder / RUN) != wanted:
                    faults.append("the finished run has other bytes than one that was never stopped")
                left = [path.name for path in folder.rglob(f"{TEMPORARY}*")]
                faults += [f"left behind: {', '.join(left)}"] if left else []
    for kind, number in sorted(kills.items()):
        print(f"{number:6d} kills: {kind}")
    print(f"{finished} runs finished after them; {len(faults)} faults")
    for fault in faults:
        print(fault)
    return len(faults)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=2000, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.exit(6 if run(options.count, options.seed) else 0)
