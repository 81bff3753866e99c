"""A packed network as one page of HTML that computes it in a browser, and shows every number on the way."""

import base64
import html
import io
import json
from pathlib import Path
from string import Template
from typing import Any

import xnor_ref
from xnor_ref.datasets import shapes
from xnor_ref.errors import InputError
from xnor_ref.packed import load_packed

_HERE = Path(__file__).parent
_SCRIPTS = ("operations.js", "reader.js", "photos.js", "drawing.js", "explain.js", "page.js")
_SAMPLES = 6
_COLOURS = 12  # of a sample, so that its PNG takes less than two kilobytes


def explorer_page(model: Path) -> bytes:
    """The page of a packed model file. It holds the file, some sample pictures, and scripts that run the network.

    Raises
    ------
    ModelFileError
        The file is missing, damaged or not a packed network.
    InputError
        The network takes images of another number of channels than 1 or 3.
    """
    network = load_packed(model)  # refuses what the page could not run
    channels = network.input_shape[0]
    if channels not in (1, 3):
        raise InputError(f"{model} takes images of {channels} channels; an explorer's pictures have 1 or 3")
    trained = network.metadata["training"].get("model")
    about = {"samples": _samples(), "columns_first": columns_first()}
    parts = {
        "version": xnor_ref.__version__,
        "title": html.escape(trained[:100]) if isinstance(trained, str) else "a packed network",
        "style": _text("page.css"),
        "model": base64.b64encode(Path(model).read_bytes()).decode(),
        "about": json.dumps(about),
        "scripts": "\n".join(f"<script>\n{_text(name)}</script>" for name in _SCRIPTS),
    }
    return Template(_text("page.html")).substitute(parts).encode()


def columns_first() -> bool:
    """Whether this version of Pillow reduces the columns of a picture before its rows, where that is less work."""
    from PIL import __version__ as version

    return int(version.split(".")[0]) >= 13


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _samples() -> list[dict[str, Any]]:
    """Drawings of the data set shapes, each of another kind: its name, and a PNG of few colours."""
    from PIL import Image

    found = []
    for index in range(_SAMPLES):
        drawing = Image.fromarray(shapes.draw(0, "val", index))
        few = drawing.quantize(_COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(file := io.BytesIO(), "PNG", optimize=True)
        name = f"a drawing of the kind {shapes.CLASSES[shapes.label_of(index)]}"
        found.append({"name": name, "png": base64.b64encode(file.getvalue()).decode()})
    return found
