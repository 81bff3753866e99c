"""From Keras, and larq on it, to a network of `nn`.

Keras keeps images as (N, H, W, C). Kernels are turned round here, and weights that read flattened images are put into
the order of (C, H, W).
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
    """A network with the layers and the weights of a Keras model, larq's binary layers included.

    It gives the logits of the model: a softmax at the end is left out. It trains on with larq's gradients, and freezes.
    Nothing that a file holds is run.

    Parameters
    ----------
    model : a Keras model, or the path of a `.keras` file, of an `.h5` file, or of a `.weights.h5` file
    architecture : with weights alone, the JSON of `model.to_json()`, or the path of a file that holds it
    input_shape : (C, H, W), where the model takes any size
    mean, std : what raw pixels are normalised with, (pixel/255 - mean)/std, to be what the model takes: std=1/255 for a
        model that takes pixels from 0 to 255. Without std, that is assumed of a model that begins by rescaling its
        input to less than a hundredth; any other takes pixels from 0 to 1
    classes : names in label order

    Returns
    -------
    nn.Graph
        In inference mode. It takes images float32 (N, C, H, W), which were (N, H, W, C) in Keras.

    Raises
    ------
    InputError
        Layers that cannot come: each is named, with the reason.
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
    """What `from_keras` makes a network from."""
    with opened(model, architecture) as (whole, weights):
        config, source = Config(whole), "Keras model"
        try:
            inner = config.get("config")
            if not is_model(inner):
                kind = config.get("class_name")
                raise InputError(f"a model of class {kind!r:.60} without layers; Sequential or Functional is needed")
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
            raise InputError(f"from_keras: {source}: its last layer flattens images, or gives what it reads")
        if std is None:
            first = to.layers[0]
            raw = first.kind == "affine" and np.abs(first.arrays["scale"]).max() < 0.01
            std = 1 / 255 if raw else 1.0
        return Description(tuple(to.layers), images, mean, std, classes, source)


def _input_shape(said: Any, given: Sequence[int] | None) -> Any:
    """(C, H, W), or (I,) of flat values, from what a model says (H, W, C), or what the caller does."""
    shape = said if said is None or len(said) != 3 else (said[2], *said[:2])
    if given is not None:
        if shape is not None and not (
            len(shape) == len(given) and all(size in (None, own) for size, own in zip(shape, given))
        ):
            raise InputError(f"input_shape {tuple(given)} is not that of the model, {shape}")
        shape = tuple(given)
    if shape is None or len(shape) not in (1, 3) or not all(isinstance(size, int) and size > 0 for size in shape):
        also = "" if given is not None else "; give input_shape=(C, H, W)" if shape is None or None in shape else ""
        raise InputError(f"its input has shape {said}; (H, W, C) or (features,) is needed{also}")
    return shape
