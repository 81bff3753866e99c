"""Gradients of all shards, added up; they travel while the backward pass still runs.

As soon as every shard of the process has the gradient of a parameter, it joins a bucket, and a full bucket is sent.
Each rank adds up one piece of the bucket, for all, and gives the others the sum. So a rank sends and receives twice the
bucket, however many there are. The order of the sums is a tree over the shards: 0 + 1, 2 + 3, ..., and so on with what
comes out, the last one alone where their number is odd. A rank adds up what lies in its part of the tree before it
sends anything.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff import Tensor
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.basics.threads import parallel_chunks

F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]

BUCKET = 1 << 18  # numbers of a bucket: 1 MB
BLOCK = 2048  # numbers that share a scale: 64 words of signs
FEW = 2 * BLOCK  # numbers of a parameter that are sent as they are


def pairwise(arrays: Sequence[F32]) -> F32:
    """Their sum by the tree; it may be the first of them."""
    while len(arrays) > 1:
        arrays = [
            arrays[at] if at + 1 == len(arrays) else np.add(arrays[at], arrays[at + 1], out=arrays[at])
            for at in range(0, len(arrays), 2)
        ]
    return arrays[0]


class Sums:
    """The sum of the gradients of all shards, as `grad` of each parameter.

    Parameters
    ----------
    ranks : the processes, see `team.Ranks`
    shards, local : of the batch, and of this process
    """

    def __init__(self, ranks: Any, shards: int, local: int) -> None:
        self._ranks, self._shards, self._local = ranks, shards, local
        self._together = local & -local  # neighbours in the tree: the largest power of two that divides `local`
        self._pending: dict[Tensor, dict[int, F32]] = {}
        self._bucket: list[tuple[Tensor, list[F32]]] = []
        self._waiting: list[Callable[[], None]] = []

    def take(self, own: int, leaf: Tensor, gradient: F32) -> None:
        """The gradient of a parameter for shard number `own` of this process, an array to keep."""
        by_shard = self._pending.setdefault(leaf, {})
        by_shard[own] = gradient
        if len(by_shard) == self._local:
            del self._pending[leaf]
            self._ready(leaf, [by_shard[own] for own in range(self._local)])

    def _ready(self, leaf: Tensor, gradients: list[F32]) -> None:
        step = self._together
        self._add(self._bucket, leaf, [pairwise(gradients[at : at + step]) for at in range(0, len(gradients), step)])

    def _add(self, bucket: list[tuple[Tensor, list[F32]]], leaf: Tensor, parts: list[F32]) -> None:
        bucket.append((leaf, parts))
        if sum(leaf.size for leaf, _ in bucket) >= BUCKET:
            self._send(bucket)

    def _send(self, bucket: list[tuple[Tensor, list[F32]]]) -> None:
        full = bucket.copy()
        bucket.clear()
        if full:
            self._waiting.append(self._ranks.later(lambda: self._travel(full)))

    def _travel(self, bucket: list[tuple[Tensor, list[F32]]]) -> None:
        """Add up a bucket over all ranks."""
        ranks, size = self._ranks.size, sum(leaf.size for leaf, _ in bucket)
        if ranks == 1:
            for leaf, parts in bucket:
                leaf.grad = pairwise(parts)
            return
        piece = -(-size // ranks)
        own = np.zeros((len(bucket[0][1]), ranks * piece), np.float32)
        for row, *gradients in zip(own, *(parts for _, parts in bucket), strict=True):
            np.concatenate([gradient.reshape(-1) for gradient in gradients], out=row[:size])
        pieces = np.ascontiguousarray(own.reshape(len(own), ranks, piece).swapaxes(0, 1))
        total = pairwise(list(self._ranks.pieces(pieces).reshape(-1, piece)))
        _put(bucket, self._ranks.whole(total).reshape(-1))

    def finish(self) -> None:
        """Wait until all parameters have their sums. Raises what went wrong on the way."""
        if self._pending:
            self.forget()
            raise InputError("some shards of a batch have a gradient of a parameter, and others none")
        self._send(self._bucket)
        waiting, self._waiting = self._waiting, []
        for wait in waiting:
            wait()

    def forget(self) -> None:
        """Drop the gradients that have come so far: the step is given up."""
        self._pending.clear()
        self._bucket.clear()
        self._waiting.clear()

    def state_dict(self, names: dict[Tensor, str]) -> dict[str, NDArray]:
        """What a resumed run needs; `names` are those of the parameters. All ranks call it together."""
        return {}

    def load_state_dict(self, state: dict[str, NDArray], names: dict[Tensor, str]) -> None:
        """Take over what `state_dict` returned, also from a run with another number of shards."""


def _put(bucket: list[tuple[Tensor, list[F32]]], total: F32) -> None:
    at = 0
    for leaf, _ in bucket:
        leaf.grad = total[at : at + leaf.size].reshape(leaf.shape)
        at += leaf.size


class SignSums(Sums):
    """The same in one bit a number, 1/32 of what is sent otherwise: signs, and the mean of |g| of each `BLOCK`.

    What the signs leave out is kept, and added to the gradient of the next step (Karimireddy et al. 2019, algorithm 2);
    each shard keeps its own. The rank that adds up a piece sends the sum in signs as well, and keeps what these leave
    out (Tang et al. 2021, section 4). Parameters of fewer than `FEW` numbers are sent as they are.
    """

    def __init__(self, ranks: Any, shards: int, local: int) -> None:
        super().__init__(ranks, shards, local)
        self._signs: list[tuple[Tensor, list[F32]]] = []
        self._left: dict[Tensor, F32] = {}  # (local, blocks, BLOCK)
        self._left_of_sums: dict[Tensor, F32] = {}  # (blocks, BLOCK); 0 where another rank adds up
        self._loaded: dict[Tensor, F32] = {}  # the latter, before it is known which part is added up here

    def _ready(self, leaf: Tensor, gradients: list[F32]) -> None:
        if leaf.size < FEW:
            super()._ready(leaf, gradients)
        else:
            self._add(self._signs, leaf, gradients)

    def _travel(self, bucket: list[tuple[Tensor, list[F32]]]) -> None:
        if bucket[0][0].size < FEW:
            return super()._travel(bucket)
        ranks = self._ranks.size
        counts = [_blocks(leaf) for leaf, _ in bucket]
        share = -(-sum(counts) // ranks)  # blocks that a rank adds up
        values = np.zeros((self._local, ranks * share, BLOCK), np.float32)
        places = list(zip((leaf for leaf, _ in bucket), np.cumsum([0, *counts]), counts))
        for (leaf, at, count), (_, gradients) in zip(places, bucket, strict=True):
            left = self._left.get(leaf)
            for own, gradient in enumerate(gradients):
                target = values[own, at : at + count]
                target.reshape(-1)[: leaf.size] = gradient.reshape(-1)
                if left is not None:
                    target += left[own]
        words, scales = _compressed(values)
        self._keep(values, words, scales)
        for leaf, at, count in places:
            self._left[leaf] = values[:, at : at + count].copy()
            self._left[leaf].reshape(self._local, -1)[:, leaf.size :] = 0
        theirs = self._ranks.pieces(_joined(words, scales).reshape(self._local, ranks, share, -1).swapaxes(0, 1).copy())
        total = np.zeros((share, BLOCK), np.float32)
        for one in theirs.reshape(self._shards, share, -1):
            _add_signs(*_apart(one), total)
        first = self._ranks.rank * share
        for leaf, at, count in places:
            a, b = max(at, first), min(at + count, first + share)
            if b > a:
                total[a - first : b - first] += self._left_here(leaf, count)[a - at : b - at]
        words, scales = _compressed(total)
        result = np.zeros((ranks * share, BLOCK), np.float32)
        _add_signs(*_apart(self._ranks.whole(_joined(words, scales)).reshape(ranks * share, -1)), result)
        self._keep(total, words, scales)
        for leaf, at, count in places:
            a, b = max(at, first), min(at + count, first + share)
            kept = np.zeros((count, BLOCK), np.float32)
            if b > a:
                kept[a - at : b - at] = total[a - first : b - first]
            kept.reshape(-1)[leaf.size :] = 0
            self._left_of_sums[leaf] = kept
            self._loaded.pop(leaf, None)
            leaf.grad = result[at : at + count].reshape(-1)[: leaf.size].reshape(leaf.shape)

    def _left_here(self, leaf: Tensor, count: int) -> F32:
        for kept in (self._left_of_sums, self._loaded):
            if leaf in kept:
                return kept[leaf]
        return np.zeros((count, BLOCK), np.float32)

    def _keep(self, values: F32, words: U32, scales: F32) -> None:
        """Leave in `values` what their signs leave out."""
        _add_signs(words.reshape(-1, BLOCK // 32), -scales.reshape(-1), values.reshape(-1, BLOCK))

    def finish(self) -> None:
        self._send(self._signs)
        super().finish()

    def forget(self) -> None:
        self._signs.clear()
        super().forget()

    def state_dict(self, names: dict[Tensor, str]) -> dict[str, NDArray]:
        found: dict[str, NDArray] = {}
        for leaf, name in names.items():
            if leaf.size < FEW or not (leaf in self._left or leaf in self._loaded):
                continue
            blocks = np.zeros((_blocks(leaf), BLOCK), np.float32)
            left = self._left.get(leaf, np.zeros((self._local, *blocks.shape), np.float32))
            found[f"{name}.shards"] = self._ranks.gather(left).reshape(self._shards, -1)[:, : leaf.size]
            loaded = self._loaded.get(leaf, blocks) if self._ranks.rank == 0 else blocks
            of_sums = self._left_of_sums.get(leaf, loaded)
            found[f"{name}.sums"] = self._ranks.gather(of_sums).sum(axis=0).reshape(-1)[: leaf.size]
        return {key: np.ascontiguousarray(array) for key, array in found.items()}

    def load_state_dict(self, state: dict[str, NDArray], names: dict[Tensor, str]) -> None:
        self._left.clear()
        self._left_of_sums.clear()
        self._loaded.clear()
        for leaf, name in names.items():
            if f"{name}.sums" not in state:
                continue
            shards, of_sums = state[f"{name}.shards"], state[f"{name}.sums"]
            if shards.shape[1:] != (leaf.size,) or of_sums.shape != (leaf.size,):
                raise InputError(f"what the signs of {name} left out has another shape than the parameter")
            if len(shards) != self._shards:  # as much in all
                shards = np.tile(shards.sum(axis=0) / np.float32(self._shards), (self._shards, 1))
            first = self._ranks.rank * self._local
            self._left[leaf] = np.stack([_padded(row) for row in shards[first : first + self._local]])
            self._loaded[leaf] = _padded(of_sums)


def _blocks(leaf: Tensor) -> int:
    return -(-leaf.size // BLOCK)


def _padded(row: F32) -> F32:
    """Numbers as whole blocks."""
    blocks = np.zeros((-(-row.size // BLOCK), BLOCK), np.float32)
    blocks.reshape(-1)[: row.size] = row
    return blocks


def _compressed(values: F32) -> tuple[U32, F32]:
    """Signs (..., BLOCK / 32) and the mean of |g| (...) of blocks (..., BLOCK)."""
    rows = np.ascontiguousarray(values.reshape(-1, BLOCK, 1))
    words, scales = np.empty((len(rows), 1, BLOCK // 32), np.uint32), np.empty(len(rows), np.float32)
    if has_vectors():
        from xnor_ref.kernels.training.gradient_layout import pack_filters

        parallel_chunks(lambda a, b: pack_filters(a, b, rows, words, scales), len(rows), 64)
    else:
        words[:, 0] = np.packbits(rows[:, :, 0] >= 0, axis=1, bitorder="little").view(np.uint32)
        scales[:] = np.abs(rows[:, :, 0], dtype=np.float64).mean(axis=1)
    return words.reshape(*values.shape[:-1], -1), scales.reshape(values.shape[:-1])


def _add_signs(words: U32, scales: F32, out: F32) -> None:
    """Add signs (B, BLOCK / 32) times scales (B,) to `out` (B, BLOCK)."""
    if has_vectors():
        from xnor_ref.kernels.training.gradient_layout import add_signs

        parallel_chunks(lambda a, b: add_signs(a, b, words, scales, out), len(out), 64)
    else:
        bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
        out += np.where(bits, scales[:, None], -scales[:, None])


def _joined(words: U32, scales: F32) -> U32:
    """Signs and scales of blocks as they travel, (..., BLOCK / 32 + 1)."""
    return np.concatenate([words, scales[..., None].view(np.uint32)], axis=-1)


def _apart(blocks: U32) -> tuple[U32, F32]:
    """Signs and scales (B,) of what has travelled (B, ...)."""
    return np.ascontiguousarray(blocks[:, :-1]), np.ascontiguousarray(blocks[:, -1]).view(np.float32)


COMPRESSIONS: dict[str, type[Sums]] = {"sign": SignSums}
