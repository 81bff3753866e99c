"""A store of photos at 256 pixels on the shorter side, in shards; or an index of photos that stay where they are.

Either is a folder with an index of each split (`train.npz`), and `manifest.json`, which vouches for all of it. A store
holds shards beside them, `train-00000.jpegs` and so on: JPEGs one after the other. It is made shard by shard in a
folder of another name, which takes its place when it is complete. A killed process leaves its finished shards; the next
one goes on with them.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from xnor_ref.datasets.base import Labels, PixelStatistics, Progress, array_sha256
from xnor_ref.datasets.batches import epoch_order
from xnor_ref.datasets.imagenet.layout import Found
from xnor_ref.datasets.imagenet.photos import SHORT_SIDE, SIZE, Crops, PhotoFiles, Photos, decoded
from xnor_ref.datasets.images import without_warnings
from xnor_ref.errors import DatasetError, OutputError, is_of_the_system
from xnor_ref.kernels.basics.threads import parallel_chunks
from xnor_ref.storage import canonical_json, lock_alone, sha256_bytes, sha256_file, sync_folder, write_atomically

FORMAT, VERSION = "xnor_ref photos", 1
SPLITS = ("train", "val")
QUALITY = 90  # of the JPEGs that are encoded anew
PHOTOS_OF_A_SHARD = 4096  # about 100 MB
MEASURED = 10_000  # photos of which mean and standard deviation are taken, as in the authors' code
_MOST_DAMAGED = 100  # photos after which nobody looks further
_MAX_MANIFEST_BYTES = 4 * 2**20
_DAMAGE = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RecursionError, DatasetError)


@dataclass(frozen=True, eq=False)
class Opened:
    """A store or index as it was found on disk."""

    classes: tuple[str, ...]
    files: dict[str, PhotoFiles]  # by split
    labels: dict[str, Labels]
    hashes: dict[str, str]  # SHA-256 of what the photos of a split are decoded from
    mean: tuple[float, ...]
    std: tuple[float, ...]
    in_place: bool

    def measure(self, split: str) -> str:
        """`hashes` of a split as its files are now."""
        return _sha256_of(self.files[split], not self.in_place)


# --- reading ---------------------------------------------------------------------------------------------------


def open_photos(place: Path, root: Path, identity: dict[str, Any] | None = None) -> Opened:
    """Open the store or index in the folder `place`; photos that stay where they are lie under `root`.

    Raises DatasetError where it is missing, damaged, of another version or made from something else.
    """
    try:
        with open(place / "manifest.json", "rb") as file:
            text = file.read(_MAX_MANIFEST_BYTES + 1)
        manifest = json.loads(text)
        if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
            raise ValueError(f"version {manifest.get('version')!r}, this program reads version {VERSION}")
        if manifest.pop("digest") != sha256_bytes(canonical_json(manifest)):
            raise ValueError("manifest.json was altered: its digest does not match")
        if identity is not None and manifest["identity"] != identity:
            raise ValueError("it was made from something else")
        in_place, files, labels, hashes = manifest["in_place"], {}, {}, {}
        for split in SPLITS:
            entry = manifest["splits"][split]
            with open(place / f"{split}.npz", "rb") as file:
                data = file.read()
            if sha256_bytes(data) != entry["index_sha256"]:
                raise ValueError(f"{split}.npz was altered")
            arrays = dict(np.load(BytesIO(data), allow_pickle=False))
            labels[split] = arrays.pop("labels")
            places = tuple((root if in_place else place) / name for name in entry["places"])
            if not in_place and (short := [p for p, size in zip(places, entry["bytes"]) if os.path.getsize(p) != size]):
                raise ValueError(f"{short[0].name} has another size than it had")
            files[split], hashes[split] = PhotoFiles(places=places, **arrays), entry["sha256"]
        return Opened(
            *(tuple(manifest["classes"]), files, labels, hashes),
            *(tuple(manifest["mean"]), tuple(manifest["std"]), in_place),
        )
    except _DAMAGE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DatasetError(f"the prepared copy {place} is not usable: {reason}") from error


# --- making ----------------------------------------------------------------------------------------------------


def make(
    place: Path, root: Path, found: Found, identity: dict[str, Any], in_place: bool, progress: Progress | None = None
) -> None:
    """Make the store, or with `in_place` the index, in the folder `place`, unless another process just made it.

    Raises
    ------
    DatasetError : damaged photos, all named at the end, when all others are done
    OutputError : the disk is full or cannot be written; finished shards stay for the next attempt
    """
    part = place.with_name(".imagenet-index.part" if in_place else ".imagenet.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _alone(place.parent / ".imagenet.lock", progress):
            if place.exists():
                try:
                    open_photos(place, root, identity)
                    return
                except DatasetError:  # its sound shards are used again
                    shutil.rmtree(part, ignore_errors=True)
                    os.rename(place, part)
            part.mkdir(exist_ok=True)
            write_index(part, root, found, identity, in_place, progress)
            os.rename(part, place)
            sync_folder(place.parent)
    except OutputError:
        raise
    except OSError as error:
        hint = "" if in_place else "; --store-dir names another folder, and --in-place needs no store"
        raise OutputError(f"cannot prepare imagenet in {place.parent}: {error.strerror or error}{hint}") from error


def write_index(
    part: Path, root: Path, found: Found, identity: dict[str, Any], in_place: bool, progress: Progress | None
) -> None:
    """Write shards, unless photos stay where they are, then the index and the manifest."""
    splits, entries = {"train": (found.train, found.train_labels), "val": (found.val, found.val_labels)}, {}
    damaged: list[str] = []
    if not in_place:
        splits = {
            split: (_write_shards(part, split, files, damaged, progress), labels)
            for split, (files, labels) in splits.items()
        }
    if damaged:
        more = " and more" if len(damaged) >= _MOST_DAMAGED else ""
        raise DatasetError(
            f"imagenet: photos that cannot be used: {len(damaged)}{more}. Replace or remove them; what is done already "
            "will not be done again\n" + "\n".join(f"  {text}" for text in damaged[:10])
        )
    mean, std = measured(splits["train"][0], progress)
    for split, (files, labels) in splits.items():
        arrays = {"names": files.names, "sizes": files.sizes, "place": files.place, "labels": labels}
        arrays |= {} if files.offsets is None else {"offsets": files.offsets}
        buffer = BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        write_atomically(part / f"{split}.npz", buffer.getvalue())
        entries[split] = {
            "places": [os.path.relpath(path, root if in_place else part) for path in files.places],
            "bytes": [] if in_place else [path.stat().st_size for path in files.places],
            "sha256": _sha256_of(files, not in_place),
            "index_sha256": sha256_bytes(buffer.getvalue()),
        }
    manifest: dict[str, Any] = {
        **{"format": FORMAT, "version": VERSION, "identity": identity, "in_place": in_place},
        **{"classes": list(found.classes), "synsets": list(found.synsets), "splits": entries},
        **{"mean": list(mean), "std": list(std)},
    }
    manifest["digest"] = sha256_bytes(canonical_json(manifest))
    used = {path.name for files, _ in splits.values() for path in files.places}
    for left in part.glob("*.jpegs"):
        if left.name not in used:
            left.unlink()
    write_atomically(part / "manifest.json", json.dumps(manifest, indent=1).encode())


def unsaved(found: Found, progress: Progress | None = None) -> Opened:
    """Photos that stay where they are, without an index on disk."""
    files = {"train": found.train, "val": found.val}
    hashes = {split: _sha256_of(one, False) for split, one in files.items()}
    labels = {"train": found.train_labels, "val": found.val_labels}
    return Opened(found.classes, files, labels, hashes, *measured(found.train, progress), True)


def measured(files: PhotoFiles, progress: Progress | None = None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixel/255 for each channel, over the middle of a fixed choice of photos."""
    chosen = np.sort(epoch_order(len(files), 0, 0)[:MEASURED])
    photos, statistics = Photos(files.subset(chosen), SIZE, Crops()), PixelStatistics(3)
    for start in range(0, len(photos), 256):
        statistics.add(photos[start : start + 256])
        if progress is not None:
            progress("measuring the pixels of imagenet", min(start + 256, len(photos)), len(photos))
    return statistics.result()


def _write_shards(
    part: Path, split: str, files: PhotoFiles, damaged: list[str], progress: Progress | None
) -> PhotoFiles:
    """Write the shards that are not there yet; where the photos lie in them."""
    shards, sizes, places, offsets = [], [], [], []
    for number, start in enumerate(range(0, len(files), PHOTOS_OF_A_SHARD)):
        photos = files.subset(np.arange(start, min(start + PHOTOS_OF_A_SHARD, len(files))))
        path = part / f"{split}-{number:05d}.jpegs"
        lengths = _finished(path, photos) or _linked(path, photos)
        if lengths is None and len(damaged) < _MOST_DAMAGED:
            lengths = _write_shard(path, photos, damaged)
        if lengths is not None:
            shards.append(path)
            sizes += lengths
            places += [len(shards) - 1] * len(lengths)
            offsets += np.cumsum([0, *lengths[:-1]]).tolist()
        if progress is not None:
            progress(f"preparing imagenet {split}", start + len(photos), len(files))
    arrays = np.array(sizes, np.int64), tuple(shards), np.array(places, np.int32), np.array(offsets, np.int64)
    return PhotoFiles(files.names, *arrays)


def _finished(path: Path, photos: PhotoFiles) -> list[int] | None:
    """The bytes of each photo in a shard that was made from these before; None where there is none."""
    try:
        record = json.loads(path.with_suffix(".json").read_bytes())
        lengths: list[int] = record["lengths"]
        whole = path.stat().st_size == sum(lengths) and len(lengths) == len(photos)
        return lengths if whole and record["source"] == _source(photos) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _linked(path: Path, photos: PhotoFiles) -> list[int] | None:
    """The same of a shard in an older store beside this one, which then belongs to both."""
    for old in path.parent.parent.glob(f"imagenet-*/{path.name}"):
        if (lengths := _finished(old, photos)) is not None:
            with suppress(OSError):  # a file system without links
                for suffix in (path.suffix, ".json"):
                    path.with_suffix(suffix).unlink(missing_ok=True)
                    os.link(old.with_suffix(suffix), path.with_suffix(suffix))
                return lengths
    return None


def _write_shard(path: Path, photos: PhotoFiles, damaged: list[str]) -> list[int] | None:
    """Write a shard and what it was made from; None where a photo of it is damaged."""
    encoded, before = [b""] * len(photos), len(damaged)

    def work(start: int, stop: int) -> None:
        for index in range(start, stop):
            try:
                encoded[index] = small(photos.read(index), photos.describe(index))
            except DatasetError as error:
                if isinstance(error.__cause__, Exception) and is_of_the_system(error.__cause__):
                    raise
                damaged.append(str(error))

    with without_warnings():
        parallel_chunks(work, len(photos), 8)
    if len(damaged) > before:
        return None
    lengths = [len(one) for one in encoded]
    write_atomically(path, lambda file: file.writelines(encoded))
    write_atomically(path.with_suffix(".json"), canonical_json({"lengths": lengths, "source": _source(photos)}))
    return lengths


def small(data: bytes, what: str) -> bytes:
    """A photo as a JPEG of at most 256 pixels on its shorter side, upright, RGB or grey; as it is where it is one.

    Raises DatasetError for a damaged photo.
    """
    photo, changed = decoded(data, what, SHORT_SIDE, enlarge=False)
    if not changed:
        return data
    buffer = BytesIO()
    photo.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _source(photos: PhotoFiles) -> str:
    """Tells photos from others by their names and sizes, wherever they lie."""
    return sha256_bytes(photos.names.astype("S112").tobytes() + array_sha256(photos.sizes).encode())


def _sha256_of(files: PhotoFiles, by_content: bool) -> str:
    """Of the content of the larger files, or of the names and sizes of photos that stay where they are."""
    if not by_content:
        return _source(files)
    try:
        return sha256_bytes(canonical_json([sha256_file(path) for path in files.places]))
    except OSError as error:
        raise DatasetError(f"{error.filename}: cannot be read: {error.strerror}") from error


@contextmanager
def _alone(path: Path, progress: Progress | None) -> Iterator[None]:
    """Wait until no other process is making a copy here."""
    with open(path, "wb") as file:
        while not lock_alone(file):
            if progress is not None:
                progress("waiting for another process that prepares imagenet", 0, 1)
            time.sleep(0.2)
        yield
