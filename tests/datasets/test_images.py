"""Photos of every mode and hostile files; JPEGs of a fixed size."""

import errno
import io
import os
import struct
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from xnor_ref.datasets import images as module
from xnor_ref.datasets.images import decode_jpegs, load_photo, load_photos
from xnor_ref.errors import DatasetError, InputError


def picture(width=40, height=30, mode="RGB"):
    """Smooth colours, so that compression hardly changes them."""
    y, x = np.mgrid[:height, :width]
    array = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=-1)
    return Image.fromarray(array.astype(np.uint8)).convert(mode)


def jpeg(image, **keywords):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, **keywords)
    return stream.getvalue()


def saved(tmp_path, image, name, **keywords):
    image.save(tmp_path / name, **keywords)
    return tmp_path / name


def close(got, wanted, atol=4):
    assert np.abs(got.astype(int) - np.asarray(wanted).astype(int)).max() <= atol


# JPEGs of a fixed size


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_modes_become_rgb(mode):
    image = picture(64, 64, mode)
    (got,) = decode_jpegs([(jpeg(image), "it")], 64)
    assert got.shape == (64, 64, 3)
    close(got, image.convert("RGB"), 12)
    if mode == "L":
        assert (got[..., 0] == got[..., 1]).all()


def test_many_jpegs_keep_their_order():
    colours = [(k, 255 - k, 10) for k in range(0, 250, 3)]
    files = [(jpeg(Image.new("RGB", (8, 8), colour)), str(colour)) for colour in colours]
    close(decode_jpegs(files, 8).mean(axis=(1, 2)), colours, 3)
    assert decode_jpegs([], 8).shape == (0, 8, 8, 3)


def png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


GOOD = jpeg(picture(64, 64))
HUGE_HEADER = GOOD.replace(b"\x00\x40\x00\x40", b"\xff\xff\xff\xff", 1)  # the frame's height and width


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an image"),
        (b"GIF89a", "not an image"),
        (png(picture(64, 64)), "not an image"),  # a format that is not asked for
        (GOOD[: len(GOOD) // 2], "truncated"),
        (GOOD[:200], "it"),
        (jpeg(picture(64, 63)), "64x63 pixels instead of 64x64"),
        (HUGE_HEADER, "too large"),
        (os.urandom(3000), "not an image"),
        (b"\xff\xd8\xff" + os.urandom(3000), "it"),
    ],
)
def test_bad_jpegs(data, message):
    with pytest.raises(DatasetError, match=message):
        decode_jpegs([(GOOD, "good"), (data, "it")], 64)


def test_every_cut_of_a_jpeg_is_an_error_or_an_image():
    """No other exception escapes, wherever the file ends."""
    refused = 0
    for length in range(0, len(GOOD), 37):
        try:
            decode_jpegs([(GOOD[:length], "it")], 64)
        except DatasetError as error:
            assert "it:" in str(error)
            refused += 1
    assert refused > 0.9 * len(range(0, len(GOOD), 37))


# Photos


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.webp", "a.tif", "a.ppm", "a.gif"])
def test_formats(tmp_path, name):
    got = load_photo(saved(tmp_path, picture(), name), 30)
    assert got.shape == (30, 30, 3)
    assert got.dtype == np.uint8
    close(got, np.asarray(picture())[:, 5:35], 40 if name.endswith("gif") else 12)


def test_the_middle_is_kept_and_the_short_side_fits(tmp_path):
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste((0, 0, 255), (100, 0, 200, 100))
    for image in (wide, wide.transpose(Image.Transpose.ROTATE_90)):
        close(load_photo(saved(tmp_path, image, "a.png"), 50)[1:-1, 1:-1], np.array([0, 0, 255]), 16)


@pytest.mark.parametrize("height, width", [(16, 48), (48, 16), (14, 10)])
@pytest.mark.parametrize("across, down", [(0, 0), (30, 0), (0, 30)])
def test_sizes_that_are_not_square_take_the_middle(tmp_path, height, width, across, down):
    wanted = np.zeros((height, width, 3), np.uint8) + np.uint8([40, 120, 200])
    wanted[: height // 2, : width // 2] = [0, 255, 60]
    whole = np.pad(wanted.repeat(4, 0).repeat(4, 1), ((down, down), (across, across), (0, 0)), constant_values=255)
    got = load_photo(saved(tmp_path, Image.fromarray(whole), "a.png"), (height, width))
    assert got.shape == wanted.shape
    for rows, columns in ((slice(2, height // 2 - 2), slice(2, width // 2 - 2)), (slice(-5, -2), slice(-3, -2))):
        close(got[rows, columns], wanted[rows, columns], 1)


def test_reduction_is_antialiased(tmp_path):
    lines = np.zeros((256, 256), np.uint8)
    lines[:, ::2] = 255
    got = load_photo(saved(tmp_path, Image.fromarray(lines), "a.png"), 32)
    close(got[2:-2, 2:-2], 127, 2)  # without it, all black or all white


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
def test_tiny_and_narrow(tmp_path, size):
    assert load_photo(saved(tmp_path, picture(*size), "a.png"), 64).shape == (64, 64, 3)


def test_one_channel(tmp_path):
    got = load_photo(saved(tmp_path, picture(32, 32), "a.png"), 32, channels=1)
    assert got.shape == (32, 32, 1)
    close(got[..., 0], picture(32, 32, "L"), 1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA", "I;16", "I"])
@pytest.mark.parametrize("channels", [1, 3])
def test_modes(tmp_path, mode, channels):
    grey = picture(32, 32, "L")
    if mode in ("I;16", "I"):
        values = np.asarray(grey).astype(np.uint16) * 257
        image = Image.fromarray(values) if mode == "I;16" else Image.fromarray(values.astype(np.int32))
    elif mode in ("1", "P"):
        image = grey.convert(mode, dither=Image.Dither.NONE)
    else:
        image = grey.convert(mode)
    name = "a.pgm" if mode == "I" else "a.png"
    got = load_photo(saved(tmp_path, image, name), 32, channels)
    assert got.shape == (32, 32, channels)
    wanted = np.asarray(image.convert("L")) if mode == "1" else np.asarray(grey)
    close(got, np.repeat(wanted[..., None], channels, axis=2), 1)


def test_16_bit_extremes(tmp_path):
    values = np.array([[0, 65535], [32768, 128]], np.uint16)
    got = load_photo(saved(tmp_path, Image.fromarray(values), "a.png"), 2, 1)
    assert got[..., 0].tolist() == [[0, 255], [128, 0]]


def test_transparency_is_laid_over_white(tmp_path):
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((255, 0, 0, 128), (0, 0, 8, 8))
    close(load_photo(saved(tmp_path, image, "a.png"), 8), np.array([255, 127, 127]), 1)
    image = Image.new("LA", (8, 8), (0, 0))
    close(load_photo(saved(tmp_path, image, "a.png"), 8), 255, 0)
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    close(load_photo(saved(tmp_path, palette, "a.png", transparency=1), 8), 255, 0)
    close(load_photo(saved(tmp_path, palette, "b.png", transparency=0), 8), np.array([0, 255, 0]), 0)
    close(load_photo(saved(tmp_path, Image.new("RGB", (8, 8), "red"), "c.png", transparency=(255, 0, 0)), 8), 255, 0)


def test_cmyk_jpeg(tmp_path):
    image = picture(32, 32, "CMYK")
    close(load_photo(saved(tmp_path, image, "a.jpg", quality=95), 32), image.convert("RGB"), 16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = Image.new("RGB", (32, 32), "blue")
    upright.paste((255, 0, 0), (0, 0, 16, 16))  # red in the upper left corner
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    lying = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = load_photo(saved(tmp_path, lying, "a.jpg", exif=exif, quality=95), 32)
    close(got[2:12, 2:12], np.array([255, 0, 0]), 12)
    close(got[20:30, 20:30], np.array([0, 0, 255]), 12)


def test_damaged_exif_does_no_harm(tmp_path):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\xff\xff\xff\xff\xff\xff\xff\xff" * 4
    path = saved(tmp_path, picture(32, 32), "a.jpg", exif=exif)
    assert load_photo(path, 32).shape == (32, 32, 3)


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        close(load_photo(tmp_path / name, 8), np.array([255, 0, 0]), 4)


def test_several_photos_at_once(tmp_path):
    paths = [saved(tmp_path, Image.new("RGB", (9, 9), (k, 0, 0)), f"{k}.png") for k in range(0, 100, 10)]
    assert load_photos(paths, 4)[:, 0, 0, 0].tolist() == list(range(0, 100, 10))


def bomb(width, height):
    """A PNG whose header promises a large image that is not there."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(9500, 10600), (13000, 13000), (30000, 30000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_before_they_unfold(tmp_path, size):
    (tmp_path / "a.png").write_bytes(bomb(*size))
    with pytest.raises(DatasetError, match="too large"):
        load_photo(tmp_path / "a.png", 64)


def test_a_large_photo_below_the_limit_is_read(tmp_path):
    """Pillow warns of images as large as this one; nobody else hears of it."""
    path = saved(tmp_path, Image.new("1", (9600, 9600)), "a.png")
    assert load_photo(path, 8).max() == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),  # would start another program
        (jpeg(picture())[:-300], "truncated"),
        (png(picture())[:-60], "damaged image"),
        (bomb(64, 64), "damaged image"),
    ],
)
def test_damaged_photos(tmp_path, content, message):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"a\.png: .*{message}"):
        load_photo(tmp_path / "a.png", 64)


def tiff(bits, kind, meaning, pixels):
    """Grey, uncompressed, 8x8."""
    tags = (256, 3, 8), (257, 3, 8), (258, 3, bits), (259, 3, 1), (262, 3, meaning), (277, 3, 1), (339, 3, kind)
    tags = sorted((*tags, (273, 4, 10 + 12 * 10 + 4), (278, 3, 8), (279, 4, len(pixels))))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


RAMP = np.arange(64) * 4095 // 63


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff(32, 2, 1, RAMP.astype("<i4").tobytes()), "integers of 32 bits have no known range"),
        (tiff(32, 1, 1, RAMP.astype("<u4").tobytes()), "integers of 32 bits have no known range"),
        (tiff(16, 2, 1, RAMP.astype("<i2").tobytes()), "signed integers have no known range"),
        (tiff(8, 2, 1, (RAMP // 16 - 128).astype("i1").tobytes()), "signed integers have no known range"),
        (tiff(32, 3, 1, RAMP.astype("<f4").tobytes()), "floating-point pixels have no known range"),
    ],
)
def test_pixels_without_a_known_range_are_refused(tmp_path, content, message):
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"a\.tif: {message}; save it with 8 bits"):
        load_photo(tmp_path / "a.tif", 8)


@pytest.mark.parametrize(("bits", "meaning"), [(8, 0), (16, 0), (8, 1), (12, 1), (16, 1)])  # 0: 0 is white
def test_grey_of_any_depth(tmp_path, meaning, bits):
    values = RAMP >> 12 - bits if bits < 12 else RAMP << bits - 12
    raw = values.astype(">u2").view(np.uint8).reshape(64, 2)
    packed = np.packbits(np.unpackbits(raw, axis=1)[:, 16 - bits :]).tobytes()
    (tmp_path / "a.tif").write_bytes(tiff(bits, 1, meaning, values.astype("<u2").tobytes() if bits == 16 else packed))
    got = load_photo(tmp_path / "a.tif", 8, 1).ravel()
    close(got if meaning else 255 - got, RAMP / 4095 * 255, 1)


def test_colours_that_pillow_does_not_convert_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="colours in LAB are not converted"):
        load_photo(saved(tmp_path, Image.new("LAB", (8, 8)), "a.tif"), 8)


def chunked(kind, content, fault=0):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ fault)


def png_of(depth, colour, row, *chunks):
    head = struct.pack(">IIBBBBB", 8, 8, depth, colour, 0, 0, 0)
    rows = chunked(b"IDAT", zlib.compress((b"\0" + row) * 8))
    return b"\x89PNG\r\n\x1a\n" + chunked(b"IHDR", head) + b"".join(chunks) + rows + chunked(b"IEND", b"")


@pytest.mark.parametrize(
    ("depth", "row", "value"),
    [(1, b"\0", 0), (2, b"\x55" * 2, 1), (4, b"\x55" * 4, 5), (8, b"\x80" * 8, 128), (16, b"\x80\xff" * 8, 0x80FF)],
)
def test_a_transparent_grey_is_white_at_any_depth(tmp_path, depth, row, value):
    for transparent, wanted in ((value, 255), (value + 1 if depth > 1 else 1, value * 255 // (2**depth - 1))):
        (tmp_path / "a.png").write_bytes(png_of(depth, 0, row, chunked(b"tRNS", struct.pack(">H", transparent))))
        close(load_photo(tmp_path / "a.png", 8, 1), wanted, 1)
    (tmp_path / "a.png").write_bytes(png_of(16, 2, b"\x80\0" * 24, chunked(b"tRNS", b"\x80\0" * 3)))
    with pytest.raises(DatasetError, match="one transparent colour with 16 bits is lost"):
        load_photo(tmp_path / "a.png", 8)


def test_a_damaged_image_is_told_from_what_is_none(tmp_path):
    (tmp_path / "a.png").write_bytes(png_of(8, 0, b"\x80" * 8, chunked(b"tEXt", b"a\0b", fault=1)))
    with pytest.raises(DatasetError, match="damaged image: it has the header"):
        load_photo(tmp_path / "a.png", 8)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (MemoryError(), MemoryError, None),
        (OSError(errno.EIO, "Input/output error"), DatasetError, "cannot be read: .*Input/output error"),
        (AssertionError(), DatasetError, "damaged image: AssertionError"),
    ],
)
def test_reasons_are_told_apart(tmp_path, monkeypatch, error, kind, message):
    def fails(image):
        raise error

    monkeypatch.setattr(module, "_upright", fails)
    with pytest.raises(kind, match=message):
        load_photo(saved(tmp_path, picture(), "a.png"), 8)


def test_files_that_are_none(tmp_path):
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for ever
    for path, message in ((tmp_path, "not a file"), (tmp_path / "fifo", "not a file"), (tmp_path / "no", "No such")):
        with pytest.raises(DatasetError, match=message):
            load_photo(path, 8)
    with pytest.raises(DatasetError, match="null"):
        load_photo("a\0b", 8)


def test_a_file_too_large_to_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 100)
    with pytest.raises(DatasetError, match="the limit is 100 bytes"):
        load_photo(saved(tmp_path, picture(), "a.png"), 8)


@pytest.mark.parametrize("arguments", [(0, 3), (-1, 3), (5000, 3), ((8, 0), 3), (8, 2), (8, 4)])
def test_arguments_out_of_range(tmp_path, arguments):
    with pytest.raises(InputError, match="load_photos"):
        load_photo(saved(tmp_path, picture(), "a.png"), *arguments)


@pytest.mark.realdata
def test_real_photos(real_data):
    paths = sorted((real_data / "photos").iterdir())
    assert len(paths) >= 10
    batch = load_photos(paths, 64)
    assert batch.shape == (len(paths), 64, 64, 3)
    assert batch.std(axis=(1, 2, 3)).min() > 20
    assert np.array_equal(batch[0], load_photo(paths[0], 64))


def test_a_damaged_length_takes_no_memory(tmp_path):
    """Pillow reads as many bytes as a chunk of a PNG claims to have: here 4 GB, of a file of some hundred."""
    stream = io.BytesIO()
    Image.new("L", (8, 8), 200).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    at = data.index(b"IDAT") - 4
    data[at : at + 4] = b"\xff\xff\xff\xf0"
    (tmp_path / "photo.png").write_bytes(data)
    tracemalloc.start()
    try:
        with suppress(DatasetError):
            load_photo(tmp_path / "photo.png", 8)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
