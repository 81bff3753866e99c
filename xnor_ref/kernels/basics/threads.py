"""Threads: one pool of Python threads, which run kernels that release the GIL.

Numba kernels are compiled with `nogil=True`, and BLAS releases the GIL by itself, so a plain thread pool serves both.
Numba's threading layers are not used. Work is cut into chunks whose bounds depend only on the problem, not on the
number of threads, so every result has the same bits at any number of threads.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import Context, copy_context
from functools import partial
from queue import Empty, SimpleQueue

from threadpoolctl import LibController, OpenBLASController, ThreadpoolController

from xnor_ref.errors import check_integer
from xnor_ref.steady import settle

_lock = threading.Lock()
_inside = threading.local()
_threads: int | None = None
_tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()  # tasks for the threads of the pool
_pool_size = 0
_blas_users = 0
_blas_before: list[int] = []
_libraries: tuple[list[LibController], list[LibController]] | None = None


def available_threads() -> int:
    """Return the number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not available on this operating system
        return os.cpu_count() or 1


def check_threads(threads: int | None, caller: str = "threads") -> int:
    """Return a checked number of threads. None means the process-wide number. Raises InputError."""
    if threads is None:
        return _threads or available_threads()
    return check_integer(f"{caller}: threads", threads, 1, 1024)


def set_threads(threads: int | None) -> None:
    """Set the process-wide number of threads. None resets it to all available processors. Raises InputError."""
    global _threads
    _threads = None if threads is None else check_threads(threads, "set_threads")


def get_threads() -> int:
    """Return the process-wide number of threads."""
    return _threads or available_threads()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Context manager: limit BLAS to one thread. The old setting returns when the last user leaves.

    Our own threads already split the work, so BLAS must not split it again. A single-threaded GEMM of a given shape
    also gives the same bits at any number of our threads.
    """
    global _blas_users, _blas_before
    with _lock:
        for_process, for_thread = _blas_libraries()
        if _blas_users == 0:
            _blas_before = _exchange(for_process, [1] * len(for_process))
        _blas_users += 1
    before = _exchange(for_thread, [1] * len(for_thread))
    try:
        yield
    finally:
        _exchange(for_thread, before)
        with _lock:
            _blas_users -= 1
            if _blas_users == 0:
                _exchange(for_process, _blas_before)


def _blas_libraries() -> tuple[list[LibController], list[LibController]]:
    """Return the BLAS libraries with a process-wide number of threads, and those with one per thread."""
    global _libraries
    if _libraries is None:
        found = [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]
        with_openmp = [getattr(library, "threading_layer", "") == "openmp" for library in found]
        _libraries = (
            [library for library, openmp in zip(found, with_openmp, strict=True) if not openmp],
            [library for library, openmp in zip(found, with_openmp, strict=True) if openmp],
        )
    return _libraries


def _exchange(libraries: list[LibController], numbers: list[int]) -> list[int]:
    """Set each library's number of threads, and return the old numbers."""
    before = [library.get_num_threads() for library in libraries]
    for library, number in zip(libraries, numbers, strict=True):
        _disown(force=True)  # since threadpoolctl 3.8 one thread owns OpenBLAS's setting, and other threads are ignored
        library.set_num_threads(number)
        _disown(force=True)
    return before


_disown = getattr(OpenBLASController, "clear_controlling_thread", lambda force: None)


def parallel_chunks(
    function: Callable[[int, int], object],
    n_items: int,
    chunk: int = 1,
    threads: int | None = None,
    *,
    blas: bool = False,
) -> None:
    """Call `function(start, stop)` for consecutive chunks of `range(n_items)`, on up to `threads` threads.

    `function` writes its results to arrays that the caller allocated. Chunks must not write to the same elements. A
    call from inside a chunk runs serially, so nesting is safe. After an exception in a chunk, or an interrupt, no
    further chunk begins; the exception is raised once the running chunks have ended. `blas` says that `function` calls
    BLAS, which is then limited to one thread.
    """
    workers = min(check_threads(threads, "parallel_chunks"), -(-n_items // chunk))
    starts = iter(range(0, n_items, chunk))  # shared by all threads; `next` is atomic
    errors: list[BaseException] = []

    def work() -> None:
        for start in starts:
            if errors:
                return
            function(start, min(start + chunk, n_items))

    def guarded() -> None:
        with single_threaded_blas() if blas else nullcontext():
            work()

    if workers <= 1 or getattr(_inside, "chunk", False):
        guarded()
    else:
        _share(guarded, workers - 1, errors)


def _share(work: Callable[[], None], helpers: int, errors: list[BaseException]) -> None:
    """Run `work` here and on up to `helpers` threads of the pool. Workers stop when `errors` is not empty.

    Only helpers that have begun are waited for; a later one finds nothing left to do. No lock is held that an interrupt
    could leave locked.
    """
    began: list[None] = []
    ended: list[None] = []
    wake: SimpleQueue[None] = SimpleQueue()

    def help_out(context: Context) -> None:
        began.append(None)
        try:
            context.run(_inside_chunk, work)  # a copy of the caller's context, so that its np.errstate applies
        except BaseException as error:
            errors.append(error)
        finally:
            ended.append(None)
            wake.put(None)

    try:
        for _ in range(_grow_pool(helpers)):
            _tasks.put(partial(help_out, copy_context()))
        _inside_chunk(work)
    except BaseException as error:
        errors.append(error)
    while len(ended) < len(began):
        try:
            wake.get(timeout=0.05)
        except Empty:
            pass
        except BaseException as error:  # on an interrupt, wait while other threads still write
            errors.append(error)
    if errors:
        raise errors[0]


def _inside_chunk(work: Callable[[], None]) -> None:
    _inside.chunk = True
    try:
        work()
    finally:
        _inside.chunk = False


def _grow_pool(size: int) -> int:
    """Grow the pool to at least `size` threads, if the system allows. Return how many threads it has.

    The threads wait for tasks and end with the process.
    """
    global _pool_size
    with suppress(RuntimeError):
        while _pool_size < size:
            threading.Thread(target=_serve, args=(_tasks,), name="xnor_ref", daemon=True).start()
            _pool_size += 1
    return min(size, _pool_size)


def _serve(tasks: SimpleQueue[Callable[[], None]]) -> None:
    settle()  # a thread inherits the floating-point mode of the thread that starts it
    while True:
        tasks.get()()


def _forget() -> None:
    """Reset the pool in a forked child, which has no threads of its parent and must not wait for their locks."""
    global _lock, _tasks, _pool_size, _blas_users
    _lock, _tasks, _pool_size, _blas_users = threading.Lock(), SimpleQueue(), 0, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
