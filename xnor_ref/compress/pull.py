"""The gradient that pulls the filters of a layer together, in a readable and a compiled version with the same bits.

Each filter o of latent weights W (O, n) is pulled towards some filters j in N(o). These are other filters of the same
layer (its neighbours in a tree), or a filter outside it (a centre V). The penalty of a layer is

    P = sum over o, j in N(o), p of max(0, -s_jp W_op),    s_jp = sign(W_jp) or sign(V_jp), held constant

This is the distance that weights of the wrong sign must move until filter o agrees with filter j. Its gradient is -s_jp
where the signs differ, and 0 where they agree: a weight is pulled until it agrees, and no further. (The
straight-through gradient of the Hamming distance would push weights that agree further and further from 0.
docs/compression.md compares both.)
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numba import float32, int32, intp, void
from numpy.typing import NDArray

from xnor_ref.kernels.basics.rungs import jit_disabled
from xnor_ref.kernels.basics.threads import parallel_chunks
from xnor_ref.kernels.compiling.jit import compiled, readonly, writable

_WORK = 1 << 18  # least weights per chunk

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


class Neighbours(NamedTuple):
    """N(o): the rows other[first[o] : first[o + 1]]."""

    first: I32  # (O + 1,)
    other: I32


def neighbours(parent: I32) -> Neighbours:
    """Return the neighbours in a tree or part of one: each filter's parent (-1: none), then its children in order."""
    channels = np.arange(len(parent), dtype=np.int32)
    has = parent >= 0
    owner = np.concatenate([channels[has], parent[has]])
    other = np.concatenate([parent[has], channels[has]])
    first = np.searchsorted(np.sort(owner), np.arange(len(parent) + 1)).astype(np.int32)
    return Neighbours(first, other[np.argsort(owner, kind="stable")].astype(np.int32))


def add_pull(
    weight: F32, toward: F32, near: Neighbours, strength: float, grad: F32, threads: int | None = None
) -> None:
    """Add `strength` times the gradient of P to `grad`, in place. Unchecked.

    Parameters
    ----------
    weight, grad : float32 (O, n), C-contiguous
    toward : float32 (T, n), C-contiguous
        The rows to which the neighbours refer; only signs count. It is the weight itself for filters of the same layer.
    """
    if jit_disabled():
        add_pull_reference(weight, toward, near, np.float32(strength), grad)
        return

    def one_chunk(start: int, stop: int) -> None:
        add_rows(weight, toward, near.first, near.other, np.float32(strength), grad, start, stop)

    parallel_chunks(one_chunk, len(weight), max(1, _WORK // weight.shape[1]), threads)


def add_pull_reference(weight: F32, toward: F32, near: Neighbours, strength: np.float32, grad: F32) -> None:
    """`add_pull` in NumPy."""
    positive, wanted = weight >= 0, toward >= 0
    for o, (start, stop) in enumerate(pairwise(near.first)):
        for j in near.other[start:stop]:
            step = np.where(wanted[j], -strength, strength)
            np.add(grad[o], step, out=grad[o], where=positive[o] != wanted[j])


def penalty(weight: F32, toward: F32, near: Neighbours) -> float:
    """Return P of a layer."""
    owner = np.repeat(np.arange(len(weight)), np.diff(near.first))
    differ = (weight >= 0)[owner] != (toward >= 0)[near.other]
    return float(np.abs(weight[owner]).sum(where=differ, dtype=np.float64))


_in = readonly(float32, 2)
_list = readonly(int32, 1)


@compiled(void(_in, _in, _list, _list, float32, writable(float32, 2), intp, intp))
def add_rows(weight, toward, first, other, strength, grad, start, stop):
    """`add_pull_reference` for filters start..stop."""
    for o in range(start, stop):
        own, out = weight[o], grad[o]
        for place in range(first[o], first[o + 1]):
            near = toward[other[place]]
            for p in range(own.size):
                wanted = near[p] >= 0
                step = -strength if wanted else strength
                if (own[p] >= 0) != wanted:
                    out[p] += step


def known_answers():
    """Return cases: both signs, both zeros, a filter without neighbours, more weights than a vector holds."""
    weight = np.array([[1, -1, 0.0, -0.0] * 5, [-2, -3, -1, 4] * 5, [1, 1, -1, -1] * 5], np.float32)

    def pulled(*first):
        grad = np.ones((3, 20), np.float32)
        other = np.array([1, 0, 1], np.int32)
        add_rows(weight, weight, np.array(first, np.int32), other, np.float32(0.5), grad, 0, 3)
        return grad

    return (
        (add_rows, lambda: pulled(0, 1, 1, 2), [[1.5, 1, 1.5, 1] * 5, [1] * 20, [1, 1.5, 0.5, 0.5] * 5]),
        (add_rows, lambda: pulled(0, 1, 1, 3), [[1.5, 1, 1.5, 1] * 5, [1] * 20, [1.5, 2, 0.5, 0] * 5]),
    )
