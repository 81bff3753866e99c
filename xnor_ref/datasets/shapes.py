"""The built-in data set, drawn with Pillow from a seed. Nothing is downloaded.

It has twelve kinds of figure, 64x64 RGB as in Tiny ImageNet. The figure is the largest thing in the picture. It is
rotated, stretched, moved, often partly covered, and drawn in a random light colour on a darker, uneven ground with
clutter of any colour. The picture is then blurred, faded and made noisy by varying amounts. Some kinds are meant to be
confused: circle and pentagon, ring and horseshoe, triangle and arrow, star and cross.

Every image has its own random stream, derived from (seed, split, index). So image 17 is the same at any size of the
splits, and the same version of Pillow draws the same pixels.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from xnor_ref.datasets.base import Dataset, Images, Labels, Progress
from xnor_ref.datasets.store import Source, open_or_pack
from xnor_ref.errors import check_integer

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

IMAGE_SIZE = 64
DRAWING_VERSION = 2  # increase it when the pixels change, so that old prepared copies are not used
_SCALE = 2  # drawn at twice the size, then averaged down, for smooth edges
_CANVAS = IMAGE_SIZE * _SCALE
_BLOCK = 256
_VARIANTS = 8  # of each figure: thickness, gap, number of turns

Points = list[tuple[float, float]]


def load(
    *,
    name: str = "shapes",
    data_dir: Path,
    progress: Progress | None = None,
    seed: int = 0,
    train_size: int = 6000,
    val_size: int = 1200,
) -> Dataset:
    """Draw the data set, or open the copy drawn earlier.

    Parameters
    ----------
    seed : not negative; another seed gives other pictures of the same kinds
    train_size, val_size : int
        Images per split, from 12 (one of each kind) to 1,000,000. Kinds are balanced to within one image.

    Raises
    ------
    InputError : an option out of its range
    """
    check_integer("shapes: seed", seed, 0, 2**63 - 1)
    check_integer("shapes: train_size", train_size, len(CLASSES), 10**6)
    check_integer("shapes: val_size", val_size, len(CLASSES), 10**6)
    sizes = {"train": train_size, "val": val_size}

    def blocks(split: str) -> Iterator[tuple[Images, Labels]]:
        for start in range(0, sizes[split], _BLOCK):
            indices = range(start, min(start + _BLOCK, sizes[split]))
            yield (
                np.stack([draw(seed, split, index) for index in indices]),
                np.array([label_of(index) for index in indices], np.int64),
            )

    from PIL import __version__ as pillow_version

    identity = {"drawing": DRAWING_VERSION, "pillow": pillow_version, "seed": seed, **sizes}
    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    return open_or_pack(
        data_dir / "packed", name, identity, lambda: Source(CLASSES, shape, sizes, blocks), progress, "drawing"
    )


def label_of(index: int) -> int:
    """Return the label of the image with this index. Kinds alternate."""
    return index % len(CLASSES)


def draw(seed: int, split: str, index: int) -> Images:
    """Draw one image of kind `CLASSES[label_of(index)]`, uint8 (64, 64, 3); `split` is "train" or "val"."""
    from PIL import ImageDraw, ImageFilter

    rng = Random(f"{seed} {split} {index}")  # its streams are the same in every version of Python
    ground = _colour(rng, 127)
    image = _blotches(rng, ground)
    pen = ImageDraw.Draw(image)
    _draw_clutter(pen, rng)

    # The figure: large, nearly always wholly inside, in a colour that is lighter than the ground.
    radius = _between(rng, 40, 56)
    margin = 0.85 * radius
    centre = (_between(rng, margin, _CANVAS - margin), _between(rng, margin, _CANVAS - margin))
    colour = _colour(rng)
    while sum(colour) - sum(ground) < 180:
        colour = _colour(rng)
    pen.polygon(_place(rng, label_of(index), centre, radius), fill=colour)
    _draw_cover(pen, rng, centre, radius)

    image = image.reduce(_SCALE)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.BoxBlur(_between(rng, 0.3, 1.2)))
    return _fade_and_noise(rng, image)


def _between(rng: Random, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _count(rng: Random, low: int, high: int) -> int:
    """An integer from low to high, both included."""
    return low + int((high - low + 1) * rng.random())


def _colour(rng: Random, brightest: int = 255) -> tuple[int, int, int]:
    return _count(rng, 0, brightest), _count(rng, 0, brightest), _count(rng, 0, brightest)


def _blotches(rng: Random, ground: tuple[int, int, int]) -> "Image.Image":
    """Return a soft, uneven ground around one colour."""
    from PIL import Image

    cells, spread = _count(rng, 2, 5), _count(rng, 5, 45)
    patches = [value + _count(rng, -spread, spread) for _ in range(cells * cells) for value in ground]
    small = Image.frombytes("RGB", (cells, cells), bytes([min(max(value, 0), 255) for value in patches]))
    return small.resize((_CANVAS, _CANVAS), Image.Resampling.BILINEAR)


def _draw_clutter(pen: "ImageDraw.ImageDraw", rng: Random) -> None:
    """Lines, dots and small figures of any kind, before the figure itself."""
    for _ in range(_count(rng, 2, 4)):
        x, y = _between(rng, 0, _CANVAS), _between(rng, 0, _CANVAS)
        colour = _colour(rng)
        what = rng.random()
        if what < 0.35:
            end = (x + _between(rng, -45, 45), y + _between(rng, -45, 45))
            pen.line([(x, y), end], fill=colour, width=_count(rng, 1, 5))
        elif what < 0.55:
            r = _between(rng, 2, 8)
            pen.ellipse([x - r, y - r, x + r, y + r], fill=colour)
        else:
            kind = _count(rng, 0, len(CLASSES) - 1)
            pen.polygon(_place(rng, kind, (x, y), _between(rng, 6, 13)), fill=colour)


def _draw_cover(pen: "ImageDraw.ImageDraw", rng: Random, centre: tuple[float, float], radius: float) -> None:
    """Cover half of the figures partly, by a bar across them or a blob at their edge."""
    what = rng.random()
    angle = _between(rng, 0, 2 * math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    off = _between(rng, 0.2, 0.9) * radius
    x, y = centre[0] - sin * off, centre[1] + cos * off
    colour = _colour(rng)
    if what < 0.3:
        ends = [(x - 2 * radius * cos, y - 2 * radius * sin), (x + 2 * radius * cos, y + 2 * radius * sin)]
        pen.line(ends, fill=colour, width=_count(rng, 3, 8))
    elif what < 0.5:
        r = _between(rng, 0.2, 0.45) * radius
        pen.ellipse([x - r, y - r, x + r, y + r], fill=colour)


def _place(rng: Random, kind: int, centre: tuple[float, float], radius: float) -> Points:
    """Return the outline of a figure, stretched in a random direction, rotated, scaled and moved to its place."""
    outline = _outlines()[kind][_count(rng, 0, _VARIANTS - 1)]
    turn, tilt = _between(rng, 0, 2 * math.pi), _between(rng, 0, 2 * math.pi)
    long, short = radius, radius * _between(rng, 0.7, 1.0)
    # The matrix rotation(turn) @ diag(long, short) @ rotation(tilt).
    c, s, c2, s2 = math.cos(turn), math.sin(turn), math.cos(tilt), math.sin(tilt)
    a, b = c * long * c2 - s * short * s2, -c * long * s2 - s * short * c2
    d, e = s * long * c2 + c * short * s2, -s * long * s2 + c * short * c2
    # Round to eighths of a pixel, since the last bit of a cosine differs between machines.
    x0, y0 = centre
    return [(round(8 * (a * x + b * y + x0)) / 8, round(8 * (d * x + e * y + y0)) / 8) for x, y in outline]


def _fade_and_noise(rng: Random, image: "Image.Image") -> Images:
    """Pull towards grey and add noise, the difference of two random bytes per value; integers only."""
    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    grey, contrast, strength = _count(rng, 60, 195), _count(rng, 85, 128), _count(rng, 0, 16)  # the last two of 128
    noise = np.frombuffer(rng.randbytes(2 * math.prod(shape)), np.uint8).reshape(2, *shape).astype(np.int16)
    pixels = np.frombuffer(image.tobytes(), np.uint8).reshape(shape).astype(np.int16)
    pixels -= grey
    pixels *= contrast  # at most 195 * 128, and with the noise still below 2**15
    pixels += (noise[0] - noise[1]) * np.int16(strength)
    pixels >>= 7
    pixels += grey
    return np.clip(pixels, 0, 255).astype(np.uint8)


# The figures: closed outlines inside the unit circle, each as a function of t in [0, 1] for its variants.


def _arc(radius: float, start: float, stop: float, points: int, centre: tuple[float, float] = (0, 0)) -> Points:
    """Points on a circle, angles in turns."""
    angles = [2 * math.pi * (start + (stop - start) * k / (points - 1)) for k in range(points)]
    return [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]


def _regular(corners: int) -> Points:
    return _arc(1, 0, 1 - 1 / corners, corners)


def _horseshoe(t: float) -> Points:
    gap, inner = 0.10 + 0.12 * t, 0.45 + 0.3 * ((3 * t) % 1)
    return _arc(1, gap / 2, 1 - gap / 2, 29) + _arc(inner, 1 - gap / 2, gap / 2, 29)


def _star(t: float) -> Points:
    radii = [1, 0.35 + 0.15 * t] * 5
    return [(r * math.cos(math.pi * k / 5), r * math.sin(math.pi * k / 5)) for k, r in enumerate(radii)]


def _cross(t: float) -> Points:
    w = 0.22 + 0.13 * t
    corner = [(1, -w), (1, w), (w, w)]  # a quarter, then turned three times
    turned = corner + [(-y, x) for x, y in corner]
    return turned + [(-x, -y) for x, y in turned]


def _crescent(t: float) -> Points:
    shift, radius = 0.35 + 0.25 * t, 0.85
    # Both circles meet where x = (1 - radius^2 + shift^2) / (2 shift).
    x = (1 - radius**2 + shift**2) / (2 * shift)
    outer, inner = math.acos(x) / (2 * math.pi), math.acos((x - shift) / radius) / (2 * math.pi)
    return _arc(1, outer, 1 - outer, 25) + _arc(radius, 1 - inner, inner, 21, (shift, 0))


def _heart(t: float) -> Points:
    angles = [2 * math.pi * k / 32 for k in range(32)]
    return [
        (math.sin(a) ** 3, (13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 17 + 0.1)
        for a in angles
    ]


def _arrow(t: float) -> Points:
    w, neck = 0.13 + 0.12 * t, 0.05 + 0.25 * t
    return [(-1, -w), (neck, -w), (neck, -0.65), (1, 0), (neck, 0.65), (neck, w), (-1, w)]


def _spiral(t: float) -> Points:
    turns, half = 1.9 + 0.5 * t, 0.09
    steps = [k / 47 for k in range(48)]
    outer = [(0.1 + 0.82 * s + half, s) for s in steps]
    inner = [(0.1 + 0.82 * s - half, s) for s in reversed(steps)]
    return [(r * math.cos(2 * math.pi * turns * s), r * math.sin(2 * math.pi * turns * s)) for r, s in outer + inner]


_FIGURES: dict[str, Callable[[float], Points]] = {
    "circle": lambda t: _arc(1, 0, 1, 33),
    "pentagon": lambda t: _regular(5),
    "square": lambda t: _regular(4),
    "triangle": lambda t: _regular(3),
    "arrow": _arrow,
    "heart": _heart,
    "star": _star,
    "cross": _cross,
    "ring": lambda t: _arc(1, 0, 1, 33) + _arc(0.45 + 0.3 * t, 1, 0, 33),
    "horseshoe": _horseshoe,
    "crescent": _crescent,
    "spiral": _spiral,
}
CLASSES = tuple(_FIGURES)


@cache
def _outlines() -> list[list[Points]]:
    """Variants of every figure."""
    return [[figure(variant / (_VARIANTS - 1)) for variant in range(_VARIANTS)] for figure in _FIGURES.values()]
