"""Prepared copies of data sets: one memory-mapped uint8 array per split, and a manifest with digests.

A copy is written to a temporary folder next to its place, flushed to the disk and renamed, so a folder with the final
name is complete. Several processes may pack at once; the first to finish wins. Opening a copy checks everything but the
pixels, which are mapped unread. `verify` hashes these. A copy that fails a check is packed again.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xnor_ref.datasets.base import (
    Dataset,
    DatasetWarning,
    Images,
    Labels,
    PixelStatistics,
    Progress,
    Split,
    fingerprint,
    make_dataset,
)
from xnor_ref.errors import DatasetError, OutputError
from xnor_ref.storage import canonical_json, sha256_bytes, sync_folder

FORMAT = "xnor_ref packed data set"
VERSION = 1
SPLITS = ("train", "val")
_MAX_MANIFEST_BYTES = 4 * 2**20
_FILES_TOGETHER = 256  # files decoded at a time
_ABANDONED_SECONDS = 3600.0  # an unchanged temporary folder of this age has no running writer
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_DAMAGE = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RecursionError, DatasetError)


@dataclass(frozen=True)
class Source:
    """The source of a data set's images, scanned and checked, but not yet decoded."""

    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # (H, W, C)
    counts: dict[str, int]  # split name -> number of images
    blocks: Callable[[str], Iterator[tuple[Images, Labels]]]  # split name -> images (k, H, W, C), labels (k,), in order

    @classmethod
    def of_files(
        cls,
        classes: tuple[str, ...],
        shape: tuple[int, int, int],
        members: dict[str, list[tuple[str, int]]],
        decode: Callable[[list[str]], Images],
    ) -> "Source":
        """Make a source of files. `members` holds (name, label) of each image of a split; `decode` reads some of them.

        Raises DatasetError for a class name that a model file cannot hold.
        """
        hidden = [name for name in classes if not name.isprintable()]
        if hidden:
            raise DatasetError(f"the class name {hidden[0]!a} has unprintable characters; rename it")

        def blocks(split: str) -> Iterator[tuple[Images, Labels]]:
            for start in range(0, len(members[split]), _FILES_TOGETHER):
                names, labels = zip(*members[split][start : start + _FILES_TOGETHER])
                yield decode(list(names)), np.array(labels, np.int64)

        return cls(classes, shape, {split: len(found) for split, found in members.items()}, blocks)


def open_or_pack(
    folder: Path,
    name: str,
    identity: dict[str, Any],
    scan: Callable[[], Source],
    progress: Progress | None = None,
    activity: str = "packing",
) -> Dataset:
    """Open the prepared copy of a data set, and make it first if needed.

    Parameters
    ----------
    folder : holds prepared copies; created if missing. If it cannot be written (read-only, no permission), the data set
        is built in memory, with a `DatasetWarning`.
    identity : JSON values that identify this source and this way of packing
    scan : called only if there is no valid copy
    activity : first word of the text given to `progress`

    Raises
    ------
    DatasetError : an error of the source, or a copy that cannot be read
    OutputError : the disk is full or failed; no file is left behind
    """
    place = folder / f"{name}-{sha256_bytes(canonical_json(identity))[:16]}"
    if os.path.lexists(place):
        try:
            packed = open_packed(place, identity)
            _remove_abandoned(folder, place.name)
            return packed
        except DatasetError as error:
            if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, _ABSENT):
                raise  # it cannot be read now, but may be intact
            warnings.warn(f"{error}; it is being prepared again", DatasetWarning, stacklevel=2)
    source = scan()
    temporary = folder / f".{place.name}-{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder, place.name)
        temporary.mkdir()
    except OSError as error:
        if error.errno in NOT_WRITABLE:
            warnings.warn(
                f"{folder} cannot be written ({error.strerror}): {name} is kept in memory and prepared again each time",
                DatasetWarning,
                stacklevel=2,
            )
            return _build_in_memory(name, source, progress, activity)
        raise OutputError(f"cannot prepare {name} in {folder}: {error.strerror}") from error
    try:
        _check_room(folder, name, source)
        _write(temporary, name, identity, source, progress, activity)
        _put_in_place(temporary, place, identity)
        return open_packed(place, identity)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot prepare {name} in {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def open_packed(place: Path, identity: dict[str, Any] | None = None) -> Dataset:
    """Open the prepared copy in the folder `place` without reading its pixels. If `identity` is given, it must match.

    Raises DatasetError if the copy is missing, damaged, of another version or made from something else.
    """
    try:
        manifest = _read_manifest(place)
        if identity is not None and manifest["identity"] != identity:
            raise ValueError("it was made from something else")
        splits, hashes = {}, {}
        shape = tuple(manifest["shape"])
        for split in SPLITS:
            entry = manifest["splits"][split]
            images = _open_array(place, f"{split}-images", entry["images"], np.uint8, (entry["count"], *shape))
            labels = _open_array(place, f"{split}-labels", entry["labels"], np.int64, (entry["count"],))
            labels = np.array(labels)  # small: read now, and checked against its hash
            if hashlib.sha256(labels.tobytes()).hexdigest() != entry["labels"]["sha256"]:
                raise ValueError(f"{split}-labels.npy was altered")
            splits[split] = Split(images, labels)
            hashes[split] = (entry["images"]["sha256"], entry["labels"]["sha256"])
        classes = tuple(manifest["classes"])
        if manifest["sha256"] != fingerprint(classes, shape, hashes):
            raise ValueError("its digest does not match its content")
        mean, std = tuple(manifest["mean"]), tuple(manifest["std"])
        return Dataset(manifest["name"], classes, splits["train"], splits["val"], mean, std, manifest["sha256"])
    except _DAMAGE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DatasetError(f"the prepared copy {place} is not usable: {reason}") from error


def find_packed(data_dir: Path, sha256: str) -> Dataset | None:
    """Return the prepared copy with this digest in a folder of data sets or of images, or None."""
    for place in sorted([*data_dir.glob("packed/*"), *data_dir.glob(".xnor_ref-packed/*")]):
        with suppress(*_DAMAGE):
            if _read_manifest(place)["sha256"] == sha256:
                return open_packed(place)
    return None


def _read_manifest(place: Path) -> dict[str, Any]:
    with open(place / "manifest.json", "rb") as file:
        text = file.read(_MAX_MANIFEST_BYTES + 1)
    if len(text) > _MAX_MANIFEST_BYTES:
        raise ValueError("manifest.json is too large")
    manifest = json.loads(text)
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise ValueError(f"version {manifest.get('version')!r}; this program reads version {VERSION}")
    digest = manifest.pop("digest")
    if digest != sha256_bytes(canonical_json(manifest)):
        raise ValueError("manifest.json was altered: its digest does not match")
    return manifest


def _open_array(place: Path, stem: str, entry: dict[str, Any], dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    path = place / f"{stem}.npy"
    size = os.stat(path).st_size
    if size != entry["bytes"]:
        raise ValueError(f"{path.name} has {size} bytes instead of {entry['bytes']}")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(f"{path.name} holds {array.dtype} {array.shape} instead of {np.dtype(dtype)} {shape}")
    return array


def _write(
    temporary: Path, name: str, identity: dict[str, Any], source: Source, progress: Progress | None, activity: str
) -> None:
    statistics = PixelStatistics(source.shape[2])
    entries: dict[str, Any] = {}
    for split in SPLITS:
        count = source.counts[split]
        labels = np.empty(count, np.int64)
        with _ArrayWriter(temporary / f"{split}-images.npy", np.dtype(np.uint8), (count, *source.shape)) as writer:
            for _, block in _numbered_blocks(source, split, labels, f"{activity} {name} {split}", progress):
                writer.append(block)
                if split == "train":
                    statistics.add(block)
        with _ArrayWriter(temporary / f"{split}-labels.npy", labels.dtype, labels.shape) as label_writer:
            label_writer.append(labels)
        entries[split] = {"count": count, "images": writer.entry(), "labels": label_writer.entry()}
    mean, std = statistics.result()
    hashes = {split: (entries[split]["images"]["sha256"], entries[split]["labels"]["sha256"]) for split in SPLITS}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "identity": identity,
        "classes": list(source.classes),
        "shape": list(source.shape),
        "splits": entries,
        "mean": list(mean),
        "std": list(std),
        "sha256": fingerprint(source.classes, source.shape, hashes),
    }
    manifest["digest"] = sha256_bytes(canonical_json(manifest))
    with open(temporary / "manifest.json", "wb") as file:
        file.write(json.dumps(manifest, indent=1).encode())
        _flush(file)


class _ArrayWriter:
    """A .npy file written from front to back, and hashed while it is written.

    It uses plain writes, not a memory map. On a full disk a write fails with an error that can be reported, but a store
    to a map would kill the process.
    """

    def __init__(self, path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self._file = open(path, "wb")
        self._hash = hashlib.sha256()
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, block: np.ndarray) -> None:
        data = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
        self._file.write(data)
        self._hash.update(data)

    def entry(self) -> dict[str, Any]:
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}

    def __enter__(self) -> "_ArrayWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._file as file:
            if kind is None:
                _flush(file)
                self._bytes = file.tell()


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _numbered_blocks(
    source: Source, split: str, labels: Labels, what: str, progress: Progress | None
) -> Iterator[tuple[int, Images]]:
    """Yield blocks of a split with the number of their first image. Fills `labels` meanwhile."""
    count, start = source.counts[split], 0
    for images, block_labels in source.blocks(split):
        labels[start : start + len(images)] = block_labels
        yield start, images
        start += len(images)
        if progress is not None:
            progress(what, start, count)
    if start != count:
        raise DatasetError(f"{what}: the source gave {start} images but announced {count}")


def _build_in_memory(name: str, source: Source, progress: Progress | None, activity: str) -> Dataset:
    splits = {}
    for split in SPLITS:
        count = source.counts[split]
        images, labels = np.empty((count, *source.shape), np.uint8), np.empty(count, np.int64)
        for start, block in _numbered_blocks(source, split, labels, f"{activity} {name} {split}", progress):
            images[start : start + len(block)] = block
        splits[split] = Split(images, labels)
    return make_dataset(name, source.classes, splits["train"], splits["val"])


def _check_room(folder: Path, name: str, source: Source) -> None:
    needed = sum(source.counts.values()) * (source.shape[0] * source.shape[1] * source.shape[2] + 8) + 2**20
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"cannot prepare {name} in {folder}: it needs {needed / 1e6:.0f} MB, but {free / 1e6:.0f} MB are free"
        )


def _put_in_place(temporary: Path, place: Path, identity: dict[str, Any]) -> None:
    """Rename the finished folder, unless another process has finished a valid one meanwhile."""
    sync_folder(temporary)
    for _ in range(8):
        try:
            os.rename(temporary, place)
            sync_folder(place.parent)
            return
        except OSError:
            if not os.path.lexists(place):
                raise
        try:
            open_packed(place, identity)
            return
        except DatasetError:
            # Rename the old folder first: a rename is one step, but a reader could see a half-finished removal.
            aside = place.with_name(f".{place.name}-{secrets.token_hex(4)}.part")
            try:
                os.rename(place, aside)
            except FileNotFoundError:
                continue  # another process was faster
            if aside.is_dir() and not aside.is_symlink():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                aside.unlink()
    raise OutputError(f"cannot put {place} in place: other processes keep replacing it")


def _remove_abandoned(folder: Path, stem: str) -> None:
    """Remove files of this data set that a killed process left."""
    for left in folder.glob(f".{stem}-*.part"):
        try:
            newest = max(path.stat().st_mtime for path in [left, *left.iterdir()])
        except OSError:
            continue  # its owner is removing it
        if time.time() - newest > _ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
