"""What a packed network is made of: the size and the work of each layer, and its weights as pictures."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from xnor_ref.kernels.basics.layout import n_words
from xnor_ref.packed import PackedNetwork
from xnor_ref.packed.contents import Layer
from xnor_ref.show.images import PLUS, picture, sheet, signed, zoom_for
from xnor_ref.show.page import Html, el, join, table

FILTERS, CHANNELS = 16, 24  # of a layer that are shown
REAL = 64  # filters of a real first layer


def is_binary(network: PackedNetwork, layer: Layer) -> bool:
    """Whether the weights of a layer are bits."""
    return _bits(network)[layer.name] > 0


def _bits(network: PackedNetwork) -> dict[str, int]:
    return {row["name"]: row["bits"] for row in network.summary()}


def costs(network: PackedNetwork) -> list[dict[str, Any]]:
    """A row for each layer: those of `PackedNetwork.summary`, and "macs", one for each tap of each output; "words", the
    64-bit words that are compared where inputs and weights are bits; "float_bytes", with all weights in float32."""
    layers = {layer.name: layer for layer in network.layers}
    planes = {node.name: len(node.step.arguments["words"]) for node in _kbit(network)}
    inputs = {node.name: node.step.arguments["inputs"].bits for node in _kbit(network)}
    rows = []
    for row in network.summary():
        layer = layers[row["name"]]
        shape = layer.weight_shape
        macs = math.prod(shape[1:]) * math.prod(layer.output_shape) if shape else 0
        on_bits = row["bits"] > 0 and not layer.kind.startswith("sign_weight")
        times = planes.get(layer.name, 1) * inputs.get(layer.name, 1)
        words = n_words(shape[1]) * math.prod(shape[2:]) * math.prod(layer.output_shape) if shape and on_bits else 0
        rows.append(row | {"macs": macs, "words": words * times, "float_bytes": 4 * _parameters(row, planes)})
    return rows


def _kbit(network: PackedNetwork) -> Iterator[Any]:
    return (node for node in network.examined.nodes if node.op.startswith("kbit"))


def _parameters(row: dict[str, Any], planes: dict[str, int]) -> int:
    return row["bits"] // planes.get(row["name"], 1) + row["float_params"]


def costs_section(network: PackedNetwork) -> Html:
    """The table of sizes and operations."""
    rows = costs(network)
    keys = ("bits", "float_params", "bytes", "macs", "words")
    total = {key: sum(row[key] for row in rows) for key in (*keys, "float_bytes")}
    binary = sum(row["macs"] for row in rows if row["bits"])
    times, share = total["float_bytes"] / max(total["bytes"], 1), 100 * binary / max(total["macs"], 1)
    text = (
        f"{total['bits']:,} binary weights and {total['float_params']:,} real numbers take {total['bytes']:,} bytes. "
        f"In float32 they would take {total['float_bytes']:,}, {times:.1f} times as many. An image needs "
        f"{total['macs']:,} multiply-adds, of which {binary:,} ({share:.0f} %) are binary"
    )
    text += f": an XNOR and a popcount for each of {total['words']:,} words of 64 bits." if total["words"] else "."
    head = ("layer", "operation", "output", "binary weights", "real numbers", "bytes", "multiply-adds", "64-bit words")
    cells: list[tuple[Any, ...]] = [
        (
            row["name"],
            row["op"],
            "×".join(map(str, row["output_shape"])),
            *(f"{row[k]:,}" if row[k] else "" for k in keys),
        )
        for row in rows
    ]
    cells.append(("total", "", "", *(f"{total[key]:,}" for key in keys)))
    return join((el("p", text), table(head, cells, right=range(3, 8), total=True)))


def legend() -> Html:
    """What the two colours of signs mean."""
    keys = (("c0", "rgb({},{},{})".format(*PLUS), "+1"), ("c1", "rgb(240,150,60)", "−1"))
    return el(
        "p", *(el("span", el("i", style=f"background:{colour}"), name) for _, colour, name in keys), class_="keys"
    )


def filters_section(network: PackedNetwork) -> Html:
    """Filters of the first real convolution in colour, and filters of each binary layer as squares of bits."""
    figures = []
    real = next((layer for layer in network.layers if layer.kind == "conv2d"), None)
    if real and real.inputs == ("image",) and real.weight_shape and real.weight_shape[1] in (1, 3):
        figures.append(_real(network, real))
    binary = [_binary(network, layer) for layer in network.layers if is_binary(network, layer)]
    if not figures and not binary:
        return Html()
    text = f"Each row is a filter, each square an input channel: up to {FILTERS} filters and {CHANNELS} channels."
    told = join((el("p", text), legend())) if binary else el("p", "No layer has binary weights.")
    return join((told, el("div", *figures, *binary, class_="grid")))


def _real(network: PackedNetwork, layer: Layer) -> Html:
    w = np.moveaxis(network.weights(layer.name)[:REAL], 1, -1)
    low, high = (edge(w, axis=(1, 2, 3), keepdims=True) for edge in (np.min, np.max))
    pixels = np.round(255 * (w - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)
    pixels = np.concatenate([np.repeat(pixels, 3 // w.shape[3], axis=3), np.full_like(pixels[..., :1], 255)], axis=3)
    tiles = sheet(pixels, 8)
    caption = f"{layer.name}: {len(w)} of {layer.output_shape[0]} real filters, each over its own range"
    return _figure(tiles, caption)


def _binary(network: PackedNetwork, layer: Layer) -> Html:
    w = network.weights(layer.name)
    plus = float((w > 0).mean())
    shown = w[:FILTERS, :CHANNELS] if w.ndim == 4 else w[:FILTERS, : CHANNELS * 4, None, None]
    pixels = signed(shown.reshape(-1, *shown.shape[2:]))
    tiles = sheet(pixels, shown.shape[1], gap=1 if w.ndim == 4 else 0)
    alpha = network.alpha(layer.name)
    caption = (
        f"{layer.name}: {'×'.join(map(str, w.shape))}, {100 * plus:.0f} % of the weights are +1"
        + (f"; alpha from {alpha.min():.3g} to {alpha.max():.3g}" if "alpha" in _fields(network, layer) else "")
    )  # fmt: skip
    return _figure(tiles, caption)


def _fields(network: PackedNetwork, layer: Layer) -> set[str]:
    return {field for node in network.examined.nodes if node.name == layer.name for field in node.tensors}


def _figure(pixels: np.ndarray, caption: str) -> Html:
    return el("figure", picture(pixels, zoom_for(pixels), caption), el("figcaption", caption))
