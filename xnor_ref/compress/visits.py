"""The weights or words that each channel of a tree visits, and the sums over them; see `execute.py`."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xnor_ref.compress.planes import BLOCK_CHANNELS, TILE_OUTPUTS, Planes
from xnor_ref.compress.tree import Tree
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.geometry import NO_PADDING
from xnor_ref.kernels.basics.layout import pack_mask, signs_of_words
from xnor_ref.kernels.basics.threads import parallel_chunks
from xnor_ref.kernels.readable import reference

WORK = 1 << 21  # least additions of bytes per chunk

I32 = NDArray[np.int32]
U64 = NDArray[np.uint64]


class Placed(NamedTuple):
    """The tables of the sums for images of one size."""

    places: NDArray  # place of every visit, in the planes of one image
    marks: NDArray[np.int8] | None = None  # which elements of the planes hold a pixel
    pad_value: int = -1
    border: I32 | None = None  # (O, OH, OW), added to the outputs


class Weights:
    """The single weights that each channel visits: first those of +1, then those of -1."""

    def __init__(self, words: U64, channels: int, tree: Tree) -> None:
        self.channels, self.factor = channels, _factor(tree)
        out_channels, kernel_h, kernel_w, _ = words.shape
        taps: list[NDArray[np.int64]] = []
        self.ends = np.zeros((out_channels, 3), np.int64)
        for o, flips in enumerate(_flips(words, channels, tree)):
            signs = np.moveaxis(signs_of_words(words[o], channels), 2, 0)  # (C, KH, KW)
            differ = np.moveaxis(signs_of_words(flips, channels), 2, 0) > 0
            taps += [np.flatnonzero(differ & (signs > 0)), np.flatnonzero(differ & (signs < 0))]
            first = self.ends[o - 1, 2] if o else 0
            self.ends[o] = first, first + len(taps[-2]), first + len(taps[-2]) + len(taps[-1])
        self.taps = np.unravel_index(np.concatenate(taps), (channels, kernel_h, kernel_w))

    def place(self, planes: Planes, pad_value: int) -> Placed:
        """Return the places of the weights in planes of bytes."""
        if planes.elements(self.channels) >= 2**32:
            raise InputError(
                f"an image of {self.channels} channels {planes.size} takes more than 2**32 bytes as planes"
            )
        return Placed(planes.places(*self.taps).astype(np.uint32), planes.inside(), pad_value)

    def sums(self, planes: Planes, placed: Placed, x_words: U64, out: I32, threads: int | None) -> None:
        """Write to `out`, by channel and pixel, twice the sum over the differing weights (a root: the sum over all)."""
        from xnor_ref.compress import tree_kernels

        n, channels, marks = len(x_words), self.channels, placed.marks
        assert marks is not None
        words = planes.word_planes(x_words)
        image_size = planes.elements(channels)
        signs = np.empty(n * image_size + TILE_OUTPUTS, np.int8)

        def spread(start: int, stop: int) -> None:
            tree_kernels.spread_signs(words, channels, marks, placed.pad_value, start, stop, signs)

        parallel_chunks(spread, n * channels, max(1, WORK // (8 * marks.size)), threads)
        visits = placed.places, self.ends, self.factor

        def one_chunk(start: int, stop: int) -> None:
            sums, flat = np.empty(TILE_OUTPUTS, np.int32), out.reshape(-1)
            size = planes.width, planes.tiles, *planes.out_size
            tree_kernels.sum_weights(signs, image_size, *visits, size, start, stop, sums, flat)

        _in_chunks(one_chunk, n * planes.tiles, out.shape[1], len(placed.places), threads)


class Words:
    """The 64-bit words that each channel visits: masks of the differences, and the signs there."""

    def __init__(self, words: U64, channels: int, tree: Tree) -> None:
        self.words, self.channels = words, channels
        flips = np.stack(list(_flips(words, channels, tree)))
        o, ky, kx, word = np.nonzero(flips)
        self.taps = word, ky, kx
        self.masks = flips[o, ky, kx, word]
        self.signs = words[o, ky, kx, word] & self.masks
        self.ends = np.searchsorted(o, np.arange(len(words))[:, None] + (0, 1)).astype(np.int64)
        self.totals = np.stack([np.bitwise_count(flips).sum(axis=(1, 2, 3), dtype=np.int32), _factor(tree)], axis=1)

    def place(self, planes: Planes, pad_value: int) -> Placed:
        """Return the places of the words in planes of words.

        There the padding is -1; another padding is added at the end.
        """
        border = None
        if pad_value != -1 and planes.window.padding != NO_PADDING:
            once = reference.border_sums(self.words, self.channels, planes.size, planes.window)
            border = (1 + pad_value) * once
        return Placed(planes.places(*self.taps), border=border)

    def sums(self, planes: Planes, placed: Placed, x_words: U64, out: I32, threads: int | None) -> None:
        """Like `Weights.sums`."""
        from xnor_ref.compress import tree_kernels

        words = planes.word_planes(x_words)
        image_size = planes.elements(x_words.shape[3])
        visits = placed.places, self.masks, self.signs, self.ends, self.totals

        def one_chunk(start: int, stop: int) -> None:
            counts, sums, flat = np.empty(TILE_OUTPUTS, np.uint64), np.empty(TILE_OUTPUTS, np.int32), out.reshape(-1)
            size = planes.width, planes.tiles, *planes.out_size
            tree_kernels.sum_words(words, image_size, *visits, size, start, stop, counts, sums, flat)

        _in_chunks(one_chunk, len(x_words) * planes.tiles, out.shape[1], 4 * len(placed.places), threads)


_FORMS: dict[str, type[Weights] | type[Words]] = {"weights": Weights, "words": Words}
FORMS = tuple(_FORMS)


def visits_of(form: str, words: U64, channels: int, tree: Tree) -> Weights | Words:
    """Return the visits of a layer with weights (O, KH, KW, n_words(channels)) with zero tail bits."""
    return _FORMS[form](words, channels, tree)


def _in_chunks(function, tiles: int, channels: int, visits: int, threads: int | None) -> None:
    """Run `function` over all (tile, block of channels), in chunks."""
    blocks = -(-channels // BLOCK_CHANNELS)
    parallel_chunks(function, tiles * blocks, max(1, WORK * blocks // (TILE_OUTPUTS * visits)), threads)


def _factor(tree: Tree) -> I32:
    """Return the factor of each channel's sums: a differing sign changes the output by two."""
    return np.where(tree.parent < 0, 1, 2).astype(np.int32)


def _flips(words: U64, channels: int, tree: Tree) -> Iterator[U64]:
    """Yield for each channel words (KH, KW, words) that mark its differences from its parent; for a root, all signs."""
    every = pack_mask(np.ones(channels, bool), -1)
    for o, parent in enumerate(tree.parent):
        if parent < 0:
            yield np.broadcast_to(every, words.shape[1:])
        else:
            flips = words[o] ^ words[parent]
            yield flips ^ every if tree.negated[o] else flips
