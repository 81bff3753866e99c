"""Loading a network from a file of any supported kind.

The first bytes of a file decide its kind, not its name.
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

Runner = Callable[
    [NDArray[np.uint8], NDArray[np.float32]], NDArray
]  # from pixels and their normalisation table to logits


@dataclass(frozen=True)
class Loaded:
    """A network read from a file.

    Parameters
    ----------
    kind : kind of the file, for messages
    description : the network
    notes : what was assumed, left out or changed
    runtime : the package that runs this kind of file, or ""
    run : a function from raw pixels, uint8 (N, H, W, C), and their normalisation table (256, C) to the logits that this
        package computes; None if no package is used
    last : operations at the end of the file that were left out
    guessed : where each layer's weights were found, if the file does not say so
    """

    kind: str
    description: Description
    notes: tuple[str, ...] = ()
    runtime: str = ""
    run: Runner | None = None
    last: tuple[str, ...] = ()
    guessed: str = ""


def load(path: str | os.PathLike[str], *, layers: str | os.PathLike[str] | None = None, **how: Any) -> Loaded:
    """Load a network from an ONNX, QONNX, Keras or safetensors file.

    Parameters
    ----------
    path : the file
    layers : file that describes the layers, if `path` holds weights alone: TOML for safetensors, the JSON of
        `model.to_json()` for Keras
    how : `mean`, `std`, `classes`, `input_shape` of `from_onnx`; None takes the file's value

    Raises
    ------
    ModelFileError : the file is missing, damaged, of an unsupported kind, or a pickle
    InputError : layers cannot be imported (the message names all), or arguments are wrong
    """
    if not isinstance(path, str | os.PathLike):
        raise InputTypeError(f"path must be a str or PathLike, got {path!r}")
    place = Path(path)
    start = _start(place)
    given = {key: value for key, value in how.items() if value is not None}
    for belongs, read in _KINDS:
        if belongs(start):
            return read(place, layers, given)
    raise ModelFileError(f"{path}: not a file of ONNX, Keras (.keras, .h5) or safetensors")


def _start(path: Path) -> bytes:
    """Return the first bytes of a file."""
    if path.is_dir():
        raise ModelFileError(f"{path}: it is a folder; name a file (convert a SavedModel by model.save('x.keras'))")
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
        raise InputError(f"{path} describes its layers itself, so a description of the layers is not needed")
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
            f"{path}: a file of this project, which needs no import; `export` makes a model file from a run"
        )
    if layers is None:
        raise InputError(f"{path}: the file holds weights alone; give a layout of the layers in TOML (docs/interop.md)")
    description, found = described(read_numbers(path), read_layout(layers), how)
    return Loaded("safetensors", description, guessed=found)


def _pickle(path: Path, layers: Any, how: dict[str, Any]) -> Loaded:
    raise ModelFileError(
        f"{path}: a pickle can run any program when loaded, so it is never read. If you trust it, convert it "
        "to safetensors: python -c \"import torch, safetensors.torch as s; s.save_file(torch.load('model.pth', "
        "map_location='cpu', weights_only=True), 'model.safetensors')\""
    )


def _tflite(path: Path, layers: Any, how: dict[str, Any]) -> Loaded:
    raise ModelFileError(f"{path}: TensorFlow Lite is not supported; save the original Keras model instead")


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
