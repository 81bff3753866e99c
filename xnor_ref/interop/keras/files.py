"""Where a Keras model's architecture and weights come from: a live model, a `.keras` file, HDF5 files.

Files are read by h5py alone. Nothing in them is run, and no array is made before its size has been compared with what
the architecture says and with what the file stores.
"""

import io
import json
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import (
    InputError,
    InputTypeError,
    ModelFileError,
    UnreadableError,
    XnorRefError,
    is_of_the_system,
)

Shape = tuple[int, ...]
MAX_JSON = 2**26  # bytes
MAX_WEIGHTS = 10_000  # of one layer, nested ones included
MAX_UNPACKED = 8  # how often the size of an archive its weights may be


@dataclass(frozen=True)
class Place:
    """Where a layer is: its name and the names of the models that it is in, and the same by class ("conv2d_1")."""

    names: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    calls: int = 1  # how often it is used

    @property
    def name(self) -> str:
        """Its name, with those of the models that it is in before it."""
        return "/".join(self.names)


class Weights(Protocol):
    """The weights of a model. `of` raises InputError unless they are floats of these shapes."""

    def of(self, place: Place, shapes: Sequence[Shape]) -> list[NDArray]:
        """Those of a layer, in Keras's order."""
        ...


class LiveWeights:
    """Those of a model in memory."""

    def __init__(self, model: Any):
        self._model = model

    def of(self, place: Place, shapes: Sequence[Shape]) -> list[NDArray]:
        layer = self._model
        for name in place.names:
            layer = layer.get_layer(name)
        found = [np.asarray(array) for array in layer.get_weights()]
        _require([array.shape for array in found], shapes)
        return found


class StoredWeights:
    """Those of a `.keras` file or of a `.weights.h5` file: layers/CLASS/vars/0, 1, ..."""

    def __init__(self, root: Any):
        self._root = root

    def of(self, place: Place, shapes: Sequence[Shape]) -> list[NDArray]:
        path = "/".join(f"layers/{key}" for key in place.keys) + "/vars"
        group = _member(self._root, path)
        with _reading(path):
            count = min(len(group), MAX_WEIGHTS)
        return _read([_member(group, str(index)) for index in range(count)], shapes)


class LegacyWeights:
    """Those of an `.h5` file: a group for each layer, whose attribute `weight_names` gives their order."""

    def __init__(self, root: Any):
        self._root = root

    def of(self, place: Place, shapes: Sequence[Shape]) -> list[NDArray]:
        group = _member(self._root, place.names[0])
        names = _names(group, "weight_names")
        if len(place.names) > 1:
            names = [name for name in names if f"/{name}".split("/")[-2] == place.names[-1]]
        return _read([_member(group, name) for name in names], shapes)


@contextmanager
def opened(source: Any, architecture: Any) -> Iterator[tuple[Any, Weights]]:
    """The architecture, as JSON values, and the weights of a live model or of a file."""
    if not isinstance(source, str | os.PathLike):
        if not all(hasattr(source, name) for name in ("to_json", "get_layer", "layers")):
            raise InputTypeError(f"from_keras: needs a Keras model or a path, got {type(source).__name__}")
        yield _json(source.to_json() if architecture is None else architecture), LiveWeights(source)
        return
    path = Path(source)
    try:
        with path.open("rb") as file:
            start = file.read(8)
            file.seek(0)
            if start.startswith(b"PK"):
                with _archive(path, file) as found:
                    yield found
            elif start == b"\x89HDF\r\n\x1a\n":
                with _hdf5(path, file, architecture) as found:
                    yield found
            else:
                raise ModelFileError(
                    f"{path}: neither a .keras file nor HDF5; save the model with model.save('model.keras')"
                )
    except IsADirectoryError:
        raise ModelFileError(f"{path}: a folder; save the model with model.save('model.keras')") from None
    except OSError as error:
        if not is_of_the_system(error):
            raise ModelFileError(f"{path}: damaged ({error})") from None
        kind = ModelFileError if isinstance(error, FileNotFoundError) else UnreadableError
        raise kind(f"{path}: {error.strerror}") from None


@contextmanager
def _archive(path: Path, file: Any) -> Iterator[tuple[Any, Weights]]:
    """A `.keras` file: a zip of config.json and model.weights.h5."""
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {"config.json": MAX_JSON, "model.weights.h5": MAX_UNPACKED * path.stat().st_size}
            config, weights = (_unpacked(path, archive, name, most) for name, most in sizes.items())
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise ModelFileError(f"{path}: a damaged archive ({error})") from None
    with _root(path, io.BytesIO(weights)) as root:
        yield _json(config.decode(errors="replace"), path), StoredWeights(root)


def _unpacked(path: Path, archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    if name not in archive.namelist():
        raise ModelFileError(f"{path}: an archive without {name}; no .keras file")
    size = archive.getinfo(name).file_size
    if size > most:
        raise ModelFileError(f"{path}: {name} would unpack to {size} bytes; at most {most} are allowed")
    with archive.open(name) as member:
        return member.read(size)


@contextmanager
def _hdf5(path: Path, file: Any, architecture: Any) -> Iterator[tuple[Any, Weights]]:
    """A whole model, or weights alone, in either layout."""
    with _root(path, file) as root:
        with _reading(path):
            whole = "model_config" in root.attrs
            if whole and architecture is None:
                if root.attrs.get_id("model_config").get_storage_size() > MAX_JSON:
                    raise ModelFileError(f"{path}: an architecture of more than {MAX_JSON} bytes")
                architecture = root.attrs["model_config"]
            if architecture is None:
                raise InputError(f"{path}: holds weights alone; give architecture=model.to_json() too")
            stored = "layers" in root and not whole and "layer_names" not in root.attrs
            group = root["model_weights"] if "model_weights" in root else root
        yield _json(architecture, path), StoredWeights(root) if stored else LegacyWeights(group)


@contextmanager
def _root(path: Path, file: Any) -> Iterator[Any]:
    try:
        import h5py
    except ModuleNotFoundError:
        text = "from_keras: files need h5py, which is not installed (pip install 'xnor_ref[keras]')"
        raise InputError(text) from None
    with _reading(path):
        root = h5py.File(file, "r")
    with root:
        yield root


@contextmanager
def _reading(what: Any) -> Iterator[None]:
    """What h5py raises for damaged files becomes ModelFileError."""
    try:
        yield
    except XnorRefError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ModelFileError(f"{what}: damaged ({error})") from None


def _json(text: Any, path: Path | None = None) -> Any:
    """JSON, from text, or from a file that is named; what was parsed already stays."""
    if isinstance(text, os.PathLike) or (isinstance(text, str) and text.endswith(".json")):
        path = Path(text)
        try:
            if path.stat().st_size > MAX_JSON:
                raise ModelFileError(f"{path}: larger than {MAX_JSON} bytes")
            text = path.read_text(errors="replace")
        except OSError as error:
            raise ModelFileError(f"{path}: {error.strerror}") from None
    if isinstance(text, dict):
        return text
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path or 'from_keras'}: the architecture is no JSON that can be read ({error})"
        ) from None


def _member(group: Any, path: str) -> Any:
    """What lies in this file at a path; links to other files are not followed."""
    import h5py

    with _reading(path):
        for name in path.split("/"):
            link = group.get(name, getlink=True) if isinstance(group, h5py.Group) else None
            if not isinstance(link, h5py.HardLink):
                raise InputError(f"the file holds no weights at {path!r}" if link is None else f"{path!r} is a link")
            group = group[name]
    return group


def _names(group: Any, key: str) -> list[str]:
    """An attribute of names, which Keras cuts into several where it is long."""
    with _reading(key):
        keys = [part for part in (key, *(f"{key}{at}" for at in range(len(group.attrs)))) if part in group.attrs]
        if sum(math.prod(group.attrs.get_id(part).shape) for part in keys) > MAX_WEIGHTS:
            raise InputError(f"has more than {MAX_WEIGHTS} weights")
        found = [name for part in keys for name in np.atleast_1d(group.attrs[part]).tolist()]
    return [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in found]


def _require(found: list[Shape], shapes: Sequence[Shape]) -> None:
    if found != list(map(tuple, shapes)):
        raise InputError(f"has weights of shapes {_listed(found)}; {_listed(shapes)} are needed")


def _listed(shapes: Sequence[Shape]) -> str:
    return ", ".join(map(str, shapes[:5])) + ", ..." * (len(shapes) > 5) if shapes else "none"


def _read(datasets: list[Any], shapes: Sequence[Shape]) -> list[NDArray]:
    """The arrays of datasets that have these shapes."""
    import h5py

    with _reading("its weights"):
        if not all(isinstance(data, h5py.Dataset) for data in datasets):
            raise InputError("a group stands where a weight is needed")
        _require([data.shape for data in datasets], shapes)
        for data in datasets:
            if data.dtype.kind != "f":
                raise InputError(f"weight {data.name} has dtype {data.dtype}, not floats")
            if data.is_virtual or data.external or data.id.get_storage_size() < data.size * data.dtype.itemsize:
                raise InputError(f"weight {data.name} is compressed, or not stored in this file")
        return [data[()] for data in datasets]
