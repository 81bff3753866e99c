"""Trees over the output channels of a binary layer: distances, minimum spanning trees of small depth, baselines.

Filters are rows of packed signs, uint64 (O, n_words(n_bits)), see `kernels.basics.layout`. `filter_rows` makes them
from latent weights.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xnor_ref.compress import prim
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.layout import mask_tail, pack_mask
from xnor_ref.kernels.basics.rungs import jit_disabled
from xnor_ref.kernels.basics.threads import parallel_chunks
from xnor_ref.kernels.ops import binary_ops

KINDS = ("mst", "star", "direct")
_START_WORK = 1 << 30  # most distances read by all runs of Prim's algorithm together


@dataclass(frozen=True)
class Tree:
    """A tree over output channels: from which channel each is computed.

    Arrays have one element per channel. A channel without a parent (-1) is a root and is computed on its own. A tree
    has one root. The baseline "direct" has only roots.
    """

    parent: NDArray[np.int32]
    negated: NDArray[np.bool_]  # computed from its parent's negative (the complement trick)
    distance: NDArray[np.int32]  # signs that differ from the parent's, or from their negatives; 0 for a root
    level: NDArray[np.int32]  # edges up to the root
    order: NDArray[np.int32]  # all channels by level, so that parents come before their children
    n_bits: int  # signs of a filter

    @property
    def out_channels(self) -> int:
        """The number of vertices."""
        return len(self.parent)

    @property
    def depth(self) -> int:
        """The number of edges on the longest path from a root."""
        return int(self.level.max())

    @property
    def roots(self) -> int:
        """The number of channels computed on their own."""
        return int((self.parent < 0).sum())

    @property
    def total_distance(self) -> int:
        """E, the sum of all distances."""
        return int(self.distance.sum(dtype=np.int64))

    @property
    def mean_fraction(self) -> float:
        """Mean of d/n over the edges; 1 if there are none."""
        edges = self.out_channels - self.roots
        return self.total_distance / (edges * self.n_bits) if edges else 1.0


def filter_rows(weight: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Pack the signs of latent weights (O, ...), one filter per row: uint64 (O, words). sign(0) = +1."""
    return pack_mask(weight.reshape(len(weight), -1) >= 0, -1)


def distances(rows: NDArray[np.uint64], n_bits: int, threads: int | None = None) -> NDArray[np.int32]:
    """Return the Hamming distances of all filters, int32 (O, O), by one binary matrix product: d = (n - B B')/2."""
    return (n_bits - binary_ops.gemm_bits(rows, rows, n_bits, threads=threads)) // 2


def build(
    rows: NDArray[np.uint64],
    n_bits: int,
    kind: str = "mst",
    complement: bool = False,
    threads: int | None = None,
    starts: int = _START_WORK,
) -> Tree:
    """Build a tree over the filters of a layer.

    Parameters
    ----------
    rows : uint64 (O, n_words(n_bits)); tail bits are ignored
    kind : {"mst", "star", "direct"}; "mst": a minimum spanning tree of small depth, rooted at its centre. "star": every
        channel is computed from the one with the smallest sum of distances. "direct": every channel is a root.
    complement : whether a channel may be computed from another's negative; -B has the negated sums of B. The distance
        is then min(d, n - d), and each edge takes one more bit
    starts : the most channels from which the search for a shallow tree starts, see below

    Returns
    -------
    Tree
        The weight of "mst" is minimal. For its edges its depth is minimal, since the root is the centre. Among trees of
        equal weight, the search for the shallowest is a heuristic. Prim's algorithm runs from one channel after
        another. Among equal distances it takes the parent of smaller depth, then the lower number. The first of the
        shallowest results is kept. With up to 1024 channels all are tried as starts; with more, 2**30/O**2 channels, in
        order of their distance from the centre of the first tree. The result depends only on the filters.

    Raises
    ------
    InputError : fewer than two channels (except for "direct"), or an unknown kind

    Examples
    --------
    >>> rows = np.array([[0b0000], [0b0111], [0b0011], [0b0001]], np.uint64)
    >>> tree = build(rows, 4)
    >>> tree.parent.tolist(), tree.total_distance, tree.depth
    ([3, 2, -1, 2], 3, 2)
    """
    if kind not in KINDS:
        raise InputError(f"build: kind must be one of {', '.join(KINDS)}; got {kind!r}")
    channels = len(rows)
    rows = mask_tail(rows, n_bits)
    if kind == "direct":
        return from_parents(rows, n_bits, np.full(channels, -1, np.int32))
    if channels < 2:
        raise InputError(f"build: a tree needs at least two output channels, got {channels}")
    between = distances(rows, n_bits, threads)
    opposite = complement & (between > n_bits - between)
    between = np.where(opposite, n_bits - between, between)
    if kind == "star":
        parent = np.full(channels, between.sum(axis=1, dtype=np.int64).argmin(), np.int32)
        parent[parent[0]] = -1
    else:
        parent = _shallow_mst(between, starts, threads)
    return from_parents(rows, n_bits, parent, opposite[np.arange(channels), parent] & (parent >= 0))


def from_parents(
    rows: NDArray[np.uint64], n_bits: int, parent: NDArray[np.int32], negated: NDArray[np.bool_] | None = None
) -> Tree:
    """Return the tree given by `parent` and `negated`. Distances are counted from the filters.

    Raises InputError if the numbers do not match the filters, or if there is a cycle.
    """
    channels = len(rows)
    if negated is None:
        negated = np.zeros(channels, np.bool_)
    if parent.shape != (channels,) or negated.shape != (channels,):
        raise InputError(f"tree: {parent.size} parents and {negated.size} signs for {channels} output channels")
    if int(parent.min()) < -1 or int(parent.max()) >= channels:
        worst = int(np.where((parent < -1) | (parent >= channels))[0][0])
        raise InputError(f"tree: channel {worst} has the parent {parent[worst]}, but there are {channels} channels")
    level = levels(parent)
    differ = np.bitwise_count(flips(rows, n_bits, parent, negated)).sum(axis=1, dtype=np.int32)
    distance = np.where(parent < 0, np.int32(0), differ)
    order = np.argsort(level, kind="stable").astype(np.int32)
    return Tree(parent.astype(np.int32), negated & (parent >= 0), distance, level, order, n_bits)


def flips(
    rows: NDArray[np.uint64], n_bits: int, parent: NDArray[np.int32], negated: NDArray[np.bool_]
) -> NDArray[np.uint64]:
    """Return which signs differ from the parent's, or from their negatives: uint64 (O, words).

    A root has its own bits.
    """
    before = np.where((parent < 0)[:, None], np.uint64(0), rows[parent])
    return mask_tail(rows ^ np.where(negated[:, None], ~before, before), n_bits)


def levels(parent: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the edges from every channel to its root, int32 (O,). Raises InputError if there is a cycle."""
    level = (parent >= 0).astype(np.int32)
    above = parent.copy()
    for _ in range(len(parent).bit_length()):  # each round doubles how far up `above` points
        climbing = np.flatnonzero(above >= 0)
        level[climbing] += level[above[climbing]]
        above[climbing] = above[above[climbing]]
    if (above >= 0).any():
        raise InputError(f"tree: the parents of channel {int((above >= 0).argmax())} form a cycle")
    return level


def check_fit(tree: Tree, rows: NDArray[np.uint64], n_bits: int) -> None:
    """Raise InputError unless the tree was built from these filters (or from filters with the same distances)."""
    if tree.out_channels != len(rows) or tree.n_bits != n_bits:
        raise InputError(
            f"the tree has {tree.out_channels} filters of {tree.n_bits} signs, but the layer has {len(rows)} of "
            f"{n_bits}"
        )
    found = from_parents(rows, n_bits, tree.parent, tree.negated).distance
    if not np.array_equal(found, tree.distance):
        o = int((found != tree.distance).argmax())
        raise InputError(
            f"the tree does not match the weights: channel {o} differs from its parent {tree.parent[o]} in {found[o]} "
            f"signs, but the tree says {tree.distance[o]}"
        )


# --- the shallow minimum spanning tree -------------------------------------------------------------------------


def _shallow_mst(distance: NDArray[np.int32], most: int, threads: int | None) -> NDArray[np.int32]:
    """Return the parents of a minimum spanning tree, -1 for its centre. `build` describes the choice."""
    channels = len(distance)
    grow = prim.grow_reference if jit_disabled() else prim.grow
    first = np.empty(channels, np.int32)
    grow(distance, 0, first)
    first = _hung_at_centre(first)
    starts = np.argsort(levels(first), kind="stable")[: max(1, min(most, _START_WORK // channels**2))]
    depth = np.empty(len(starts), np.int64)

    def one_chunk(start: int, stop: int) -> None:
        parent = np.empty(channels, np.int32)
        for index in range(start, stop):
            depth[index] = (
                grow(distance, starts[index], parent) + 1
            ) // 2  # depth when rooted at the centre of the longest path

    parallel_chunks(one_chunk, len(starts), max(1, len(starts) // 64), threads)
    parent = np.empty(channels, np.int32)
    grow(distance, starts[int(depth.argmin())], parent)
    return _hung_at_centre(parent)


def _hung_at_centre(parent: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the same tree, rooted at the middle of its longest path. Of two middles it takes the lower number."""
    a = int(levels(parent).argmax())  # farthest from any vertex, so an end of a longest path
    from_a = _hung_at(parent, a)
    b = int(levels(from_a).argmax())
    path = [b]
    while path[-1] != a:
        path.append(int(from_a[path[-1]]))
    return _hung_at(parent, min(path[(len(path) - 1) // 2], path[len(path) // 2]))


def _hung_at(parent: NDArray[np.int32], root: int) -> NDArray[np.int32]:
    """Return the same tree with another root. Edges on the path between the roots are reversed."""
    parent = parent.copy()
    above, v = -1, root
    while v >= 0:
        parent[v], above, v = above, v, parent[v]
    return parent
