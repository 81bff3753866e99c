"""Photos of any size as an array of equal images, which are decoded when they are asked for.

The index of the files is a few NumPy arrays, 60 bytes or so for a photo, whatever their number. Pixels are held only
while somebody uses them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from math import exp, log, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.datasets.base import Images, LazyImages
from xnor_ref.datasets.batches import epoch_words, splitmix64
from xnor_ref.datasets.images import PHOTO_FORMATS, decode_all, is_turned, opened, plain_pixels
from xnor_ref.errors import DatasetError, InputError, InputTypeError, is_integer

if TYPE_CHECKING:
    from PIL import Image

SIZE, SHORT_SIDE = 224, 256  # pixels of a crop, and of the shorter side of the photo it is taken from
MAX_FILE_BYTES = 64 * 2**20
_NARROWEST = 64  # the longer side over the shorter one
CROPS = ("random", "resized")
_AREA, _RATIO, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # of `resized`; Szegedy et al. 2015, section 6

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True, eq=False)
class PhotoFiles:
    """Where photos lie: files of their own, or one after the other in larger files (shards of a store, tars)."""

    names: NDArray[np.bytes_]  # (N,), file names without folders
    sizes: NDArray[np.int64]  # (N,), bytes
    places: tuple[Path, ...]  # folders or larger files
    place: NDArray[np.int32]  # (N,), which of them
    offsets: NDArray[np.int64] | None = None  # (N,), where a photo begins in its larger file

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, chosen: NDArray[np.int64]) -> "PhotoFiles":
        """Some of them, in that order."""
        offsets = None if self.offsets is None else self.offsets[chosen]
        return PhotoFiles(self.names[chosen], self.sizes[chosen], self.places, self.place[chosen], offsets)

    def describe(self, index: int) -> str:
        """A photo for messages: its path, or the larger file and its name."""
        place, name = self.places[self.place[index]], self.names[index].decode("ascii", "replace")
        return f"{place}: {name}" if self.offsets is not None else f"{place / name}"

    def read(self, index: int) -> bytes:
        """The file of a photo. Raises DatasetError where it cannot be read, was cut short or is too large."""
        size, place = int(self.sizes[index]), self.places[self.place[index]]
        if not 0 < size <= MAX_FILE_BYTES:
            raise DatasetError(f"{self.describe(index)}: {size} bytes; photos of 1 to {MAX_FILE_BYTES} bytes are read")
        try:
            if self.offsets is None:
                with open(place / self.names[index].decode(), "rb", buffering=0) as file:
                    data = file.read(MAX_FILE_BYTES + 1)
            else:
                with open(place, "rb", buffering=0) as file:
                    file.seek(int(self.offsets[index]))
                    data = file.read(size)
        except OSError as error:
            raise DatasetError(f"{self.describe(index)}: cannot be read: {error.strerror}") from error
        if len(data or b"") != size:
            raise DatasetError(f"{self.describe(index)}: {len(data or b'')} bytes where {size} were found before")
        return data


def decoded(data: bytes, what: str, short: int, *, enlarge: bool = True) -> tuple["Image.Image", bool]:
    """A photo upright, 8-bit RGB or grey, scaled to `short` pixels on its shorter side, and whether it was changed.

    A JPEG that is more than twice as large is decoded at a half, a quarter or an eighth of its size. Without `enlarge`
    smaller photos stay as they are. Raises DatasetError, which begins with `what`.
    """
    from PIL import Image

    with opened(BytesIO(data), what, PHOTO_FORMATS) as image:
        stored = image.format, image.mode, image.size
        if max(image.size) > _NARROWEST * min(image.size):  # enlarged, it would fill the memory
            raise DatasetError(f"{what}: {image.width}x{image.height} pixels are too narrow for a photo")
        factor = 2 * short / min(image.size)
        if factor < 1:
            image.draft(None, (int(image.width * factor), int(image.height * factor)))  # none but JPEGs take it
        plain = plain_pixels(image, what)
        turned = plain.size != image.size or is_turned(image)
        shorter = min(plain.size)
        if shorter > short or (enlarge and shorter < short):
            size = [max(short, round(side * short / shorter)) for side in plain.size]
            plain = plain.resize((size[0], size[1]), Image.Resampling.BILINEAR)
        unchanged = stored == ("JPEG", plain.mode, plain.size) and not turned
        return plain, not unchanged


@dataclass(frozen=True)
class Crops:
    """How training crops are drawn.

    kind : "random", a square of the crop's size anywhere in the photo; "resized", a rectangle of 8 to 100 % of the
        photo's area and of 3/4 to 4/3 of the square's shape, scaled to the square
    scale_to : with "random", the shorter side of the photo is first drawn from 256 to so many pixels
    """

    kind: str = CROPS[0]
    scale_to: int = SHORT_SIDE

    @property
    def draws(self) -> int:
        """How many random numbers `box` may take."""
        return 4 * _TRIES if self.kind == "resized" else 3

    def box(self, width: int, height: int, size: int, words: Callable[[], float]) -> Box:
        """Where the crop lies in a photo of `width` x `height`; `words` gives random numbers in [0, 1)."""
        if self.kind == "resized":
            return _rectangle(width, height, words)
        scale = (SHORT_SIDE + int(words() * (self.scale_to - SHORT_SIDE + 1))) / SHORT_SIDE
        side = size / scale
        left, top = words(), words()
        if scale == 1:  # whole pixels, which are copied
            left, top = int(left * (width - size + 1)), int(top * (height - size + 1))
        else:
            left, top = left * (width - side), top * (height - side)
        return left, top, left + side, top + side


def _rectangle(width: int, height: int, words: Callable[[], float]) -> Box:
    low, high = _AREA
    for _ in range(_TRIES):
        area = width * height * (low + words() * (high - low))
        ratio = exp(log(_RATIO[0]) + words() * (log(_RATIO[1]) - log(_RATIO[0])))
        w, h = sqrt(area * ratio), sqrt(area / ratio)
        left, top = words(), words()
        if w <= width and h <= height:
            return left * (width - w), top * (height - h), left * (width - w) + w, top * (height - h) + h
    w, h = min(width, height * _RATIO[1]), min(height, width / _RATIO[0])  # the largest in the middle
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


class Photos(LazyImages):
    """Photos as an array uint8 (N, size, size, 3) of the squares in their middle.

    Indexing decodes, on several threads. Training takes `random_crops`, through `datasets.batches.make_batch`.

    Parameters
    ----------
    files : where they lie
    size : pixels of a crop's side; the photo is scaled to 256/224 of that on its shorter side before
    crops : how training crops are drawn
    measure : gives the SHA-256 of the files as they are now
    """

    def __init__(self, files: PhotoFiles, size: int, crops: Crops, measure: Callable[[], str] = lambda: "") -> None:
        self.files, self.size, self.crops, self._measure = files, size, crops, measure
        self.shape = (len(files), size, size, 3)
        self.short = round(size * SHORT_SIDE / SIZE)

    def __getitem__(self, key: Any) -> Images:
        """The squares in the middle of one photo (H, W, C), or of a slice or an index array of them (k, H, W, C)."""
        if is_integer(key):
            if not -len(self) <= key < len(self):
                raise IndexError(f"photo {key} of {len(self)}")
            return self._read(np.array([key % len(self)]), self._middle)[0]
        return self._read(self._indices(key), self._middle)

    def subset(self, chosen: NDArray[np.int64]) -> "Photos":
        """Some of the photos, in that order, undecoded."""
        return Photos(self.files.subset(self._indices(chosen)), self.size, self.crops)

    def random_crops(self, indices: NDArray[np.int64], seed: int, epoch: int) -> Images:
        """A crop of each photo, drawn from (seed, epoch, its index) alone: uint8 (B, size, size, 3)."""
        words = [epoch_words(indices, seed, epoch)]
        for _ in range(self.crops.draws):
            words.append(splitmix64(words[-1]))
        drawn = (np.stack(words[1:], axis=1) >> np.uint64(11)) * 2.0**-53  # (B, draws)

        def box(position: int, width: int, height: int) -> Box:
            return self.crops.box(width, height, self.size, iter(drawn[position].tolist()).__next__)

        return self._read(indices, box)

    def sha256(self) -> str:
        """Of the files as they are now."""
        return self._measure()

    def _indices(self, key: Any) -> NDArray[np.int64]:
        if isinstance(key, slice):
            return np.arange(*key.indices(len(self)))
        index = np.asarray(key)
        if index.dtype == bool and index.shape == self.shape[:1]:
            return np.flatnonzero(index)
        if index.ndim != 1 or (index.dtype.kind not in "iu" and index.size):
            raise InputTypeError(f"photos are indexed by an int, a slice or one array of them, got {key!r}")
        index = index.astype(np.int64)
        if index.size and not -len(self) <= index.min() <= index.max() < len(self):
            raise InputError(f"indices run from {index.min()} to {index.max()}, but there are {len(self)} photos")
        return index % len(self)

    def _middle(self, position: int, width: int, height: int) -> Box:
        left, top = (width - self.size) // 2, (height - self.size) // 2
        return left, top, left + self.size, top + self.size

    def _read(self, indices: NDArray[np.int64], box: Callable[[int, int, int], Box]) -> Images:
        from PIL import Image

        def read(position: int) -> bytes:
            index, square = int(indices[position]), (self.size, self.size)
            photo, _ = decoded(self.files.read(index), self.files.describe(index), self.short)
            place = box(position, *photo.size)
            whole = all(float(side).is_integer() for side in place) and place[2] - place[0] == self.size
            if whole and place[3] - place[1] == self.size:
                crop = photo.crop(place)  # type: ignore[arg-type]
            else:
                crop = photo.resize(square, Image.Resampling.BILINEAR, box=place)
            return crop.convert("RGB").tobytes()

        return decode_all(read, (len(indices), self.size, self.size, 3), 1)
