"""A network from a file of any kind: what kind it is, and what reads it.

The kind is told by a file's first bytes, not by its name.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError, InputTypeError, ModelFileError, UnreadableError
from xnor_ref.interop.description import Description
from xnor_ref.interop.keras.model import describe
from xnor_ref.interop.onnx_in import reading, running
from xnor_ref.interop.pytorch.layout import described, read_layout, read_numbers
from xnor_ref.storage import METADATA_KEY

Runner = Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray]  # logits of pixels, by the table they go through


@dataclass(frozen=True)
class Loaded:
    """A network that was read.

    Parameters
    ----------
    kind : what the file is, for people
    description : the network
    notes : what was assumed, left out, or is not as in the file
    runtime : the package that runs the file itself, or ""
    run : logits of raw pixels, uint8 (N, H, W, C), as that package computes them, given the table (256, C) of what
        pixels become; None where no package is called
    last : operations at the end of the file that were left out
    guessed : where the numbers of each layer were found, where the file does not say it itself
    """

    kind: str
    description: Description
    notes: tuple[str, ...] = ()
    runtime: str = ""
    run: Runner | None = None
    last: tuple[str, ...] = ()
    guessed: str = ""


def load(path: str | os.PathLike[str], *, layers: str | os.PathLike[str] | None = None, **how: Any) -> Loaded:
    """Read a network from a file of ONNX, QONNX, Keras, or of named tensors (safetensors).

    Parameters
    ----------
    path : the file
    layers : what says how the layers go together, where the file holds numbers alone: TOML for safetensors, the JSON of
        `model.to_json()` for Keras
    how : `mean`, `std`, `classes`, `input_shape` of `from_onnx`; what is None is taken from the file

    Raises
    ------
    ModelFileError : the file is missing, damaged, of a kind that is not read, or a pickle
    InputError : layers that cannot come, all of them named; or arguments that do not fit
    """
    if not isinstance(path, str | os.PathLike):
        raise InputTypeError(f"path must be a str or PathLike, got {path!r}")
    place = Path(path)
    start = _start(place)
    given = {key: value for key, value in how.items() if value is not None}
    for belongs, read in _KINDS:
        if belongs(start):
            return read(place, layers, given)
    raise ModelFileError(f"{path}: neither ONNX, nor Keras (.keras, .h5), nor safetensors")


def _start(path: Path) -> bytes:
    """The first bytes of a file."""
    if path.is_dir():
        raise ModelFileError(f"{path}: a folder; name a file in it (a SavedModel is read after model.save('x.keras'))")
    try:
        if path.exists() and not path.is_file():
            raise ModelFileError(f"{path}: not a regular file")
        with open(path, "rb") as file:
            return file.read(256)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file") from None
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error


def _onnx(path: Path, layers: Any, how: dict[str, Any]) -> Loaded:
    if layers is not None:
        raise InputError(f"{path} says itself how its layers go together; it takes no description of them")
    found = reading.read(path, **how)
    kind = "QONNX" if found.custom else "ONNX"
    runtime = "qonnx" if found.custom else "onnxruntime"
    return Loaded(
        kind, found.description, found.notes, runtime, lambda x, table: running.run(path, found, x, table), found.last
    )


def _keras(path: Path, layers: Any, how: dict[str, Any]) -> Loaded:
    return Loaded("Keras", describe(path, layers, **how))


def _safetensors(path: Path, layers: Any, how: dict[str, Any]) -> Loaded:
    if METADATA_KEY.encode() in _start(path):
        raise InputError(
            f"{path}: a file of this project; `export` makes a model file of a run, and a model file is one"
        )
    if layers is None:
        raise InputError(f"{path}: numbers alone say not what the layers are; give a layout in TOML (docs/interop.md)")
    description, found = described(read_numbers(path), read_layout(layers), how)
    return Loaded("safetensors", description, guessed=found)


def _pickle(path: Path, layers: Any, how: dict[str, Any]) -> Loaded:
    raise ModelFileError(
        f"{path}: a pickle, which may run any program when it is loaded; it is never read. Where you trust it, turn it "
        "into safetensors: python -c \"import torch, safetensors.torch as s; s.save_file(torch.load('model.pth', "
        "map_location='cpu', weights_only=True), 'model.safetensors')\""
    )


def _tflite(path: Path, layers: Any, how: dict[str, Any]) -> Loaded:
    raise ModelFileError(
        f"{path}: a TensorFlow Lite file, which is not read; save the Keras model that it was made from"
    )


def _is_zip_of(start: bytes, *names: bytes) -> bool:
    return start.startswith(b"PK\x03\x04") and any(name in start for name in names)


_KINDS: Sequence[tuple[Callable[[bytes], bool], Callable[[Path, Any, dict[str, Any]], Loaded]]] = (
    (lambda start: _is_zip_of(start, b"/data.pkl", b"/byteorder", b"/version", b"archive/"), _pickle),
    (lambda start: start[:1] == b"\x80" and start[1:2] in b"\x01\x02\x03\x04\x05", _pickle),
    (lambda start: start[4:8] == b"TFL3", _tflite),
    (lambda start: start.startswith((b"PK\x03\x04", b"\x89HDF\r\n\x1a\n")), _keras),
    (lambda start: start[8:9] == b"{", _safetensors),
    (lambda start: start[:1] in (b"\x08", b"\x12", b"\x3a", b"\x42"), _onnx),
)
