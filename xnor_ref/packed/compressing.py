"""Storing a packed network's binary layers along trees: the cost of each, and the description to save."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.compress import codec, costs
from xnor_ref.compress.tree import Tree, build
from xnor_ref.errors import InputError, ModelFileError
from xnor_ref.kernels.basics.layout import pack_mask
from xnor_ref.packed import file
from xnor_ref.packed.file import ExaminedNetwork, ExaminedNode
from xnor_ref.packed.trees import MAX_TREE_WEIGHTS
from xnor_ref.storage import PathLike

STORE = ("auto", "tree")
BINARY = ("binary_conv2d", "binary_linear")


@dataclass(frozen=True)
class Layer:
    """A binary layer of a network, and its tree."""

    node: ExaminedNode
    input_shape: tuple[int, ...]  # shape of one image
    rows: NDArray[np.uint64]  # filters as stored in the file
    n_bits: int
    tree: Tree | None  # None for a single output channel
    costs: costs.Costs
    star_ratio: float  # XNORs along a star of the same filters, divided by direct XNORs
    random_ratio: float  # the same along a minimum spanning tree of as many random filters
    coded: NDArray[np.uint8] | None  # the filters stored along the tree; None if impossible
    stored: str  # "tree" or "bits"

    @property
    def packed_bytes(self) -> int:
        """Bytes of the filters stored as bits."""
        return self.rows.nbytes

    @property
    def note(self) -> str:
        """The reason why the layer stays as bits, or ""."""
        if self.tree is None:
            return "one output channel, so there is no tree"
        if self.coded is None:
            return "too large, or too uniform, to be stored along a tree"
        return "" if self.stored == "tree" else f"{len(self.coded):,} bytes along its tree"


@dataclass(frozen=True)
class Compressed:
    """A description and tensors for `PackedNetwork`, with the layers and trees that they come from."""

    metadata: dict[str, Any]
    tensors: dict[str, NDArray]
    layers: tuple[Layer, ...]


def read(path: PathLike) -> tuple[dict[str, Any], dict[str, NDArray], ExaminedNetwork]:
    """Return description, tensors and checked network of a model file. Raises ModelFileError."""
    metadata, tensors = file.read(path)
    try:
        return metadata, tensors, file.examine(metadata, tensors)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None


def compress(
    metadata: dict[str, Any],
    tensors: dict[str, NDArray],
    network: ExaminedNetwork,
    *,
    kind: str = "mst",
    complement: bool = False,
    store: str = "auto",
    threads: int | None = None,
) -> Compressed:
    """Find a tree for every binary layer without groups. Store the layer along the tree if that takes fewer bytes.

    Parameters
    ----------
    metadata, tensors, network : the result of `read`
        Layers that are already stored along trees get new trees.
    kind : {"mst", "star"}
    complement : bool
        Whether channels may be computed from another channel's negative; see `compress.tree.build`.
    store : {"auto", "tree"}
        "auto": along the tree if that is smaller, else as bits. "tree": along the tree wherever possible.

    Returns
    -------
    Compressed
        Its network gives the same logits, bit for bit.

    Raises
    ------
    InputError
        No layer with binary weights and inputs has more than one output channel, or an option is unknown.
    """
    if store not in STORE or kind not in ("mst", "star"):
        raise InputError(f"compress: kind must be mst or star and store auto or tree; got {kind!r} and {store!r}")
    grouped = {node.name for node in network.nodes if node.step.arguments.get("groups", 1) > 1}  # of several inputs
    binary = [node for node in network.nodes if node.op in BINARY and node.name not in grouped]
    if not binary:
        ops = dict.fromkeys(node.op + (" in groups" if node.name in grouped else "") for node in network.nodes)
        raise InputError(
            f"compress: no layer{' without groups' if grouped else ''} has both binary weights and binary inputs; "
            f"the operations are {', '.join(ops)}"
        )
    layers, held = [], 0
    for node in binary:
        source = node.inputs[0]
        shape = network.input_shape if source == -1 else network.nodes[source].step.shape
        layer = _layer(node, shape, kind, complement, store, threads, MAX_TREE_WEIGHTS - held)
        held += layer.n_bits * len(layer.rows) if layer.stored == "tree" else 0
        layers.append(layer)
    if all(layer.tree is None for layer in layers):
        raise InputError(
            "compress: a tree needs at least two output channels, but "
            f"{', '.join(layer.node.name for layer in layers)} "
            "has only one" + (" each" if len(layers) > 1 else "")
        )
    return Compressed(*_description(metadata, tensors, layers), tuple(layers))


def _layer(
    node: ExaminedNode, shape: tuple[int, ...], kind: str, complement: bool, store: str, threads: int | None, room: int
) -> Layer:
    words = node.step.arguments["words"]
    n_bits = node.step.weight_bits // len(words)
    rows = _rows(node, n_bits)
    outputs = math.prod(node.step.shape[1:])
    if len(rows) == 1:
        alone = build(rows, n_bits, "direct")
        return Layer(node, shape, rows, n_bits, None, costs.layer_costs(alone, outputs), 1.0, 1.0, None, "bits")
    tree = build(rows, n_bits, kind, complement, threads)
    star = tree if kind == "star" else build(rows, n_bits, "star", complement, threads)
    random = pack_mask(np.random.default_rng(0).random((len(rows), n_bits)) < 0.5, -1)
    free = build(random, n_bits, kind, complement, threads)
    coded = None
    possible = n_bits <= codec.MAX_FILTER and len(rows) * n_bits <= min(codec.MAX_WEIGHTS, room)
    if possible:
        coded = codec.encode(rows, tree)
        if len(rows) * n_bits > codec.MAX_EXPANSION * len(coded):
            coded = None
    stored = "tree" if coded is not None and (store == "tree" or len(coded) < rows.nbytes) else "bits"
    own, of_star, of_random = (costs.layer_costs(each, outputs) for each in (tree, star, free))
    return Layer(node, shape, rows, n_bits, tree, own, of_star.ratio, of_random.ratio, coded, stored)


def _rows(node: ExaminedNode, n_bits: int) -> NDArray[np.uint64]:
    """Return the filters as rows of bits, in the order of the file."""
    if "bits" in node.tensors:
        return node.tensors["bits"]
    return codec.decode(node.tensors["tree"], len(node.step.arguments["words"]), n_bits)[0]


def _description(
    metadata: dict[str, Any], tensors: dict[str, NDArray], layers: list[Layer]
) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Return the description and tensors with every layer stored as its `stored` says."""
    metadata, tensors = copy.deepcopy(metadata), dict(tensors)
    by_name = {layer.node.name: layer for layer in layers}
    for entry in metadata["graph"]:
        layer = by_name.get(entry["name"])
        if layer is None:
            continue
        name = entry["name"]
        entry.pop("out_channels", None)
        for field in ("bits", "tree"):
            tensors.pop(f"{name}.{field}", None)
        if layer.stored == "tree" and layer.coded is not None:
            entry["out_channels"] = len(layer.rows)
            tensors[f"{name}.tree"] = layer.coded
        else:
            tensors[f"{name}.bits"] = layer.rows
    metadata["version"] = file.version_of(metadata["graph"], tensors)
    return metadata, tensors
