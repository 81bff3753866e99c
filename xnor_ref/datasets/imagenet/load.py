"""`load` of the data set imagenet: a store of small JPEGs, made at first use, or the photos where they lie."""

import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from xnor_ref.datasets.base import Dataset, DatasetWarning, Progress, Split, array_sha256, fingerprint
from xnor_ref.datasets.imagenet.layout import Layout
from xnor_ref.datasets.imagenet.photos import SHORT_SIDE, SIZE, Crops, Photos
from xnor_ref.datasets.imagenet.shards import SPLITS, Opened, make, open_photos, unsaved
from xnor_ref.datasets.imagenet.stand_in import stand_in as stand_in
from xnor_ref.datasets.store import NOT_WRITABLE
from xnor_ref.errors import DatasetError, InputError, OutputError, check_integer
from xnor_ref.storage import canonical_json, sha256_bytes

_PREPARING = 1  # raise it when stores would differ


def load(
    *,
    name: str = "imagenet",
    data_dir: Path,
    progress: Progress | None = None,
    image_size: int = SIZE,
    crop: str = "random",
    scale_to: int = SHORT_SIDE,
    in_place: bool = False,
    store_dir: str | Path | None = None,
) -> Dataset:
    """Open ImageNet; its images are `Photos`, which are decoded when they are asked for.

    Parameters
    ----------
    data_dir : folder that holds it, in one of the layouts of `layout`
    image_size : pixels of a side, from 32 to 224, or with `in_place` to 512. Photos are scaled to 256/224 of it on
        their shorter side, then cropped
    crop, scale_to : how training crops are drawn, see `Crops`
    in_place : read the photos where they lie; by default a store of small JPEGs is made first
    store_dir : where stores and indices are kept; by default data_dir/packed

    Raises
    ------
    DatasetError : a part is missing, damaged or in a wrong layout; it is named
    InputError : an option out of range
    OutputError : no room for the store
    """
    what = "imagenet: image_size" + ("" if in_place else " (of images from the store)")
    check_integer(what, image_size, 32, 512 if in_place else SIZE)
    check_integer("imagenet: scale_to", scale_to, SHORT_SIDE, 2048)
    if crop == "resized" and scale_to != SHORT_SIDE:
        raise InputError(f"imagenet: scale_to (={scale_to}) needs crop random, got crop resized")
    opened = _open_or_make(data_dir, Path(store_dir) if store_dir else data_dir / "packed", in_place, progress)
    crops, splits, hashes = Crops(crop, scale_to), {}, {}
    for split in SPLITS:
        photos = Photos(opened.files[split], image_size, crops, measure=partial(opened.measure, split))
        labels = opened.labels[split]
        splits[split] = Split(photos, labels)  # type: ignore[arg-type]
        hashes[split] = (opened.hashes[split], array_sha256(labels))
    sha256 = fingerprint(opened.classes, (image_size, image_size, 3), hashes)
    return Dataset(name, opened.classes, splits["train"], splits["val"], opened.mean, opened.std, sha256)


def _open_or_make(data_dir: Path, folder: Path, in_place: bool, progress: Progress | None) -> Opened:
    try:
        layout = Layout(data_dir)
    except DatasetError as missing:
        return _left(folder, data_dir, in_place, missing)
    identity: dict[str, Any] = {"preparing": _PREPARING, "in_place": in_place, **layout.identity()}
    place = folder / f"imagenet-{sha256_bytes(canonical_json(identity))[:16]}"
    if os.path.lexists(place):
        try:
            return open_photos(place, data_dir, identity)
        except DatasetError as error:
            warnings.warn(f"{error}; it is made again", DatasetWarning, stacklevel=2)
    found = layout.scan(progress)
    try:
        make(place, data_dir, found, identity, in_place, progress)
    except OutputError as error:
        if not in_place or getattr(error.__cause__, "errno", None) not in NOT_WRITABLE:
            raise
        warnings.warn(f"{error}: the photos are listed anew each time", DatasetWarning, stacklevel=2)
        return unsaved(found, progress)
    return open_photos(place, data_dir, identity)


def _left(folder: Path, data_dir: Path, in_place: bool, missing: DatasetError) -> Opened:
    """The store, where the photos that it was made from are gone; there must be just one."""
    stores = []
    for place in sorted(folder.glob("imagenet-*")):
        try:
            opened = open_photos(place, data_dir)
        except DatasetError:
            continue
        if not opened.in_place:
            stores.append(opened)
    if in_place or len(stores) != 1:
        raise missing
    return stores[0]
