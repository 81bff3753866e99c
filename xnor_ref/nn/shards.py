"""A batch that is cut into shards: what its images must know of each other while each shard is computed alone.

Most of a layer looks at one image after the other. What looks at all of them asks `current()`: BatchNorm, numbers that
are drawn for each image, and gradients that are rounded in steps of the largest. A batch of one piece is one shard.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


class Shard:
    """Part `index` of the `count` equal parts of a batch; here the whole of it.

    `leads` says whether this is the part of the process that changes what all parts share, such as running statistics.
    """

    index, count, leads = 0, 1, True

    def gather(self, own: NDArray) -> list[NDArray]:
        """The arrays that all parts give here, in the order of the parts."""
        return [own]

    def sums(self, own: F64) -> F64:
        """The sum over all parts, added in their order."""
        total, *others = self.gather(own)
        for other in others:
            total = total + other
        return total

    def largest(self, own: NDArray) -> NDArray:
        """The largest over all parts, number by number; NaN if there is one."""
        return np.maximum.reduce(self.gather(own))

    def normalised(self, norm: Any, mean: F64, var: F64, count: int) -> tuple[F64, F64]:
        """What BatchNorm normalises by, from the moments of this part: those of the batch.

        `norm.move` learns of them; `var` is biased, and of `count` values a channel.
        """
        norms = self.of_norms
        if norms.count > 1:
            means, variances = zip(*norms.gather(np.stack([mean, var])))
            first = means[0]  # where all are equal, so is their mean
            mean = first + sum(other - first for other in means) / norms.count
            var = sum(variances) / norms.count + sum((other - mean) ** 2 for other in means) / norms.count
        self.moved(norm, mean, var, count)
        return mean, var

    def moved(self, norm: Any, mean: F64, var: F64, count: int) -> None:
        """Let the running statistics of `norm` learn what the batch was normalised by, once."""
        if self.leads:
            norm.move(mean, var, count * self.of_norms.count)

    @property
    def of_norms(self) -> "Shard":
        """What shares BatchNorm's sums with this part."""
        return self

    def drawn(self, rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray:
        """Numbers from [0, 1) for the images (N, ...) of this part: those that the whole batch would get."""
        if self.count > 1:
            before = self.index * int(np.prod(shape))
            halves = np.dtype(dtype) == np.float32  # two of them come from 64 bits
            rng.bit_generator.advance(before // 2 if halves else before)  # type: ignore[attr-defined]
            if halves and before % 2:
                rng.random(1, dtype)
        return rng.random(shape, dtype)


WHOLE = Shard()
_now: ContextVar[Shard] = ContextVar("shard", default=WHOLE)


def current() -> Shard:
    """The part of the batch that is computed here."""
    return _now.get()


@contextmanager
def computing(shard: Shard) -> Iterator[None]:
    """Compute this part inside."""
    token = _now.set(shard)
    try:
        yield
    finally:
        _now.reset(token)


def sharing() -> Shard | None:
    """What shares BatchNorm's sums with the images here, or None where they are all."""
    shard = current().of_norms
    return shard if shard.count > 1 else None
