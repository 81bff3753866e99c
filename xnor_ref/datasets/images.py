"""Image files to pixels: Tiny ImageNet's JPEGs as they are, and photos of any kind brought to a network's size.

Nothing in a file is trusted: the formats are listed, the size is checked before a pixel is decoded, and whatever
Pillow's decoders do on damaged data ends as a `DatasetError` that names the file.
"""

import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from xnor_ref.datasets.base import Images
from xnor_ref.errors import DatasetError, InputError
from xnor_ref.kernels.basics.threads import parallel_chunks

if TYPE_CHECKING:
    from PIL import Image

PHOTO_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 2**30
_ORIENTATION = 0x0112  # EXIF tag


def decode_jpegs(files: list[tuple[bytes, str]], size: int) -> Images:
    """Decode JPEGs of a known size, on several threads.

    Parameters
    ----------
    files : content of each, and how errors name it
    size : required width and height

    Returns
    -------
    ndarray of uint8, (len(files), size, size, 3)
        Greyscale is repeated over the channels, CMYK converted.

    Raises
    ------
    DatasetError : one is not a JPEG, damaged, cut short or of another size
    """

    def read(position: int) -> bytes:
        data, what = files[position]
        with _opened(io.BytesIO(data), what, ("JPEG",)) as image:
            if image.size != (size, size):
                raise DatasetError(f"{what}: {image.width}x{image.height} pixels instead of {size}x{size}")
            return image.convert("RGB").tobytes()

    return _read_all(read, (len(files), size, size, 3), 32)


def load_photo(path: Path, image_size: int, channels: int = 3) -> Images:
    """Read one photo, as `load_photos` does: uint8 (image_size, image_size, channels)."""
    return load_photos([path], image_size, channels)[0]


def load_photos(paths: Sequence[Path], image_size: int, channels: int = 3) -> Images:
    """Read photos of any size and mode for a network, on several threads.

    A photo is turned upright (EXIF), laid over white where it is transparent, scaled with antialiasing so that its
    short side is `image_size`, and cropped to the square in its middle. Of an animation the first frame is taken.

    Parameters
    ----------
    paths : JPEG, PNG, BMP, GIF, WEBP, TIFF or PPM files of at most 100 megapixels
    image_size : width and height of the result, from 1 to 4096
    channels : {1, 3}; greyscale or RGB

    Returns
    -------
    ndarray of uint8, (len(paths), image_size, image_size, channels)

    Raises
    ------
    DatasetError : one is missing, not an image, damaged, cut short or too large
    InputError : a size or channel count out of range
    """
    if channels not in (1, 3):
        raise InputError(f"load_photos: channels must be 1 or 3, got {channels!r}")
    if not 1 <= image_size <= 4096:
        raise InputError(f"load_photos: image_size must be from 1 to 4096, got {image_size}")
    shape = len(paths), image_size, image_size, channels
    return _read_all(lambda position: _read_photo(paths[position], image_size, channels), shape, 1)


def _read_all(read: Callable[[int], bytes], shape: tuple[int, ...], chunk: int) -> Images:
    """The pixels of every image, on several threads."""
    out = np.empty(shape, np.uint8)

    def work(start: int, stop: int) -> None:
        for position in range(start, stop):
            out[position] = np.frombuffer(read(position), np.uint8).reshape(shape[1:])

    # Pillow warns of odd metadata, which is not used, and of large images, which have their limit here. Python keeps
    # warning filters per process, so this surrounds the threads and is not used inside them.
    with warnings.catch_warnings(action="ignore"):
        parallel_chunks(work, len(out), chunk)
    return out


def _read_photo(path: Path, image_size: int, channels: int) -> bytes:
    from PIL import Image

    what = os.fspath(path)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{what}: not a file")
        if status.st_size > MAX_FILE_BYTES:
            raise DatasetError(f"{what}: {status.st_size} bytes; images up to {MAX_FILE_BYTES} bytes are read")
        file = open(path, "rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DatasetError(f"{what}: cannot be read: {reason}") from error
    with file, _opened(file, what, PHOTO_FORMATS) as image:
        image.load()
        plain = _flatten(_upright(image), what)
        side = min(plain.size)
        left, top = (plain.width - side) / 2, (plain.height - side) / 2
        # The support of Pillow's filters grows with the reduction, which is the antialiasing.
        box = (left, top, left + side, top + side)
        square = plain.resize((image_size, image_size), Image.Resampling.BICUBIC, box=box)
        return square.convert("RGB" if channels == 3 else "L").tobytes()


@contextmanager
def _opened(file: BinaryIO, what: str, formats: tuple[str, ...]) -> Iterator["Image.Image"]:
    """An image, its size checked and nothing decoded; errors of decoding inside become DatasetError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file, formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
            yield image
    except (DatasetError, InputError):
        raise
    except Image.DecompressionBombError as error:
        raise DatasetError(f"{what}: too large: {error}; up to {MAX_PIXELS} pixels are read") from None
    except UnidentifiedImageError:
        raise DatasetError(f"{what}: not an image in one of the formats {', '.join(formats)}") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
        raise DatasetError(f"{what}: damaged image: {error or type(error).__name__}") from error


def _upright(image: "Image.Image") -> "Image.Image":
    from PIL import ImageOps

    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # the pixels are fine; damaged metadata only leaves them as they lie
        return image


def _flatten(image: "Image.Image", what: str) -> "Image.Image":
    """8-bit L or RGB, transparency laid over white."""
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):  # 16 bits of grey
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == "F":
        raise DatasetError(f"{what}: floating-point pixels have no known range; save it with 8 bits per channel")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
