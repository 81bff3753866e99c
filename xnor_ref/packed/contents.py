"""A packed network as plain arrays: its layers, their weights, and the values of every layer in a run."""

import difflib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.layout import signs_of_words
from xnor_ref.kernels.basics.modes import KMode
from xnor_ref.kernels.ops import binary_ops
from xnor_ref.packed.file import ExaminedNetwork, ExaminedNode
from xnor_ref.packed.nodes import F32, Settings, Shape

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Layer:
    """A layer of a packed network. Shapes are those of one image, (C, H, W) or (I,).

    Attributes
    ----------
    name : str
        The layer's path in the trained network.
    kind : str
        The operation's name in docs/model-format.md.
    inputs : tuple of str
        The names of the layers that it reads. "image" is the normalised image.
    input_shape, output_shape : tuple of int
    weight_shape : tuple of int or None
        (O, C/groups, KH, KW) or (O, I), or None for a layer without weights.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    input_shape: Shape
    output_shape: Shape
    weight_shape: Shape | None


def layers(network: ExaminedNetwork) -> tuple[Layer, ...]:
    """Return all layers in the order of computation."""
    names = [*(node.name for node in network.nodes), "image"]
    shapes = [*(node.step.shape for node in network.nodes), network.input_shape]
    found = []
    for node in network.nodes:
        inputs, step = tuple(names[index] for index in node.inputs), node.step
        found.append(Layer(node.name, node.op, inputs, shapes[node.inputs[0]], step.shape, step.weight_shape))
    return tuple(found)


def find(network: ExaminedNetwork, name: str, what: str) -> ExaminedNode:
    """Return the layer `name`. It must have `what`: "weights", or "words" or "alpha", which only binary weights have.

    Raises InputError.
    """
    nodes = {node.name: node for node in network.nodes}
    if name not in nodes:
        near = ", ".join(map(repr, difflib.get_close_matches(str(name), nodes, 3, 0.4)))
        hint = f"did you mean {near}?" if near else "see .layers for all"
        raise InputError(f"PackedNetwork.{what}: no layer is named {name!r}; {hint}")
    having = [key for key, node in nodes.items() if (node.step.weight_shape if what == "weights" else node.step.words)]
    if name not in having:
        known = ", ".join(having[:8]) + (", ..." if len(having) > 8 else "") if having else "none"
        raise InputError(
            f"PackedNetwork.{what}: layer {name!r} ({nodes[name].op}) has no {what}; layers with {what}: {known}"
        )
    return nodes[name]


def weights(node: ExaminedNode) -> NDArray[Any]:
    """Return the weights of a layer; see `PackedNetwork.weights`."""
    shape, words = node.step.weight_shape, node.step.words
    assert shape is not None
    if words is None:
        return node.tensors["weight"].copy()
    signs = signs_of_words(words(), shape[1])  # (O, KH, KW, C) or (O, I); bit planes first
    planes = signs.ndim > len(shape)
    values = np.tensordot(2.0 ** np.arange(len(signs)), signs, 1) if planes else signs
    return np.ascontiguousarray(np.moveaxis(values, -1, 1), np.int16 if planes else np.int8)


def words(node: ExaminedNode) -> NDArray[np.uint64]:
    """Return the weights of a layer as bits; see `PackedNetwork.words`."""
    shape, words = node.step.weight_shape, node.step.words
    assert shape is not None and words is not None
    return np.ascontiguousarray(np.moveaxis(words(), -1, 1 - len(shape))) if len(shape) > 2 else words()


def alpha(node: ExaminedNode) -> F32:
    """Return the scales of a layer; see `PackedNetwork.alpha`."""
    found = node.tensors.get("alpha")
    return np.ones(node.step.shape[0], np.float32) if found is None else found.copy()


def trace(network: ExaminedNetwork, batch: F32, settings: Settings) -> dict[str, Arrays]:
    """Return the values of every layer; see `PackedNetwork.trace`."""
    values, found = [batch], {}
    for node in network.nodes:
        notes: Arrays = {}
        inputs = [values[index + 1] for index in node.inputs]  # the image is index -1
        output = node.step.run(Settings(settings.threads, settings.backend, notes), *inputs)
        values.append(output)
        arrays = {f"input{at if at > 1 else ''}": array for at, array in enumerate(inputs, start=1)}
        found[node.name] = arrays | _arrays(inputs[0], notes) | {"output": output}
    return found


def _arrays(x: F32, notes: Arrays) -> Arrays:
    """Return the values that a binary layer recorded, unpacked."""
    found: Arrays = {}
    if "words" in notes:
        signs = signs_of_words(notes["words"], x.shape[1])
        found["signs"] = np.ascontiguousarray(np.moveaxis(signs, -1, 1), np.int8)
    if "levels" in notes:
        found["levels"] = notes["levels"].reshape(x.shape).astype(np.int16)
    if "K" in notes and x.ndim == 4:
        found["A"] = binary_ops.input_scale_map(x, Window((1, 1)), KMode.PLAIN, groups=notes["K"].shape[1])
    return found | {key: notes[key] for key in ("K", "Z") if key in notes}
