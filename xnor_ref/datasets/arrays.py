"""Images and labels in memory as a data set, with either layout of images and labels of any kind."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.datasets.base import Dataset, PixelStatistics, Split, array_sha256, fingerprint
from xnor_ref.errors import InputError, InputTypeError

LAYOUTS = ("auto", "NHWC", "NCHW")
MOST_CHANNELS = 4  # layout "auto" takes an axis of up to this size as channels


class ArrayDataset(Dataset):
    """A data set of arrays. Images may be float32 and of any height and width. Validation images may be missing.

    Networks get float32 images unchanged: `mean` is 0 and `std` 1.
    """

    def __post_init__(self) -> None:
        pass  # `from_arrays` has checked


def images_of(images: Any, layout: str = "auto", what: str = "images") -> NDArray:
    """Return images, uint8 or float32, as a C-contiguous array (N, H, W, C).

    Parameters
    ----------
    images : ndarray
        (N, H, W, C) or (N, C, H, W); (N, H, W), which has one channel; or rows (N, features), which are images of one
        pixel with `features` channels.
    layout : {"auto", "NHWC", "NCHW"}
        The axis of the channels, for four axes. "auto" takes the second or the last axis, whichever has at most 4
        entries.

    Raises
    ------
    InputTypeError
        `images` is not an array, or has another dtype.
    InputError
        The number of axes is wrong, there is no image, NaN or infinity occurs, or "auto" cannot decide the layout.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout must be one of {', '.join(LAYOUTS)}; got {layout!r}")
    if isinstance(images, np.ndarray):
        images = images.astype(images.dtype.newbyteorder("="), copy=False)
    if not isinstance(images, np.ndarray) or images.dtype not in (np.uint8, np.float32):
        got = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
        raise InputTypeError(
            f"{what} must be an array of uint8 (raw pixels) or float32 (given to the network unchanged), got {got}"
        )
    if images.ndim not in (2, 3, 4) or 0 in images.shape:
        raise InputError(
            f"{what} must be at least one image, (N, H, W, C), (N, C, H, W) or (N, H, W), or rows (N, features); "
            f"got shape {images.shape}"
        )
    if images.dtype == np.float32 and not np.isfinite(images).all():
        first = int((~np.isfinite(images.reshape(len(images), -1)).all(axis=1)).argmax())
        raise InputError(f"{what} hold NaN or infinity, first in image {first}")
    if images.ndim == 2:
        images = images[:, None, None]
    elif images.ndim == 3:
        images = images[..., None]
    elif _channels_first(images.shape, layout, what):
        images = images.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images)


def _channels_first(shape: tuple[int, ...], layout: str, what: str) -> bool:
    if layout != "auto":
        return layout == "NCHW"
    second, last = shape[1] <= MOST_CHANNELS, shape[3] <= MOST_CHANNELS
    if second == last:
        raise InputError(
            f"{what} have shape {shape}: {'two axes' if last else 'no axis'} could be channels (1 to {MOST_CHANNELS}); "
            "give layout='NHWC' or layout='NCHW'"
        )
    return second


def classes_of(labels: Any, what: str = "labels") -> tuple[Hashable, ...] | None:
    """Return the sorted classes of labels, or None for integer labels, which are class indices.

    Raises
    ------
    InputTypeError, InputError
        As `labels_of`, or labels cannot be sorted.
    """
    values = _labels(labels, what)
    if isinstance(values, np.ndarray):
        return None
    try:
        return tuple(sorted(set(values)))  # type: ignore[type-var]
    except TypeError:
        raise InputTypeError(
            f"{what} of several types have no order; give classes=, in the order of the logits"
        ) from None


def labels_of(labels: Any, classes: Sequence[Hashable], what: str = "labels") -> NDArray[np.int64]:
    """Return labels as indices into `classes`, int64 (N,). Integers are indices already; others are looked up.

    Raises
    ------
    InputTypeError
        Labels are floating-point numbers, or not hashable.
    InputError
        There is not one label per image, or a label is not among the classes.
    """
    values = _labels(labels, what)
    if isinstance(values, np.ndarray):
        if len(values) and not 0 <= values.min() <= values.max() < len(classes):
            raise InputError(
                f"{what} run from {values.min()} to {values.max()}, but there are {len(classes)} classes: "
                f"0 to {len(classes) - 1}"
            )
        return values.astype(np.int64)
    position = {name: index for index, name in enumerate(classes)}
    unknown = next((value for value in values if value not in position), None)
    if unknown is not None:
        raise InputError(f"{what}: {unknown!r} is not among the classes {', '.join(map(repr, list(classes)[:10]))}")
    return np.array([position[value] for value in values], np.int64)


def _labels(labels: Any, what: str) -> NDArray[np.integer] | list[Hashable]:
    """Return integer labels as an array, others as a list of Python objects."""
    if not isinstance(labels, np.ndarray):
        try:
            labels = list(labels)
        except TypeError:
            raise InputTypeError(f"{what} must be one for each image, got {type(labels).__name__}") from None
        if labels and all(isinstance(value, (int, np.integer)) and not isinstance(value, bool) for value in labels):
            labels = np.array(labels)
    if isinstance(labels, np.ndarray):
        if labels.ndim != 1:
            one_hot = "; for one-hot rows use .argmax(axis=1)" if labels.ndim == 2 and labels.shape[1] > 1 else ""
            raise InputError(f"{what} must be (N,), one for each image, got shape {labels.shape}{one_hot}")
        if labels.dtype.kind == "f":
            raise InputTypeError(f"{what} must be integers or names of classes, got {labels.dtype}")
        if labels.dtype.kind in "iu":
            return labels
        labels = labels.tolist()
    for value in labels:
        if isinstance(value, float) or not isinstance(value, Hashable):
            raise InputTypeError(f"{what} must be integers or names of classes, got {value!r}")
    return labels


def from_arrays(
    images: NDArray,
    labels: NDArray[np.int64],
    validation: tuple[NDArray, NDArray[np.int64]] | None,
    classes: Sequence[Hashable],
) -> ArrayDataset:
    """Make a data set from images of `images_of` and labels of `labels_of`.

    Raises
    ------
    InputError
        Numbers of images and labels differ, validation images have another shape or dtype, class names are not unique,
        or training labels have fewer than two classes.
    """
    names = tuple(map(str, classes))
    if len(set(names)) < len(names):
        raise InputError(f"classes must have different names, got {', '.join(names[:10])}")
    val_images, val_labels = (images[:0], labels[:0]) if validation is None else validation
    for what, some, of in (("train", images, labels), ("validation", val_images, val_labels)):
        if len(some) != len(of):
            raise InputError(f"{what}: {len(some)} images but {len(of)} labels")
        if some.shape[1:] != images.shape[1:] or some.dtype != images.dtype:
            raise InputError(
                f"validation images are {some.dtype} (H, W, C) = {some.shape[1:]}, but training images are "
                f"{images.dtype} "
                f"{images.shape[1:]}"
            )
    if len(present := np.unique(labels)) < 2:
        raise InputError(
            f"train: all {len(labels)} labels are {names[present[0]]!r}; training needs at least two classes"
        )
    channels = images.shape[3]
    mean, std = (0.0,) * channels, (1.0,) * channels
    if images.dtype == np.uint8:
        statistics = PixelStatistics(channels)
        statistics.add(images)
        mean, std = statistics.result()
    train, val = Split(images, labels), Split(val_images, val_labels)
    splits = {"train": train, "val": val}
    hashes = {what: (array_sha256(part.images), array_sha256(part.labels)) for what, part in splits.items()}
    return ArrayDataset("arrays", names, train, val, mean, std, fingerprint(names, images.shape[1:], hashes))
