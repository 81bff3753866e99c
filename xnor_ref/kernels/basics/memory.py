"""Memory for arrays that kernels go through from end to end."""

import math
import os
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError

LINE = 64  # bytes that memory and caches exchange, and the longest vector


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray:
    """An array that begins with a line, as `np.empty`'s seldom do, so that no vector lies across two lines for it."""
    kind = np.dtype(dtype)
    memory = np.empty(math.prod(shape) * kind.itemsize + LINE, np.uint8)
    skip = -memory.ctypes.data % LINE
    return memory[skip : skip + memory.size - LINE].view(kind).reshape(shape)


def zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray:
    """The same, filled with zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def check_memory(caller: str, n_bytes: int, what: str) -> None:
    """Refuse what could not fit the machine, before trying."""
    have = physical_memory()
    if n_bytes > have:
        raise InputError(
            f"{caller}: this would take {n_bytes / 2**30:.1f} GiB of memory, the machine has {have / 2**30:.1f} GiB "
            f"{what}"
        )


@cache
def physical_memory() -> int:
    """Bytes of main memory; where the system does not tell, what an address can reach."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 2**48
