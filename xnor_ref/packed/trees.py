"""Binary layers stored along a tree of their output channels: their nodes, and how they run.

Such a layer can be computed directly or along its tree, with the same integers. A planned network (`plan.py`) and the
backends "float" and "reference" compute it directly. Otherwise the faster way is used. If the filters are close enough
to each other, both ways are timed once, on the first images.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError, ModelFileError
from xnor_ref.kernels.basics.geometry import Window

if TYPE_CHECKING:
    from xnor_ref.compress.execute import TreeConv, TreeLinear
    from xnor_ref.compress.tree import Tree
    from xnor_ref.packed.nodes import Node, Settings

I32 = NDArray[np.int32]
U64 = NDArray[np.uint64]

EXECUTIONS = ("auto", "direct", "tree")
MAX_TREE_WEIGHTS = 2**30  # of all layers of a file
MAX_PLANES = 2**26  # most bytes of an image as planes of signs; larger ones are computed directly
CLOSE = 0.15  # mean d/n above which the tree is not tried (docs/compression.md)
WEIGHTS_BELOW = 0.05  # mean d/n below which visiting single weights was faster than visiting words

_execution: ContextVar[str] = ContextVar("execution", default="auto")


@contextmanager
def execution(how: str) -> Iterator[None]:
    """Context manager: compute layers with trees the faster way ("auto"), "direct", or along the "tree".

    It applies to networks that run step by step: `PackedNetwork.logits` with backend "numba" or "reference".
    """
    if how not in EXECUTIONS:
        raise InputError(f"execution: must be one of {', '.join(EXECUTIONS)}; got {how!r}")
    token = _execution.set(how)
    try:
        yield
    finally:
        _execution.reset(token)


def stored_rows(node: "Node", n_bits: int) -> "tuple[U64, Tree]":
    """Return the filters of a node stored along a tree, uint64 (O, n_words(n_bits)), and the tree."""
    from xnor_ref.compress import codec

    node.need("bits" not in node.tensors, "has both tensors 'bits' and 'tree'; it must have one")
    channels = node.integer("out_channels", 1, codec.MAX_WEIGHTS)
    try:
        return codec.decode(node.tensor("tree", np.uint8, (None,)), channels, n_bits)
    except ModelFileError as error:
        raise ModelFileError(f"node {node.name!r} ({node.op}): tensor 'tree': {error}") from None


def along_conv(words: U64, tree: "Tree", x: tuple[int, ...], window: Window, pad_value: int) -> "Along":
    """Return `Along` for a convolution with weights (O, KH, KW, words) on images of shape x = (C, H, W)."""
    from xnor_ref.compress.execute import TreeConv
    from xnor_ref.compress.planes import Planes

    planes = Planes((x[1], x[2]), window).elements(x[0])
    return Along(tree, planes, lambda: TreeConv(words, x[0], tree, window, pad_value, _form(tree)))


def along_linear(rows: U64, tree: "Tree") -> "Along":
    """Return `Along` for a matrix product with weights (O, words)."""
    from xnor_ref.compress.execute import TreeLinear

    return Along(tree, tree.n_bits, lambda: TreeLinear(rows, tree, _form(tree)))


def _form(tree: "Tree") -> str:
    """Return what to visit: single weights if few differ, else words."""
    return "weights" if tree.mean_fraction < WEIGHTS_BELOW else "words"


class Along:
    """Computes the integers of a layer with a tree, directly or along the tree.

    Parameters
    ----------
    tree : Tree
    planes : bytes of one image as planes of signs
    make : makes the layer that runs along the tree; called at its first run
    """

    def __init__(self, tree: "Tree", planes: int, make: "Callable[[], TreeConv | TreeLinear]") -> None:
        self.tree, self._make = tree, make
        self._possible = planes <= MAX_PLANES
        self.workspace = 2 * planes if self._possible else 0  # signs as bytes, and before that as words
        self._layer: TreeConv | TreeLinear | None = None
        self._faster: bool | None = None if tree.mean_fraction <= CLOSE else False

    def run(self, settings: "Settings", x_words: U64, direct: Callable[[], I32]) -> I32:
        """Return Z from the packed signs of the input. `direct` computes it without the tree."""
        how = _execution.get()
        if not self._possible or how == "direct" or settings.backend == "float":
            return direct()
        if how == "tree":
            return self._along(settings, x_words)
        if settings.backend == "reference" or self._faster is False:
            return direct()
        if self._faster is None:
            self._faster = self._measured(settings, x_words, direct)
        return self._along(settings, x_words) if self._faster else direct()

    def _along(self, settings: "Settings", x_words: U64) -> I32:
        if self._layer is None:
            self._layer = self._make()
        backend = "reference" if settings.backend == "reference" else "auto"
        return self._layer.run(x_words, backend, settings.threads)

    def _measured(self, settings: "Settings", x_words: U64, direct: Callable[[], I32]) -> bool:
        """Measure whether the tree is faster on these images. The first run of each is a warm-up."""
        seconds = []
        for contender in (direct, lambda: self._along(settings, x_words)):
            contender()
            began = time.perf_counter()
            contender()
            seconds.append(time.perf_counter() - began)
        return seconds[1] < seconds[0]
