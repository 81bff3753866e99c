"""The trained network in float32, in one safetensors file: its state, and what is needed to build and evaluate it."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from xnor_ref import models
from xnor_ref.errors import ModelFileError
from xnor_ref.storage import load_tensors, save_tensors
from xnor_ref.training.settings.plugins import plugin_hint

FORMAT = "xnor_ref float network"
VERSION = 1


def save_float(path: Path, model, about: dict[str, Any]) -> None:
    """Write `model` with `about` (classes, mean, std, data_sha256, training; JSON values). Raises OutputError."""
    metadata = {"format": FORMAT, "version": VERSION, "model": model.config, **about}
    save_tensors(path, model.state_dict(), metadata)


def load_float(path: Path) -> tuple[models.Network, dict[str, Any]]:
    """Read (model, about). Raises ModelFileError."""
    tensors, metadata = load_tensors(path, expect_format=FORMAT, max_version=VERSION)
    model = rebuild(path, metadata, tensors)
    try:
        about = {key: metadata[key] for key in ("classes", "mean", "std", "data_sha256", "training")}
    except KeyError as error:
        raise ModelFileError(f"{path}: its metadata lacks {error}") from None
    return model, about


def rebuild(path: Path, metadata: dict[str, Any], state: dict[str, NDArray]) -> models.Network:
    """Build the network of `metadata["model"]` with the given state. Raises ModelFileError."""
    try:
        model = models.build(**metadata["model"])
        model.load_state_dict(state)
    except (ValueError, KeyError, TypeError, OverflowError) as error:  # a file may hold anything
        about = metadata.get("about", metadata)
        hint = plugin_hint(about.get("training") if isinstance(about, dict) else None)
        raise ModelFileError(f"{path}: its network cannot be built: {error}{hint}") from None
    return model
