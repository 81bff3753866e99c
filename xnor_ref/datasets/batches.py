"""From stored pixels to a training batch: shuffling, random crops and flips, normalisation.

No random stream is kept here; the room's page explains why.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xnor_ref.datasets.base import Dataset, LazyImages
from xnor_ref.errors import InputError, InputTypeError, check_integer
from xnor_ref.kernels.basics.rungs import without_kernels
from xnor_ref.kernels.basics.threads import parallel_chunks
from xnor_ref.kernels.ops.float_ops import pixel_table

_ORDER_TAG = 0x6F72646572  # "order": separates this use of (seed, epoch) from others
_AUGMENT_TAG = 0x63726F70  # "crop"
_IMAGES_PER_CHUNK = 8
_MASK64 = 2**64 - 1
_MAX_COUNTER = 2**63 - 1


@dataclass(frozen=True)
class AugmentSpec:
    """Random changes of a training image.

    The image is shifted by up to `crop_padding` pixels in each direction (None: an eighth of its side), as if padded
    and cropped again. With `flip`, it is mirrored left to right half of the time. Pixels from outside are the mean
    pixel, which is exactly 0 after normalisation.
    """

    crop_padding: int | None = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.crop_padding is not None:
            check_integer("AugmentSpec: crop_padding", self.crop_padding, 0, 1024)
        if not isinstance(self.flip, bool):
            raise InputTypeError(f"AugmentSpec: flip must be True or False, got {self.flip!r}")


def epoch_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order in which one epoch visits `n` images, a permutation of range(n): int64 (n,).

    The order depends only on seed and epoch. Raises InputError unless n is at least 1 and both are not negative.
    """
    for name, value, low in (("n", n, 1), ("seed", seed, 0), ("epoch", epoch, 0)):
        check_integer(f"epoch_order: {name}", value, low, _MAX_COUNTER)
    sequence = np.random.SeedSequence([seed, epoch, _ORDER_TAG])
    return np.random.Generator(np.random.PCG64(sequence)).permutation(n).astype(np.int64)


def normalization_table(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """Return the normalised value of each pixel value: lut[v, c] = (v/255 - mean[c]) / std[c], float32 (256, C).

    It is computed in float64 and rounded to float32 once, so every user of the table sees the same bits. Raises
    InputError if mean and std differ in length, a value is not finite, or std is not positive.
    """
    mean64, std64 = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    if mean64.ndim != 1 or mean64.shape != std64.shape or not mean64.size:
        raise InputError(
            f"normalization_table: mean has shape {mean64.shape} and std {std64.shape}; both need one value per channel"
        )
    if not (np.isfinite(mean64).all() and np.isfinite(std64).all() and (std64 > 0).all()):
        raise InputError(f"normalization_table: mean must be finite and std positive, got {mean} and {std}")
    return pixel_table(mean, std)


def table_of(data: Dataset) -> NDArray[np.float32] | None:
    """Return the `lut` of `make_batch` for the images of a data set."""
    return None if data.train.images.dtype == np.float32 else normalization_table(data.mean, data.std)


def make_batch(
    images: NDArray[np.uint8] | NDArray[np.float32] | LazyImages,
    indices: NDArray[np.int64],
    lut: NDArray[np.float32] | None,
    *,
    seed: int = 0,
    epoch: int = 0,
    augment: AugmentSpec | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Gather images, augment and normalise them.

    Parameters
    ----------
    images : ndarray of uint8, (N, H, W, C); C-contiguous (a read-only memory map is allowed); or float32, used
        unchanged; or `LazyImages`, which draw crops of their own in place of shifts
    indices : ndarray of int64, (B,); indices of the images, each from 0 to N-1
    lut : ndarray of float32, (256, C); `table_of` the data set; None for float32 images
    seed, epoch : with an image's index, they determine its shift and flip
    augment : None leaves the images unchanged (validation)
    backend : {"auto", "reference", "numba"}; both give the same bits

    Returns
    -------
    ndarray of float32, (B, C, H, W)

    Raises
    ------
    InputError, InputTypeError : a shape, dtype or index is wrong
    """
    images, indices = _check_batch(images, indices, lut)
    for name, value in (("seed", seed), ("epoch", epoch)):
        check_integer(f"make_batch: {name}", value, 0, _MAX_COUNTER)
    drawn = indices
    if isinstance(images, LazyImages):
        images = images[indices] if augment is None else images.random_crops(indices, seed, epoch)
        indices, augment = np.arange(len(indices)), AugmentSpec(0, augment is not None and augment.flip)
    augment = augment or AugmentSpec()
    function = gather_reference
    if _compiled("make_batch", backend) and lut is not None:
        from xnor_ref.datasets.batch_kernel import gather as function
    _, height, width, channels = images.shape
    padding = min(height, width) // 8 if augment.crop_padding is None else augment.crop_padding
    shift_y, shift_x, flip = _draw(drawn, seed, epoch, padding, augment.flip)
    out = np.empty((len(indices), channels, height, width), np.float32)
    lut = None if lut is None else np.ascontiguousarray(lut)

    def work(start: int, stop: int) -> None:
        function(images, indices, lut, shift_y, shift_x, flip, out, start, stop)

    parallel_chunks(work, len(indices), _IMAGES_PER_CHUNK, threads)
    return out


def gather_reference(images, indices, lut, shift_y, shift_x, flip, out, start, stop) -> None:
    """NumPy twin of `batch_kernel.gather`: out[b] = normalised image, shifted, then mirrored.

    Pixel (y, x) of the shifted image is pixel (y + shift_y, x + shift_x) of the stored one, and 0 outside.
    """
    _, height, width, channels = images.shape
    for b in range(start, stop):
        image = images[indices[b]]
        normal = image if lut is None else lut[image, np.arange(channels)]  # (H, W, C)
        dy, dx = int(shift_y[b]), int(shift_x[b])
        y0, y1 = max(0, -dy), min(height, height - dy)
        x0, x1 = max(0, -dx), min(width, width - dx)
        shifted = np.zeros_like(normal)
        if y0 < y1 and x0 < x1:
            shifted[y0:y1, x0:x1] = normal[y0 + dy : y1 + dy, x0 + dx : x1 + dx]
        if flip[b]:
            shifted = shifted[:, ::-1]
        out[b] = shifted.transpose(2, 0, 1)


def resized(
    images: NDArray[np.float32], size: int, *, backend: str = "auto", threads: int | None = None
) -> NDArray[np.float32]:
    """Shrink images: each new pixel is a weighted mean of the pixels around its place.

    The weights fall linearly from the new pixel's centre to 0 at a distance of one new pixel, as in Pillow's BILINEAR.

    Parameters
    ----------
    images : ndarray of float32, (N, C, H, W)
    size : pixels of the shorter side, at most those of `images`; the longer side keeps the proportion, rounded
    backend : {"auto", "reference", "numba"}; both give the same bits

    Returns
    -------
    ndarray of float32, (N, C, size, size) for square images

    Raises
    ------
    InputError, InputTypeError : images have another dtype or shape, or the size is larger than theirs
    """
    if not isinstance(images, np.ndarray) or images.dtype != np.float32 or images.ndim != 4:
        got = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise InputTypeError(f"resized: images must be float32 (N, C, H, W), got {got}")
    images = np.require(images, np.float32, ["C", "A"])
    shorter = min(images.shape[2:])
    check_integer("resized: size", size, 1, shorter)
    rows, columns = (round(side * size / shorter) for side in images.shape[2:])
    out = np.empty((*images.shape[:2], rows, columns), np.float32)
    taps = *_taps(images.shape[2], rows), *_taps(images.shape[3], columns)
    function = shrink_reference
    if _compiled("resized", backend):
        from xnor_ref.datasets.batch_kernel import shrink as function
    parallel_chunks(lambda start, stop: function(images, *taps, out, start, stop), len(images), 1, threads)
    return out


def _taps(size: int, smaller: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the first pixel of each new pixel's sum, and its weights: (smaller, taps)."""
    scale = size / smaller
    middle = (np.arange(smaller) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(size) + 0.5 - middle[:, None]) / scale)
    weights /= weights.sum(axis=1, keepdims=True)
    first = (weights > 0).argmax(axis=1)
    taps = int((weights > 0).sum(axis=1).max())
    first = np.minimum(first, size - taps)
    chosen = first[:, None] + np.arange(taps)
    return first.astype(np.int64), np.take_along_axis(weights, chosen, axis=1).astype(np.float32)


def shrink_reference(images, first_row, row_weights, first_column, column_weights, out, start, stop) -> None:
    """NumPy twin of `batch_kernel.shrink`: sums over rows, then over columns, tap by tap in float32."""
    lines = np.zeros((*images[start:stop].shape[:2], len(first_row), images.shape[3]), np.float32)
    for tap, weight in enumerate(row_weights.T):
        lines += weight[:, None] * images[start:stop, :, first_row + tap]
    out[start:stop] = 0
    for tap, weight in enumerate(column_weights.T):
        out[start:stop] += weight * lines[..., first_column + tap]


def _compiled(caller: str, backend: str) -> bool:
    """Whether the backend is compiled code. Raises InputError for an unknown backend."""
    if backend not in ("auto", "reference", "numba"):
        raise InputError(f'{caller}: backend must be "auto", "reference" or "numba", got {backend!r}')
    return backend == "numba" or (backend == "auto" and not without_kernels())


def _draw(indices, seed: int, epoch: int, padding: int, flips: bool):
    """Return shifts in [-p, p] (int64) and flips (uint8) of images. They depend only on (seed, epoch, index)."""
    bits = epoch_words(indices, seed, epoch)
    span = np.uint64(2 * padding + 1)
    # 31 random bits times the span, the top taken: within 2**-20 of uniform for any span allowed here.
    shift_y = ((bits & np.uint64(0x7FFFFFFF)) * span >> np.uint64(31)).astype(np.int64) - padding
    shift_x = ((bits >> np.uint64(32) & np.uint64(0x7FFFFFFF)) * span >> np.uint64(31)).astype(np.int64)
    flip = (bits >> np.uint64(63)).astype(np.uint8) if flips else np.zeros(len(indices), np.uint8)
    return shift_y, shift_x - padding, flip


def epoch_words(indices: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.uint64]:
    """A random word for each image, from (seed, epoch, index) alone: uint64 (B,). `splitmix64` of it is another."""
    key = _mix_int(_mix_int(_mix_int(_AUGMENT_TAG) ^ (seed & _MASK64)) ^ (epoch & _MASK64))
    return splitmix64(np.uint64(key) ^ indices.astype(np.uint64))


def splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014) of each word, a hash."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _mix_int(value: int) -> int:
    return int(splitmix64(np.array([value & _MASK64], np.uint64))[0])


def _check_batch(images, indices, lut):
    wanted = [("images", images, np.float32 if lut is None else np.uint8, 4), ("indices", indices, np.int64, 1)]
    for name, array, dtype, ndim in (*wanted, *([] if lut is None else [("lut", lut, np.float32, 2)])):
        if not isinstance(array, np.ndarray | LazyImages) or array.dtype != dtype or array.ndim != ndim:
            got = f"{array.dtype} {array.shape}" if hasattr(array, "dtype") else type(array).__name__
            raise InputTypeError(f"make_batch: {name} must be {np.dtype(dtype)} with {ndim} axes, got {got}")
    lazy = isinstance(images, LazyImages)
    if not lazy and not images.flags.c_contiguous:
        raise InputError("make_batch: images must be C-contiguous (otherwise the whole data set would be copied)")
    if lut is not None and lut.shape != (256, images.shape[3]):
        raise InputError(f"make_batch: lut has shape {lut.shape}, but images have {images.shape}; lut must be (256, C)")
    if len(indices) and not 0 <= indices.min() <= indices.max() < len(images):
        raise InputError(
            f"make_batch: indices run from {indices.min()} to {indices.max()}, but there are {len(images)} images"
        )
    images = images if lazy else images.view(np.ndarray)
    return images, np.ascontiguousarray(indices)  # kernels take plain arrays, not memory maps
