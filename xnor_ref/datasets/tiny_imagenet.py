"""Tiny ImageNet (Stanford CS231n): 200 classes, 64x64, 100,000 training and 10,000 validation images.

It is read from the official zip or from a folder in the same layout, either with any number of classes:

    wnids.txt                         one class id per line; its order gives the labels
    words.txt                         id, tab, names (optional)
    train/<id>/images/*.JPEG          labelled by folder
    val/images/*.JPEG                 labelled by val/val_annotations.txt
    val/val_annotations.txt           file, tab, id, then a box that is not used

The test images carry no labels and are not used. Images are packed into one array on first use (see `store`).
"""

import os
import re
from pathlib import Path

from xnor_ref.datasets.archives import Files, FolderFiles, ZipFiles, doubled
from xnor_ref.datasets.base import Dataset, Images, Progress
from xnor_ref.datasets.download import RemoteFile
from xnor_ref.datasets.download import download as fetch
from xnor_ref.datasets.images import decode_jpegs
from xnor_ref.datasets.store import Source, open_or_pack, open_packed
from xnor_ref.errors import DatasetError, InputError

IMAGE_SIZE = 64
OFFICIAL = RemoteFile(
    url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    size=248_100_043,
    md5="90528d7ca1a48142e341f4ef8d21d0de",
)
URL_VARIABLE = "XNOR_REF_TINY_IMAGENET_URL"
_FOLDER = "tiny-imagenet-200"
_PARTS = ("wnids.txt", "words.txt", "train", "val")
_PACKING_VERSION = 1  # increase it when the packed arrays would differ
_CLASS_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_JPEG_SUFFIXES = (".jpeg", ".jpg")


def load(
    *,
    name: str = "tiny-imagenet",
    data_dir: Path,
    archive: Path | None = None,
    download: bool = False,
    progress: Progress | None = None,
    remote: RemoteFile | None = None,
) -> Dataset:
    """Open Tiny ImageNet, packed on first use.

    These places are searched in order: `archive`; a folder in the layout at `data_dir` or data_dir/tiny-imagenet-200,
    or in a folder of the same name inside it; the file data_dir/tiny-imagenet-200.zip, or one numbered by a browser;
    with `download`, the server, which fills that file; a packed copy whose source was removed.

    Parameters
    ----------
    archive : the official zip, or a zip or folder in its layout
    remote : what to download instead of the official file. The environment variable XNOR_REF_TINY_IMAGENET_URL does the
        same. It is the address of a mirror, or "address bytes md5" for another file.

    Raises
    ------
    DatasetError : nothing was found, or it is damaged, malicious or in the wrong layout
    OutputError : no space for the download or the packed copy
    """
    packed = data_dir / "packed"
    if archive is None:
        archive = _find(data_dir)
    if archive is None and download:
        archive = data_dir / f"{_FOLDER}.zip"
        fetch(remote or _remote(), archive, progress)
    if archive is None:
        return _open_left(packed, data_dir)
    if archive.is_dir():
        folders = doubled(archive, archive / _FOLDER)
        root = next((folder for folder in folders if (folder / "wnids.txt").is_file()), archive)
        return _load_files(name, FolderFiles(root, _PARTS), packed, progress)
    with ZipFiles(archive) as files:
        return _load_files(name, files, packed, progress)


def _load_files(name: str, files: Files, packed: Path, progress: Progress | None) -> Dataset:
    identity = {"packing": _PACKING_VERSION, **files.identity()}
    return open_or_pack(packed, name, identity, lambda: scan(files), progress)


def _find(data_dir: Path) -> Path | None:
    found = [folder for folder in doubled(data_dir, data_dir / _FOLDER) if (folder / "wnids.txt").is_file()]
    archives = [data_dir / f"{_FOLDER}.zip", *sorted(data_dir.glob(f"{_FOLDER}*([0-9]).zip"))]  # numbered by browsers
    return next((path for path in (*found, *archives) if path.exists()), None)


def _open_left(packed: Path, data_dir: Path) -> Dataset:
    """Open the packed copy if the zip or folder was removed to save space. There must be exactly one."""
    copies = []
    for place in sorted(packed.glob("tiny-imagenet-*")):
        try:
            copies.append(open_packed(place))
        except DatasetError:
            continue  # without its source, a damaged copy cannot be made again
    if len(copies) == 1:
        return copies[0]
    start = "python cli.py train --tiny-imagenet"
    found = f"{len(copies)} packed copies, but only one can be used," if copies else "nothing"
    raise DatasetError(
        f"Tiny ImageNet: found {found} in {data_dir}. Use one of these:\n"
        f"  {start} --archive PATH     use the official {_FOLDER}.zip (or a folder in its layout) at PATH\n"
        f"  {start} --data-dir DIR     use DIR/{_FOLDER} or DIR/{_FOLDER}.zip\n"
        f"  {start} --download         fetch {OFFICIAL.url} ({OFFICIAL.size / 1e6:.0f} MB) into {data_dir}"
    )


def _remote() -> RemoteFile:
    words = os.environ.get(URL_VARIABLE, "").split()
    if not words:
        return OFFICIAL
    if len(words) == 1:
        return RemoteFile(words[0], OFFICIAL.size, OFFICIAL.md5)
    if len(words) == 3 and words[1].isdecimal() and re.fullmatch("[0-9a-fA-F]{32}", words[2]):
        return RemoteFile(words[0], int(words[1]), words[2])
    raise InputError(f'{URL_VARIABLE} must be an address, or "address bytes md5", got {" ".join(words)!r}')


def scan(files: Files) -> Source:
    """Check the layout and list the images: by class in the order of wnids.txt, then by name.

    Raises DatasetError if a list is missing or malformed, a class has no training images, an annotation names an
    unknown class or a missing image, or an image has no annotation.
    """
    names = files.names()
    root = _root(files, names)
    ids = _class_ids(files, root)
    labels = {wnid: label for label, wnid in enumerate(ids)}
    train: list[list[str]] = [[] for _ in ids]
    val_images, folders = set(), set()
    for name in names:
        match name.removeprefix(root).split("/"):
            case ["train", wnid, "images", file] if file.lower().endswith(_JPEG_SUFFIXES):
                folders.add(wnid)
                if wnid in labels:
                    train[labels[wnid]].append(name)
            case ["val", "images", file] if file.lower().endswith(_JPEG_SUFFIXES):
                val_images.add(file)
    for wnid, images in zip(ids, train):
        if not images:
            raise DatasetError(f"{files.describe(f'{root}train/{wnid}/images')}: no images of this class")
    val = _validation(files, root, labels, folders, val_images)
    members = {"train": [(name, label) for label, images in enumerate(train) for name in images], "val": val}

    def decode(names: list[str]) -> Images:
        return decode_jpegs([(files.read(name), files.describe(name)) for name in names], IMAGE_SIZE)

    return Source.of_files(_class_names(files, root, ids, names), (IMAGE_SIZE, IMAGE_SIZE, 3), members, decode)


def _root(files: Files, names: list[str]) -> str:
    """Return the prefix of "wnids.txt": "", or one or two folders with a slash at the end."""
    roots = [
        name.removesuffix("wnids.txt") for name in names if name.split("/")[-1] == "wnids.txt" and name.count("/") <= 2
    ]
    if len(roots) != 1:
        found = f"{len(roots)} of them" if roots else "none"
        raise DatasetError(
            f"{files.describe('wnids.txt')}: found {found}; Tiny ImageNet's layout has one, "
            f"at the top or in the folder {_FOLDER}"
        )
    return roots[0]


def _lines(files: Files, name: str) -> list[str]:
    try:
        return files.read(name).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{files.describe(name)}: not UTF-8 text: {error}") from None


def _class_ids(files: Files, root: str) -> list[str]:
    name = f"{root}wnids.txt"
    ids = [line.strip() for line in _lines(files, name) if line.strip()]
    bad = [wnid for wnid in ids if not _CLASS_ID.fullmatch(wnid)]
    if not ids or bad or len(set(ids)) != len(ids):
        fault = f"{bad[0][:80]!r} is not a class id" if bad else "a class id occurs twice" if ids else "no class ids"
        raise DatasetError(f"{files.describe(name)}: {fault}")
    return ids


def _class_names(files: Files, root: str, ids: list[str], names: list[str]) -> tuple[str, ...]:
    """Return the first name of each class in words.txt, with its id if it is missing or shared by two classes."""
    words = {}
    if f"{root}words.txt" in names:
        for line in _lines(files, f"{root}words.txt"):
            wnid, _, synonyms = line.partition("\t")
            words[wnid.strip()] = synonyms.split(",")[0].strip()
    first = [words.get(wnid) or wnid for wnid in ids]
    return tuple(
        word if first.count(word) == 1 or word == wnid else f"{word} ({wnid})" for word, wnid in zip(first, ids)
    )


def _validation(
    files: Files, root: str, labels: dict[str, int], folders: set[str], images: set[str]
) -> list[tuple[str, int]]:
    """Return (file, label) of the validation images, by label, then by name.

    An image of a class that has a training folder but is not in wnids.txt is left out, like that folder. So a shorter
    wnids.txt gives a smaller data set.
    """
    name = f"{root}val/val_annotations.txt"
    seen, found = set(), []
    for number, line in enumerate(_lines(files, name), 1):
        if not line.strip():
            continue
        where = f"{files.describe(name)}, line {number}"
        file, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0].strip()
        if file not in images:
            raise DatasetError(f"{where}: val/images has no image {file[:80]!r}")
        if file in seen:
            raise DatasetError(f"{where}: the image {file!r} occurs twice")
        if wnid not in labels and wnid not in folders:
            raise DatasetError(f"{where}: unknown class {wnid[:80]!r}")
        seen.add(file)
        if wnid in labels:
            found.append((f"{root}val/images/{file}", labels[wnid]))
    if images - seen:
        raise DatasetError(f"{files.describe(name)}: it has no line for the image {min(images - seen)!r}")
    if not found:
        raise DatasetError(f"{files.describe(name)}: no validation images")
    return sorted(found, key=lambda entry: (entry[1], entry[0]))
