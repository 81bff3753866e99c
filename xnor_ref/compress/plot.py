"""A chart of a layer's tree."""

import math

import numpy as np
from numpy.typing import NDArray

from xnor_ref.charts.chart import Bars, Chart, Dots, Figure, Mark, Segments
from xnor_ref.charts.files import save
from xnor_ref.compress.tree import Tree
from xnor_ref.storage import PathLike


def positions(tree: Tree) -> NDArray[np.float64]:
    """Return the channels' positions (O, 2). The radius is the level, and each subtree has its own sector."""
    leaves = np.zeros(tree.out_channels, np.int64)
    for o in tree.order[::-1]:
        leaves[o] = max(1, leaves[o])
        if tree.parent[o] >= 0:
            leaves[tree.parent[o]] += leaves[o]
    first, angle = np.zeros(tree.out_channels), np.zeros(tree.out_channels)
    used = np.zeros(tree.out_channels)  # share of each channel's sector used by its children so far
    roots = 0.0
    total = leaves[tree.parent < 0].sum()
    for o in tree.order:
        p = tree.parent[o]
        if p < 0:
            first[o], roots = roots, roots + leaves[o]
        else:
            first[o], used[p] = first[p] + used[p], used[p] + leaves[o]
        angle[o] = 2 * math.pi * (first[o] + leaves[o] / 2) / total
    return np.stack([tree.level * np.cos(angle), tree.level * np.sin(angle)], axis=1)


def plot_tree(tree: Tree, path: PathLike, title: str) -> None:
    """Draw a tree, with stronger edges for larger d/n, and a histogram of its edges' distances.

    Raises InputError as `files.check_plot` does, and OutputError if the file cannot be written.
    """
    at = positions(tree)
    edges = np.flatnonzero(tree.parent >= 0)
    fraction = tree.distance[edges] / tree.n_bits
    ends = np.concatenate([at[edges], at[tree.parent[edges]]], axis=1).tolist()
    (x, y), (root_x, root_y) = at.T.tolist(), at[tree.parent < 0].T.tolist()
    drawn: list[Mark] = [
        Segments(ends, (fraction / max(fraction.max(initial=0.0), 1e-9)).tolist()),
        Dots(x, y, "channel", -1, radius=2),
        Dots(root_x, root_y, "root", 1, radius=4.5),
    ]
    counts, bins = np.histogram(fraction, 30)
    bars = Bars(bins[:-1].tolist(), [0.0] * len(counts), bins[1:].tolist(), counts.tolist())
    mean = f"depth {tree.depth}, mean d/n {tree.mean_fraction:.3f}"
    charts = [
        Chart(title, drawn, bare=True, size=(620, 620)),
        Chart(mean, [bars], "d/n of an edge", "edges", size=(420, 400)),
    ]
    save(Figure(charts, 2, "An edge is stronger the larger its d/n."), path)
