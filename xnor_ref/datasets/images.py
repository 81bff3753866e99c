"""Decoding image files: Tiny ImageNet's JPEGs unchanged, and photos of any kind converted to a network's size.

No file is trusted. Only listed formats are read, the size is checked before a pixel is decoded, and any error of
Pillow's decoders on damaged data becomes a `DatasetError` that names the file.
"""

import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from xnor_ref.datasets.base import Images
from xnor_ref.errors import DatasetError, InputError, is_of_the_system
from xnor_ref.kernels.basics.geometry import Pair
from xnor_ref.kernels.basics.threads import parallel_chunks

if TYPE_CHECKING:
    from PIL import Image

_BEGINNINGS = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG", "BMP": b"BM", "GIF": b"GIF8", "WEBP": b"RIFF"}
_BEGINNINGS |= {"TIFF": (b"II*\0", b"MM\0*"), "PPM": ()}  # type: ignore[dict-item]
PHOTO_FORMATS = tuple(_BEGINNINGS)
MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 2**30
_ORIENTATION = 0x0112  # EXIF tag
_SPREAD = {"L;2": 85, "L;4": 17}
_BITS, _MEANING, _KIND = 258, 262, 339  # TIFF tags: bits of a sample, what they mean, how numbers are written


def decode_jpegs(files: list[tuple[bytes, str]], size: int) -> Images:
    """Decode JPEGs of a known size, on several threads.

    Parameters
    ----------
    files : content of each file, and its name in errors
    size : required width and height

    Returns
    -------
    ndarray of uint8, (len(files), size, size, 3)
        Greyscale is repeated over the channels, CMYK converted.

    Raises
    ------
    DatasetError : a file is not a JPEG, damaged, truncated or of another size
    """

    def read(position: int) -> bytes:
        data, what = files[position]
        with opened(io.BytesIO(data), what, ("JPEG",)) as image:
            if image.size != (size, size):
                raise DatasetError(f"{what}: {image.width}x{image.height} pixels instead of {size}x{size}")
            return image.convert("RGB").tobytes()

    return decode_all(read, (len(files), size, size, 3), 32)


def load_photo(path: Path, image_size: int | Pair, channels: int = 3) -> Images:
    """Read one photo like `load_photos`: uint8 (height, width, channels)."""
    return load_photos([path], image_size, channels)[0]


def load_photos(paths: Sequence[Path], image_size: int | Pair, channels: int = 3) -> Images:
    """Read photos of any size and mode for a network, on several threads.

    A photo is turned upright (EXIF), and transparent parts are laid over white. It is cropped to the largest central
    part with the shape of `image_size`, and scaled with antialiasing. An animation gives its first frame.

    Parameters
    ----------
    paths : JPEG, PNG, BMP, GIF, WEBP, TIFF or PPM files of at most 100 megapixels
    image_size : height and width of the result, or one number for both, from 1 to 4096
    channels : {1, 3}; greyscale or RGB

    Returns
    -------
    ndarray of uint8, (len(paths), height, width, channels)

    Raises
    ------
    DatasetError : a file is missing, not an image, damaged, truncated or too large
    InputError : a size or channel count out of range
    """
    if channels not in (1, 3):
        raise InputError(f"load_photos: channels must be 1 or 3, got {channels!r}")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if not 1 <= min(size) <= max(size) <= 4096:
        raise InputError(f"load_photos: image_size must be from 1 to 4096, got {image_size}")
    return decode_all(lambda position: _read_photo(paths[position], size, channels), (len(paths), *size, channels), 1)


def decode_all(read: Callable[[int], bytes], shape: tuple[int, ...], chunk: int) -> Images:
    """Return the pixels of all images, read on several threads."""
    out = np.empty(shape, np.uint8)

    def work(start: int, stop: int) -> None:
        for position in range(start, stop):
            out[position] = np.frombuffer(read(position), np.uint8).reshape(shape[1:])

    with without_warnings():
        parallel_chunks(work, len(out), chunk)
    return out


def without_warnings() -> AbstractContextManager:
    """Pillow warns of odd metadata, which is not used, and of large images, which have their limit here.

    Python keeps warning filters per process, so this surrounds the threads and is not used inside them.
    """
    return warnings.catch_warnings(action="ignore")


def _read_photo(path: Path, size: Pair, channels: int) -> bytes:
    from PIL import Image

    what = os.fspath(path)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{what}: not a file")
        if status.st_size == 0:
            raise DatasetError(f"{what}: the file is empty")
        if status.st_size > MAX_FILE_BYTES:
            raise DatasetError(f"{what}: {status.st_size} bytes; the limit is {MAX_FILE_BYTES} bytes")
        with open(path, "rb") as stored:  # whole: Pillow asks for as many bytes as a damaged image claims to have
            file = io.BytesIO(stored.read(status.st_size))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DatasetError(f"{what}: cannot be read: {reason}") from error
    with opened(file, what, PHOTO_FORMATS) as image:
        plain = plain_pixels(image, what)
        height, width = size
        across = min(plain.width, plain.height * width / height)
        down = min(plain.height, plain.width * height / width)
        left, top = (plain.width - across) / 2, (plain.height - down) / 2
        # The support of Pillow's filters grows with the reduction, which is the antialiasing.
        box = (left, top, left + across, top + down)
        middle = plain.resize((width, height), Image.Resampling.BICUBIC, box=box)
        return middle.convert("RGB" if channels == 3 else "L").tobytes()


@contextmanager
def opened(file: BinaryIO, what: str, formats: tuple[str, ...]) -> Iterator["Image.Image"]:
    """Context manager: an image with checked size, not yet decoded. Errors of decoding become DatasetError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file, formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
            yield image
    except (DatasetError, InputError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise DatasetError(f"{what}: too large: {error}; the limit is {MAX_PIXELS} pixels") from None
    except UnidentifiedImageError:
        file.seek(0)
        head = file.read(4)
        if any(head.startswith(_BEGINNINGS[one]) for one in formats):
            raise DatasetError(f"{what}: damaged image: it has the header of an image but cannot be read") from None
        raise DatasetError(f"{what}: not an image in one of the formats {', '.join(formats)}") from None
    except Exception as error:  # Pillow's decoders raise nearly any exception on damaged data, but without an errno
        fault = "cannot be read" if is_of_the_system(error) else "damaged image"
        raise DatasetError(f"{what}: {fault}: {str(error) or type(error).__name__}") from error


def plain_pixels(image: "Image.Image", what: str) -> "Image.Image":
    """A photo decoded to 8-bit L or RGB: upright, and laid over white where it is transparent.

    Raises DatasetError where its pixels have no known range.
    """
    most, black_is_most = _range(image, what)
    image.load()
    return _flatten(_upright(image), most, black_is_most)


def is_turned(image: "Image.Image") -> bool:
    """Whether EXIF says that the photo does not lie upright; damaged metadata says nothing."""
    try:
        return image.getexif().get(_ORIENTATION, 1) != 1
    except Exception:
        return False


def _upright(image: "Image.Image") -> "Image.Image":
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image) if is_turned(image) else image
    except Exception:  # the pixels are intact; with damaged metadata they are not rotated
        return image


def _range(image: "Image.Image", what: str) -> tuple[int, bool]:
    """Return the largest pixel value, and whether it is black, for Pillow's grey images of more than 8 bits.

    Call it before the image is loaded. Raises DatasetError if the range is unknown or the image cannot be converted.
    """
    tags, tiles = getattr(image, "tag_v2", {}), getattr(image, "tile", ())
    stored = str(tiles[0][3]) if tiles else ""
    bits, kind = (np.ravel(tags.get(tag, default))[0].item() for tag, default in ((_BITS, 16), (_KIND, 1)))
    transparent = image.info.get("transparency")
    faults = {
        "floating-point pixels have no known range": image.mode == "F",
        f"integers of {bits} bits have no known range": _is_deep(image) and bits > 16,
        "signed integers have no known range": kind == 2,
        "one transparent colour with 16 bits is lost": transparent is not None and "RGB;16" in stored,
        "colours in LAB are not converted": image.mode == "LAB",
    }
    for fault, found in faults.items():
        if found:
            raise DatasetError(f"{what}: {fault}; save it with 8 bits per channel, grey or RGB")
    if transparent is not None and stored in _SPREAD:  # Pillow scales the pixels to 8 bits, but not this value
        image.info["transparency"] = transparent * _SPREAD[stored]
    return 2**bits - 1, tags.get(_MEANING) == 0


def _is_deep(image: "Image.Image") -> bool:
    """Whether an image is grey with more than 8 bits."""
    return image.mode == "I" or image.mode.startswith("I;16")


def _flatten(image: "Image.Image", most: int, black_is_most: bool) -> "Image.Image":
    """Return 8-bit L or RGB, with transparency laid over white. `most` and `black_is_most` come from `_range`."""
    from PIL import Image

    if _is_deep(image):
        values = np.clip(np.asarray(image).astype(np.int64), 0, most)
        values[values == image.info.get("transparency", -1)] = 0 if black_is_most else most
        grey = ((values * 255 + most // 2) // most).astype(np.uint8)
        return Image.fromarray(255 - grey if black_is_most else grey)
    if image.has_transparency_data:
        coloured = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
