"""The cost of a layer along its tree, compared with computing and storing every channel separately. Per image.

docs/compression.md has the formulas for one root. With r roots, r n replaces n, and o - r replaces o - 1. Without a
tree, r = o. If channels may be negated, positions as numbers and the entropy bound take one more bit per edge. The tree
itself counts as wiring. The entropy bound leaves it out, but `codec.encode` writes all of it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.compress.tree import Tree, flips


@dataclass(frozen=True)
class Costs:
    """Operations for one image, and bits of storage. Costs of layers can be added."""

    direct_xnors: int
    tree_xnors: int
    tree_adds: int
    direct_bits: int
    wired_bits: int
    positions_bits: int
    entropy_bits: float
    reads: int  # outputs of parents read again
    read_bits: int
    depth: int  # the largest depth

    @property
    def ratio(self) -> float:
        """rho: XNORs along the tree divided by XNORs of the direct computation."""
        return self.tree_xnors / self.direct_xnors

    def __add__(self, other: "Costs") -> "Costs":
        sums = {name: value + getattr(other, name) for name, value in vars(self).items()}
        return Costs(**sums | {"depth": max(self.depth, other.depth)})

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, for JSON."""
        return {**vars(self), "ratio": self.ratio}


def layer_costs(tree: Tree, outputs: int) -> Costs:
    """Return the costs of a layer with `outputs` outputs per channel (OH*OW; 1 for a linear layer)."""
    o, n, roots = tree.out_channels, tree.n_bits, tree.roots
    edges = o - roots
    touched = roots * n + tree.total_distance
    signs = edges if tree.negated.any() else 0
    entropy = sum(n * binary_entropy(d / n) for d in tree.distance[tree.parent >= 0].tolist())
    return Costs(
        direct_xnors=o * n * outputs,
        tree_xnors=touched * outputs,
        tree_adds=edges * outputs,
        direct_bits=o * n,
        wired_bits=touched,
        positions_bits=roots * n + tree.total_distance * bits_to_name(n) + edges * bits_to_name(o) + signs,
        entropy_bits=roots * n + entropy + signs,
        reads=edges * outputs,
        read_bits=edges * outputs * bits_to_name(2 * n + 1),
        depth=tree.depth,
    )


def total(costs: Iterable[Costs]) -> Costs:
    """Return the costs of a network, from those of its layers (at least one)."""
    first, *others = costs
    return sum(others, first)


def bits_to_name(values: int) -> int:
    """Return ceil(log2(values)), the bits that distinguish so many values."""
    return (values - 1).bit_length()


def binary_entropy(p: float) -> float:
    """Return the binary entropy H2(p) in bits."""
    return 0.0 if p in (0.0, 1.0) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def touched_words(rows: NDArray[np.uint64], tree: Tree) -> float:
    """Return the share of a row's 64-bit words that hold a difference, as a mean over edges; 1 if there are no edges.

    Differences spread uniformly over full words would give 1 - (1 - d/n)**64.
    """
    edges = tree.parent >= 0
    if not edges.any():
        return 1.0
    return float((flips(rows, tree.n_bits, tree.parent, tree.negated)[edges] != 0).mean())
