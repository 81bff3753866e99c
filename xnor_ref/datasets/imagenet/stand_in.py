"""ImageNet's number of photos without ImageNet: a few drawn ones, each many times. To measure time, not accuracy."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from xnor_ref.datasets.base import Dataset, PixelStatistics, Split
from xnor_ref.datasets.imagenet.photos import CROPS, SHORT_SIDE, SIZE, Crops, PhotoFiles, Photos
from xnor_ref.datasets.imagenet.shards import QUALITY
from xnor_ref.storage import sha256_file, write_atomically

TRAIN, VAL, CLASSES = 1_281_167, 50_000, 1000  # of ILSVRC2012
DRAWN = 64
_SHAPES = ((341, 256), (384, 256), (256, 341), (256, 256))
_GRAIN = 12  # of 255; makes a JPEG of 25 to 30 KB, as those of ImageNet are at this size


def draw_photos(folder: Path, count: int = DRAWN) -> PhotoFiles:
    """Write `count` different photos into one file in `folder`, as a store holds them."""
    from PIL import Image

    rng, encoded = np.random.default_rng(0), []
    for index in range(count):
        width, height = _SHAPES[index % len(_SHAPES)]
        coarse = Image.fromarray(rng.integers(0, 256, (SHORT_SIDE // 16, SHORT_SIDE // 16, 3), np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        grain = rng.integers(-_GRAIN, _GRAIN + 1, (height, width, 1), np.int16)
        buffer = BytesIO()
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
        encoded.append(buffer.getvalue())
    path = folder / "drawn.jpegs"
    write_atomically(path, b"".join(encoded))
    sizes = np.array([len(one) for one in encoded], np.int64)
    names = np.array([f"{index}.JPEG" for index in range(count)], "S")
    return PhotoFiles(names, sizes, (path,), np.zeros(count, np.int32), np.cumsum(sizes) - sizes)


def stand_in(
    folder: Path,
    *,
    image_size: int = SIZE,
    crop: str = CROPS[0],
    scale_to: int = SHORT_SIDE,
    train: int = TRAIN,
    val: int = VAL,
    classes: int = CLASSES,
    **others: Any,
) -> Dataset:
    """A data set of `train` and `val` photos, as `load` gives one for these options; `others` of them do nothing.

    The drawn photos lie in `folder`, which must stay as long as the data set is used.
    """
    files, crops, splits = draw_photos(folder), Crops(crop, scale_to), []
    for count in (train, val):
        photos = Photos(files.subset(np.arange(count) % len(files)), image_size, crops)
        splits.append(Split(photos, np.arange(count) % classes))  # type: ignore[arg-type]
    statistics = PixelStatistics(3)
    statistics.add(Photos(files, image_size, crops)[:])
    names = tuple(f"class {label}" for label in range(classes))
    return Dataset("imagenet", names, splits[0], splits[1], *statistics.result(), sha256=sha256_file(files.places[0]))
