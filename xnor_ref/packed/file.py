"""The packed model file: its description, and the check of everything in it.

docs/model-format.md defines the format. A description is checked node by node, starting from the input's shape. After
`examine`, every shape, channel count, cost and tensor is known to fit. Running the network then cannot fail, and takes
bounded memory and time.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import ModelFileError, is_integer
from xnor_ref.kernels.ops import float_ops
from xnor_ref.packed.nodes import uneven
from xnor_ref.packed.ops import OPS, Node, Shape, Step, shown
from xnor_ref.packed.trees import MAX_TREE_WEIGHTS
from xnor_ref.storage import PathLike, load_tensors

FORMAT = "xnor_ref packed network"
VERSION = 1  # networks with all binary layers stored as bits
TREE_VERSION = 2  # networks with layers stored along a tree
GEOMETRY_VERSION = 5  # networks with groups in binary layers, uneven padding, or one of `_OPTIONAL`
_OPTIONAL = ("dilation", "count_include_pad", "input_levels")
LAST_VERSION = max(GEOMETRY_VERSION, *(op.version for op in OPS.values()))

MAX_FILE_BYTES = 2 * 2**30
MAX_NODES = 10_000
MAX_CLASSES = 1_000_000
MAX_CHANNELS = 4096  # of the input image
MAX_IMAGE_SIDE = 16_384
MAX_IMAGE_MEMORY = 2**30  # bytes of activations and workspace that one image may need
MAX_IMAGE_WORK = 2**40  # multiply-adds that one image may need

_KEYS: dict[str, type | tuple[type, ...]] = {
    "format": str,
    "version": int,
    "input": dict,
    "classes": list,
    "graph": list,
    "producer": dict,
    "training": dict,
    "data_sha256": (str, type(None)),
}
_NODE_KEYS = {"op", "name", "inputs"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}", re.ASCII)


@dataclass(frozen=True)
class ExaminedNode:
    """A node that passed the check."""

    op: str
    name: str
    inputs: tuple[int, ...]
    tensors: dict[str, NDArray]
    step: Step
    attributes: dict[str, Any]


@dataclass(frozen=True)
class ExaminedNetwork:
    """A description that passed the check."""

    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    table: NDArray[np.float32]
    classes: tuple[str, ...]
    nodes: tuple[ExaminedNode, ...]
    image_memory: int  # bytes of activations and workspace that one image needs


def version_of(graph: list[dict[str, Any]], tensors: dict[str, NDArray]) -> int:
    """Return the smallest format version with all that a network needs."""
    trees = [TREE_VERSION for name in tensors if name.endswith(".tree")]
    return max([VERSION, *trees, *map(_version_of_node, graph)])


def _version_of_node(entry: dict[str, Any]) -> int:
    """Return the smallest format version with this operation and geometry."""
    grouped = "groups" in entry and entry["op"] != "conv2d"
    new = grouped or uneven(entry.get("padding")) or not entry.keys().isdisjoint(_OPTIONAL)
    return max(OPS[entry["op"]].version, GEOMETRY_VERSION if new else VERSION)


def read(path: PathLike) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Return description and tensors of a file. The digest is verified, but the content is not yet checked.

    Raises
    ------
    ModelFileError
        The file is missing, unreadable, damaged, altered, or of another format or version.
    """
    tensors, metadata = load_tensors(path, expect_format=FORMAT, max_version=LAST_VERSION, max_bytes=MAX_FILE_BYTES)
    return metadata, tensors


def examine(metadata: dict[str, Any], tensors: dict[str, NDArray]) -> ExaminedNetwork:
    """Check a whole description and infer every shape.

    Parameters
    ----------
    metadata : dict
        The description of docs/model-format.md. A key "digest" is ignored.
    tensors : dict of ndarray
        By name, "<node>.<field>".

    Raises
    ------
    ModelFileError
        A node or key is wrong. The message names it and the reason.
    """
    _check_keys(metadata)
    input_shape, mean, std, table = _examine_input(metadata["input"])
    classes = _examine_classes(metadata["classes"])
    nodes = _examine_graph(metadata["graph"], tensors, input_shape, metadata["version"])
    logits = nodes[-1].step.shape
    if logits != (len(classes),):
        raise ModelFileError(
            f"the last node {nodes[-1].name!r} has {logits} outputs, but there are {len(classes)} classes"
        )
    return ExaminedNetwork(input_shape, mean, std, table, classes, nodes, _check_cost(nodes, input_shape))


def _check_keys(metadata: dict[str, Any]) -> None:
    if metadata.get("format") != FORMAT or metadata.get("version") not in range(VERSION, LAST_VERSION + 1):
        what = shown(metadata.get("format")), shown(metadata.get("version"))
        raise ModelFileError(
            f"format {what[0]} version {what[1]}; {FORMAT!r} version {VERSION} to {LAST_VERSION} is needed"
        )
    for key, kind in _KEYS.items():
        if key not in metadata or not isinstance(metadata[key], kind):
            raise ModelFileError(f"metadata key {key!r} is missing or of the wrong type")
    unknown = sorted(metadata.keys() - _KEYS.keys() - {"digest"})
    if unknown:
        raise ModelFileError(f"unknown metadata key {shown(unknown[0])}")
    for key, value in metadata["producer"].items():
        if not isinstance(value, str):
            raise ModelFileError(f"producer {shown(key)} must be a string")
    fingerprint = metadata["data_sha256"]
    if fingerprint is not None and not re.fullmatch("[0-9a-f]{64}", fingerprint):
        raise ModelFileError("data_sha256 must be 64 hexadecimal digits or null")


def _examine_input(given: dict[str, Any]):
    if given.keys() != {"channels", "height", "width", "mean", "std"}:
        raise ModelFileError(f"input must have channels, height, width, mean and std, but has {shown(sorted(given))}")
    sizes = []
    for key, limit in (("channels", MAX_CHANNELS), ("height", MAX_IMAGE_SIDE), ("width", MAX_IMAGE_SIDE)):
        value = given[key]
        if not (is_integer(value) and 1 <= value <= limit):
            raise ModelFileError(f"input {key} must be an integer from 1 to {limit}, got {shown(value)}")
        sizes.append(value)
    for key in ("mean", "std"):
        values = given[key]
        ok = isinstance(values, list) and len(values) == sizes[0]
        ok = ok and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        if not ok or any(abs(v) > 1e30 or (key == "std" and v <= 0) for v in values):
            raise ModelFileError(f"input {key} must be {sizes[0]} numbers (std > 0), got {shown(values)}")
    mean, std = (tuple(float(v) for v in given[key]) for key in ("mean", "std"))
    table = float_ops.pixel_table(mean, std)
    if not np.isfinite(table).all():
        raise ModelFileError("input mean and std give pixels that are not finite")
    return (sizes[0], sizes[1], sizes[2]), mean, std, table


def _examine_classes(classes: list) -> tuple[str, ...]:
    if not 1 <= len(classes) <= MAX_CLASSES:
        raise ModelFileError(f"classes must be 1 to {MAX_CLASSES} names, got {len(classes)}")
    for label, name in enumerate(classes):
        # Only printable names: in a terminal, control characters are commands.
        if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name) <= 1000:
            raise ModelFileError(f"class {label} must be a printable string, got {shown(name)}")
    return tuple(classes)


def _examine_graph(
    graph: list, tensors: dict[str, NDArray], input_shape: Shape, version: int
) -> tuple[ExaminedNode, ...]:
    if not 1 <= len(graph) <= MAX_NODES:
        raise ModelFileError(f"graph must have 1 to {MAX_NODES} nodes, got {len(graph)}")
    fields: dict[str, dict[str, NDArray]] = {}
    for key, array in tensors.items():
        owner, _, name = key.rpartition(".")
        fields.setdefault(owner, {})[name] = array

    nodes: list[ExaminedNode] = []
    unused: set[int] = set()
    names: set[str] = set()
    in_trees = 0
    for index, entry in enumerate(graph):
        if not isinstance(entry, dict) or not entry.keys() >= _NODE_KEYS:
            raise ModelFileError(f"node {index} must be an object with op, name and inputs")
        op, name, inputs = entry["op"], entry["name"], entry["inputs"]
        if not isinstance(op, str) or op not in OPS:
            raise ModelFileError(f"node {index}: unknown op {shown(op)}; it must be one of {', '.join(OPS)}")
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in names:
            raise ModelFileError(f"node {index}: name {shown(name)} is not a plain name, or is used twice")
        node = Node(op, name, {k: v for k, v in entry.items() if k not in _NODE_KEYS}, fields.pop(name, {}))
        since, wanted = _version_of_node(entry), OPS[op].inputs
        node.need(version >= since, f"needs version {since}, but the file has version {version}")
        ok = isinstance(inputs, list) and (len(inputs) == wanted or (wanted is None and len(inputs) > 0))
        ok = ok and all(is_integer(i) and -1 <= i < index for i in inputs)
        node.need(
            ok, f"inputs must name {wanted or 'several'} of the earlier nodes (-1 is the image), got {shown(inputs)}"
        )
        shapes = [input_shape if i == -1 else nodes[i].step.shape for i in inputs]
        if "tree" in node.tensors:
            node.need(
                version >= TREE_VERSION,
                f"tensor 'tree' needs version {TREE_VERSION}, but the file has version {version}",
            )
            node.need(
                in_trees < MAX_TREE_WEIGHTS, f"more than {MAX_TREE_WEIGHTS} weights of the file are stored along trees"
            )
        step = OPS[op].examine(node, *shapes)
        in_trees += step.weight_bits if "tree" in node.tensors else 0
        extra = sorted((node.attributes.keys() | node.tensors.keys()) - node.seen)
        node.need(not extra, f"unknown attribute or tensor {shown(extra[0] if extra else None)}")
        nodes.append(ExaminedNode(op, name, tuple(inputs), node.tensors, step, node.attributes))
        names.add(name)
        unused.add(index)
        unused -= set(inputs)
    if unused != {len(nodes) - 1}:
        raise ModelFileError(f"no node reads the output of node {nodes[min(unused)].name!r}")
    if fields:
        owner, left = next(iter(fields.items()))
        raise ModelFileError(f"tensor {shown(f'{owner}.{next(iter(left))}')} belongs to no node")
    return tuple(nodes)


def last_uses(nodes: tuple[ExaminedNode, ...]) -> dict[int, int]:
    """Return, for every node and for -1 (the image), the last node that reads it."""
    return {source: index for index, node in enumerate(nodes) for source in node.inputs}


def _check_cost(nodes: tuple[ExaminedNode, ...], input_shape: Shape) -> int:
    """Return the most bytes that one image needs at a time. Raises ModelFileError if memory or work is too large."""
    final = last_uses(nodes)
    live = peak = 4 * math.prod(input_shape)
    work = 0
    for index, node in enumerate(nodes):
        step, size = node.step, 4 * math.prod(node.step.shape)
        live += size
        peak = max(peak, live + step.workspace)
        work += step.work + size
        if peak > MAX_IMAGE_MEMORY or work > MAX_IMAGE_WORK:
            raise ModelFileError(
                f"node {node.name!r} ({node.op}) makes the network too large: one image would need {peak} "
                f"bytes and {work} operations; the limits are {MAX_IMAGE_MEMORY} and {MAX_IMAGE_WORK}"
            )
        for source in set(node.inputs):
            if final[source] == index:
                live -= 4 * math.prod(input_shape if source == -1 else nodes[source].step.shape)
    return peak
