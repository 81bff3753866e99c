"""Pictures by matplotlib, which is optional and without a screen here."""

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xnor_ref.errors import InputError
from xnor_ref.storage import PathLike, write_atomically

FORMATS = ("png", "svg", "pdf")


def can_plot() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def check_plot(path: PathLike) -> None:
    """Raise InputError unless a picture can be drawn and `path` names a kind of file that it can be written to."""
    if _kind(path) not in FORMATS:
        raise InputError(f"--plot needs a file name that ends in {', '.join(FORMATS)}; got {str(path)!r}")
    if not can_plot():
        raise InputError("--plot needs matplotlib, which is not installed (pip install 'xnor_ref[plot]')")


def subplots(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, list[Any]]:
    """A figure of `size` inches and its axes, row by row; `options` are those of `Figure.subplots`."""
    from matplotlib.figure import Figure  # without pyplot, which would look for a screen

    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def save(figure: Any, path: PathLike, dpi: int = 120) -> None:
    """Write a figure, in the format that the file's name says. Raises OutputError."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=_kind(path), dpi=dpi)
    write_atomically(path, buffer.getvalue())


def _kind(path: PathLike) -> str:
    return Path(path).suffix.lower().lstrip(".")
