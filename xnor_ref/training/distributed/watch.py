"""Whether all ranks are alive: each sends a sign of life every second, and one that falls silent ends the job."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from xnor_ref.errors import RankError

EVERY, SLOWEST = 1.0, 5.0  # seconds between signs; times the longest part of a step so far that one may take


class Watch:
    """A thread that looks after the others.

    Every rank sends to the first one, and the first one to all. So the first one notices who falls silent, and the
    others notice if that is the first. A rank that is alive, and whose training thread does not come to its next
    meeting with the others, notices that itself.

    Parameters
    ----------
    communicator, mpi, lock : a communicator of its own, the module MPI, and what holds for all calls of it
    hosts : where each rank runs, for messages
    patience : seconds
    abort : ends the job with an exit code and a message
    """

    def __init__(
        self,
        communicator: Any,
        mpi: Any,
        lock: threading.Lock,
        hosts: list[str],
        patience: float,
        abort: Callable[[int, str], None],
    ) -> None:
        self._communicator, self._mpi, self._lock = communicator, mpi, lock
        self._hosts, self._patience, self._abort = hosts, patience, abort
        self._others = range(1, len(hosts)) if communicator.rank == 0 else range(1)
        self._what, self._since, self._steps, self._longest = "start", time.monotonic(), 0, 0.0
        self._is_waiting, self._stopped = False, threading.Event()
        if len(hosts) > 1:
            self._thread = threading.Thread(target=self._look, name="xnor_ref watch", daemon=True)
            self._thread.start()

    # --- what the training thread says

    def working(self, what: str) -> None:
        """Another kind of work begins."""
        self._steps += what == "step"
        self._what, self._since = what, time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The others are waited for inside."""
        if self._hurries:
            self._longest = max(self._longest, time.monotonic() - self._since)
        self._is_waiting = True
        try:
            yield
        finally:
            self._is_waiting, self._since = False, time.monotonic()

    def stop(self) -> None:
        """Nobody is to be waited for any more."""
        self._stopped.set()
        if len(self._hosts) > 1:
            self._thread.join()

    @property
    def _hurries(self) -> bool:
        """Whether the work is a step, and not the first, which may compile kernels."""
        return self._what == "step" and self._steps > 1

    # --- the thread

    def _look(self) -> None:
        heard = dict.fromkeys(self._others, time.monotonic())
        incoming: dict[int, Any] = {}
        outgoing: list[Any] = []
        last = time.monotonic()
        buffers = {rank: np.zeros(1) for rank in self._others}
        sign = np.zeros(1)
        with self._lock:
            for rank in self._others:
                incoming[rank] = self._communicator.Irecv(buffers[rank], rank)
        while not self._stopped.wait(EVERY):
            now = time.monotonic()
            asleep = now - last > self._patience / 2  # this machine was, or this process; the others get time to speak
            last = now
            with self._lock:
                outgoing = [request for request in outgoing if not request.Test()]
                if len(outgoing) < 100 * len(self._others):
                    outgoing += [self._communicator.Isend(sign, rank) for rank in self._others]
                for rank in self._others:
                    while incoming[rank].Test():
                        heard[rank] = now
                        incoming[rank] = self._communicator.Irecv(buffers[rank], rank)
            if asleep:
                heard = dict.fromkeys(self._others, now)
            for rank, when in heard.items():
                if now - when > self._patience:
                    self._end(f"rank {rank} on {self._hosts[rank]} has been silent for {now - when:.0f} s")
            limit = max(self._patience, SLOWEST * self._longest)
            if self._hurries and not self._is_waiting and now - self._since > limit:
                rank = self._communicator.rank
                self._end(f"rank {rank} on {self._hosts[rank]} hangs: no end of a step for {now - self._since:.0f} s")

    def _end(self, why: str) -> None:
        if not self._stopped.is_set():
            self._abort(
                RankError.exit_code, f"error: {why}; the job ends. --resume auto goes on from the last checkpoint"
            )
