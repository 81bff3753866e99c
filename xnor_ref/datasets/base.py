"""Data sets: images, labels, class names, pixel statistics for normalising, and a digest."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import DatasetError, InputError
from xnor_ref.storage import canonical_json, sha256_bytes

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Progress = Callable[[str, int, int], None]  # (what is being done, done, total)


class DatasetWarning(UserWarning):
    """A warning about a data set that does not stop the work."""


class LazyImages(ABC):
    """Images that are decoded when they are asked for, in place of the array uint8 (N, H, W, C) that they stand for."""

    shape: tuple[int, int, int, int]
    dtype = np.dtype(np.uint8)
    ndim = 4

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, key: Any) -> Images:
        """Pixels, as validation takes them: of one image (H, W, C), of a slice or an index array (k, H, W, C)."""

    @abstractmethod
    def subset(self, chosen: NDArray[np.int64]) -> "LazyImages":
        """Some of the images, in that order, undecoded."""

    @abstractmethod
    def random_crops(self, indices: NDArray[np.int64], seed: int, epoch: int) -> Images:
        """Pixels, as training takes them (B, H, W, C): drawn for each image from (seed, epoch, its index) alone."""

    @abstractmethod
    def sha256(self) -> str:
        """Of what the images are decoded from, as it is now."""

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise InputError(f"{len(self):,} images are not all decoded at once; take a part of them, such as images[:100]")


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels."""

    images: Images  # uint8 (N, H, W, C), raw pixels, C-contiguous; may be a read-only memory map, or `LazyImages`
    labels: Labels  # int64 (N,)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, chosen: NDArray[np.int64]) -> "Split":
        """Some of the images, in that order."""
        if isinstance(self.images, LazyImages):
            return Split(self.images.subset(chosen), self.labels[chosen])  # type: ignore[arg-type]
        return Split(np.ascontiguousarray(self.images[chosen]), self.labels[chosen])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a validation split over the same classes.

    Raises DatasetError for an empty split, images that are not square uint8 NHWC, or labels outside the classes.
    """

    name: str
    classes: tuple[str, ...]  # names in label order, all different
    train: Split
    val: Split
    mean: tuple[float, ...]  # per channel, of pixel/255 over the training images; used to normalise inputs
    std: tuple[float, ...]  # standard deviation, likewise
    sha256: str  # digest of class names, pixels and labels; equal for equal content

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise DatasetError(f"{self.name}: class names must be given and differ, got {self.classes[:10]}")
        for what, split in (("train", self.train), ("val", self.val)):
            images, labels = split.images, split.labels
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2]:
                raise DatasetError(
                    f"{self.name}: {what} images must be square uint8 (N, H, H, C), got {images.dtype} {images.shape}"
                )
            if labels.dtype != np.int64 or labels.shape != images.shape[:1] or not len(labels):
                raise DatasetError(
                    f"{self.name}: {what} needs one int64 label per image and at least one image, "
                    f"got {labels.dtype} {labels.shape} for images {images.shape}"
                )
            if images.shape[1:] != self.train.images.shape[1:] or images.shape[3] != len(self.mean):
                raise DatasetError(
                    f"{self.name}: {what} images are {images.shape[1:]}, but train images are "
                    f"{self.train.images.shape[1:]}, and the mean has {len(self.mean)} channels"
                )
            if labels.min() < 0 or labels.max() >= len(self.classes):
                raise DatasetError(
                    f"{self.name}: {what} labels run from {labels.min()} to {labels.max()}, "
                    f"but there are {len(self.classes)} classes"
                )

    @property
    def image_size(self) -> int:
        """The height and width of an image in pixels."""
        return self.train.images.shape[1]

    @property
    def channels(self) -> int:
        """1 for greyscale, 3 for RGB."""
        return self.train.images.shape[3]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)


class PixelStatistics:
    """Mean and standard deviation per channel. Sums are integers, so their order does not matter."""

    def __init__(self, channels: int) -> None:
        self._sum = np.zeros(channels, np.uint64)
        self._squares = np.zeros(channels, np.uint64)
        self._pixels = 0

    def add(self, images: Images) -> None:
        """Add a block of images (N, H, W, C)."""
        for start in range(0, len(images), 256):
            block = images[start : start + 256]
            squares = block.astype(np.uint16)
            squares *= squares  # 255**2 fits 16 bits
            self._sum += block.sum(axis=0, dtype=np.uint32).sum(axis=(0, 1), dtype=np.uint64)
            self._squares += squares.sum(axis=0, dtype=np.uint32).sum(axis=(0, 1), dtype=np.uint64)
            self._pixels += block[..., 0].size

    def result(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return (mean, std) of pixel/255. std is at least 1/255, so that a constant channel can be divided by it."""
        means, stds = [], []
        for total, squares in zip(self._sum.tolist(), self._squares.tolist()):
            variance = (squares * self._pixels - total * total) / self._pixels**2  # integers up to the division
            means.append(total / self._pixels / 255)
            stds.append(max(variance**0.5, 1.0) / 255)
        return tuple(means), tuple(stds)


def array_sha256(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's bytes in C order, little-endian."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return hashlib.sha256(little.reshape(-1).view(np.uint8).data).hexdigest()


def _sha256_of(images: Images | LazyImages) -> str:
    return images.sha256() if isinstance(images, LazyImages) else array_sha256(images)


def fingerprint(classes: tuple[str, ...], shape: tuple[int, ...], hashes: dict[str, tuple[str, str]]) -> str:
    """Return the SHA-256 that identifies a whole data set of images of `shape` (H, W, C).

    `hashes` holds the `array_sha256` of the images and of the labels of each split.
    """
    content = {"classes": list(classes), "shape": list(shape), "splits": {k: list(v) for k, v in hashes.items()}}
    return sha256_bytes(canonical_json(content))


def make_dataset(name: str, classes: tuple[str, ...], train: Split, val: Split) -> Dataset:
    """Make a data set of arrays in memory. Computes the statistics and the digest."""
    statistics = PixelStatistics(train.images.shape[3])
    statistics.add(train.images)
    mean, std = statistics.result()
    return Dataset(name, classes, train, val, mean, std, _measure(classes, train, val))


def verify(dataset: Dataset) -> None:
    """Hash every pixel and label again. Raises DatasetError if the digest differs, so the copy was altered."""
    measured = _measure(dataset.classes, dataset.train, dataset.val)
    if measured != dataset.sha256:
        raise DatasetError(
            f"{dataset.name}: content has SHA-256 {measured}, but it was {dataset.sha256} when it was packed; "
            "delete its folder under packed/, and it will be packed again"
        )


def _measure(classes: tuple[str, ...], train: Split, val: Split) -> str:
    hashes = {
        what: (_sha256_of(split.images), array_sha256(split.labels)) for what, split in (("train", train), ("val", val))
    }
    return fingerprint(classes, train.images.shape[1:], hashes)
