"""Freezing a run's checkpoint to a model file, and checking that the file gives the network's answers."""

from pathlib import Path
from typing import Any

import numpy as np

from xnor_ref.datasets.batches import normalization_table
from xnor_ref.errors import EquivalenceError, ModelFileError
from xnor_ref.models import Network
from xnor_ref.nn import binary_backend
from xnor_ref.packed import load_packed
from xnor_ref.packed.freeze import freeze
from xnor_ref.training.fitting.evaluation import compare, float_logits
from xnor_ref.training.storing.checkpoint import BEST, CheckpointFolder
from xnor_ref.training.storing.runs import RunFolder
from xnor_ref.training.storing.sources import load_checkpoint

COMPARED = 16


def checkpoint_of(run: Path, which: str = "last") -> tuple[Path, Network, dict[str, Any], int]:
    """Return the best or last checkpoint of `run`: (file, network, arguments of `freeze`, epochs done).

    Raises ModelFileError if the run or checkpoint is missing or damaged.
    """
    folder = RunFolder(run)
    config = folder.config()
    if which == "best":
        path = folder.checkpoints_path / BEST
    else:
        newest = CheckpointFolder(folder.checkpoints_path).newest_first()
        if not newest:
            raise ModelFileError(f"the run in {run} has no checkpoint yet")
        path = newest[0]
    model, about, position = load_checkpoint(path)
    if which == "best" and position.epoch < config.epochs:
        about["training"] = {**about["training"], "stopped_after_epoch": position.epoch}
    return path, model, about, position.epoch


def export_run(run: Path, target: Path, which: str = "last") -> dict[str, Any]:
    """Freeze the best or the last checkpoint of `run` into the file `target`.

    Raises
    ------
    ModelFileError : the run or checkpoint is missing or damaged
    EquivalenceError : the file, read back, and its network give different logits
    OutputError : the file could not be written
    """
    path, model, about, epochs = checkpoint_of(run, which)
    freeze(model, **about).save(target)

    packed = load_packed(target)
    channels, height, width = packed.input_shape
    pixels = np.random.default_rng(0).integers(0, 256, (COMPARED, height, width, channels), np.uint8)
    with binary_backend("float"):
        of_float = float_logits(model, normalization_table(packed.mean, packed.std))(pixels)
    agreement = compare(of_float, packed.logits(pixels))
    if agreement.disagreements or agreement.max_logit_difference:
        raise EquivalenceError(
            f"{target} and the network in {path} give different answers: {agreement.disagreements} of {COMPARED} "
            "random "
            f"images get another class, and logits differ by up to {agreement.max_logit_difference:g}"
        )
    return {
        "file": str(target),
        "checkpoint": str(path),
        "epochs": epochs,
        "packed_bytes": target.stat().st_size,
        "float_parameter_bytes": sum(array.nbytes for array in model.state_dict().values()),
        "images_compared": COMPARED,
        "max_logit_difference": agreement.max_logit_difference,
    }
