"""How long a layer takes directly and along its tree, and at which distance of the filters both take the same time."""

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

FRACTIONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)  # mean distances d/n that are tried
_ROUNDS = 15
_SECONDS = 0.5  # that a set of contenders may take; fewer rounds where they are slow


def layer_times(
    words: NDArray[np.uint64],
    channels: int,
    tree: Tree,
    size: Pair,
    window: Window,
    pad_value: int,
    threads: int | None = None,
) -> dict[str, Any]:
    """Median times of one image through a convolution, from packed signs to int32 results.

    Parameters
    ----------
    words : uint64 (O, KH, KW, n_words(channels))
        The layer's weights; a linear layer is one of 1x1 on one pixel, with the batch as `size`.

    Returns
    -------
    dict
        "seconds": by contender, "direct numba", "direct simd" (the kernel alone, where the processor has vectors for
        it), "tree weights", "tree words". "crossover": by contender "direct ...", the mean d/n below which the faster
        of the trees is faster than it, interpolated between filters made for `FRACTIONS`; 0 if it is slower at all of
        them, 0.5 if it is faster.
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
    """Filters (O, KH, KW, words) that differ from the first in `fraction` of the weights each."""
    rng = np.random.default_rng(1)
    shape = *kernel, channels
    centre = rng.random(shape) < 0.5
    differ = np.zeros((out_channels, centre.size), bool)
    differ[1:, : round(fraction * centre.size)] = True
    return pack_mask(rng.permuted(differ, axis=1).reshape(-1, *shape) ^ centre, -1)


def _medians(contenders: dict[str, Callable]) -> dict[str, float]:
    """Median seconds of each; they take turns, so that a busy moment meets all of them."""
    start = time.perf_counter()
    for contender in contenders.values():
        contender()  # compiles, and brings weights into the caches
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
    """Where the times at `FRACTIONS` rise above `direct`."""
    if along[0] >= direct:
        return 0.0
    for (low, below), (high, above) in zip(zip(FRACTIONS, along), zip(FRACTIONS[1:], along[1:])):
        if above >= direct:
            return low + (high - low) * (direct - below) / (above - below)
    return 0.5
