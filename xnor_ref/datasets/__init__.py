"""Data sets by name, one file each: `load("shapes", data_dir=Path("data"))`."""

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

_DATA_SETS = {  # the module of each, and its usual random crops and flips
    "shapes": ("shapes", AugmentSpec(crop_padding=4, flip=True)),
    "tiny-imagenet": ("tiny_imagenet", AugmentSpec(None, flip=True)),
    "cifar10": ("cifar", AugmentSpec(None, flip=True)),
    "mnist": ("mnist", AugmentSpec(crop_padding=2)),
    "fashion-mnist": ("mnist", AugmentSpec(crop_padding=2, flip=True)),
    "folder": ("folder", AugmentSpec(None, flip=True)),
}


def names() -> tuple[str, ...]:
    """Names that `load` takes."""
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
    """Find a data set, prepare it where needed, and open it.

    Parameters
    ----------
    name : one of `names()`
    data_dir : where data sets lie and where prepared copies are kept (under data_dir/packed)
    archive : an official archive, for data sets that have one
    download : fetch the data set if it is not there, where that is possible
    progress : called with (what is being done, done, total)
    **options
        Of the data set's own `load`: `seed`, `train_size`, `val_size` for shapes, `image_size` for folder.

    Raises
    ------
    DatasetError : missing, damaged, hostile or in a wrong layout; the message says what was looked for and what to do
    InputError : an unknown name or option
    OutputError : no room for the prepared copy
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
        raise InputError(f"data set {name}: no option {', '.join(unknown)}; {takes}")
    return module.load(name=name, data_dir=Path(data_dir), progress=progress, **wanted)


def default_augment(name: str) -> AugmentSpec:
    """The usual random crops and flips of a data set. Raises InputError for an unknown name."""
    return _found(name)[1]


def _found(name: str) -> tuple[str, AugmentSpec]:
    if name not in _DATA_SETS:
        raise InputError(f"no data set {name!r}; there are {', '.join(_DATA_SETS)}")
    return _DATA_SETS[name]
