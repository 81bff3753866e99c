"""Weights tied along a tree: what is tied, and the two passes that keep it so, twice: to read, and compiled.

Filter o of latent weights W (O, n) follows from its parent j in a tree. At the positions where it is tied, W_op and
W_jp are one number. Before an optimiser's step the gradients of all weights that are one are added up (`add_up`), and
after it they all take the value of the one nearest to the root (`copy_down`). What is left to differ bounds the
distance of o from its parent, whatever the task makes of it.

Reference and compiled passes give the same bits: each position is worked on alone, in the order of the tree.
"""

from typing import NamedTuple

import numpy as np
from numba import float32, int32, intp, uint8, void
from numpy.typing import NDArray

from xnor_ref.compress import tree
from xnor_ref.kernels.float_ops import jit_disabled
from xnor_ref.kernels.jit import compiled, readonly, writable
from xnor_ref.kernels.threads import parallel_chunks

_COLUMNS = 256  # positions of a chunk

F32 = NDArray[np.float32]


class Ties(NamedTuple):
    """Which weights are one.

    parent : int32 (O,), -1 for a root
    order : int32 (O,), parents before their children
    tied : uint8 (O, n), 1 where a weight is that of the parent; 0 in the row of a root
    """

    parent: NDArray[np.int32]
    order: NDArray[np.int32]
    tied: NDArray[np.uint8]


def order_of(parent: NDArray[np.int32]) -> NDArray[np.int32] | None:
    """All channels, parents before their children; None if `parent` is no forest."""
    level = np.full(len(parent), -1)
    here = np.flatnonzero(parent < 0)
    depth = 0
    while len(here):
        level[here] = depth
        depth += 1
        here = np.flatnonzero((level < 0) & np.isin(parent, here))
    return None if (level < 0).any() else np.argsort(level, kind="stable").astype(np.int32)


def tie(weight: F32, share: float) -> Ties:
    """Tie the `share` of each filter's weights to its parent in the minimum spanning tree, in place.

    weight : float32 (O, n), C-contiguous
        Where too few signs agree, those that cost the least are made to: with the smallest min(|W_op|, |W_jp|). Where
        more agree than needed, those that are the most certain are tied: with the largest. The earlier of equals.
    """
    n_bits = weight.shape[1]
    made = tree.build(tree.filter_rows(weight), n_bits)
    count, tied = round(share * n_bits), np.zeros(weight.shape, np.uint8)
    for o in made.order:
        j = made.parent[o]
        if j >= 0:
            certain = np.minimum(np.abs(weight[o]), np.abs(weight[j]))
            differ = (weight[o] >= 0) != (weight[j] >= 0)
            chosen = np.lexsort((np.where(differ, certain, -certain), differ))[:count]
            tied[o, chosen] = 1
            weight[o, chosen] = weight[j, chosen]
    return Ties(made.parent, made.order, tied)


def add_up(ties: Ties, grad: F32, threads: int | None = None) -> None:
    """Add to the gradient of each weight those of its tied children's; grad float32 (O, n), C-contiguous, in place."""
    _by_columns(_add_columns, add_up_reference, ties, grad, threads)


def copy_down(ties: Ties, weight: F32, threads: int | None = None) -> None:
    """Give each tied weight the value of its parent's; weight float32 (O, n), C-contiguous, in place."""
    _by_columns(_copy_columns, copy_down_reference, ties, weight, threads)


def _by_columns(kernel, reference, ties: Ties, array: F32, threads: int | None) -> None:
    if jit_disabled():
        reference(ties, array)
    else:
        parallel_chunks(lambda start, stop: kernel(*ties, array, start, stop), array.shape[1], _COLUMNS, threads)


def add_up_reference(ties: Ties, grad: F32) -> None:
    """`add_up` in NumPy."""
    for o in ties.order[::-1]:
        if ties.parent[o] >= 0:
            shared = grad[ties.parent[o]]
            np.add(shared, grad[o], out=shared, where=ties.tied[o] != 0)


def copy_down_reference(ties: Ties, weight: F32) -> None:
    """`copy_down` in NumPy."""
    for o in ties.order:
        if ties.parent[o] >= 0:
            np.copyto(weight[o], weight[ties.parent[o]], where=ties.tied[o] != 0)


_list = readonly(int32, 1)
_columns = compiled(void(_list, _list, readonly(uint8, 2), writable(float32, 2), intp, intp))


@_columns
def _add_columns(parent, order, tied, grad, start, stop):
    """`add_up_reference` for positions start..stop."""
    zero = np.float32(0)
    for at in range(len(order) - 1, -1, -1):
        o = order[at]
        if parent[o] >= 0:
            shared, own, one = grad[parent[o]], grad[o], tied[o]
            for p in range(start, stop):
                shared[p] += own[p] if one[p] else zero


@_columns
def _copy_columns(parent, order, tied, weight, start, stop):
    """`copy_down_reference` for positions start..stop."""
    for at in range(len(order)):
        o = order[at]
        if parent[o] >= 0:
            shared, own, one = weight[parent[o]], weight[o], tied[o]
            for p in range(start, stop):
                own[p] = shared[p] if one[p] else own[p]


def known_answers():
    """A chain of three and a filter on its own; more positions than a vector holds."""
    tied = np.array([[0, 0, 0, 0] * 5, [1, 1, 0, 0] * 5, [1, 0, 1, 0] * 5, [0, 0, 0, 0] * 5], np.uint8)
    values = np.array([[1, 2, 3, 4] * 5, [10, 20, 30, 40] * 5, [100, 200, 300, 400] * 5, [5, 6, 7, 8] * 5], np.float32)

    def passed(kernel):
        out = values.copy()
        kernel(np.array([-1, 0, 1, -1], np.int32), np.array([0, 3, 1, 2], np.int32), tied, out, 0, 20)
        return out

    added = [[111, 22, 3, 4] * 5, [110, 20, 330, 40] * 5, [100, 200, 300, 400] * 5, [5, 6, 7, 8] * 5]
    copied = [[1, 2, 3, 4] * 5, [1, 2, 30, 40] * 5, [1, 200, 30, 400] * 5, [5, 6, 7, 8] * 5]
    return (
        (_add_columns, lambda: passed(_add_columns), added),
        (_copy_columns, lambda: passed(_copy_columns), copied),
    )
