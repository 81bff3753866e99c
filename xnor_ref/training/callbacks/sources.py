"""Networks that training starts from or learns from: initial weights, and teachers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref import models
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.datasets import Dataset
from xnor_ref.errors import InputError, ModelFileError
from xnor_ref.nn import Scale, distillation
from xnor_ref.nn.layers.kbit_layers import KBitLayer
from xnor_ref.packed import load_packed
from xnor_ref.storage import sha256_file
from xnor_ref.training.settings.config import TrainConfig
from xnor_ref.training.storing.checkpoint import CheckpointFolder, read, split_state
from xnor_ref.training.storing.float_file import load_float, rebuild
from xnor_ref.training.storing.runs import RunFolder

F32 = NDArray[np.float32]

DISTILL_WEIGHT, TEMPERATURE = 0.9, 4.0


def file_of(path: Path) -> Path:
    """The float network that a path names: the file itself, or that of a run; of one under way the newest checkpoint.

    Raises
    ------
    ModelFileError
        No such file, or a run without a network.
    """
    if not path.is_dir():
        return path
    folder = RunFolder(path)
    if folder.float_path.exists():
        return folder.float_path
    newest = CheckpointFolder(folder.checkpoints_path, {}).newest_first()
    if not newest:
        raise ModelFileError(f"{path}: not a run that has a network or a checkpoint yet")
    return newest[0]


def load_network(path: Path) -> tuple[models.Network, dict[str, Any]]:
    """(network, about) of a float network's file, of a checkpoint, or of a run. Raises ModelFileError."""
    path = file_of(path)
    if path.absolute().parent.name != "checkpoints":
        return load_float(path)
    tensors, metadata = read(path)
    about = metadata.get("about")
    if not isinstance(about, dict) or not about.keys() >= {"classes", "mean", "std"}:
        raise ModelFileError(f"{path}: its description is damaged")
    return rebuild(path, metadata, split_state(tensors)[0]), about


def start_from(model: models.Network, path: Path) -> str:
    """Give `model` the parameters and running statistics of another float network, by name; say what was taken.

    This is how the second stage of two-stage training begins, from real weights as latent ones, and how a network is
    tuned further. Where weights have several bits here and had not there, they are spread over [-1, 1]. Learned scales
    that the other has not begin anew, with its weights; slopes and shifts stay as they are.

    Raises
    ------
    ModelFileError
        The file is refused; a packed network is, since it has no latent weights.
    InputError
        A tensor of another shape, or a weight that the other lacks.
    """
    try:
        source = load_network(path)[0]
    except ModelFileError as error:
        raise ModelFileError(f"init_from needs a float network, its checkpoint or its run: {error}") from None
    state, own = source.state_dict(), model.state_dict()
    for name, array in own.items():
        if name in state and state[name].shape != array.shape:
            raise InputError(f"init_from {path}: {name} is {state[name].shape} there, {array.shape} here")
        if name not in state and array.ndim > 1 and name.endswith(".weight"):
            raise InputError(f"init_from {path}: it has no {name}; both must be the same network but for its scales")
    for name, array in own.items():
        if name in state:
            array[...] = state[name]
    there = dict(source.named_modules())
    for name, module in model.named_modules():
        if isinstance(module, KBitLayer) and module.weight_bits > 1 and getattr(there[name], "weight_bits", 1) == 1:
            module.spread()
        module.after_step()
    for name, module in model.named_modules():
        if isinstance(module, Scale) and not any(f"{name}.{factor}" in state for factor in module.factors()):
            module.reset()
    fresh = [name for name in own if name not in state]
    left = [name for name in state if name not in own]
    return (
        f"weights from {path}: {len(own) - len(fresh)} tensors"
        + (f"; new here: {', '.join(fresh[:4])}{' ...' if len(fresh) > 4 else ''}" if fresh else "")
        + (f"; left out: {', '.join(left[:4])}{' ...' if len(left) > 4 else ''}" if left else "")
    )


class Teacher:
    """A network whose logits a student learns from, packed or float.

    Parameters
    ----------
    path : a model file, a float network, a checkpoint or a run (its float network)
    data : what the student is trained on
    weight, temperature : see `mixed_loss`

    Raises
    ------
    ModelFileError
        The file is refused.
    InputError
        The teacher takes other images, normalises them otherwise or knows other classes.
    """

    def __init__(self, path: Path, data: Dataset, weight: float, temperature: float) -> None:
        file = file_of(path)
        self.sha256 = sha256_file(file) if file.is_file() else ""
        self._weight, self._temperature = weight, temperature
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
                raise InputError(f"teacher {path}: its {key} are {_short(found[key])}, those here {_short(value)}")

    def mixed_loss(self, hard: Tensor, logits: Tensor, x: F32) -> Tensor:
        """(1 - weight) hard + weight soft: the loss of the labels and that of the teacher's answers to x (N, C, H, W).

        soft is `nn.distillation` (Hinton et al. 2015, section 2).
        """
        soft = distillation(logits, self._logits(x), self._temperature)
        return hard * (1 - self._weight) + soft * self._weight


def make_teacher(config: TrainConfig, data: Dataset) -> Teacher | None:
    """The teacher of a config, or None."""
    if config.teacher is None:
        return None
    weight = DISTILL_WEIGHT if config.distill_weight is None else config.distill_weight
    temperature = TEMPERATURE if config.temperature is None else config.temperature
    return Teacher(Path(config.teacher), data, weight, temperature)


def _teacher(path: Path) -> tuple[Callable[[F32], F32], tuple[int, ...], dict[str, Any]]:
    """(logits of normalised images, shape of an image, classes with mean and std)."""
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
