"""Exporting a packed network as an ONNX or QONNX file."""

import math
from typing import Any

from xnor_ref.errors import InputError, InputTypeError, check_integer
from xnor_ref.interop.onnx_out_graph import FLOAT, MAX_BYTES, UINT8, Graph
from xnor_ref.interop.onnx_out_nodes import Layer, QonnxWriter, Writer, write_image
from xnor_ref.packed import PackedNetwork
from xnor_ref.storage import PathLike, canonical_json, tensors_digest, write_atomically

IMAGES, LOGITS = "images", "logits"


def to_onnx(
    packed: PackedNetwork,
    path: PathLike,
    *,
    unpacked: bool = False,
    normalised: bool = False,
    batch: int | None = None,
) -> None:
    """Write a packed network as an ONNX file of standard operators (opset 11).

    Parameters
    ----------
    packed : PackedNetwork
    path : str or PathLike
        An existing file is replaced.
    unpacked : bool
        Store binary weights as float32, which takes 32 times the bytes, for tools that do not fold constants. By
        default weights are bits that the graph unpacks. A runtime does that once, when it loads the file.
    normalised : bool
        The input is normalised float32 (N, C, H, W), instead of pixels, uint8 (N, H, W, C).
    batch : int, optional
        A fixed batch size. By default any number of images is accepted.

    Raises
    ------
    InputTypeError
        `packed` is not a packed network.
    InputError
        The package onnx is missing, or the file would exceed the 2 GiB that ONNX allows.
    OutputError
        The file could not be written. An existing file is unchanged.

    Notes
    -----
    The input has the name "images", the output "logits". The model's metadata holds "classes", a JSON list of names in
    the order of the logits, and "mean", "std", "training", "producer", "data_sha256" and "digest" of the packed
    network. A value is named after its layer and its name in `PackedNetwork.trace`, such as "block1.conv/signs". Equal
    networks give equal bytes.
    """
    write_atomically(path, onnx_bytes(packed, unpacked=unpacked, normalised=normalised, batch=batch))


def to_qonnx(packed: PackedNetwork, path: PathLike, *, batch: int | None = 1) -> None:
    """Write a packed network as a QONNX file (opset 13, with nodes of the domain qonnx.custom_op.general).

    Images are normalised float32 (N, C, H, W). Binary inputs and weights go through a BipolarQuant of scale 1. Inputs
    of k bits go through a signed Quant of k bits, which rounds down. Weights of k bits, which are odd, go through a
    Quant of k + 1 bits. Scales are Mul nodes, BatchNorm is BatchNormalization. The rest is as in `to_onnx`.

    Parameters
    ----------
    packed : PackedNetwork
    path : str or PathLike
    batch : int or None
        The batch size, which qonnx's executor and FINN must know. None allows any number.

    Raises
    ------
    As for `to_onnx`.
    """
    write_atomically(path, onnx_bytes(packed, qonnx=True, normalised=True, batch=batch))


def onnx_bytes(
    packed: PackedNetwork,
    *,
    qonnx: bool = False,
    unpacked: bool = False,
    normalised: bool = False,
    batch: int | None = None,
) -> bytes:
    """Return the content of the file that `to_onnx` or `to_qonnx` writes."""
    if not isinstance(packed, PackedNetwork):
        raise InputTypeError(
            f"to_onnx: packed must be a PackedNetwork, got {type(packed).__name__}; make one with freeze(network)"
        )
    if batch is not None:
        check_integer("to_onnx: batch", batch, 1)
    network = packed.examined
    _check_size(packed, unpacked or qonnx)
    writer = QonnxWriter() if qonnx else Writer(unpacked)
    graph = Graph(batch or "N", writer.opset)
    channels, height, width = network.input_shape
    if normalised:
        image = graph.value(IMAGES, FLOAT, (graph.batch, channels, height, width))
        values = {-1: IMAGES}
    else:
        image = graph.value(IMAGES, UINT8, (graph.batch, height, width, channels))
        values = {-1: write_image(graph, IMAGES, network.table)}
    shapes: dict[int, tuple[int, ...]] = {-1: network.input_shape}
    for index, node in enumerate(network.nodes):
        layer = Layer(graph, node, [shapes[source] for source in node.inputs])
        values[index] = writer.write(layer, *(values[source] for source in node.inputs))
        shapes[index] = node.step.shape
    graph.rename_last(LOGITS)
    logits = graph.value(LOGITS, FLOAT, (graph.batch, len(network.classes)))
    text = "An XNOR-Net of xnor_ref. " + (
        f"Input: float32 (N, {channels}, {height}, {width}), normalised with mean and std."
        if normalised
        else f"Input: pixels, uint8 (N, {height}, {width}, {channels})."
    )
    return graph.model(image, logits, _metadata(packed), text).SerializeToString(deterministic=True)


def _check_size(packed: PackedNetwork, unpacked: bool) -> None:
    """Raise InputError, before anything is allocated, if the file would be too large."""
    size = 0
    for node in packed.examined.nodes:
        bits = unpacked and node.step.weight_shape is not None and node.step.words is not None
        size += sum(array.nbytes for array in node.tensors.values())
        size += 4 * math.prod(node.step.weight_shape or ()) if bits else 0
    if size > MAX_BYTES:
        advice = "; packed weights take a 32nd" if unpacked else ""
        raise InputError(
            f"to_onnx: an ONNX file must be smaller than 2 GiB, but this one would need {size:,} bytes{advice}"
        )


def _metadata(packed: PackedNetwork) -> dict[str, str]:
    """Return information about the network as text, for people and programs."""
    about = packed.metadata
    arrays = {f"{node.name}.{key}": array for node in packed.examined.nodes for key, array in node.tensors.items()}
    found: dict[str, Any] = {
        "classes": list(packed.classes),
        "mean": list(packed.mean),
        "std": list(packed.std),
        "training": about["training"],
        "producer": about["producer"],
        "data_sha256": about["data_sha256"],
        "digest": tensors_digest(arrays, about),
    }
    return {key: value if isinstance(value, str) else canonical_json(value).decode() for key, value in found.items()}
