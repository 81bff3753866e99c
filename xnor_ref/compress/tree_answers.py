"""Known answers of the kernels of `tree_kernels.py`; see `selftest`."""

import numpy as np

from xnor_ref.compress.execute import TreeConv
from xnor_ref.compress.planes import TILE_OUTPUTS
from xnor_ref.compress.tree import from_parents
from xnor_ref.compress.tree_kernels import _write, add_up, spread_signs, sum_weights, sum_words
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.compiling.selftest import words


def known_answers():
    """Return cases: planes at a border, tiles that end inside a row, more signs than a byte can sum."""
    weight = words(19, 3, 3, 1)
    parent, negated = np.arange(-1, 18, dtype=np.int32) // 2, np.arange(19) % 3 == 1
    parent[0] = -1
    tree = from_parents(weight.reshape(19, -1), 576, parent, negated)

    def convolved(form):
        return TreeConv(weight, 64, tree, Window.of(3, (1, 2), (1, 2)), 0, form).run(words(1, 9, 21, 1), "numba", 1)

    def written():
        out = np.zeros(24, np.int32)
        _write(np.arange(TILE_OUTPUTS, dtype=np.int32), 1, 2, 5, 2, out, 3, (3, 4))
        return out

    def spread():
        planes = np.zeros(2 * TILE_OUTPUTS, np.int8)
        marks = (np.arange(TILE_OUTPUTS) % 5 > 0).astype(np.int8)[None]
        spread_signs(words(TILE_OUTPUTS), 2, marks, -1, 0, 2, planes)
        return planes

    def added():
        out = np.arange(21, dtype=np.int32).reshape(1, 3, 7)
        add_up(
            out, np.array([-1, 0, 1], np.int32), np.array([1, -1, 1], np.int32), np.arange(3, dtype=np.int32), 5, 0, 2
        )
        return out

    return (
        (_write, written, [*[0] * 10, 2, 6, 8, 10, 12, *[0] * 9]),
        (spread_signs, spread, "2ca0316cf1b6e751"),
        (sum_weights, lambda: convolved("weights"), "8348148ab0d7c3d6"),
        (sum_words, lambda: convolved("words"), "8348148ab0d7c3d6"),
        (add_up, added, [[list(range(7)), [7] * 7, list(range(21, 28))]]),
    )
