"""Data sets by name. Each has one file: `load("shapes", data_dir=Path("data"))`."""

import importlib
import inspect
from pathlib import Path
from typing import Any

from xnor_ref.datasets.base import Dataset as Dataset
from xnor_ref.datasets.base import DatasetWarning as DatasetWarning
from xnor_ref.datasets.base import Progress as Progress
from xnor_ref.datasets.base import Split as Split
from xnor_ref.datasets.base import verify as verify
from xnor_ref.datasets.batches import AugmentSpec as AugmentSpec
from xnor_ref.errors import InputError

_DATA_SETS = {  # each one's module, and its usual random crops and flips
    "shapes": ("shapes", AugmentSpec(crop_padding=4, flip=True)),
    "tiny-imagenet": ("tiny_imagenet", AugmentSpec(None, flip=True)),
    "cifar10": ("cifar", AugmentSpec(None, flip=True)),
    "mnist": ("mnist", AugmentSpec(crop_padding=2)),
    "fashion-mnist": ("mnist", AugmentSpec(crop_padding=2, flip=True)),
    "imagenet": ("imagenet.load", AugmentSpec(None, flip=True)),
    "folder": ("folder", AugmentSpec(None, flip=True)),
}


def names() -> tuple[str, ...]:
    """Return the names that `load` takes."""
    return tuple(_DATA_SETS)


def load(
    name: str,
    *,
    data_dir: Path,
    archive: Path | None = None,
    download: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Dataset:
    """Find a data set, prepare it if needed, and open it.

    Parameters
    ----------
    name : one of `names()`
    data_dir : folder of the data sets; prepared copies are kept under data_dir/packed
    archive : an official archive, for data sets that have one
    download : download the data set if it is missing, if that is possible
    progress : called with (what is being done, done, total)
    **options
        Options of the data set's own `load`: `seed`, `train_size`, `val_size` for shapes; `image_size` for folder and
        imagenet; `crop`, `scale_to`, `in_place`, `store_dir` for imagenet.

    Raises
    ------
    DatasetError : the data set is missing, damaged, malicious or in the wrong layout; the message says what to do
    InputError : an unknown name or option
    OutputError : no space for the prepared copy
    """
    module = importlib.import_module(f"xnor_ref.datasets.{_found(name)[0]}")
    wanted = dict(options)
    if archive is not None:
        wanted["archive"] = Path(archive)
    if download:
        wanted["download"] = True
    known = set(inspect.signature(module.load).parameters) - {"name", "data_dir", "progress"}
    unknown = sorted(set(wanted) - known)
    if unknown:
        takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
        raise InputError(f"data set {name} has no option {', '.join(unknown)}; {takes}")
    return module.load(name=name, data_dir=Path(data_dir), progress=progress, **wanted)


def stand_in(name: str, folder: Path, **options: Any) -> Dataset | None:
    """A data set as large as the one of this name, of images without meaning that lie in `folder`; to measure time.

    None where there is none; `options` are those of `load`.
    """
    make = getattr(importlib.import_module(f"xnor_ref.datasets.{_found(name)[0]}"), "stand_in", None)
    return make(folder, **options) if make else None


def default_augment(name: str) -> AugmentSpec:
    """The usual random crops and flips of a data set. Raises InputError for an unknown name."""
    return _found(name)[1]


def _found(name: str) -> tuple[str, AugmentSpec]:
    if name not in _DATA_SETS:
        raise InputError(f"no data set is named {name!r}; choose one of {', '.join(_DATA_SETS)}")
    return _DATA_SETS[name]
