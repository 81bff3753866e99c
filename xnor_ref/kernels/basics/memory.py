"""Arrays aligned to cache lines, and checks of memory."""

import math
import os
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError

LINE = 64  # bytes of a cache line, and of the longest vector


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray:
    """Return an uninitialised array that begins at a cache line. No aligned vector in it then crosses two lines."""
    kind = np.dtype(dtype)
    memory = np.empty(math.prod(shape) * kind.itemsize + LINE, np.uint8)
    skip = -memory.ctypes.data % LINE
    return memory[skip : skip + memory.size - LINE].view(kind).reshape(shape)


def zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray:
    """Return an array of zeros that begins at a cache line."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def check_memory(caller: str, n_bytes: int, what: str) -> None:
    """Raise InputError if this many bytes cannot fit into the machine's memory."""
    have = physical_memory()
    if n_bytes > have:
        raise InputError(
            f"{caller}: this would take {n_bytes / 2**30:.1f} GiB of memory, but the machine has {have / 2**30:.1f} "
            "GiB "
            f"{what}"
        )


@cache
def physical_memory() -> int:
    """Return the bytes of main memory, or the address space if the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 2**48
