"""Trained networks on disk, to start from, learn from or export."""

from pathlib import Path
from typing import Any

from xnor_ref import models
from xnor_ref.errors import InputError, ModelFileError
from xnor_ref.nn import Scale
from xnor_ref.nn.layers.kbit_layers import KBitLayer
from xnor_ref.training.storing.checkpoint import AVERAGE, CheckpointFolder, Position, read, state_of
from xnor_ref.training.storing.float_file import load_float, rebuild
from xnor_ref.training.storing.runs import RunFolder


def file_of(path: Path) -> Path:
    """Return the float network's file that a path names: the file itself, a run's network, or its newest checkpoint.

    Raises ModelFileError for a run without a network.
    """
    if not path.is_dir():
        return path
    folder = RunFolder(path)
    if folder.float_path.exists():
        return folder.float_path
    newest = CheckpointFolder(folder.checkpoints_path).newest_first()
    if not newest:
        raise ModelFileError(f"{path}: not a run with a network or a checkpoint")
    return newest[0]


def load_network(path: Path) -> tuple[models.Network, dict[str, Any]]:
    """Return (network, about) of a float network's file, a checkpoint or a run. Raises ModelFileError."""
    path = file_of(path)
    if path.absolute().parent.name != "checkpoints":
        return load_float(path)
    return load_checkpoint(path)[:2]


def load_checkpoint(path: Path) -> tuple[models.Network, dict[str, Any], Position]:
    """Return (network, about, position) of a checkpoint, with the average of the weights if there is one.

    Raises ModelFileError.
    """
    tensors, metadata = read(path)
    about = metadata.get("about")
    if not isinstance(about, dict) or not about.keys() >= {"classes", "mean", "std"}:
        raise ModelFileError(f"{path}: its description is damaged")
    state = {**state_of(tensors, "model."), **state_of(tensors, f"{AVERAGE}.")}
    return rebuild(path, metadata, state), about, metadata["position"]


def start_from(model: models.Network, path: Path) -> str:
    """Copy the parameters and running statistics of another float network to `model`, by name. Say what was copied.

    This starts the second stage of two-stage training (real weights become latent ones) and fine-tuning. If the weights
    have several bits here but not there, they are rescaled to spread over [-1, 1]. Learned scales that the other
    network lacks are initialised from its weights. Slopes and shifts that it lacks keep their initial values.

    Raises
    ------
    ModelFileError : the file is rejected; a packed network has no latent weights and is rejected too
    InputError : a tensor has another shape, or the other network lacks a weight
    """
    try:
        source = load_network(path)[0]
    except ModelFileError as error:
        raise ModelFileError(f"init_from needs a float network, its checkpoint or its run: {error}") from None
    state, own = source.state_dict(), model.state_dict()
    for name, array in own.items():
        if name in state and state[name].shape != array.shape:
            raise InputError(f"init_from {path}: {name} is {state[name].shape} there, but {array.shape} here")
        if name not in state and array.ndim > 1 and name.endswith(".weight"):
            raise InputError(
                f"init_from {path}: it has no {name}; both must be the same network, except for learned scales"
            )
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
