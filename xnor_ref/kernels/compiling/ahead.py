"""Compiling kernels in a second process before they are needed.

Numba compiles one kernel at a time, at any number of threads, so `start` lets another process compile. That process
goes through the list from its end, while this process needs kernels from the beginning. `cache.KernelFile.reserved`
keeps the two from compiling the same kernel. Where they meet, everything is compiled.
"""

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from xnor_ref.kernels.basics.numba_private import MISSING
from xnor_ref.kernels.basics.threads import get_threads
from xnor_ref.kernels.compiling.cache import KernelFile
from xnor_ref.kernels.compiling.jit import Kernel

WORTH = 3  # least number of missing kernels


def start(names: Sequence[str], later: Sequence[str] = ()) -> bool:
    """Start another process that compiles kernels, "module:name", last one first. Return whether it was started.

    Then it compiles the kernels of `later`, in their order. Nothing is started on a single processor, if most of
    `names` are cached, if the compiler is disabled, or if the cache cannot be written.
    """
    if MISSING or not sys.executable or get_threads() < 2 or sum(not _is_kept(name) for name in names) < WORTH:
        return False
    try:
        process = subprocess.Popen(
            interpreter(f"from {__name__} import prepare; prepare()", *reversed(names), *later),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:  # no process available: this one compiles
        return False
    with suppress(RuntimeError):  # no thread available: the child is reaped when this process ends
        threading.Thread(target=process.wait, name="xnor_ref-ahead", daemon=True).start()
    return True


def interpreter(code: str, *arguments: str) -> list[str]:
    """Return the command of another Python that runs `code` with this process's import paths.

    Nothing is imported from the current folder, which may hold untrusted files. `python -c` alone would look there
    first.
    """
    root = str(Path(__file__).resolve().parents[3])
    paths = [path or root for path in sys.path]
    return [sys.executable, "-P", "-c", f"import sys; sys.path[:] = {paths!r}\n{code}", *arguments]


def prepare() -> None:
    """Load or compile the kernels on the command line, as long as the parent process exists."""
    asked = os.getppid()
    for name in sys.argv[1:]:
        if os.getppid() != asked:
            return
        _kernel(name).prepare()


def _kernel(name: str):
    module, _, kernel = name.partition(":")
    return getattr(importlib.import_module(module), kernel)


def _is_kept(name: str) -> bool:
    kernel = _kernel(name)
    return not isinstance(kernel, Kernel) or KernelFile(kernel).is_kept()
