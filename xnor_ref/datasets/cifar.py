"""CIFAR-10 in its binary layout: records of one label byte and 3,072 pixel bytes (red, green and blue planes).

Read from data_batch_1.bin to data_batch_5.bin and test_batch.bin, each with any number of whole records.
https://www.cs.toronto.edu/~kriz/cifar.html
"""

import stat
from pathlib import Path

import numpy as np

from xnor_ref.datasets.archives import doubled
from xnor_ref.datasets.base import Dataset, Progress, Split, make_dataset
from xnor_ref.errors import DatasetError

_TEST_FILE = "test_batch.bin"
_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), _TEST_FILE)
_NAMES_FILE = "batches.meta.txt"
_FOLDERS = ("", "cifar-10-batches-bin", "cifar10")
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SIDE = 32
_RECORD = 1 + 3 * _SIDE * _SIDE
_MAX_RECORDS = 1_000_000  # of one file; the official ones have 10,000


def load(*, name: str = "cifar10", data_dir: Path, progress: Progress | None = None) -> Dataset:
    """Read CIFAR-10 from `data_dir`, data_dir/cifar-10-batches-bin or data_dir/cifar10.

    Raises DatasetError if a file is missing, ends within a record, or holds a label above 9.
    """
    places = doubled(*(data_dir / sub for sub in _FOLDERS))
    folder = next((place for place in places if (place / _TEST_FILE).is_file()), None)
    if folder is None:
        looked = ", ".join(str(data_dir / sub) for sub in _FOLDERS)
        raise DatasetError(
            f"CIFAR-10: no {_TEST_FILE} in {looked}. Unpack the *binary version* "
            "(cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html) into DIR and run\n"
            "  python cli.py train --dataset cifar10 --data-dir DIR"
        )
    parts = []
    for number, file in enumerate(_FILES, 1):
        parts.append(_read(folder / file))
        if progress is not None:
            progress(f"reading {name}", number, len(_FILES))
    *of_train, val = parts
    train = Split(*(np.concatenate([getattr(part, what) for part in of_train]) for what in ("images", "labels")))
    return make_dataset(name, _class_names(folder / _NAMES_FILE), train, val)


def _read(path: Path) -> Split:
    data = read_limited(path, _MAX_RECORDS * _RECORD)
    if not data or len(data) % _RECORD:
        raise DatasetError(f"{path}: {len(data)} bytes are not a multiple of the record size of {_RECORD} bytes")
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() > 9:
        record = int(np.argmax(labels > 9))
        raise DatasetError(f"{path}: record {record} has label {labels[record]}; labels must be from 0 to 9")
    planes = records[:, 1:].reshape(-1, 3, _SIDE, _SIDE)
    return Split(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)


def _class_names(path: Path) -> tuple[str, ...]:
    if not path.exists():
        return _CLASSES
    try:
        lines = read_limited(path, 2**16).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise DatasetError(f"{path}: not UTF-8 text") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != 10 or len(set(names)) != 10:
        raise DatasetError(f"{path}: must name ten different classes, one per line; it has {len(names)} lines")
    return names


def read_limited(path: Path, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes. Raises DatasetError."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{path}: not a file")
        if status.st_size > limit:
            raise DatasetError(f"{path}: {status.st_size} bytes; the limit is {limit}")
        return path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file; the data set is incomplete") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
