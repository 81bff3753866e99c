"""Cold starts of many processes at once on one empty cache folder: `python -m tests.soak_startup`.

Each round empties the folder and starts the processes together. Every one must end without an error or a warning and
compute what a process alone computed, and so must one more that then starts on what they left, which it must not
write to again. The round ends with processes of which all but one are killed at some moment while they compile.
"""

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def compute(work: str) -> str:
    """A digest of what kernels compute; work is "optimiser" (three small kernels) or "network" (those of inference)."""
    import numpy as np

    if work == "optimiser":
        from xnor_ref.autodiff import Tensor
        from xnor_ref.optim import SGD, Adam

        param = Tensor(np.linspace(-1, 1, 37, dtype=np.float32), requires_grad=True)
        for optimizer in (SGD([param], 0.1), SGD([param], 0.1, 0.9), Adam([param], 0.1)):
            param.grad = param.data * 2
            optimizer.step()
        return hashlib.sha256(param.data.tobytes()).hexdigest()
    from tests.packed.packed_samples import every_op

    sample = every_op()
    pixels, network = sample.pixels(), sample.network()
    logits = [network.logits(pixels, backend=backend) for backend in ("auto", "numba", "reference")]
    return hashlib.sha256(b"".join(array.tobytes() for array in logits)).hexdigest()


class Start:
    """A process that waits for `go` and then computes."""

    def __init__(self, folder: Path, work: str) -> None:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-W", "error", "-m", "tests.soak_startup", "--child", work]
        self.process = subprocess.Popen(
            command, stdin=-1, stdout=-1, stderr=-1, text=True, env=environment, cwd=REPOSITORY
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        """What it computed; AssertionError if anything else happened."""
        out, err = self.process.communicate()
        assert self.process.returncode == 0 and not err, f"exit code {self.process.returncode}: {err}"
        return out.strip()


def alone(folder: Path, work: str) -> str:
    """What one process computes."""
    start = Start(folder, work)
    start.go()
    return start.answer()


def race(folder: Path, work: str, processes: int, expected: str) -> None:
    """One round; AssertionError if a process fails or computes anything but `expected`."""
    starts = [Start(folder, work) for _ in range(processes)]
    for start in starts:
        start.go()
    answers = [start.answer() for start in starts]
    assert answers == [expected] * processes, answers
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.kernel")}
    assert kept
    assert alone(folder, work) == expected
    assert kept == {path: path.stat().st_mtime_ns for path in folder.rglob("*.kernel")}, "compiled again"


def race_with_kills(folder: Path, work: str, processes: int, expected: str, delays: random.Random) -> None:
    """All but one process are killed within four seconds; AssertionError as in `race`."""
    starts = [Start(folder, work) for _ in range(processes)]
    for start in starts:
        start.go()
    begin = time.monotonic()
    for start, moment in zip(starts[1:], sorted(delays.uniform(0, 4) for _ in starts[1:])):
        time.sleep(max(0.0, begin + moment - time.monotonic()))
        start.process.kill()
        start.process.communicate()
    assert starts[0].answer() == expected
    assert alone(folder, work) == expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--work", choices=("optimiser", "network"), default="network")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print("ready", flush=True)
        sys.stdin.readline()
        print(compute(options.child))
        return
    with tempfile.TemporaryDirectory() as first:
        expected = alone(Path(first), options.work)
    for number in range(1, options.rounds + 1):
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            race(Path(folder), options.work, options.processes, expected)
        with tempfile.TemporaryDirectory() as folder:
            race_with_kills(Path(folder), options.work, 3, expected, random.Random(number))
        print(f"round {number}: {options.processes} processes agree, {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
