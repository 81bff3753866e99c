"""Importing Keras models, including larq's layers, as networks of `nn`.

Keras stores images as (N, H, W, C). Kernels are transposed here, and weights that read flattened images are reordered
for (C, H, W).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from xnor_ref import nn
from xnor_ref.errors import InputError
from xnor_ref.interop import build
from xnor_ref.interop.description import INPUT, Description, refuse_all
from xnor_ref.interop.keras.config import Config, is_model, parsed
from xnor_ref.interop.keras.files import Place, opened
from xnor_ref.interop.keras.layers import LAYERS
from xnor_ref.interop.keras.translation import MAX_VALUES, Translation, Value


def from_keras(
    model: Any,
    *,
    architecture: Any = None,
    input_shape: Sequence[int] | None = None,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
) -> nn.Graph:
    """Import a Keras model, including larq's binary layers, as a network of `nn`.

    The network gives the model's logits; a softmax at the end is left out. It can be trained further, with larq's
    gradients, and frozen. Code in a file is never run.

    Parameters
    ----------
    model : a Keras model, or the path of a `.keras` file, of an `.h5` file, or of a `.weights.h5` file
    architecture : for weights alone: the JSON of `model.to_json()`, or the path of a file that holds it
    input_shape : shape (C, H, W) of an image, if the model takes any size
    mean, std : normalisation of raw pixels, (pixel/255 - mean)/std, that gives the model's input. std=1/255 is for a
        model that takes pixels from 0 to 255. It is the default for a model that begins by scaling its input by less
        than a hundredth. Any other model is assumed to take pixels from 0 to 1
    classes : names in label order

    Returns
    -------
    nn.Graph
        In inference mode. It takes float32 images (N, C, H, W), not (N, H, W, C) as in Keras.

    Raises
    ------
    InputError
        Layers cannot be imported. The message names each with the reason.
    ModelFileError
        The file is missing, damaged, or of another kind.
    """
    return build.network(describe(model, architecture, input_shape, mean, std, classes))


def describe(
    model: Any,
    architecture: Any = None,
    input_shape: Sequence[int] | None = None,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
) -> Description:
    """Return the description from which `from_keras` builds a network."""
    with opened(model, architecture) as (whole, weights):
        config, source = Config(whole), "Keras model"
        try:
            inner = config.get("config")
            if not is_model(inner):
                kind = config.get("class_name")
                raise InputError(f"a model of class {kind!r:.60} without layers; it must be Sequential or Functional")
            source = f"Keras model {Config(inner).text('name', '')!r:.100}"
            shape = _input_shape(parsed(inner).shape, input_shape)
            images = shape if len(shape) == 3 else (shape[0], 1, 1)
            if math.prod(images) > MAX_VALUES:
                raise InputError(f"its input {images} has more than {MAX_VALUES} values")
            to = Translation(weights, LAYERS)
            image = Value(INPUT, images)
            if len(shape) == 1:
                image = to.add("flatten", "flatten", image, shape)
            end = to.model(inner, [image], Place())
        except InputError as error:
            raise InputError(f"from_keras: {source}: {error}") from None
        refuse_all(f"from_keras: {source}", to.reasons)
        if end.parts or end.name != to.layers[-1].name:
            raise InputError(f"from_keras: {source}: its last layer only flattens images or passes its input on")
        if std is None:
            first = to.layers[0]
            raw = first.kind == "affine" and np.abs(first.arrays["scale"]).max() < 0.01
            std = 1 / 255 if raw else 1.0
        return Description(tuple(to.layers), images, mean, std, classes, source)


def _input_shape(said: Any, given: Sequence[int] | None) -> Any:
    """Return (C, H, W), or (I,) for flat values, from the model's shape (H, W, C) or the caller's."""
    shape = said if said is None or len(said) != 3 else (said[2], *said[:2])
    if given is not None:
        if shape is not None and not (
            len(shape) == len(given) and all(size in (None, own) for size, own in zip(shape, given))
        ):
            raise InputError(f"input_shape {tuple(given)} differs from the model's, {shape}")
        shape = tuple(given)
    if shape is None or len(shape) not in (1, 3) or not all(isinstance(size, int) and size > 0 for size in shape):
        also = "" if given is not None else "; give input_shape=(C, H, W)" if shape is None or None in shape else ""
        raise InputError(f"its input has shape {said}; it must be (H, W, C) or (features,){also}")
    return shape
