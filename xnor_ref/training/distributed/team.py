"""Who computes a batch: it is cut into shards, and each process of a run computes a few of them.

What comes out depends on the number of shards alone, to the bit, and not on how many processes share them. The shards
of a process run in turns, each on a thread of its own: one computes until it needs what the others have, such as the
moments of BatchNorm, and waits there until the last has come as far.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import EquivalenceError, InputError
from xnor_ref.nn.shards import WHOLE, Shard, computing
from xnor_ref.training.distributed.gradients import COMPRESSIONS, Sums

T = TypeVar("T")
USUAL = (4, 2)  # shards by default, the first that fit: the same bits on 1, 2 and 4 ranks


class Ranks(Protocol):
    """The processes of a run, which all call these in the same order."""

    rank: int
    size: int

    def gather(self, own: NDArray) -> NDArray:
        """What all have, (ranks, ...)."""

    def pieces(self, own: NDArray) -> NDArray:
        """Of (ranks, ...), the part of each that is for this one: (ranks, ...). For gradients; as the next two."""

    def whole(self, own: NDArray) -> NDArray:
        """As `gather`."""

    def later(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do work that calls the two above, beside other things; the result waits until it is done."""

    def working(self, what: str) -> None:
        """Say what comes next: "step" is to be over soon, anything else may take its time."""


class Alone:
    """One process, which has nobody to wait for."""

    rank, size = 0, 1

    def gather(self, own: NDArray) -> NDArray:
        return own[None]

    def pieces(self, own: NDArray) -> NDArray:
        return own

    whole = gather

    def later(self, work: Callable[[], None]) -> Callable[[], None]:
        work()
        return lambda: None

    def working(self, what: str) -> None:
        pass


class _Abandoned(Exception):
    """Another shard of the process has failed."""


class _Part(Shard):
    """A shard that this process computes, the one with number `own` here."""

    def __init__(self, team: "Team", own: int):
        self._team, self.own = team, own
        self.index, self.count, self.leads = team.ranks.rank * team.local + own, team.shards, own == 0

    def gather(self, own: NDArray) -> list[NDArray]:
        return self._team.meet(self.own, own)

    @property
    def of_norms(self) -> Shard:
        return WHOLE if self._team.apart else self

    def moved(self, norm: Any, mean: NDArray, var: NDArray, count: int) -> None:
        if self._team.apart:
            self._team.moments[self.own].append((norm, mean, var, count))
        else:
            super().moved(norm, mean, var, count)


class Team:
    """The shards of a batch, and the processes that share them.

    Parameters
    ----------
    shards : into how many a batch is cut
    ranks : the processes; each computes as many shards
    apart : whether BatchNorm normalises each shard by its own moments; the running ones move by their mean
    compress : a key of `COMPRESSIONS`, or None for whole gradients

    Raises
    ------
    InputError : the processes cannot share the shards evenly
    """

    def __init__(
        self, shards: int = 1, *, ranks: Ranks | None = None, apart: bool = False, compress: str | None = None
    ) -> None:
        self.shards, self.apart = shards, apart
        self.ranks: Ranks = ranks or Alone()
        if shards % self.ranks.size:
            raise InputError(
                f"shards (={shards}) must be a multiple of the number of ranks, {self.ranks.size}: each takes as many"
            )
        self.local = shards // self.ranks.size
        kind = COMPRESSIONS[compress] if compress else Sums
        self.gradients = kind(self.ranks, shards, self.local)
        self.parts = [_Part(self, own) for own in range(self.local)]
        self.moments: list[list[tuple[Any, NDArray, NDArray, int]]] = [[] for _ in self.parts]
        self._pool = ThreadPoolExecutor(max(1, self.local - 1), "xnor_ref shard")
        self._compressed = compress is not None

    @property
    def whole(self) -> bool:
        """Whether a batch is computed in one piece, and nobody else is there."""
        return self.shards == 1 and not self._compressed

    @property
    def writes(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.ranks.rank == 0

    def check_batch(self, images: int) -> None:
        """Raise InputError unless a batch can be cut evenly."""
        if images % self.shards:
            raise InputError(
                f"a batch of {images} images cannot be cut into {self.shards} shards of one size; "
                f"take a batch_size that is a multiple of {self.shards}"
            )

    def run(self, function: Callable[[Shard], T]) -> list[T]:
        """What `function` makes of each shard of this process, in turns.

        What a shard raises is raised, and the others are given up.
        """
        if self.whole:
            return [function(WHOLE)]
        self._results: list[Any] = [None] * self.local
        self._values: list[Any] = [None] * self.local
        self._turns = [threading.Semaphore(0) for _ in self.parts]
        self._failure: BaseException | None = None
        for moments in self.moments:
            moments.clear()
        self._turns[0].release()
        others = [self._pool.submit(copy_context().run, self._compute, part, function) for part in self.parts[1:]]
        self._compute(self.parts[0], function)
        for other in others:
            other.result()
        if self._failure is not None:
            self.gradients.forget()
            raise self._failure
        self._move_statistics()
        return self._results

    def _compute(self, part: _Part, function: Callable[[Shard], Any]) -> None:
        try:
            self._turns[part.own].acquire()
            if self._failure is None:
                with computing(part):
                    self._results[part.own] = function(part)
        except BaseException as error:
            self._failure = self._failure or error
            for turn in self._turns:
                turn.release()
        finally:
            self._turns[(part.own + 1) % self.local].release()

    def deliver_to(self, shard: Shard) -> Callable[[Any, NDArray], None]:
        """What takes the gradients of a shard of this process, one parameter after the other."""
        return partial(self.gradients.take, shard.index - self.ranks.rank * self.local)

    def meet(self, own: int, value: NDArray) -> list[NDArray]:
        """What all shards of the batch give here, once the last of this process has come."""
        self._values[own] = value
        if own == self.local - 1:
            self._gathered = list(self.gather(np.stack(self._values)))
        if self.local > 1:
            self._turns[(own + 1) % self.local].release()
            self._turns[own].acquire()
            if self._failure is not None:
                raise _Abandoned
        return self._gathered

    def gather(self, own: NDArray) -> NDArray:
        """What all shards have, (shards, ...), from what those of this process have, (local, ...)."""
        return self.ranks.gather(own).reshape(self.shards, *own.shape[1:])

    def _move_statistics(self) -> None:
        """Let running statistics move by the mean of what each shard was normalised by, where that was its own."""
        norms = [(norm, count) for norm, _, _, count in self.moments[0]]
        if not norms:
            return
        own = np.stack([np.concatenate([x for _, mean, var, _ in one for x in (mean, var)]) for one in self.moments])
        at, means = 0, sum(self.gather(own)) / self.shards
        for norm, count in norms:
            norm.move(*means[at : at + 2 * norm.channels].reshape(2, -1), count)
            at += 2 * norm.channels

    # --- between steps

    def share(self, items: int, size: int) -> Iterator[slice]:
        """The pieces of `size` items, of so many, that this process looks at."""
        starts = range(0, items, size)
        return (slice(start, start + size) for start in starts[self.ranks.rank :: self.ranks.size])

    def joined(self, own: list[NDArray], items: int, size: int) -> NDArray:
        """What all processes made of their pieces, (items, ...) float32, from what this one made of each of its own."""
        if self.ranks.size == 1:
            return np.concatenate(own)
        width = int(self.ranks.gather(np.array([own[0].shape[1] if own else 0])).max())  # some may have no piece
        pieces = -(-items // size)
        most = -(-pieces // self.ranks.size)
        padded = np.zeros((most, size, width), np.float32)
        for row, piece in zip(padded, own):
            row[: len(piece)] = piece
        all_of_them = self.ranks.gather(padded).swapaxes(0, 1)
        return np.ascontiguousarray(all_of_them).reshape(-1, width)[:items]

    def texts(self, own: str) -> list[str]:
        """The text of each rank."""
        encoded = np.frombuffer(own.encode(), np.uint8)
        sizes = self.ranks.gather(np.array([len(encoded)]))[:, 0]
        padded = np.zeros(max(1, int(sizes.max())), np.uint8)
        padded[: len(encoded)] = encoded
        return [bytes(row[:size]).decode() for row, size in zip(self.ranks.gather(padded), sizes, strict=True)]

    def require_same(self, own: str, what: str) -> None:
        """Raise EquivalenceError unless all ranks say the same."""
        if self.ranks.size > 1:
            texts = self.texts(own)
            other = [rank for rank, text in enumerate(texts) if text != texts[0]]
            if other:
                raise EquivalenceError(f"{what} of rank {other[0]} and of rank 0 differ: {texts[other[0]]}, {texts[0]}")


def one_first(ranks: Ranks | None, work: Callable[[], T]) -> T:
    """Do what fills a cache: rank 0 alone, then the others."""
    found = work() if ranks is None or ranks.rank == 0 else None
    if ranks is not None:
        ranks.gather(np.zeros(1))  # rank 0 has come here
    return work() if found is None else found


def usual_shards(ranks: int, batch_size: int, compress: str | None) -> int:
    """Shards of a batch, where nothing is said: one of `USUAL`, or one a rank where none fits."""
    fitting = (count for count in USUAL if not compress and count % ranks == batch_size % count == 0)
    return next(fitting, ranks)
