"""Prim's algorithm on a dense matrix of distances, in a readable and a compiled version. Both grow the same tree.

Among edges of equal weight, it takes the one whose inner end has the smaller depth, then the one whose outer vertex has
the lower number. A vertex with several possible parents keeps the first.
"""

import numpy as np
from numba import int32, int64, intp
from numpy.typing import NDArray

from xnor_ref.kernels.compiling.jit import compiled, readonly, writable

_FAR = np.int64(2**62)


def grow_reference(distance: NDArray[np.int32], start: int, parent: NDArray[np.int32]) -> int:
    """Fill `parent` with a minimum spanning tree, with -1 at `start`.

    Return the number of edges on its longest path.
    """
    channels = len(distance)
    key = np.full(channels, _FAR)  # distance to the tree, and depth of the parent, in one number
    outside = np.ones(channels, bool)
    depth = np.zeros(channels, np.int64)
    order = []
    parent[start], key[start] = -1, -1
    for _ in range(channels):
        v = int(np.where(outside, key, _FAR).argmin())
        outside[v] = False
        order.append(v)
        if parent[v] >= 0:
            depth[v] = depth[parent[v]] + 1
        reached = distance[v].astype(np.int64) * channels + depth[v]
        nearer = outside & (reached < key)
        key[nearer], parent[nearer] = reached[nearer], v
    height, longest = [0] * channels, 0
    for v in order[:0:-1]:  # children before their parents
        p = int(parent[v])
        longest = max(longest, height[p] + height[v] + 1)
        height[p] = max(height[p], height[v] + 1)
    return longest


@compiled(int64(readonly(int32, 2), intp, writable(int32, 1)))
def grow(distance, start, parent):
    """`grow_reference`, compiled."""
    channels = len(distance)
    key, depth = np.full(channels, _FAR), np.zeros(channels, np.int64)
    outside, order = np.ones(channels, np.bool_), np.empty(channels, np.int64)
    parent[start] = -1
    v = start
    for step in range(channels):
        outside[v] = False
        order[step] = v
        if parent[v] >= 0:
            depth[v] = depth[parent[v]] + 1
        best, following = _FAR, -1
        for u in range(channels):
            if outside[u]:
                reached = np.int64(distance[v, u]) * channels + depth[v]
                if reached < key[u]:
                    key[u], parent[u] = reached, v
                if key[u] < best:
                    best, following = key[u], u
        v = following
    height, longest = np.zeros(channels, np.int64), 0
    for step in range(channels - 1, 0, -1):
        v = order[step]
        p = parent[v]
        longest = max(longest, height[p] + height[v] + 1)
        height[p] = max(height[p], height[v] + 1)
    return longest


def known_answers():
    """Return cases: distances with ties, and 17 channels, which leave a rest after vectors of 4 and 8."""
    few = np.array([[0, 2, 1, 2], [2, 0, 2, 2], [1, 2, 0, 1], [2, 2, 1, 0]], np.int32)
    place = np.arange(17)
    many = (np.abs(place[:, None] - place) * 7 % 5).astype(np.int32)

    def grown(distance, start):
        parent = np.zeros(len(distance), np.int32)
        return grow(distance, start, parent), parent

    return (
        (grow, lambda: grown(few, 1), [3, [1, -1, 0, 2]]),
        (grow, lambda: grown(many, 3), [7, [3, 6, 5, -1, 9, 0, 3, 2, 3, 6, 0, 6, 2, 3, 9, 0, 6]]),
    )
