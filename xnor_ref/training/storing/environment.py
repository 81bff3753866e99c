"""The environment of a run: versions, processor, BLAS, threads."""

import json
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.basics.threads import available_threads, get_threads

PACKAGES = ("numpy", "numba", "safetensors", "pillow", "click", "hypothesis", "threadpoolctl")


def describe(binary_gradients: str | None = None) -> dict[str, Any]:
    """Return versions and hardware as JSON values. Nothing in them names the machine or its user.

    "vectors" are the vectors that the kernels use. "binary_gradients", if given, is the arithmetic of the gradients of
    binary convolutions.
    """
    import numpy  # noqa: F401 - so that its BLAS is loaded when the libraries are listed

    import xnor_ref
    from xnor_ref.kernels.basics.target import target

    vectors = target() if has_vectors() else None
    blas = [
        f"{library.get('internal_api')} {library.get('version')} ({library.get('architecture', 'unknown')})"
        for library in threadpool_info()
        if library.get("user_api") == "blas"
    ]
    return {
        "xnor_ref": xnor_ref.__version__,
        "python": platform.python_version(),
        **{name: version_of(name) for name in PACKAGES},
        "blas": ", ".join(sorted(set(blas))) or "unknown",
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "processors": available_threads(),
        "threads": get_threads(),
        "vectors": vectors.name if vectors else "none",
        "jit": os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0"),
        **({} if binary_gradients is None else {"binary_gradients": binary_gradients}),
    }


def changes(path: Path, here: dict[str, Any]) -> str:
    """Return the values of `here` that differ from the JSON file `path` and can change rounding."""
    try:
        before = json.loads(path.read_bytes())
        return ", ".join(
            f"{key} {before[key]}, now {here[key]}"
            for key in ("xnor_ref", "numpy", "numba", "blas", "cpu", "vectors", "binary_gradients", "jit")
            if key in before and before[key] != here[key]  # older descriptions have fewer keys
        )
    except (OSError, ValueError, TypeError, RecursionError):
        return ""  # no description to compare with


@cache  # importlib.metadata keeps something of each call for good
def version_of(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """Return the processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"
