"""Memory over long use: `python -m tests.harness.memory`.

A run of 50 epochs, 100,000 predictions one by one, and 10,000 loads of a model file. After a tenth of each, the memory
of the process may not grow by more than `ALLOWED`; nor may its threads or its open files.
"""

import argparse
import ctypes
import gc
import io
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path

import numpy as np

from tests.packed.packed_samples import every_op
from xnor_ref import fit, nn
from xnor_ref.packed import load_packed

ALLOWED = 4 * 2**20  # bytes: what the allocator may keep
COUNTS = {"epochs": 50, "predictions": 100_000, "loads": 10_000}


def held() -> tuple[int, int, int]:
    """(bytes that are the process's own, its threads, its open files), with what is free given back first."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        pages = file.read().split()
    own = (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGESIZE")
    return own, threading.active_count(), len(os.listdir("/proc/self/fd"))


def growth(count: int, once: Callable[[], object]) -> tuple[int, int, int]:
    """How much more is held at the end than after a tenth."""
    for _ in range(count // 10):
        once()
    before = held()
    for _ in range(count - count // 10):
        once()
    return tuple(after - then for after, then in zip(held(), before, strict=True))  # type: ignore[return-value]


def _epochs(folder: Path) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (64, 16, 16, 3), np.uint8), rng.integers(0, 4, 64)
    network = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1, rng=rng), nn.BatchNorm2d(32)),
        *(nn.BinaryConv2d(32, 32, 3, padding=1, rng=rng), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.GlobalAvgPool2d(), nn.Linear(32, 4, rng=rng)),
    )
    number = iter(range(1, 10**6))

    def once() -> None:  # a run that goes on by one epoch each time
        fit(network, (images, labels), epochs=1, batch_size=16, out=folder / str(next(number)))

    return once


def _predictions(_: Path) -> Callable[[], object]:
    sample = every_op()
    network, pixels = sample.network(), sample.pixels(1)
    return lambda: network.logits(pixels)


def _loads(folder: Path) -> Callable[[], object]:
    every_op().network().save(folder / "model.safetensors")
    return lambda: load_packed(folder / "model.safetensors")


def run(counts: dict[str, int]) -> int:
    """Use each for long; print what was found, and return the number of faults."""
    faults = 0
    for name, make in (("epochs", _epochs), ("predictions", _predictions), ("loads", _loads)):
        with tempfile.TemporaryDirectory(prefix="xnor_ref-memory-") as place, redirect_stdout(io.StringIO()):
            more, threads, files = growth(counts[name], make(Path(place)))
        fault = more > ALLOWED or threads > 0 or files > 0
        faults += fault
        told = f"{more / 2**20:+.1f} MB, {threads:+d} threads, {files:+d} open files"
        print(f"{counts[name]:7,d} {name}: {told}{' - too much' if fault else ''}", flush=True)
    return faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    for name, number in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    sys.exit(6 if run(vars(parser.parse_args())) else 0)
