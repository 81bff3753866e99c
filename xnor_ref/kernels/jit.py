"""How kernels are compiled, and where Numba keeps them. Every module of kernels starts from here.

Numba keeps compiled code beside the source file, or else in the user's cache folder. Where neither can be written (a
read-only installation without a home), it would refuse to compile at all; kernels then go to a folder in the system's
temporary one that belongs to this user alone, since whoever can write there can make us run their code.
"""

import os
import stat
import tempfile
from collections.abc import Callable
from typing import Any

from numba import config, njit, types


def compiled(signature: Any, **options: Any) -> Callable:
    """Decorator: compile for one explicit signature at import, without the GIL while it runs, and cache the code."""
    return njit(signature, nogil=True, cache=True, **options)


def readonly(dtype: Any, ndim: int) -> types.Array:
    """Type of a C-contiguous array that a kernel only reads; writable arrays fit as well."""
    return types.Array(dtype, ndim, "C", readonly=True)


def writable(dtype: Any, ndim: int) -> types.Array:
    """Type of a C-contiguous array that a kernel writes."""
    return types.Array(dtype, ndim, "C")


def _cache_is_possible() -> bool:
    try:
        njit(cache=True)(_cache_is_possible)  # looks for a place, compiles nothing
    except RuntimeError:
        return False
    return True


def _private_folder() -> str:
    """A folder for this user's kernels under the system's temporary one, the same every time if it can be trusted."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    path = os.path.join(tempfile.gettempdir(), f"xnor_ref-kernels-{user}")
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o077:
            return tempfile.mkdtemp(prefix="xnor_ref-kernels-")
    return path


if not config.DISABLE_JIT and not _cache_is_possible():  # type: ignore[attr-defined]
    config.CACHE_DIR = _private_folder()  # type: ignore[attr-defined]
