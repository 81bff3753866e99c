"""Ranks that are threads of one process, for tests without MPI."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np


class ThreadRanks:
    """One of `size` ranks; those of a job share `meeting`."""

    def __init__(self, rank, size, meeting):
        self.rank, self.size, self._meeting, self.sent = rank, size, meeting, 0

    def gather(self, own):
        values, barrier = self._meeting
        values[self.rank] = own
        barrier.wait(timeout=60)
        found = np.stack([values[rank] for rank in range(self.size)])
        barrier.wait(timeout=60)
        return found

    def pieces(self, own):
        self.sent += own.nbytes
        return np.ascontiguousarray(self.gather(own)[:, self.rank])

    def whole(self, own):
        self.sent += own.nbytes * self.size
        return self.gather(own)

    def later(self, work):
        work()
        return lambda: None

    def working(self, what):
        pass


def on_ranks(size, function):
    """What `function(ranks)` gives on each rank; what one raises is raised."""
    meeting = {}, threading.Barrier(size)

    def one(rank):
        try:
            return function(ThreadRanks(rank, size, meeting))
        except BaseException:
            meeting[1].abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
    errors = [future.exception() for future in futures]
    for error in sorted(filter(None, errors), key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]
