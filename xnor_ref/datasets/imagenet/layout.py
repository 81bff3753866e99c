"""ImageNet as its users have it: the archives as they were downloaded, folders, or the layout of Kaggle.

Classes are the synsets that have training images, in alphabetical order. That is not the order of the devkit's
ILSVRC2012_ID, in which the labels of the validation images are given; `meta.mat` of the devkit translates.
"""

import io
import os
import re
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from xnor_ref.datasets.archives import is_seen
from xnor_ref.datasets.base import DatasetWarning, Labels, Progress
from xnor_ref.datasets.imagenet.mat5 import read_structs
from xnor_ref.datasets.imagenet.photos import MAX_FILE_BYTES, PhotoFiles
from xnor_ref.errors import DatasetError
from xnor_ref.storage import canonical_json, sha256_bytes

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12"
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
KAGGLE_NAMES, KAGGLE_LABELS = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
_ROOTS = ("imagenet", "ImageNet", "ILSVRC2012", "ILSVRC", "imagenet-object-localization-challenge")
_INNER = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
_TRAIN, _VAL = ("train", "ILSVRC2012_img_train"), ("val", "ILSVRC2012_img_val")
_SYNSET = re.compile(r"n\d{8}")
_PHOTO = re.compile(r"[A-Za-z0-9_.-]{1,100}\.jpe?g", re.IGNORECASE)
_NUMBER = re.compile(r"(\d{1,9})\.jpe?g", re.IGNORECASE)
_MAX_DEVKIT = 64 * 2**20  # bytes, packed or not; the official one has 2.5 MB
_DAMAGE = (tarfile.TarError, EOFError, ValueError, OverflowError)


@dataclass(frozen=True, eq=False)
class Found:
    """The photos of both splits with their labels, in one order for all layouts: by class and name, or by name."""

    synsets: tuple[str, ...]
    classes: tuple[str, ...]  # their names
    train: PhotoFiles
    train_labels: Labels
    val: PhotoFiles
    val_labels: Labels


Entry = tuple[str, int, int]  # name, bytes, offset
Group = tuple[str, PhotoFiles]  # synset or "", photos


class Layout:
    """The parts of ImageNet that lie in `data_dir`, or in a folder in it of a usual name.

    Raises DatasetError where some are missing; it names all of them.
    """

    def __init__(self, data_dir: Path) -> None:
        if not data_dir.is_dir():
            what = "not a folder" if data_dir.exists() else "no such folder"
            raise DatasetError(f"{data_dir}: {what}; --data-dir names the folder that holds ImageNet")
        outer = [data_dir, *(data_dir / name for name in _ROOTS)]
        self._roots = [root for one in outer for root in (one, *(one / inner for inner in _INNER)) if root.is_dir()]
        self.train = self._images(TRAIN_TAR, _TRAIN)
        self.val = self._images(VAL_TAR, _VAL)
        missing = []
        if self.train is None or (self.train.is_dir() and not _synsets_in(self.train)):
            missing.append(f"the training images: {TRAIN_TAR}, or train/ with a folder for each class (n01440764 ...)")
        if self.val is None:
            missing.append(f"the validation images: {VAL_TAR}, or val/ with the images or with a folder for each class")
        if not self.is_sorted and self._kaggle_labels is None and self._devkit.keys() < {META, TRUTH}:
            here = f" (of these only {next(iter(self._devkit))} is there)" if self._devkit else ""
            missing.append(
                f"the labels of the validation images, unless these are sorted by class: {DEVKIT}.tar.gz, or {META} "
                f"and {TRUTH} from it, or Kaggle's {KAGGLE_LABELS}{here}"
            )
        if missing:
            raise DatasetError(
                f"{data_dir}: ImageNet is not complete here. This program does not download it; registered users get "
                "it from image-net.org. These parts are missing:\n" + "\n".join(f"  {part}" for part in missing)
            )

    @property
    def is_sorted(self) -> bool:
        """Whether the validation images lie in a folder for each class."""
        return self.val is not None and self.val.is_dir() and bool(_synsets_in(self.val))

    def identity(self) -> dict[str, Any]:
        """Cheap to find, and different where photos were added, removed or exchanged for another archive.

        Of folders it holds the times at which names in them changed; not those of the photos themselves.
        """
        assert self.train is not None and self.val is not None
        lists = [self._kaggle_labels, self._kaggle_names, *self._devkit.values()]
        return {
            "train": _identity(self.train),
            "val": _identity(self.val),
            "lists": [sha256_bytes(data) for data in lists if data is not None],
        }

    def scan(self, progress: Progress | None = None) -> Found:
        """List all photos. Raises DatasetError for a damaged archive or list, or a photo without a label."""
        assert self.train is not None and self.val is not None
        say = progress or (lambda *_: None)
        groups = list(_groups(self.train, lambda done, of: say("listing the training images of imagenet", done, of)))
        groups.sort(key=lambda group: group[0])
        for synset, files in groups:
            if not len(files):
                raise DatasetError(f"{files.places[0]}: no images of the class {synset}")
        synsets = tuple(group[0] for group in groups)
        if len(set(synsets)) != len(synsets) or not synsets:
            raise DatasetError(f"{self.train}: {'a class comes twice' if synsets else 'no classes'}")
        train = _joined(groups)
        train_labels = np.repeat(np.arange(len(groups)), [len(files) for _, files in groups])
        order = np.lexsort((train.names, train_labels))
        val, val_labels = self._validation(synsets)
        return Found(synsets, self._names(synsets), train.subset(order), train_labels[order], val, val_labels)

    def _images(self, archive: str, folders: tuple[str, ...]) -> Path | None:
        """The archive if it is there, for it is whole; else a folder."""
        archives = [root / archive for root in self._roots if (root / archive).is_file()]
        there = [root / name for root in self._roots for name in folders if (root / name).is_dir()]
        return next(iter([*archives, *there]), None)

    def _validation(self, synsets: tuple[str, ...]) -> tuple[PhotoFiles, Labels]:
        assert self.val is not None
        groups = list(_groups(self.val)) if self.is_sorted else [("", _flat(self.val))]
        files = _joined(groups)
        label_of = {synset: label for label, synset in enumerate(synsets)}
        if self.is_sorted:
            of_groups = np.array([label_of.get(synset, -1) for synset, _ in groups], np.int64)
            labels = np.repeat(of_groups, [len(one) for _, one in groups])
        else:
            synset_of = self._labels_by_name()
            found = [synset_of(name.decode()) for name in files.names.tolist()]
            labels = np.array([label_of.get(synset, -1) for synset in found], np.int64)
        if (others := int((labels < 0).sum())) and others < len(labels):
            _warn(f"{self.val}: {others} validation images of classes without training images are left out")
        chosen = np.flatnonzero(labels >= 0)
        if not len(chosen):
            raise DatasetError(f"{self.val}: no validation images of the classes in {self.train}")
        order = chosen[np.argsort(files.names[chosen], kind="stable")]
        names = files.names[order]
        if (twice := np.flatnonzero(names[1:] == names[:-1])).size:
            raise DatasetError(f"{self.val}: the image {names[twice[0]].decode()} comes twice")
        return files.subset(order), labels[order]

    def _labels_by_name(self) -> Callable[[str], str]:
        """From the name of a validation image to its synset."""
        if self._kaggle_labels is not None:
            rows = (line.split(",") for line in _text(self._kaggle_labels, KAGGLE_LABELS).splitlines())
            known = {row[0]: row[1].split()[0] for row in rows if len(row) == 2 and row[1].split()}

            def by_row(name: str) -> str:
                stem = name.rpartition(".")[0]
                if stem not in known:
                    raise DatasetError(f"{KAGGLE_LABELS}: no line for the image {name}")
                return known[stem]

            return by_row
        lines = _text(self._devkit[TRUTH], TRUTH).split()
        synset_of = {number: synset for number, synset, _ in self._meta}

        def by_number(name: str) -> str:
            number = int(found.group(1)) if (found := _NUMBER.search(name)) else 0
            if not 1 <= number <= len(lines):
                raise DatasetError(f"{self.val}: {name}: {TRUTH} has {len(lines)} lines, and none for this image")
            line = lines[number - 1]
            if not line.isdecimal() or int(line) not in synset_of:
                raise DatasetError(f"{TRUTH}, line {number}: {line[:20]!r} is no class of {META}")
            return synset_of[int(line)]

        return by_number

    def _names(self, synsets: tuple[str, ...]) -> tuple[str, ...]:
        """The first name of each class; with its synset where two share it, the synset alone where none is known."""
        words: dict[str, str] = {}
        if self._kaggle_names is not None:
            pairs = (line.partition(" ") for line in _text(self._kaggle_names, KAGGLE_NAMES).splitlines())
            words = {synset: text for synset, _, text in pairs}
        if META in self._devkit:
            words = {synset: text for _, synset, text in self._meta}
        first = ["".join(filter(str.isprintable, words.get(s, "").split(",")[0])).strip() or s for s in synsets]
        return tuple(
            name if first.count(name) == 1 or name == synset else f"{name} ({synset})"
            for name, synset in zip(first, synsets)
        )

    @cached_property
    def _meta(self) -> list[tuple[int, str, str]]:
        """(ILSVRC2012_ID, synset, words) of each line of meta.mat."""
        what = f"{DEVKIT}: {META}"
        found = []
        for one in read_structs(self._devkit[META], "synsets", ("ILSVRC2012_ID", "WNID", "words"), what):
            number, synset, words = one["ILSVRC2012_ID"], one["WNID"], one["words"]
            if not isinstance(synset, str) or not _SYNSET.fullmatch(synset) or np.size(number) != 1:
                raise DatasetError(f"{what}: an entry without a number and a synset")
            found.append((int(np.ravel(number)[0]), synset, words if isinstance(words, str) else ""))
        return found

    @cached_property
    def _devkit(self) -> dict[str, bytes]:
        """Those of its two files that are there, by name: loose, or in its folder or archive."""
        found: dict[str, bytes] = {}
        for root in self._roots:
            for name in (META, TRUTH):
                for place in (root / name, root / DEVKIT / name, root / DEVKIT / "data" / name):
                    if name not in found and place.is_file():
                        found[name] = _read(place)
            archive = root / f"{DEVKIT}.tar.gz"
            if archive.is_file() and len(found) < 2:
                found = {**_of_devkit(archive), **found}
        return found

    @cached_property
    def _kaggle_labels(self) -> bytes | None:
        return self._list(KAGGLE_LABELS)

    @cached_property
    def _kaggle_names(self) -> bytes | None:
        return self._list(KAGGLE_NAMES)

    def _list(self, name: str) -> bytes | None:
        return next((_read(root / name) for root in self._roots if (root / name).is_file()), None)


# --- photos ----------------------------------------------------------------------------------------------------


def _groups(place: Path, progress: Callable[[int, int], None] = lambda *_: None) -> Iterator[Group]:
    """The photos of each class, of a folder of folders or of an archive of archives."""
    if place.is_dir():
        synsets = _synsets_in(place)
        for done, synset in enumerate(synsets, 1):
            yield synset, _listed(place / synset, _in_folder(place / synset))
            progress(done, len(synsets))
        return
    with _open_tar(place, str(place)) as outer:
        for done, member in enumerate(_members(outer, str(place)), 1):
            synset = member.name.rpartition("/")[2].removesuffix(".tar")
            if not member.isfile() or not _SYNSET.fullmatch(synset):
                continue
            what = f"{place}: {member.name}"
            with _open_tar(outer.extractfile(member), what) as inner:
                yield synset, _listed(place, _in_tar(inner, what, member.size), member.offset_data)
            progress(done, max(done, 1000))


def _flat(place: Path) -> PhotoFiles:
    """The photos of a folder or of an archive."""
    if place.is_dir():
        return _listed(place, _in_folder(place))
    with _open_tar(place, str(place)) as tar:
        return _listed(place, _in_tar(tar, str(place), os.path.getsize(place)))


def _in_folder(folder: Path) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_photo(entry.name, str(folder)) and entry.is_file():
                    yield entry.name, entry.stat().st_size, 0
    except OSError as error:
        raise DatasetError(f"{error.filename or folder}: cannot be read: {error.strerror}") from error


def _in_tar(tar: tarfile.TarFile, what: str, size: int) -> Iterator[Entry]:
    """The photos of an archive of `size` bytes."""
    for member in _members(tar, what):
        name = member.name.rpartition("/")[2]
        if member.isdir() or not _is_photo(name, what):
            continue
        if not member.isreg() or member.issparse() or member.offset_data + member.size > size:
            raise DatasetError(f"{what}: {name}: not a plain file, or the archive was cut short")
        yield name, member.size, member.offset_data


def _is_photo(name: str, where: str) -> bool:
    if not _PHOTO.fullmatch(name) and is_seen(name):
        _warn(f"{where}: files that are not named *.JPEG are left out")
    return bool(_PHOTO.fullmatch(name)) and is_seen(name)


def _listed(place: Path, entries: Iterator[Entry], begin: int = 0) -> PhotoFiles:
    """The photos of a folder, or of a larger file whose offsets count from the byte `begin`."""
    rows = list(entries)
    names = np.array([name for name, *_ in rows], "S")
    sizes = np.array([size for _, size, _ in rows], np.int64)
    if (bad := np.flatnonzero((sizes <= 0) | (sizes > MAX_FILE_BYTES))).size:
        raise DatasetError(
            f"{place}: {rows[bad[0]][0]}: {sizes[bad[0]]} bytes; photos of 1 to {MAX_FILE_BYTES} bytes are read"
        )
    offsets = None if place.is_dir() else np.array([begin + at for *_, at in rows], np.int64)
    return PhotoFiles(names, sizes, (place,), np.zeros(len(rows), np.int32), offsets)


def _joined(groups: list[Group]) -> PhotoFiles:
    """The photos of all groups, in their order; all lie in folders, or all in one larger file."""
    files = [one for _, one in groups]
    places = tuple(dict.fromkeys(one.places[0] for one in files))
    counts = [len(one) for one in files]
    place = np.repeat(np.arange(len(places), dtype=np.int32), counts) if len(places) > 1 else None
    offsets = [one.offsets for one in files if one.offsets is not None]
    return PhotoFiles(
        np.concatenate([one.names for one in files]),
        np.concatenate([one.sizes for one in files]),
        places,
        np.zeros(sum(counts), np.int32) if place is None else place,
        np.concatenate(offsets) if offsets else None,
    )


def _synsets_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if _SYNSET.fullmatch(entry.name) and entry.is_dir())
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read: {error.strerror}") from error


def _identity(place: Path) -> list[Any]:
    status = place.stat()
    if place.is_file():
        return [place.name, status.st_size, status.st_mtime_ns]
    inside = [[synset, (place / synset).stat().st_mtime_ns] for synset in _synsets_in(place)]
    return [place.name, status.st_mtime_ns, sha256_bytes(canonical_json(inside))]


# --- archives and lists -----------------------------------------------------------------------------------------


def _open_tar(place: Any, what: str) -> tarfile.TarFile:
    """An archive without compression, of a path or of an open file."""
    try:
        return tarfile.open(place, "r:") if isinstance(place, Path) else tarfile.open(fileobj=place, mode="r:")
    except _DAMAGE as error:
        raise DatasetError(f"{what}: not a tar archive, or a damaged one: {error}") from None
    except OSError as error:
        raise DatasetError(f"{what}: cannot be read: {error.strerror or error}") from error


def _members(tar: tarfile.TarFile, what: str) -> Iterator[tarfile.TarInfo]:
    """The entries of an archive, and an error where it ends before its end."""
    try:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # 1.3 million would fill the memory
            yield member
        assert tar.fileobj is not None
        tar.fileobj.seek(tar.offset)  # `tarfile` takes a damaged entry for the end, and needs no end at all
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"neither an entry nor its end at byte {tar.offset}")
    except _DAMAGE as error:
        raise DatasetError(f"{what}: a damaged archive: {error}") from None
    except OSError as error:
        raise DatasetError(f"{what}: cannot be read: {error.strerror or error}") from error


def _of_devkit(archive: Path) -> dict[str, bytes]:
    """The two files out of the devkit; nothing is unpacked beyond a limit."""
    found: dict[str, bytes] = {}
    try:
        unpacking = zlib.decompressobj(31)
        data = unpacking.decompress(_read(archive), _MAX_DEVKIT)
        if unpacking.unconsumed_tail or not unpacking.eof:
            raise ValueError(f"it unpacks to more than {_MAX_DEVKIT} bytes, or was cut short")
        with _open_tar(io.BytesIO(data), str(archive)) as tar:
            for member in _members(tar, str(archive)):
                name = member.name.rpartition("/")[2]
                if member.isreg() and name in (META, TRUTH):
                    found[name] = data[member.offset_data : member.offset_data + member.size]
    except (ValueError, zlib.error) as error:
        raise DatasetError(f"{archive}: damaged: {error}") from None
    return found


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > _MAX_DEVKIT:
                raise DatasetError(f"{path}: more than {_MAX_DEVKIT} bytes")
            return file.read()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{name}: not UTF-8 text: {error}") from None


def _warn(text: str) -> None:
    warnings.warn(text, DatasetWarning, stacklevel=3)
