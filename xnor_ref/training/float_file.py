"""The trained network in float32: its state and what it takes to build and evaluate it, in one safetensors file."""

from pathlib import Path
from typing import Any

from xnor_ref import models
from xnor_ref.errors import InputError, ModelFileError
from xnor_ref.storage import load_tensors, save_tensors

FORMAT = "xnor_ref float network"
VERSION = 1


def save_float(path: Path, model, about: dict[str, Any]) -> None:
    """Write `model` with `about`: classes, mean, std, data_sha256 and training, JSON values. Raises OutputError."""
    metadata = {"format": FORMAT, "version": VERSION, "model": model.config, **about}
    save_tensors(path, model.state_dict(), metadata)


def load_float(path: Path) -> tuple[models.Network, dict[str, Any]]:
    """Read (model, about). Raises ModelFileError."""
    tensors, metadata = load_tensors(path, expect_format=FORMAT, max_version=VERSION)
    try:
        model = models.build(**metadata["model"])
        model.load_state_dict(tensors)
        about = {key: metadata[key] for key in ("classes", "mean", "std", "data_sha256", "training")}
    except (InputError, KeyError, TypeError, MemoryError) as error:
        raise ModelFileError(f"{path}: its network cannot be built: {error}") from None
    return model, about
