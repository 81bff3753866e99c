"""Timing a layer directly and along its tree, and the distance of filters at which both take equal time."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.compress.execute import TreeConv
from xnor_ref.compress.tree import Tree, from_parents
from xnor_ref.compress.visits import FORMS
from xnor_ref.kernels.basics.geometry import Pair, Window
from xnor_ref.kernels.basics.layout import WORD_BITS, pack_mask, signs_of_words
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.ops import binary_ops
from xnor_ref.kernels.ops.planned import PlannedConv2d

FRACTIONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)  # mean distances d/n to try
_ROUNDS = 15
_SECONDS = 0.5  # most seconds per set of contenders; slow ones get fewer rounds


def layer_times(
    words: NDArray[np.uint64],
    channels: int,
    tree: Tree,
    size: Pair,
    window: Window,
    pad_value: int,
    threads: int | None = None,
) -> dict[str, Any]:
    """Measure median times of a convolution of one image, from packed signs to int32.

    Parameters
    ----------
    words : uint64 (O, KH, KW, n_words(channels))
        The layer's weights. A linear layer is a 1x1 convolution, with the batch as the pixels of `size`.

    Returns
    -------
    dict
        "seconds": by contender, "direct numba", "direct simd" (the kernel alone, if the processor has its vectors),
        "tree weights", "tree words". "crossover": for each "direct ..." contender, the mean d/n below which the faster
        tree is faster than it, interpolated between filters made for `FRACTIONS`. It is 0 if the tree is slower at all
        of them, and 0.5 if it is faster at all of them.
    """
    x = np.random.default_rng(0).standard_normal((1, channels, *size), np.float32)
    x_words = binary_ops.sign_pack(x, threads=threads)
    how = window, pad_value

    def trees(words: NDArray[np.uint64], tree: Tree) -> dict[str, Callable]:
        layers = {form: TreeConv(words, channels, tree, *how, form) for form in FORMS}
        return {
            f"tree {form}": lambda layer=layer: layer.run(x_words, "numba", threads) for form, layer in layers.items()
        }

    direct = _direct(words, channels, x_words, x, how, threads)
    seconds = _medians(direct | trees(words, tree))
    along = []
    for fraction in FRACTIONS:
        made = _filters(len(words), words.shape[1:3], channels, fraction)
        parent = np.where(np.arange(len(made)) > 0, 0, -1).astype(np.int32)
        star = from_parents(made.reshape(len(made), -1), made[0].size * WORD_BITS, parent)
        along.append(min(_medians(trees(made, star)).values()))
    return {"seconds": seconds, "crossover": {name: _crossing(along, seconds[name]) for name in direct}}


def _direct(words, channels, x_words, x, how, threads) -> dict[str, Callable]:
    window, pad_value = how
    contenders: dict[str, Callable] = {
        "direct numba": lambda: binary_ops.conv2d_bits(x_words, words, channels, window, pad_value, "numba", threads)
    }
    if has_vectors():
        weight = np.ascontiguousarray(np.moveaxis(signs_of_words(words, channels), 3, 1))
        place = window.stride, window.padding, pad_value
        conv = PlannedConv2d(weight, x.shape[2:], *place, input_scale="off", dilation=window.dilation)
        conv.pack(np.ascontiguousarray(np.moveaxis(x, 1, 3)), threads)
        contenders["direct simd"] = lambda: conv.count(threads)
    return contenders


def _filters(out_channels: int, kernel: Pair, channels: int, fraction: float) -> NDArray[np.uint64]:
    """Return filters (O, KH, KW, words) that each differ from the first in `fraction` of the weights."""
    rng = np.random.default_rng(1)
    shape = *kernel, channels
    centre = rng.random(shape) < 0.5
    differ = np.zeros((out_channels, centre.size), bool)
    differ[1:, : round(fraction * centre.size)] = True
    return pack_mask(rng.permuted(differ, axis=1).reshape(-1, *shape) ^ centre, -1)


def _medians(contenders: dict[str, Callable]) -> dict[str, float]:
    """Return median seconds of each. They take turns, so that a busy machine affects all of them."""
    start = time.perf_counter()
    for contender in contenders.values():
        contender()  # compile, and load weights into the caches
    once = time.perf_counter() - start
    start, taken = time.perf_counter(), {name: [] for name in contenders}  # type: ignore[var-annotated]
    for _ in range(_ROUNDS):
        for name, contender in contenders.items():
            began = time.perf_counter()
            contender()
            taken[name].append(time.perf_counter() - began)
        if time.perf_counter() - start > max(_SECONDS, once):
            break
    return {name: float(np.median(times)) for name, times in taken.items()}


def _crossing(along: list[float], direct: float) -> float:
    """Return where the times at `FRACTIONS` rise above `direct`."""
    if along[0] >= direct:
        return 0.0
    for (low, below), (high, above) in zip(zip(FRACTIONS, along), zip(FRACTIONS[1:], along[1:])):
        if above >= direct:
            return low + (high - low) * (direct - below) / (above - below)
    return 0.5
