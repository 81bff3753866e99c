"""Compiling on a second processor what will be needed soon.

Numba compiles one kernel at a time, whatever the number of threads, so `start` has another process do it. That one
goes through the list from its end while this process works its way from the beginning, and `cache.KernelFile.reserved`
keeps the two from compiling the same kernel; where they meet, all is done.
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

WORTH = 3  # kernels that are missing


def start(names: Sequence[str], later: Sequence[str] = ()) -> bool:
    """Have another process compile kernels, "module:name", the last one first; whether one was started.

    Then it compiles those that are needed `later`, in their order. Nothing happens on a single processor, or where most
    of `names` are in the cache, nothing is compiled, or nothing can be kept.
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
    except OSError:  # no room for another process: then this one compiles
        return False
    with suppress(RuntimeError):  # no more threads: then it is reaped when this process ends
        threading.Thread(target=process.wait, name="xnor_ref-ahead", daemon=True).start()
    return True


def interpreter(code: str, *arguments: str) -> list[str]:
    """The command of another Python that runs `code`, and imports from where this one does.

    Nothing comes from the current folder, which anyone's files may lie in: `python -c` alone would look there first.
    """
    root = str(Path(__file__).resolve().parents[3])
    paths = [path or root for path in sys.path]
    return [sys.executable, "-P", "-c", f"import sys; sys.path[:] = {paths!r}\n{code}", *arguments]


def prepare() -> None:
    """Load or compile the kernels that the command line names, while the process that asked for them is there."""
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
