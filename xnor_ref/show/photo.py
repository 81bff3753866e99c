"""The page of one photo's way through a packed network, layer by layer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.datasets.images import load_photo
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.packed import PackedNetwork
from xnor_ref.packed.contents import Layer
from xnor_ref.packed.file import ExaminedNode
from xnor_ref.show.classes import probabilities
from xnor_ref.show.images import picture, sheet, signed, zoom_for
from xnor_ref.show.layers import legend
from xnor_ref.show.page import Html, el, facts, join, page, percent, table

CHANNELS, COLUMNS = 12, 4  # maps of a layer that are shown, and in a row
SIDE = 64  # pixels of a map that are drawn, at most
OPEN = 24  # layers up to which all are unfolded
MAPS = {  # arrays of a trace, and what to say of them
    "signs": "signs of the input",
    "levels": "input as integers",
    "A": "A: mean of |X| over the channels",
    "K": "K: A averaged over each window",
    "Z": "Z: the sums, before they are scaled",
    "output": "output",
}


def photo_page(network: PackedNetwork, model: str, photo: Path, top: int = 5) -> bytes:
    """The page. Raises DatasetError for a photo that cannot be read, NonFiniteError where the numbers overflow."""
    channels, *size = network.input_shape
    pixels = load_photo(photo, (size[0], size[1]), channels)
    logits = network.logits(pixels[None])  # which also checks that they are finite
    trace = network.trace(pixels[None])
    nodes = {node.name: node for node in network.examined.nodes}
    given = probabilities(logits)[0]
    order = np.argsort(-given, kind="stable")[:top]
    binary = sum(1 for layer in network.layers if nodes[layer.name].step.weight_bits)
    about = join(
        (
            el("p", f"Model {model}", class_="dim"),
            facts(
                (
                    ("answer", network.classes[order[0]]),
                    ("probability", percent(given[order[0]])),
                    ("layers, of which binary", f"{len(network.layers)}, {binary}"),
                )
            ),
        )
    )
    unfolded = len(network.layers) <= OPEN
    cards = [_card(network, layer, nodes[layer.name], trace[layer.name], unfolded) for layer in network.layers]
    sections = [
        ("The photo and the answer", join((_photo(pixels), _answer(network, logits[0], given, order)))),
        ("Layer by layer", join((_how_to_read(), el("div", *cards, class_="cards")))),
    ]
    return page(f"The way of {photo.name}", about, sections)


def _photo(pixels: NDArray[np.uint8]) -> Html:
    height, width, _ = pixels.shape
    zoom = max(1.0, round(224 / max(height, width)))
    caption = f"as the network sees it: {height}×{width} pixels, cropped to the middle"
    return el("figure", picture(pixels, zoom, "the photo"), el("figcaption", caption))


def _answer(network: PackedNetwork, logits: NDArray[np.float32], given: NDArray[np.float64], order: Any) -> Html:
    bars = [el("span", class_="bar", style=f"width:{max(1, 140 * given[i]):.0f}px") for i in order]
    rows = [(network.classes[i], percent(given[i]), bar, f"{logits[i]:.3f}") for i, bar in zip(order, bars)]
    return table(("class", "probability", "", "logit"), rows, right=[1, 3])


def _how_to_read() -> Html:
    text = (
        f"The first {CHANNELS} channels of each layer. Blue is positive, orange negative; pixels near 0 are faint. A "
        "binary layer takes the signs of its input and compares them with its weights, bit by bit. Z is how many bits "
        "agree, less how many differ. The output is Z times alpha, and times K where the layer has K."
    )
    return join((el("p", text), legend()))


def _card(
    network: PackedNetwork, layer: Layer, node: ExaminedNode, arrays: dict[str, NDArray[Any]], unfolded: bool
) -> Html:
    shape = "×".join(map(str, layer.output_shape))
    head = (
        el("b", layer.name),
        f" {layer.kind} → {shape} ",
        el("span", f"reads {', '.join(layer.inputs)}", class_="dim"),
    )
    maps = [_map(name, arrays[name][0]) for name in MAPS if name in arrays]
    told = [el("p", line) for line in _told(network, layer, node, arrays)]
    look = "card wide" if node.step.weight_bits else "card"
    opened = "open" if unfolded or node.step.weight_bits else None
    return el("details", el("summary", *head), *told, el("div", *maps, class_="maps"), class_=look, open=opened)


def _map(name: str, values: NDArray[Any]) -> Html:
    """A figure of one array of one image: (C, H, W), or (I,)."""
    wide = 150 if values.ndim == 3 and len(values) == 1 else 300
    caption = f"{MAPS[name]}, {values.min():.4g} to {values.max():.4g}"
    if name == "signs":
        caption = f"{MAPS[name]}, {100 * float((values > 0).mean()):.0f} % are +1"
    if values.ndim == 1:
        cells = signed(values[:256])
        pixels = sheet(cells[:, None, None], min(len(cells), 32))
    else:
        step = -(-max(values.shape[1:]) // SIDE)
        maps = values[:CHANNELS, ::step, ::step]
        reach = np.abs(maps).max(axis=(1, 2), keepdims=True)
        pixels = sheet(signed(maps / np.where(reach > 0, reach, 1), 1.0), min(COLUMNS, len(maps)))
    return el("figure", picture(pixels, zoom_for(pixels, wide, 16), f"{name} of the layer"), el("figcaption", caption))


def _told(network: PackedNetwork, layer: Layer, node: ExaminedNode, arrays: dict[str, NDArray[Any]]) -> Iterator[str]:
    """Sentences on a layer with weights of bits: how its largest output came about."""
    if "signs" not in arrays:
        return
    arguments = node.step.arguments
    if arguments["rule"] is not None:
        yield "BatchNorm before this layer is folded into its signs: one threshold for each channel."
    z, output = arrays["Z"][0], arrays["output"][0]
    at = np.unravel_index(np.abs(output).argmax(), output.shape)
    bits = _bits_met(layer, arguments, [int(i) for i in at[1:]])
    alpha, k = network.alpha(layer.name)[at[0]], None
    if "K" in arrays:
        maps = arrays["K"][0]
        k = maps[at[0] * len(maps) // len(output), *at[1:]] if maps.ndim == 3 else maps[0]
    place = f"channel {at[0]}" + (f", row {at[1]}, column {at[2]}" if len(at) == 3 else "")
    differ = (bits - int(z[at])) // 2
    sentence = f"The strongest output ({place}): of {bits} pairs of bits, {differ} differ, so Z = {bits} - 2 × {differ}"
    factors = {"alpha": alpha if arguments["alpha"] is not None else None, "K": k}
    given = [f"{name} = {value:.6g}" for name, value in factors.items() if value is not None]
    yield f"{sentence} = {z[at]}." + (f" Times {' and '.join(given)}, this is {output[at]:.6g}." if given else "")


def _bits_met(layer: Layer, arguments: dict[str, Any], at: list[int]) -> int:
    """How many signs of the input, and of padding that has signs, an output is summed over."""
    assert layer.weight_shape is not None
    channels, *kernel = layer.weight_shape[1:]
    window: Window | None = arguments.get("window")
    if window is None or arguments["pad_value"] != 0:
        return int(np.prod(layer.weight_shape[1:]))
    count = channels
    for axis, size in enumerate(layer.input_shape[1:]):
        first = at[axis] * window.stride[axis] - window.before[axis]
        places = [first + tap * window.dilation[axis] for tap in range(kernel[axis])]
        count *= sum(0 <= place < size for place in places)
    return count
