"""Computing a binary layer along its tree. The integers equal those of the direct convolution, for all options.

The room's page has the identity. Its sums run over the differing places D (for a root, over all places). They do not
depend on each other; only the additions along the edges do. So all sums are computed first, in any order and by any
thread. Then the outputs are added, parents before children. There are two forms of the sums:

- "weights" visits the differing weights one by one: it adds x_p for 64 pixels at a time, one byte each;
- "words" visits the 64-bit words that hold a difference: popcount((x & mask) ^ B), where mask marks the differences and
  B has the filter's signs there. Here x is -1 outside the image. What another padding adds is computed in advance.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.compress.planes import Planes
from xnor_ref.compress.tree import Tree, build, check_fit, filter_rows
from xnor_ref.compress.visits import FORMS, WORK, visits_of
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.checks import check_conv, check_linear
from xnor_ref.kernels.basics.geometry import Padding, Pair, Window, spatial
from xnor_ref.kernels.basics.layout import mask_tail, signs_of_words
from xnor_ref.kernels.basics.memory import check_memory
from xnor_ref.kernels.basics.rungs import jit_disabled
from xnor_ref.kernels.basics.threads import parallel_chunks
from xnor_ref.kernels.ops import binary_ops

_PIECE = 1024  # outputs of a channel that are added together

I32 = NDArray[np.int32]
U64 = NDArray[np.uint64]


def tree_conv2d(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    tree: Tree | None = None,
    stride: int | Pair = 1,
    padding: Padding = 0,
    pad_value: int = 0,
    form: str = "weights",
    backend: str = "auto",
    threads: int | None = None,
    *,
    dilation: int | Pair = 1,
) -> I32:
    """`kernels.binary_ops.binary_conv2d`, computed along a tree of the output channels.

    Parameters
    ----------
    x, weight, stride, padding, pad_value, threads, dilation
        As in `binary_conv2d`: float32 (N, C, H, W) and (O, C, KH, KW).
    tree : made from the same weights by `compress.tree.build(filter_rows(weight), C*KH*KW)`; default: the minimum
        spanning tree
    form : {"weights", "words"}; whether to visit single weights or 64-bit words, see above; both give the same integers
    backend : {"auto", "numba", "reference"}; "reference" is the identity written in NumPy

    Returns
    -------
    int32 (N, O, OH, OW)

    Raises
    ------
    InputTypeError, InputError : as in `binary_conv2d`, or the tree does not match the weights

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, w = rng.standard_normal((1, 5, 4, 4), np.float32), rng.standard_normal((3, 5, 3, 3), np.float32)
    >>> bool((tree_conv2d(x, w, padding=1) == binary_ops.binary_conv2d(x, w, padding=1)).all())
    True
    """
    place = stride, padding, pad_value, dilation, 1
    x, weight, window = check_conv("tree_conv2d", x, weight, *place, "off", backend, threads)
    _check_choice("tree_conv2d", form, backend)
    rows = filter_rows(weight)
    planes = Planes(spatial(x), window)
    check_memory("tree_conv2d", 2 * len(x) * planes.elements(x.shape[1]), f"(weight {weight.shape}, input {x.shape})")
    tree = _fitting(tree, rows, weight[0].size, threads)
    x_words = binary_ops.sign_pack(x, backend, threads)
    words = binary_ops.pack_weight(weight, backend, threads)
    return TreeConv(words, x.shape[1], tree, window, pad_value, form).run(x_words, backend, threads)


def tree_linear(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    tree: Tree | None = None,
    form: str = "weights",
    backend: str = "auto",
    threads: int | None = None,
) -> I32:
    """`kernels.binary_ops.binary_linear`, computed along a tree: float32 (N, I) and (O, I) -> int32 (N, O).

    Parameters and errors as in `tree_conv2d`.
    """
    x, weight = check_linear("tree_linear", x, weight, backend, threads)
    _check_choice("tree_linear", form, backend)
    rows = binary_ops.pack_weight_rows(weight, backend, threads)
    tree = _fitting(tree, rows, x.shape[1], threads)
    x_words = binary_ops.sign_pack_rows(x, backend, threads)
    return TreeLinear(rows, tree, form).run(x_words, backend, threads)


def _check_choice(caller: str, form: str, backend: str) -> None:
    if form not in FORMS:
        raise InputError(f"{caller}: form must be one of {', '.join(FORMS)}; got {form!r}")
    if backend == "float":
        raise InputError(f'{caller}: backend "float" does not support trees; use "reference" or "numba"')


def _fitting(tree: Tree | None, rows: U64, n_bits: int, threads: int | None) -> Tree:
    if tree is not None:
        check_fit(tree, rows, n_bits)
        return tree
    return build(rows, n_bits, "mst" if len(rows) > 1 else "direct", threads=threads)


class TreeConv:
    """A binary convolution with its tree, prepared once and run many times. Unchecked. Threads may share it.

    `words` are weights for `binary_ops.conv2d_bits`, uint64 (O, KH, KW, n_words(channels)). `tree` is a tree over the
    same filters, whatever the order of their signs. `run` raises InputError if an image takes more than 2**32 bytes as
    planes.
    """

    def __init__(
        self, words: U64, channels: int, tree: Tree, window: Window, pad_value: int, form: str = "weights"
    ) -> None:
        self.words, self.channels, self.tree = mask_tail(words, channels), channels, tree
        self.window, self.pad_value = window, pad_value
        self._sign = np.where(tree.negated, -1, 1).astype(np.int32)
        self._visits = visits_of(form, self.words, channels, tree)
        self._kept: tuple[Planes, Any] | None = None

    def run(self, x_words: U64, backend: str = "auto", threads: int | None = None) -> I32:
        """Convolve packed signs (N, H, W, n_words(channels)): int32 (N, O, OH, OW)."""
        x_words = mask_tail(x_words, self.channels)
        if backend == "reference" or (backend == "auto" and jit_disabled()):
            return self._reference(x_words)
        n, height, width, _ = x_words.shape
        kept = self._kept
        if kept is None or kept[0].size != (height, width):
            planes = Planes((height, width), self.window)
            self._kept = kept = planes, self._visits.place(planes, self.pad_value)
        planes, placed = kept
        out = np.empty((n, self.tree.out_channels, *planes.out_size), np.int32)
        self._visits.sums(planes, placed, x_words, out, threads)
        self._add_up(out, threads)
        if placed.border is not None:
            out += placed.border
        return out

    def _add_up(self, out: I32, threads: int | None) -> None:
        """Turn sums into outputs: add the parent's output to every channel, parents first."""
        from xnor_ref.compress import tree_kernels

        flat, tree = out.reshape(*out.shape[:2], -1), self.tree

        def one_chunk(start: int, stop: int) -> None:
            tree_kernels.add_up(flat, tree.parent, self._sign, tree.order, _PIECE, start, stop)

        pieces = len(flat) * -(-flat.shape[2] // _PIECE)
        parallel_chunks(one_chunk, pieces, max(1, WORK // (8 * _PIECE * flat.shape[1])), threads)

    def _reference(self, x_words: U64) -> I32:
        """Compute the identity directly in NumPy."""
        x = np.moveaxis(signs_of_words(x_words, self.channels), 3, 1).astype(np.int32)  # (N, C, H, W)
        weight = np.moveaxis(signs_of_words(self.words, self.channels), 3, 1).astype(np.int32)  # (O, C, KH, KW)
        out_h, out_w = self.window.count(spatial(x))
        _, (down, right), _, (dy, dx) = self.window.numbers
        x = np.pad(x, ((0, 0), (0, 0), *self.window.padding), constant_values=self.pad_value)
        z = np.zeros((len(x), len(weight), out_h, out_w), np.int32)
        for j in self.tree.order:
            i = self.tree.parent[j]
            followed = 0 if i < 0 else weight[i] * (-1 if self.tree.negated[j] else 1)
            for c, ky, kx in np.argwhere(weight[j] != followed):
                met = x[:, c, ky * dy :: down, kx * dx :: right][:, :out_h, :out_w]
                z[:, j] += weight[j, c, ky, kx] * met
            if i >= 0:
                z[:, j] = 2 * z[:, j] + z[:, i] * (-1 if self.tree.negated[j] else 1)
        return z


class TreeLinear:
    """A binary matrix product with its tree: a `TreeConv` with the batch as the pixels of one image. Unchecked."""

    def __init__(self, rows: U64, tree: Tree, form: str = "weights") -> None:
        self._conv = TreeConv(rows[:, None, None], tree.n_bits, tree, Window((1, 1)), 0, form)

    def run(self, x_words: U64, backend: str = "auto", threads: int | None = None) -> I32:
        """Multiply packed signs (N, n_words(I)): int32 (N, O)."""
        return np.ascontiguousarray(self._conv.run(x_words[None, None], backend, threads)[0, :, 0].T)
