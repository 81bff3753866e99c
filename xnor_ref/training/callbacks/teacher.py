"""Learning from another network's answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.datasets import Dataset
from xnor_ref.errors import InputError, ModelFileError
from xnor_ref.nn import distillation
from xnor_ref.packed import load_packed
from xnor_ref.storage import sha256_file
from xnor_ref.training.fitting.trainer import Callback, Step, Trainer
from xnor_ref.training.storing.sources import file_of, load_network

F32 = NDArray[np.float32]


class Teacher(Callback):
    """Adds the distance to another network's answers to the loss: (1 - weight) loss + weight soft.

    soft is `nn.distillation` (Hinton et al. 2015, section 2).

    Parameters
    ----------
    path : a model file, a float network, a checkpoint, or a run, whose float network is used
    data : the student's training data
    distill_weight : `weight`, from 0 to 1
    temperature : the divisor of both networks' logits

    Raises
    ------
    ModelFileError : the file is rejected
    InputError : the teacher has other image shapes, normalisation or classes
    """

    def __init__(self, path: Path, data: Dataset, distill_weight: float = 0.9, temperature: float = 4.0) -> None:
        file = file_of(path)
        self.sha256 = sha256_file(file) if file.is_file() else ""
        self._weight, self._temperature = distill_weight, temperature
        self._logits, shape, about = _teacher(file)
        wanted = {
            "images": (data.channels, data.image_size, data.image_size),
            "classes": tuple(data.classes),
            "mean": tuple(data.mean),
            "std": tuple(data.std),
        }
        found = {"images": shape} | {key: tuple(about[key]) for key in ("classes", "mean", "std")}
        for key, value in wanted.items():
            if found[key] != value:
                raise InputError(f"teacher {path}: its {key} are {_short(found[key])}, but {_short(value)} here")

    def after_forward(self, trainer: Trainer, step: Step) -> None:
        soft = distillation(step.logits, self._logits(step.images), self._temperature)
        step.loss = step.loss * (1 - self._weight) + soft * self._weight


def _teacher(path: Path) -> tuple[Callable[[F32], F32], tuple[int, ...], dict[str, Any]]:
    """Return (function from normalised images to logits, shape of an image, classes with mean and std)."""
    try:
        model, about = load_network(path)
    except ModelFileError as refusal:
        try:
            packed = load_packed(path)
        except ModelFileError as error:
            raise ModelFileError(f"teacher: neither a float network ({refusal}) nor a packed one ({error})") from None
        about = {"classes": packed.classes, "mean": packed.mean, "std": packed.std}
        return packed.logits, packed.input_shape, about
    model.eval()
    config = model.config

    def logits(x: F32) -> F32:
        with no_grad():
            return model(Tensor(x)).data

    return logits, (config["in_channels"], config["image_size"], config["image_size"]), about


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
