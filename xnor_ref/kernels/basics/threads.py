"""How work is spread over threads: one pool of Python threads over kernels that release the GIL.

Numba kernels here are compiled with `nogil=True` and BLAS releases the GIL by itself, so a plain thread pool
serves both, and no threading layer of Numba's is involved. Work is cut into chunks whose bounds depend on the
problem alone, never on the number of threads; so every result has the same bits at any thread count.
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
_tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()  # what the threads of the pool wait for
_pool_size = 0
_blas_users = 0
_blas_before: list[int] = []
_libraries: tuple[list[LibController], list[LibController]] | None = None


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
    return check_integer(f"{caller}: threads", threads, 1, 1024)


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
    """The BLAS libraries that have one number of threads for the process, and those with one for each thread."""
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
    """Set each library's number of threads and return what it was."""
    before = [library.get_num_threads() for library in libraries]
    for library, number in zip(libraries, numbers, strict=True):
        _disown(force=True)  # since threadpoolctl 3.8 one thread owns OpenBLAS's number, and others are ignored
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

    `function` writes its results to arrays that the caller allocated; chunks must not overlap in what they write.
    Called from inside a chunk it runs serially, so nesting is safe. After an exception of a chunk, or an interrupt, no
    further chunk begins; those under way are waited for, and then it is raised. `blas` says that `function` calls
    BLAS, which is then held to one thread.
    """
    workers = min(check_threads(threads, "parallel_chunks"), -(-n_items // chunk))
    starts = iter(range(0, n_items, chunk))  # shared: taking the next one is atomic
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
    """Run `work` here and on up to `helpers` threads of the pool; they see `errors` fill and stop.

    Only helpers that have begun are waited for: a later one finds nothing left to do. Nothing here holds a lock that
    an interrupt could leave locked.
    """
    began: list[None] = []
    ended: list[None] = []
    wake: SimpleQueue[None] = SimpleQueue()

    def help_out(context: Context) -> None:
        began.append(None)
        try:
            context.run(_inside_chunk, work)  # a copy of the caller's context, so that np.errstate holds here too
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
        except BaseException as error:  # an interrupt must not leave while others still write
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
    """Have at least `size` threads waiting for tasks; they end with the process. Gives how many of these there are.

    The system may allow no more; then those that there are do the work.
    """
    global _pool_size
    with suppress(RuntimeError):
        while _pool_size < size:
            threading.Thread(target=_serve, args=(_tasks,), name="xnor_ref", daemon=True).start()
            _pool_size += 1
    return min(size, _pool_size)


def _serve(tasks: SimpleQueue[Callable[[], None]]) -> None:
    settle()  # a thread begins with the arithmetic of the one that started it
    while True:
        tasks.get()()


def _forget() -> None:
    """A forked child has none of its parent's threads, and must not wait for a lock that one of them held."""
    global _lock, _tasks, _pool_size, _blas_users
    _lock, _tasks, _pool_size, _blas_users = threading.Lock(), SimpleQueue(), 0, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
