"""Runs that are killed after every step: `python -m tests.harness.resumes`.

Every network with every method, and every optimiser with two of them, trains for 20 steps. It is killed by SIGKILL when
step 1 is saved, resumed, killed at step 2, and so on. It must end with the bytes of a run that was never stopped: both
networks, the best checkpoint and the last one. `--only TEXT` takes the cases whose name contains a text.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.harness.kills import RUN, Notes, never_stopped, start
from tests.training.training_samples import result_bytes
from xnor_ref import models
from xnor_ref.nn.methods import METHODS
from xnor_ref.optim import OPTIMIZERS

STEPS = 20
_COMMON = ("train", "--train-size", "40", "--val-size", "12", "--batch-size", "4", "--epochs", "2", "--lr", "0.01")
_EACH_STEP = ("--checkpoint-every", "0", "--keep", "2", "--threads", "1", "--quiet")
_EXTRAS = {  # parts of training that have a state, or draw numbers, of their own
    "average": ("--average", "0.9"),
    "stochastic": ("--method", "binaryconnect", "--stochastic"),
    "small images": ("--small-images", "32"),
    "mst": ("--mst-lambda", "0.05"),
    "random rounding": ("--grad-bits", "4", "--grad-rounding", "random"),
    "activations": ("--shortcut", "bireal", "--rprelu"),
    "bits": ("--weight-bits", "2", "--input-bits", "2"),
}


def cases() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name, options) of each run."""
    for model in models.names():
        for method in METHODS:
            yield f"{model} {method}", ("--model", model, "--method", method)
    for optimizer in OPTIMIZERS:
        for method in ("xnor", "full"):
            yield f"{optimizer} {method}", ("--optimizer", optimizer, "--method", method)
    yield from _EXTRAS.items()


def fault_of(options: tuple[str, ...], stops: range) -> str:
    """What goes wrong where a run is killed at each of these steps, or ""."""
    told, notes = (*_COMMON, *_EACH_STEP, *options), Notes()
    with tempfile.TemporaryDirectory(prefix="xnor_ref-resumes-") as place:
        wanted, _, _ = never_stopped(Path(place) / "whole", told, notes)
        folder = Path(place) / "killed"
        folder.mkdir()
        for step in (*stops, None):
            _, status = os.waitpid(start(folder, told, notes, fatal_step=step), 0)
            code = os.waitstatus_to_exitcode(status)
            if code != (0 if step is None else -signal.SIGKILL):
                return f"step {step}: exit code {code}: {(folder / 'log.txt').read_text()[-2000:]}"
        found = result_bytes(folder / RUN)
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    return f"other bytes: {', '.join(differing)}" if differing else ""


def run(only: str = "", stops: range = range(1, STEPS)) -> int:
    """Try all cases; print what was found, and return the number of faults."""
    faults = tried = 0
    for name, options in cases():
        if only in name:
            tried += 1
            fault = fault_of(options, stops)
            if fault:
                faults += 1
                print(f"{name}: {fault}", flush=True)
    print(f"{tried} runs, each killed at {len(stops)} steps: {faults} faults")
    return faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", default="", help="a part of the name of a case")
    sys.exit(6 if run(parser.parse_args().only) else 0)
