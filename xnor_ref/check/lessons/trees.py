"""Lesson 11: spanning trees of filters, outputs along them, opposites."""

import numpy as np
from hypothesis import strategies as st

from xnor_ref.check.basics.exercise import Exercise, Lesson, mistake
from xnor_ref.check.basics.strategies import NUMBERS, SIGNS, array, f32

A = f32([1, -1, -1, 1, 1, -1, 1, -1])
B = f32([1, 1, -1, 1, 1, -1, -1, -1])


def distances(filters):
    signs = filters.astype(np.float64)
    return ((signs.shape[1] - signs @ signs.T) / 2).astype(int)


def tree(filters, how="least"):
    """Parents of a spanning tree from filter 0, by Prim's algorithm."""
    count = len(filters)
    if how == "chain":
        return np.arange(-1, count - 1)
    if how == "star":
        return np.array([-1] + [0] * (count - 1))
    d = distances(filters)
    if how == "nearest before":
        return np.array([-1] + [int(d[i, :i].argmin()) for i in range(1, count)])
    if how == "nearest":
        d = d + np.eye(count, dtype=int) * 10**6
        return np.array([-1, *d.argmin(axis=1)[1:]])
    parents, inside = np.full(count, -1), [0]
    while len(inside) < count:
        pairs = [
            (d[i, j] * (1 if how == "least" else -1), i, j) for i in inside for j in range(count) if j not in inside
        ]
        _, parent, child = min(pairs)
        parents[child] = parent
        inside.append(child)
    return parents


def weight_of(filters, parents):
    d = distances(filters)
    return sum(int(d[i, p]) for i, p in enumerate(parents) if p >= 0)


def judge_tree(arguments, got):
    """What keeps the parents from being a minimum spanning tree, or ""."""
    (filters,) = arguments
    parents = np.asarray(got)
    count = len(filters)
    if (parents == -1).sum() != 1 or parents.min() < -1 or parents.max() >= count:
        return f"{[int(p) for p in parents]} must hold one -1, for the root, and else numbers from 0 to {count - 1}"
    for start in range(count):
        at, steps = start, 0
        while at >= 0 and steps <= count:
            at, steps = int(parents[at]), steps + 1
        if at >= 0:
            return f"from filter {start}, parents lead round in a circle and not to the root: {parents.tolist()}"
    found, least = weight_of(filters, parents), weight_of(filters, tree(filters))
    return f"its distances add up to {found}; a lighter tree has {least}" if found != least else ""


def layer(x, filters, parents, factor=2, of="child", ordered=True, root=True):
    count = len(filters)
    order: list[int] = [] if ordered else list(range(count))
    while len(order) < count:
        order += [i for i in range(count) if i not in order and (parents[i] < 0 or parents[i] in order)]
    out = np.zeros((len(x), count))
    for i in order:
        p = int(parents[i])
        if p < 0:
            out[:, i] = x @ filters[i] if root else 0
            continue
        places = filters[i] != filters[p]
        out[:, i] = out[:, p] + factor * (x[:, places] @ filters[i if of == "child" else p][places])
    return out


def apart(filters, opposite=True, half=True, of="least"):
    d = distances(filters)
    n = filters.shape[1]
    if not half:
        return n - np.abs(n - 2 * d)
    if not opposite:
        return d
    return np.minimum(d, n - d) if of == "least" else np.maximum(d, n - d)


@st.composite
def filters(draw):
    shape = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    return (draw(array(shape, SIGNS)),)


@st.composite
def layers(draw):
    count, n, rows = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 2))
    order = draw(st.permutations(range(count)))
    parents = np.full(count, -1)
    for at in range(1, count):
        parents[order[at]] = order[draw(st.integers(0, at - 1))]
    return draw(array((rows, n), NUMBERS)), draw(array((count, n), SIGNS)), parents


LESSON = Lesson(
    11,
    "MST-compression: one filter from another",
    "11-trees.md",
    (
        Exercise(
            "my_tree",
            """A minimum spanning tree of the filters of a layer.

    filters : float32 (O, n), +1 and -1

    Returns integers (O,): the parent of each filter, -1 for the root. The distance of two filters is the number of
    places where they differ; no other tree has a smaller sum. Any minimum tree and any root is right.""",
            ("filters",),
            tree,
            (
                mistake("Each filter hangs on the one before it. Which one is nearest?", how="chain"),
                mistake("All filters hang on the root. Which filter of the tree is nearest to each?", how="star"),
                mistake(
                    "Your tree is as heavy as it can be. The distance counts places that differ, not those that agree.",
                    how="most",
                ),
                mistake(
                    "The order matters: always add the filter that is nearest to the tree, not the next one.",
                    how="nearest before",
                ),
                mistake(
                    "Each filter's nearest neighbour does not make a tree: two may choose each other.", how="nearest"
                ),
            ),
            (np.stack([A, B]),),
            filters(),
            judge=judge_tree,
            signs=("filters",),
        ),
        Exercise(
            "my_layer",
            """The outputs of all filters along a tree, M(26).

    x : float32 (rows, n)
    filters : float32 (O, n), +1 and -1
    parents : int64 (O,), the parent of each filter, -1 for the root; a parent may come after its child

    Returns numbers (rows, O). Only the root is computed in full.""",
            ("x", "filters", "parents"),
            layer,
            (
                mistake("A product that changes its sign changes the sum by twice itself.", factor=1),
                mistake("The sum has the wrong sign: add the new products, which are those of the child.", of="parent"),
                mistake("A parent may have a larger number than its child. Compute parents first.", ordered=False),
                mistake("The root is computed in full, all others from it.", root=False),
            ),
            (A[None], np.stack([A, B]), np.array([-1, 0])),
            layers(),
            tolerance=1e-5,
            signs=("filters",),
        ),
        Exercise(
            "my_distance",
            """Distances of filters, if a filter may follow from the opposite of another as well.

    filters : float32 (O, n), +1 and -1

    Returns integers (O, O): in how many places a filter differs from another, or from the opposite of the other,
    whichever is less.""",
            ("filters",),
            apart,
            (
                mistake(
                    "You leave the opposite out: a filter that differs everywhere is its exact opposite.",
                    opposite=False,
                ),
                mistake(
                    "Your distances are doubled: each place that differs changes the dot product by 2.", half=False
                ),
                mistake("You take the larger of the two. The smaller one saves more.", of="most"),
            ),
            (np.stack([A, -B]),),
            filters(),
            signs=("filters",),
        ),
    ),
)
