"""A folder of your own images: DIR/train/<class>/* and DIR/val/<class>/*, or just DIR/<class>/*.

The two folders may have other usual names, see `_SPLITS`. A test folder is used if there is no val folder. Without
either, a tenth of each class becomes the validation split. A hash of the file names chooses it, so the choice does not
change when images are added. Images of any size are scaled and cropped to squares when packed.
"""

import hashlib
import os
import unicodedata
import warnings
from pathlib import Path

from xnor_ref.datasets.archives import FolderFiles, is_seen
from xnor_ref.datasets.base import Dataset, DatasetWarning, Images, Progress
from xnor_ref.datasets.images import load_photos
from xnor_ref.datasets.store import Source, open_or_pack
from xnor_ref.errors import DatasetError, check_integer

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_PACKING_VERSION = 1  # raise it when the packed arrays would differ
_VAL_PART = 10  # one image in ten
_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}

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
    data_dir : DIR above; class names are those of the class folders, in alphabetical order
    image_size : width and height of the packed images, from 8 to 1024
    cache_dir : folder of packed copies; by default DIR/.xnor_ref-packed

    Raises
    ------
    DatasetError : no such folder, a class folder without images, a damaged image, a link that leads out of the folder
    InputError : `image_size` out of range
    OutputError : no space for the packed copy
    """
    check_integer("folder: image_size", image_size, 8, 1024)
    if not data_dir.is_dir():
        what = "not a folder; unpack it first" if data_dir.exists() else "no such folder"
        raise DatasetError(f"{data_dir}: {what}; it must hold one folder of images per class")
    cache = cache_dir or data_dir / ".xnor_ref-packed"
    root, splits = _layout(data_dir)
    files = FolderFiles(root, splits or None)
    identity = {"packing": _PACKING_VERSION, "image_size": image_size, **files.identity()}
    return open_or_pack(cache, name, identity, lambda: _scan(files, splits, image_size), progress)


def _layout(root: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the root folder, and the names of the training folder and of the validation folder in it.

    There may be no validation folder. If class folders lie at the top, there is neither.
    """
    folders = _folders(root)
    only = root / folders[0] if len(folders) == 1 and not _is_split(folders[0]) else None
    if only and not only.is_symlink() and _folders(only):
        return _layout(only)  # created by unpacking
    found = {split: [one for one in folders if one.lower() in names] for split, names in _SPLITS.items()}
    train, val = found["train"], found["val"] or found["test"]
    if train and _folders(root / train[0]):
        if len(train) > 1 or len(val) > 1:
            raise DatasetError(
                f"{root}: {', '.join(train + val)}: which of these should be used? Keep one of each kind"
            )
        return root, (*train, *val)
    if folders and all(map(_is_split, folders)):
        raise DatasetError(
            f"{root}: {', '.join(folders)}: these names are not classes; {root / (train or ['train'])[0]} must "
            "hold one folder of images per class"
        )
    return root, ()


def _is_split(name: str) -> bool:
    return any(name.lower() in names for names in _SPLITS.values())


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if is_seen(entry.name) and entry.is_dir())
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read: {error.strerror}") from error


def _scan(files: FolderFiles, splits: tuple[str, ...], image_size: int) -> Source:
    found: dict[str, dict[str, list[str]]] = {"train": {}, "val": {}}
    if len(splits) == 2:
        found = {kind: _by_class(files, _inner(files, f"{split}/")) for kind, split in zip(found, splits)}
        unknown = sorted(set(found["val"]) - set(found["train"]))
        if unknown:
            train, val = splits
            raise DatasetError(f"{files.describe(f'{val}/{unknown[0]}')}: there is no class {train}/{unknown[0]}")
    else:
        for wanted, images in _by_class(files, _inner(files, f"{splits[0]}/") if splits else "").items():
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


def _inner(files: FolderFiles, prefix: str) -> str:
    """Return the prefix of the class folders.

    They may all lie in another folder of the same name, created by unpacking.
    """
    return prefix * 2 if files.folders(prefix) == [prefix[:-1]] else prefix


def _by_class(files: FolderFiles, prefix: str) -> dict[str, list[str]]:
    """Return the images of each class, both sorted."""
    classes: dict[str, list[str]] = {_class_name(one): [] for one in files.folders(prefix)}
    others = []
    for name in files.names():
        if not name.startswith(prefix):
            continue
        match name.removeprefix(prefix).split("/"):
            case [one, file] if file.lower().endswith(SUFFIXES):
                classes[_class_name(one)].append(name)
            case [_] | [_, _]:
                others.append(name)
            case [_, _, *_]:
                raise DatasetError(
                    f"{files.describe(name)}: images must lie directly in their class's folder; "
                    "check that --data-dir names the folder of your images"
                )
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        warnings.warn(
            f"{files.describe(prefix)}: skipped files that are not images by name, or not in a class folder: "
            f"{', '.join(others[:3])}{more}",
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


def _class_name(folder: str) -> str:
    """Return the class name of a folder, independent of the locale's encoding and of how accents are composed."""
    try:
        folder = os.fsencode(folder).decode()
    except UnicodeError:  # a name that is not UTF-8
        pass
    return unicodedata.normalize("NFC", folder)


def _divide(files: FolderFiles, one: str, images: list[str]) -> tuple[list[str], list[str]]:
    """Return (train, val) images of a class without given splits."""
    if len(images) < 2:
        raise DatasetError(
            f"{files.describe(one)}: one image; a class needs at least two, so that one can be used for validation"
        )
    order = sorted(images, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
    kept = max(1, len(images) // _VAL_PART)
    return sorted(order[kept:]), sorted(order[:kept])
