"""What a chart shows: marks in the units of the data, and how its axes are named."""

from collections.abc import Sequence
from dataclasses import dataclass

Numbers = Sequence[float]
Ticks = Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Line:
    """A line through points; it is broken where a number is missing (None) or not finite."""

    x: Numbers
    y: Sequence[float | None]
    label: str | None = None
    colour: int = 0
    dash: str | None = None  # lengths of strokes and gaps, as in SVG; None is a solid line
    dots: bool = False  # a dot on each point


@dataclass(frozen=True)
class Dots:
    """Points, each with a bar from `low` to `high` along an axis if these are given."""

    x: Numbers
    y: Numbers
    label: str | None = None
    colour: int = 0
    low: Numbers = ()
    high: Numbers = ()
    along: str = "x"
    radius: float = 3.5


@dataclass(frozen=True)
class Bars:
    """Rectangles between (x0, y0) and (x1, y1), each with a text at the end of (x1, y1)."""

    x0: Numbers
    y0: Numbers
    x1: Numbers
    y1: Numbers
    label: str | None = None
    colour: int = 0
    texts: Sequence[str] = ()
    lying: bool = False  # texts stand to the right of a bar, not on top of it


@dataclass(frozen=True)
class Area:
    """What lies between two lines."""

    x: Numbers
    low: Numbers
    high: Numbers
    colour: int = 0
    opacity: float = 0.3


@dataclass(frozen=True)
class Segments:
    """Separate lines, (x0, y0, x1, y1) each, fainter where their `strength` from 0 to 1 is smaller."""

    ends: Sequence[tuple[float, float, float, float]]
    strength: Numbers
    colour: int = 0


Mark = Line | Dots | Bars | Area | Segments


@dataclass(frozen=True)
class Chart:
    """One pair of axes. Ticks, ranges and the legend follow from the marks unless they are given."""

    title: str
    marks: Sequence[Mark]
    x_label: str = ""
    y_label: str = ""
    x_log: int = 0  # base of a logarithmic axis; 0 is a linear one
    y_log: int = 0
    x_ticks: Ticks | None = None
    y_ticks: Ticks | None = None
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    y_zero: bool = False  # the y axis begins at 0
    size: tuple[float, float] = (360, 250)  # width and height, in units of which a letter is 12 high
    bare: bool = False  # no axes


@dataclass(frozen=True)
class Figure:
    """Charts side by side, in rows of `columns`, over a caption."""

    charts: Sequence[Chart]
    columns: int = 1
    caption: str = ""
