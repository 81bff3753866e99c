"""A folder of your own images: DIR/train/<class>/* and DIR/val/<class>/*, or just DIR/<class>/*.

Without train and val folders a tenth of each class becomes the validation split, chosen by a hash of the file names, so
that the choice stays when other images are added. Images of any size are scaled and cropped to squares when packed.
"""

import hashlib
import warnings
from pathlib import Path

from xnor_ref.datasets.archives import FolderFiles
from xnor_ref.datasets.base import Dataset, DatasetWarning, Images, Progress
from xnor_ref.datasets.images import load_photos
from xnor_ref.datasets.store import Source, open_or_pack
from xnor_ref.errors import DatasetError, check_integer

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_PACKING_VERSION = 1  # raise it when the packed arrays would differ
_VAL_PART = 10  # one image in ten

Members = list[tuple[str, int]]  # (name, label)


def load(
    *,
    name: str = "folder",
    data_dir: Path,
    progress: Progress | None = None,
    image_size: int = 64,
    cache_dir: Path | None = None,
) -> Dataset:
    """Open a folder of images, packed on first use.

    Parameters
    ----------
    data_dir : DIR above; class names are the names of the class folders, in alphabetical order
    image_size : width and height of the packed images, from 8 to 1024
    cache_dir : where packed copies are kept; by default DIR/.xnor_ref-packed

    Raises
    ------
    DatasetError : no such folder, a class folder without images, a damaged image, a link that leads out of the folder
    InputError : `image_size` out of range
    OutputError : no room for the packed copy
    """
    check_integer("folder: image_size", image_size, 8, 1024)
    if not data_dir.is_dir():
        raise DatasetError(f"{data_dir}: no such folder; it should hold a folder of images per class")
    split_folders = (data_dir / "train").is_dir() and (data_dir / "val").is_dir()
    files = FolderFiles(data_dir, ("train", "val") if split_folders else None)
    identity = {"packing": _PACKING_VERSION, "image_size": image_size, **files.identity()}
    cache = cache_dir or data_dir / ".xnor_ref-packed"
    return open_or_pack(cache, name, identity, lambda: _scan(files, split_folders, image_size), progress)


def _scan(files: FolderFiles, split_folders: bool, image_size: int) -> Source:
    if split_folders:
        found = {split: _by_class(files, f"{split}/") for split in ("train", "val")}
        unknown = sorted(set(found["val"]) - set(found["train"]))
        if unknown:
            raise DatasetError(f"{files.describe(f'val/{unknown[0]}')}: there is no class train/{unknown[0]}")
    else:
        found = {"train": {}, "val": {}}
        for wanted, images in _by_class(files, "").items():
            found["train"][wanted], found["val"][wanted] = _divide(files, wanted, images)
    classes = tuple(sorted(found["train"]))
    members: dict[str, Members] = {
        split: [(image, label) for label, one in enumerate(classes) for image in of_class.get(one, [])]
        for split, of_class in found.items()
    }
    if not members["val"]:
        raise DatasetError(f"{files.describe('val')}: no class folders with images")

    def decode(names: list[str]) -> Images:
        return load_photos([files.path(name) for name in names], image_size)

    return Source.of_files(classes, (image_size, image_size, 3), members, decode)


def _by_class(files: FolderFiles, prefix: str) -> dict[str, list[str]]:
    """Class -> its images, both sorted."""
    classes: dict[str, list[str]] = {one: [] for one in files.folders(prefix)}
    others = []
    for name in files.names():
        if not name.startswith(prefix):
            continue
        match name.removeprefix(prefix).split("/"):
            case [one, file] if file.lower().endswith(SUFFIXES):
                classes[one].append(name)
            case [_, _]:
                others.append(name)
            case [_, _, *_]:
                raise DatasetError(
                    f"{files.describe(name)}: images must lie directly in their class's folder; "
                    "is this the folder of your images? --data-dir names it"
                )
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        warnings.warn(
            f"{files.describe(prefix)}: not images by their names, left out: {', '.join(others[:3])}{more}",
            DatasetWarning,
            stacklevel=2,
        )
    for one, images in classes.items():
        if not images:
            raise DatasetError(
                f"{files.describe(prefix + one)}: no images in this class folder (*{', *'.join(SUFFIXES)})"
            )
    if not classes:
        raise DatasetError(f"{files.describe(prefix)}: no class folders; each class needs a folder with its images")
    return classes


def _divide(files: FolderFiles, one: str, images: list[str]) -> tuple[list[str], list[str]]:
    """(train, val) of a class without given splits."""
    if len(images) < 2:
        raise DatasetError(
            f"{files.describe(one)}: one image; a class needs two or more, so that one can be kept for validation"
        )
    order = sorted(images, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())
    kept = max(1, len(images) // _VAL_PART)
    return sorted(order[kept:]), sorted(order[:kept])
