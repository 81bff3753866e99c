"""A layer's filters as bytes, coded along their tree: which signs of a filter differ from those of its parent.

docs/model-format.md, section 4, defines the stream. A sign differs with probability (differences left) / (signs left).
So the d positions cost log2 binomial(n, d) bits, which is n*H2(d/n) or slightly less. Every stream of bytes decodes to
d different positions within the filter. The coder is the usual arithmetic coder with a range of 32 bits (G. N. N.
Martin 1979, as in LZMA). The reader ends with exactly 0. If bytes are missing, added or changed, it raises an error or
decodes another layer.
"""

import lzma
import zlib

import numpy as np
from numpy.typing import NDArray

from xnor_ref.compress import range_coder
from xnor_ref.compress.tree import Tree, flips, from_parents
from xnor_ref.errors import InputError, ModelFileError
from xnor_ref.kernels.basics.layout import mask_tail, n_words

MAX_FILTER = 2**24 - 2  # most signs of a filter: the coder's range must be divisible into n + 1 steps
MAX_WEIGHTS = 2**28  # most signs of a layer
MAX_EXPANSION = 4096  # most signs per byte, plus as many once


def encode(rows: NDArray[np.uint64], tree: Tree) -> NDArray[np.uint8]:
    """Encode filters (O, n_words(n_bits)) with zero tail bits as bytes.

    Raises InputError if the tree does not have exactly one root, or the layer is larger than `decode` accepts.
    """
    channels, n_bits = tree.out_channels, tree.n_bits
    if tree.roots != 1:
        raise InputError(f"encode: the tree has {tree.roots} roots; it must have one")
    if not 1 <= n_bits <= MAX_FILTER or channels * n_bits > MAX_WEIGHTS:
        raise InputError(
            f"encode: {channels} filters of {n_bits} signs; at most {MAX_FILTER} in a filter and {MAX_WEIGHTS} in all"
        )
    marks = flips(rows, n_bits, tree.parent, tree.negated)
    differ = np.bitwise_count(marks).sum(axis=1, dtype=np.int64)
    parent = np.where(tree.parent < 0, np.arange(channels), tree.parent).astype(np.int64)
    out = np.zeros(channels * (n_bits // 4 + 16) + 16, np.uint8)  # an upper bound
    used = range_coder.encode(marks, parent, tree.negated.astype(np.int64), differ, n_bits, out)
    return out[:used].copy()


def decode(stream: NDArray[np.uint8], channels: int, n_bits: int) -> tuple[NDArray[np.uint64], Tree]:
    """Decode the filters, uint64 (O, n_words(n_bits)), and their tree.

    Sizes are checked before anything is allocated. Any bytes that cannot be decoded raise ModelFileError: sizes beyond
    the limits or impossible for the stream, not exactly one root, a cycle, and missing, surplus or altered bytes.
    """
    if channels < 1 or not 1 <= n_bits <= MAX_FILTER or channels * n_bits > MAX_WEIGHTS:
        raise ModelFileError(f"{channels} filters of {n_bits} weights are more than the limit of {MAX_WEIGHTS}")
    if channels * n_bits > MAX_EXPANSION * (len(stream) + 1):
        raise ModelFileError(
            f"{len(stream)} bytes are too few for {channels} filters of {n_bits} weights; a byte may "
            f"hold at most {MAX_EXPANSION} weights"
        )
    parent, negated = np.empty(channels, np.int64), np.zeros(channels, np.int64)
    rows = np.zeros((channels, n_words(n_bits)), np.uint64)
    used, rest = range_coder.decode(np.ascontiguousarray(stream), n_bits, parent, negated, rows)
    if used != len(stream) or rest:
        raise ModelFileError(f"the coded weights end after {used} of {len(stream)} bytes, or are altered")
    is_root = parent == np.arange(channels)
    if is_root.sum() != 1:
        raise ModelFileError(f"the tree of the weights has {int(is_root.sum())} roots; it must have one")
    parents = np.where(is_root, -1, parent).astype(np.int32)
    negative = negated.astype(np.bool_)
    try:
        order = from_parents(rows, n_bits, parents, negative).order
    except InputError as error:
        raise ModelFileError(str(error)) from None
    for o in order[1:]:
        rows[o] ^= rows[parents[o]]
        if negative[o]:
            np.bitwise_not(rows[o], out=rows[o])
    rows = mask_tail(rows, n_bits)
    return rows, from_parents(rows, n_bits, parents, negative)


def other_codings(rows: NDArray[np.uint64], tree: Tree) -> dict[str, int]:
    """Return the bytes that the layer would take in other codings, for comparison.

    "bits": packed, as in a file without trees. "bits zlib", "bits lzma": the same, compressed by the standard library.
    "gaps rice": the gaps between differing positions, in a Golomb-Rice code with the best parameter. "gaps zlib", "gaps
    lzma": the gaps as bytes (255 means to add the next byte), compressed. The last three include root, parents and
    distances, with as many bits as they need.
    """
    channels, n_bits = tree.out_channels, tree.n_bits
    marks = flips(rows, n_bits, tree.parent, tree.negated)[tree.parent >= 0].astype("<u8")
    gaps = [np.diff(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")), prepend=-1) for row in marks]
    flat = np.concatenate([*gaps, np.zeros(0, np.int64)]) - 1
    octets = b"".join(b"\xff" * (gap // 255) + bytes([gap % 255]) for gap in flat.tolist())
    packed = rows.astype("<u8").tobytes()
    rice = min(int((flat >> k).sum()) + len(flat) * (k + 1) for k in range(25))
    head = -(-(n_bits + (channels - 1) * ((channels - 1).bit_length() + n_bits.bit_length())) // 8)
    return {
        "bits": len(packed),
        "bits zlib": len(zlib.compress(packed, 9)),
        "bits lzma": len(lzma.compress(packed, preset=9)),
        "gaps rice": head + -(-rice // 8),
        "gaps zlib": head + len(zlib.compress(octets, 9)),
        "gaps lzma": head + len(lzma.compress(octets, preset=9)),
    }
