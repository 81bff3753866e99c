"""How work is spread over threads: one pool of Python threads over kernels that release the GIL.

Numba kernels here are compiled with `nogil=True` and BLAS releases the GIL by itself, so a plain thread pool
serves both, and no threading layer of Numba's is involved. Work is cut into chunks whose bounds depend on the
problem alone, never on the number of threads; so every result has the same bits at any thread count.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from xnor_ref.errors import InputError, InputTypeError

_lock = threading.Lock()
_inside = threading.local()
_threads: int | None = None
_pool: tuple[int, ThreadPoolExecutor] | None = None  # (workers, pool)
_blas_users = 0
_blas_limit: Any = None
_controller: ThreadpoolController | None = None


def available_threads() -> int:
    """Number of processors that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this operating system
        return os.cpu_count() or 1


def check_threads(threads: int | None, caller: str = "threads") -> int:
    """Validate a thread count; None means the process-wide setting. Raises InputError."""
    if threads is None:
        return _threads or available_threads()
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)):
        raise InputTypeError(f"{caller}: threads must be an int, got {threads!r}")
    if not 1 <= threads <= 1024:
        raise InputError(f"{caller}: threads must be from 1 to 1024, got {threads}")
    return int(threads)


def set_threads(threads: int | None) -> None:
    """Set the process-wide number of threads; None goes back to all available processors."""
    global _threads
    _threads = None if threads is None else check_threads(threads, "set_threads")


def get_threads() -> int:
    """The process-wide number of threads."""
    return _threads or available_threads()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Hold BLAS to one thread while any user is inside; the old setting returns when the last one leaves.

    Our own threads split the work, so BLAS must not split it again; and a single-threaded GEMM of a given shape
    gives the same bits whatever the number of threads.
    """
    global _blas_users, _blas_limit, _controller
    with _lock:
        if _blas_users == 0:
            if _controller is None:
                _controller = ThreadpoolController()
            _blas_limit = _controller.limit(limits=1, user_api="blas")
        _blas_users += 1
    try:
        yield
    finally:
        with _lock:
            _blas_users -= 1
            if _blas_users == 0:
                limit, _blas_limit = _blas_limit, None
                limit.restore_original_limits()


def parallel_chunks(
    function: Callable[[int, int], None],
    n_items: int,
    chunk: int = 1,
    threads: int | None = None,
    *,
    blas: bool = False,
) -> None:
    """Call `function(start, stop)` for consecutive chunks of `range(n_items)`, on up to `threads` threads.

    `function` writes its results to arrays that the caller allocated; chunks must not overlap in what they write.
    Called from inside a chunk it runs serially, so nesting is safe. The first exception of a chunk is raised.
    `blas` says that `function` calls BLAS, which is then held to one thread.
    """
    guard = single_threaded_blas if blas else nullcontext
    workers = min(check_threads(threads, "parallel_chunks"), -(-n_items // chunk))
    starts = range(0, n_items, chunk)
    if workers <= 1 or getattr(_inside, "chunk", False):
        with guard():
            for start in starts:
                function(start, min(start + chunk, n_items))
        return

    pending = iter(starts)
    pending_lock = threading.Lock()

    def work() -> None:
        _inside.chunk = True
        try:
            while True:
                with pending_lock:
                    start = next(pending, None)
                if start is None:
                    return
                function(start, min(start + chunk, n_items))
        finally:
            _inside.chunk = False

    with guard():
        # Each helper works in a copy of the caller's context, so that np.errstate holds there too.
        helpers = [_executor(workers - 1).submit(copy_context().run, work) for _ in range(workers - 1)]
        try:
            work()
        finally:
            errors = [helper.exception() for helper in helpers]  # waits for each
        for error in errors:
            if error is not None:
                raise error


def _executor(workers: int) -> ThreadPoolExecutor:
    """The shared pool with at least `workers` threads."""
    global _pool
    with _lock:
        if _pool is None or _pool[0] < workers:
            _pool = (workers, ThreadPoolExecutor(workers, thread_name_prefix="xnor_ref"))
        return _pool[1]


def _forget() -> None:
    """A forked child has none of its parent's threads, and must not wait for a lock that one of them held."""
    global _lock, _pool, _blas_users
    _lock, _pool, _blas_users = threading.Lock(), None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
