"""MNIST and Fashion-MNIST: 28x28 greyscale in the idx format, gzipped or not.

An idx file is a big-endian header and the bytes of the array. The header has two zero bytes, 8 for "unsigned byte", the
number of axes, and the length of each axis in 32 bits.
"""

import gzip
import struct
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from xnor_ref.datasets.archives import doubled
from xnor_ref.datasets.base import Dataset, Images, Progress, Split, make_dataset
from xnor_ref.errors import DatasetError, is_of_the_system

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "val": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}
_HOME = {
    "mnist": "the four idx files of http://yann.lecun.com/exdb/mnist",
    "fashion-mnist": "the four idx files of https://github.com/zalandoresearch/fashion-mnist",
}
_SIDE = 28
_MAX_IMAGES = 1_000_000  # the official sets have 60,000


def load(*, name: str, data_dir: Path, progress: Progress | None = None) -> Dataset:
    """Read the four idx files from data_dir/<name> or `data_dir`, each with or without .gz.

    Raises DatasetError if a file is missing, damaged, truncated or too long, or has a wrong header or a label above 9.
    """
    folder = next((place for place in doubled(data_dir / name, data_dir) if _find(place, _FILES["val"][0])), None)
    if folder is None:
        raise DatasetError(
            f"{name}: no {_FILES['val'][0]}[.gz] in {data_dir / name} or {data_dir} ({_HOME[name]}). Then run\n"
            f"  python cli.py train --dataset {name} --data-dir DIR     with the files in DIR or DIR/{name}"
        )
    splits = {}
    for number, (split, (image_file, label_file)) in enumerate(_FILES.items(), 1):
        images = _read_idx(folder, image_file, 3)
        labels = _read_idx(folder, label_file, 1)
        if len(images) != len(labels):
            raise DatasetError(
                f"{folder}: {image_file} holds {len(images)} images, but {label_file} holds {len(labels)} labels"
            )
        if labels.max() > 9:
            raise DatasetError(f"{folder / label_file}: has the label {labels.max()}; labels must be from 0 to 9")
        splits[split] = Split(images[..., None], labels.astype(np.int64))
        if progress is not None:
            progress(f"reading {name}", number, len(_FILES))
    return make_dataset(name, _CLASSES[name], splits["train"], splits["val"])


def _find(folder: Path, file: str) -> Path | None:
    names = (file, file.replace("-idx", ".idx"))  # some unpackers write a dot
    paths = (folder / f"{name}{suffix}" for name in names for suffix in (".gz", ""))
    return next((path for path in paths if path.is_file()), None)


def _read_idx(folder: Path, file: str, axes: int) -> Images:
    path = _find(folder, file)
    if path is None:
        raise DatasetError(f"{folder / file}[.gz]: no such file; the data set is incomplete")
    try:
        with open(path, "rb") as raw:
            return _parse_idx(gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw, path, axes)
    except (OSError, EOFError, zlib.error) as error:  # gzip's own error is an OSError
        fault = "cannot be read" if is_of_the_system(error) else "damaged"
        raise DatasetError(f"{path}: {fault}: {error}") from error


def _parse_idx(stream: BufferedIOBase, path: Path, axes: int) -> Images:
    """Return the array. It reads no more than the checked header announces, so a gzip bomb cannot expand."""
    header = stream.read(4 + 4 * axes)
    if len(header) < 4 + 4 * axes:
        raise DatasetError(f"{path}: ends within its header")
    magic, *shape = struct.unpack(f">{1 + axes}I", header)
    if magic != 0x0800 + axes:
        raise DatasetError(
            f"{path}: starts with 0x{magic:08x} instead of 0x{0x0800 + axes:08x}; it is not an idx file of this kind"
        )
    if not 1 <= shape[0] <= _MAX_IMAGES or shape[1:] != [_SIDE] * (axes - 1):
        wanted = " x ".join(["1 to 1,000,000", *[str(_SIDE)] * (axes - 1)])
        raise DatasetError(f"{path}: announces {' x '.join(map(str, shape))} values, must be {wanted}")
    size = int(np.prod(shape))
    data = stream.read(size)
    if len(data) < size or stream.read(1):
        more = "more" if len(data) == size else f"only {len(data)}"
        raise DatasetError(f"{path}: holds {more} bytes after its header, which announces {size}")
    return np.frombuffer(data, np.uint8).reshape(shape)
