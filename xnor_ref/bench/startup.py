"""How long a user waits for a packed network's first answer: with no kernel compiled, and with cached kernels."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from xnor_ref.bench import networks
from xnor_ref.bench.measuring import roof
from xnor_ref.bench.measuring.process import run_python
from xnor_ref.bench.measuring.timing import FULL, Pace
from xnor_ref.storage import PathLike

_IMAGE = "network.logits(numpy.zeros((1, *network.input_shape[1:], network.input_shape[0]), numpy.uint8), threads=1)"
_STEPS = {
    "interpreter": "import sys, time; times = [float(sys.argv[2])]",
    "numpy": "import numpy",
    "numba": "import numba",
    "xnor_ref": "from xnor_ref.packed.runtime import load_packed",
    "load": "network = load_packed(sys.argv[1])",
    "first answer": _IMAGE,
    "second answer": _IMAGE,
}
_CODE = "\ntimes.append(time.time())\n".join(
    [*_STEPS.values(), "print([after - before for before, after in zip(times, times[1:])])"]
)
STAGES = tuple(_STEPS)[:-1]


def measure_startup(model: PathLike | None = None, pace: Pace = FULL) -> dict[str, Any]:
    """Measure new processes from their start to the first logits of one image, on one thread.
    `model` is the path of a packed network; by default a ResNet-18 for 128 pixels with random weights.

    Returns
    -------
    dict of JSON values
        "cold" (an empty NUMBA_CACHE_DIR) and "cached", each with the median seconds of the stages in `STAGES`, of a
        "second answer", and the "total" until the first answer. "own" is "total" without interpreter, numpy and numba.
    """
    roof.require_compiler()
    with tempfile.TemporaryDirectory(prefix="xnor_ref-bench-") as folder:
        path = Path(folder) / "model.safetensors" if model is None else Path(model)
        if model is None:
            networks.random_network("resnet18", 128, 10).save(path)
        colds, cacheds = (1, 2) if pace.quick else (3, 9)
        cold = [_start(path, Path(folder) / f"cold{i}") for i in range(colds)]
        cached = [_start(path, Path(folder) / "cold0") for _ in range(cacheds)]
    return {"model": str(model) if model is not None else None, "cold": _medians(cold), "cached": _medians(cached)}


def _start(path: Path, cache: Path) -> list[float]:
    cache.mkdir(exist_ok=True)
    return run_python(_CODE, str(path), repr(time.time()), environment={"NUMBA_CACHE_DIR": str(cache)})


def _medians(runs: list[list[float]]) -> dict[str, Any]:
    stages = [statistics.median(times) for times in zip(*runs)]
    libraries = sum(stages[: STAGES.index("xnor_ref")])
    total = statistics.median(sum(times[: len(STAGES)]) for times in runs)
    return {"stages": dict(zip(_STEPS, stages)), "total": total, "own": total - libraries, "processes": len(runs)}
