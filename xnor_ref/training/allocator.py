"""Keep freed memory for the next step instead of handing it back to the operating system.

A training step allocates and frees the same large arrays every time. By default the C library maps each one afresh, and
the first touch of every page faults: a sixth of the whole time, measured. Two settings of glibc avoid it; elsewhere
nothing is done.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds for this process; whether that worked."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
