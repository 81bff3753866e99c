"""Memory for arrays that kernels go through from end to end."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
