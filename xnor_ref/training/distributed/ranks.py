"""The processes of a run that MPI started, and what they send each other.

All waiting is done by looking and sleeping, not by a call that blocks: so a process that waits leaves its processor to
others, and notices when the job has failed. Three threads may talk to MPI, one at a time: the one that trains, the one
that sends gradients beside it, and `Watch`. Each has a communicator of its own.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError, RankError
from xnor_ref.kernels.basics.threads import available_threads, set_threads
from xnor_ref.training.distributed.watch import Watch

NAP, GRACE = 1e-4, 2.0  # seconds between two looks, and for others to fail in the same way
_COUNTS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")  # what launchers tell their processes


def started_together() -> int:
    """How many processes an MPI launcher started with this one; 1 where none did."""
    return max([1, *(int(os.environ[name]) for name in _COUNTS if os.environ.get(name, "").isdigit())])


def _mpi() -> Any:
    """mpi4py's MPI, initialised. Raises InputError."""
    try:
        import mpi4py

        mpi4py.rc.thread_level = "serialized"
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # the second where there is no MPI library
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"--distributed needs mpi4py and an MPI library ({first}): pip install 'xnor_ref[mpi]'"
        ) from None
    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise InputError(
            "--distributed needs an MPI library that several threads may call in turns (THREAD_SERIALIZED)"
        )
    return MPI


class MpiRanks:
    """All processes that were started together; see `team.Ranks`.

    Parameters
    ----------
    patience : seconds after which a process that does not answer, or does not finish its part of a step, is given up

    `totals` counts seconds: those that the training thread waited for others (`waiting`) and for gradients
    (`unhidden`), and those in which gradients travelled (`travelling`); the times that it waited for others
    (`meetings`); and the bytes that gradients took (`bytes`).

    Raises
    ------
    InputError : mpi4py is not installed, or there is no MPI library
    """

    def __init__(self, patience: float = 20.0) -> None:
        self._mpi = mpi = _mpi()
        self._world = mpi.COMM_WORLD
        self._lock = threading.Lock()
        self.rank, self.size = self._world.rank, self._world.size
        self._calls, self._gradients, self._ends = (self._world.Dup() for _ in range(3))
        near = self._world.Split_type(mpi.COMM_TYPE_SHARED)
        self.near = near.size
        if available_threads() * self.near > (os.cpu_count() or 1):  # ranks of one machine are not bound to processors
            set_threads(max(1, (os.cpu_count() or 1) // self.near))
        self.totals = dict.fromkeys(("waiting", "unhidden", "travelling", "meetings", "bytes"), 0.0)
        self.host = socket.gethostname()
        self._sender = ThreadPoolExecutor(1, "xnor_ref gradients")
        hosts = self._texts(f"{self.host} (process {os.getpid()})")
        self._watch = Watch(self._world.Dup(), mpi, self._lock, hosts, patience, self.abort)

    def _texts(self, own: str) -> list[str]:
        rows = self._gathered(self._calls, np.frombuffer(own.encode().ljust(256)[:256], np.uint8))
        return [bytes(row).decode(errors="replace").rstrip() for row in rows]

    # --- what the training thread calls

    def gather(self, own: NDArray) -> NDArray:
        """What all have, (ranks, ...)."""
        if self.size == 1:
            return own[None]
        began = time.perf_counter()
        with self._watch.waiting():
            found = self._gathered(self._calls, own)
        self.totals["waiting"] += time.perf_counter() - began
        self.totals["meetings"] += 1
        return found

    def working(self, what: str) -> None:
        """Say what comes next: "step" is to be over soon, anything else may take its time."""
        self._watch.working(what)

    def later(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do work that sends gradients beside other things; the result waits until it is done."""
        done = self._sender.submit(work)

        def wait() -> None:
            began = time.perf_counter()
            with self._watch.waiting():
                done.result()
            self.totals["unhidden"] += time.perf_counter() - began

        return wait

    # --- what the thread that sends gradients calls

    def pieces(self, own: NDArray) -> NDArray:
        """Of (ranks, ...), the part of each that is for this one: (ranks, ...)."""
        if self.size == 1:
            return own
        found = np.empty_like(own)
        self._travel(own.nbytes, lambda: self._gradients.Ialltoall(_bytes(own), _bytes(found)))
        return found

    def whole(self, own: NDArray) -> NDArray:
        """What all have, (ranks, ...)."""
        found = np.empty((self.size, *own.shape), own.dtype)
        self._travel(found.nbytes, lambda: self._gradients.Iallgather(_bytes(own), _bytes(found)))
        return found

    def _travel(self, size: int, start: Callable[[], Any]) -> None:
        began = time.perf_counter()
        self._finish(start)
        self.totals["travelling"] += time.perf_counter() - began
        self.totals["bytes"] += size * (self.size - 1) / self.size

    # --- MPI

    def _gathered(self, communicator: Any, own: NDArray) -> NDArray:
        own = np.ascontiguousarray(own)
        found = np.empty((self.size, *own.shape), own.dtype)
        self._finish(lambda: communicator.Iallgather(_bytes(own), _bytes(found)))
        return found

    def _finish(self, start: Callable[[], Any]) -> None:
        """Begin an exchange, and wait until it is over. Raises RankError."""
        try:
            with self._lock:
                request = start()
            looks = 0
            while not self._look(request):
                looks += 1
                time.sleep(0 if looks < 20 else NAP)
        except self._mpi.Exception as error:
            raise RankError(f"MPI cannot reach another rank: {error}") from None

    def _look(self, request: Any) -> bool:
        with self._lock:
            return bool(request.Test())

    # --- the end

    def abort(self, code: int, text: str) -> None:
        """Say why, and end the whole job with an exit code; does not return."""
        sys.stderr.write(f"rank {self.rank} on {self.host}: {text}\n")
        sys.stderr.flush()
        self._lock.acquire(timeout=1.0)  # a thread that hangs may have it
        threading.Timer(5.0, os._exit, [code]).start()
        self._world.Abort(code)

    def failed(self, code: int, text: str) -> bool:
        """Whether all ranks have failed alike, so that each may end by itself; else the whole job is ended here."""
        if self.size == 1:
            return True
        own = np.frombuffer(f"{code} {text}".encode().ljust(1024)[:1024], np.uint8).copy()
        found = np.empty((self.size, 1024), np.uint8)
        with self._lock:
            request = self._ends.Iallgather(_bytes(own), _bytes(found))
        end = time.monotonic() + GRACE
        while not self._look(request):
            if time.monotonic() > end:
                self.abort(code, text)
            time.sleep(NAP)
        if not (found == own).all():
            self.abort(code, text)
        self._watch.stop()
        return True

    def leave(self) -> None:
        """The work is done: wait until all have come as far."""
        if self.size > 1:
            self.working("end")
            self.gather(np.zeros(1))
        self._watch.stop()
        self._sender.shutdown()


def _bytes(array: NDArray) -> NDArray:
    """An array as MPI takes it; the processes are alike, so bytes will do."""
    return array.reshape(-1).view(np.uint8)
