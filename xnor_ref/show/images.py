"""Arrays as small pictures inside a page."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xnor_ref.show.page import Html, el

Pixels = NDArray[np.uint8]  # (H, W, 4), or (H, W, 1 or 3) as images have them

PLUS, MINUS = (
    (59, 125, 216),
    (240, 150, 60),
)  # of +1 and -1: told apart on white and on black, and without red and green
_SHADES = 31  # more make a file larger and look no different
WIDE = 320  # CSS pixels that a picture takes at most, so that a phone shows it whole


def picture(pixels: Pixels, zoom: float = 1.0, alt: str = "", **attributes: Any) -> Html:
    """An `<img>` that holds its pixels, (H, W, C) with C of 1, 3 or 4, each drawn as a square of `zoom` CSS pixels."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)).save(buffer, "PNG")
    source = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    height, width = pixels.shape[:2]
    size = {"width": round(width * zoom), "height": round(height * zoom)}
    return el("img", src=source, alt=alt, **size, **attributes)


def signed(values: NDArray[Any], reach: float | None = None) -> Pixels:
    """Positive numbers blue, negative ones orange, the fainter the nearer to 0: values (...) to RGBA (..., 4)."""
    values = np.nan_to_num(np.asarray(values, np.float64), posinf=0.0, neginf=0.0)
    reach = reach or float(np.abs(values).max(initial=0.0)) or 1.0
    pixels = np.empty((*values.shape, 4), np.uint8)
    pixels[..., :3] = np.where((values >= 0)[..., None], PLUS, MINUS)
    shades = np.round(_SHADES * np.minimum(np.abs(values) / reach, 1.0))
    pixels[..., 3] = np.round(shades * (255 / _SHADES))
    return pixels


def sheet(tiles: Pixels, columns: int, gap: int = 1) -> Pixels:
    """Tiles (N, h, w, 4) in rows of `columns`, with a gap of `gap` empty pixels between."""
    n, h, w, depth = tiles.shape
    rows = math.ceil(n / columns)
    out = np.zeros((rows, columns, h + gap, w + gap, depth), np.uint8)
    out.reshape(rows * columns, h + gap, w + gap, depth)[:n, :h, :w] = tiles
    out = out.swapaxes(1, 2).reshape(rows * (h + gap), columns * (w + gap), depth)
    return np.ascontiguousarray(out[:-gap, :-gap] if gap else out)


def zoom_for(pixels: Pixels, wide: float = WIDE, most: int = 12) -> float:
    """How large to draw the pixels of a picture that may be `wide`: whole numbers keep them sharp."""
    fits = wide / pixels.shape[1]
    return float(max(1, min(most, int(fits)))) if fits >= 1 else fits


def as_shown(images: NDArray[Any], mean: Sequence[float], std: Sequence[float]) -> Pixels:
    """Images (N, H, W, C) as data sets hold them, uint8 or normalised float32, as pixels with 1 or 3 channels."""
    if images.dtype != np.uint8:
        images = (
            np.clip(255 * (images * np.array(std, np.float32) + np.array(mean, np.float32)), 0, 255)
            .round()
            .astype(np.uint8)
        )
    return images if images.shape[3] in (1, 3) else images[..., :1]
