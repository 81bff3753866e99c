"""A picture of a layer's tree. Needs matplotlib, which the project does not install by itself."""

import math

import numpy as np
from numpy.typing import NDArray

from xnor_ref.compress.tree import Tree
from xnor_ref.plotting import check_plot, save, subplots
from xnor_ref.storage import PathLike


def positions(tree: Tree) -> NDArray[np.float64]:
    """Where the channels lie, (O, 2): as far from the middle as their level, each subtree in a sector of its own."""
    leaves = np.zeros(tree.out_channels, np.int64)
    for o in tree.order[::-1]:
        leaves[o] = max(1, leaves[o])
        if tree.parent[o] >= 0:
            leaves[tree.parent[o]] += leaves[o]
    first, angle = np.zeros(tree.out_channels), np.zeros(tree.out_channels)
    used = np.zeros(tree.out_channels)  # of the sector of each channel, by its children so far
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
    """Draw the tree, its edges coloured by d/n, beside the distances of its edges.

    Raises InputError as `plotting.check_plot` does, OutputError where the file could not be written.
    """
    check_plot(path)
    from matplotlib.collections import LineCollection

    at = positions(tree)
    edges = np.flatnonzero(tree.parent >= 0)
    fraction = tree.distance[edges] / tree.n_bits
    figure, (left, right) = subplots(1, 2, (11, 6), width_ratios=(3, 2))
    lines = LineCollection(list(np.stack([at[edges], at[tree.parent[edges]]], axis=1)), array=fraction, cmap="viridis")
    left.add_collection(lines)
    left.scatter(*at.T, s=12, color="black", zorder=2)
    left.scatter(*at[tree.parent < 0].T, s=60, color="tab:red", zorder=3, label="root")
    left.set(aspect="equal", title=title)
    left.set_axis_off()
    left.legend(loc="lower left")
    figure.colorbar(lines, ax=left, label="d/n of an edge")
    right.hist(fraction, bins=30, color="tab:blue")
    right.set(xlabel="d/n of an edge", ylabel="edges", title=f"depth {tree.depth}, mean d/n {tree.mean_fraction:.3f}")
    save(figure, path)
