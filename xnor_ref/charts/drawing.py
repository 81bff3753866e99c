"""Where everything of a chart lies: the one place where charts are drawn. What comes out are strokes and texts."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from xnor_ref.charts.axes import Axis, axes_of
from xnor_ref.charts.chart import Area, Bars, Chart, Dots, Figure, Line, Mark, Segments, Ticks

SMALL, LETTER = 11.0, 12.0  # heights of letters
COLOURS = 8
_WIDTH = 0.56  # of a letter on average, in its height
Point = tuple[float, float]


@dataclass(frozen=True)
class Stroke:
    """A line through points, or what it encloses where `fill` is true."""

    points: tuple[Point, ...]
    colour: str  # "fg", "dim", "rule", or "c0" to "c7"
    width: float = 1.8
    dash: str | None = None
    fill: bool = False
    opacity: float = 1.0


@dataclass(frozen=True)
class Disc:
    """A dot."""

    at: Point
    radius: float
    colour: str


@dataclass(frozen=True)
class Text:
    """A line of text; `at` is its start, middle or end on the base line, and it turns left by `turn` degrees."""

    at: Point
    text: str
    size: float = SMALL
    anchor: str = "start"
    colour: str = "fg"
    turn: float = 0.0
    bold: bool = False


Shape = Stroke | Disc | Text


def draw(figure: Figure) -> tuple[tuple[float, float], list[Shape]]:
    """(width and height, shapes) of a figure."""
    columns = max(1, min(figure.columns, len(figure.charts)))
    shapes: list[Shape] = []
    width, y = 0.0, 0.0
    for first in range(0, len(figure.charts), columns):
        x, height = 0.0, 0.0
        for chart in figure.charts[first : first + columns]:
            size, drawn = draw_chart(chart)
            shapes += [_moved(shape, x, y) for shape in drawn]
            x, height = x + size[0] + 12, max(height, size[1])
        width, y = max(width, x - 12), y + height + 10
    for line in _wrapped(figure.caption, width):
        y += SMALL + 4
        shapes.append(Text((width / 2, y - 4), line, SMALL - 1, "middle", "dim"))
    return (width, y), shapes


def draw_chart(chart: Chart) -> tuple[tuple[float, float], list[Shape]]:
    """(width and height, shapes) of one chart."""
    width, height = chart.size
    shapes: list[Shape] = []
    top = 4.0
    for line in _wrapped(chart.title, width, LETTER):
        top += LETTER + 3
        shapes.append(Text((4, top - 4), line, LETTER, bold=True))
    for row in _legend_rows(chart.marks, width):
        top += SMALL + 4
        shapes += [_moved(shape, 0, top - 3) for shape in row]
    x_axis, y_axis = axes_of(chart)
    if chart.bare:
        x_axis, y_axis = replace(x_axis, start=8, end=width - 8), replace(y_axis, start=height - 8, end=top + 8)
        return chart.size, [*shapes, *_marks(chart, x_axis, y_axis)]
    y_ticks = chart.y_ticks if chart.y_ticks is not None else y_axis.ticks(max(2, int((height - top) / 45)))
    y_ticks = [(v, _cut(name, width * 0.42)) for v, name in y_ticks]
    left = 10 + max((_wide(name) for _, name in y_ticks), default=0) + (LETTER + 4 if chart.y_label else 0)
    right = width - 10
    x_ticks = chart.x_ticks if chart.x_ticks is not None else x_axis.ticks(max(2, int((right - left) / 45)))
    x_ticks = [(v, _cut(name, height * 0.6)) for v, name in x_ticks]
    widest = max((_wide(name) for _, name in x_ticks), default=0)
    turned = widest > 0.95 * (right - left) / max(1, len(x_ticks)) and chart.x_ticks is not None
    bottom = height - (0.6 * widest + SMALL + 4 if turned else SMALL + 8) - (LETTER + 4 if chart.x_label else 0)
    x_axis, y_axis = replace(x_axis, start=left, end=right), replace(y_axis, start=bottom, end=top + 6)
    shapes += _frame(x_axis, y_axis, x_ticks, y_ticks, 35.0 if turned else 0.0)
    if chart.x_label:
        shapes.append(Text(((left + right) / 2, height - 4), chart.x_label, SMALL, "middle", "dim"))
    if chart.y_label:
        shapes.append(Text((LETTER, (top + bottom) / 2), chart.y_label, SMALL, "middle", "dim", 90))
    return chart.size, [*shapes, *_marks(chart, x_axis, y_axis)]


def _frame(x_axis: Axis, y_axis: Axis, x_ticks: Ticks, y_ticks: Ticks, turn: float) -> Iterator[Shape]:
    for value, name in y_ticks:
        if y_axis.is_shown(value) and y_axis.low <= value <= y_axis.high:
            y = y_axis.at(value)
            yield Stroke(((x_axis.start, y), (x_axis.end, y)), "rule", 1)
            yield Text((x_axis.start - 5, y + 4), name, anchor="end", colour="dim")
    for value, name in x_ticks:
        if x_axis.is_shown(value) and x_axis.low <= value <= x_axis.high:
            x, y = x_axis.at(value), y_axis.start
            yield Stroke(((x, y), (x, y + 4)), "dim", 1)
            end = "end" if turn else "middle"
            yield Text((x + (4 if turn else 0), y + SMALL + 5), name, anchor=end, colour="dim", turn=turn)
    yield Stroke(((x_axis.start, y_axis.start), (x_axis.end, y_axis.start)), "dim", 1)


def _marks(chart: Chart, x: Axis, y: Axis) -> Iterator[Shape]:
    drawn = False
    for mark in chart.marks:
        for shape in _mark(mark, x, y):
            drawn = True
            yield shape
    if not drawn:
        yield Text(((x.start + x.end) / 2, (y.start + y.end) / 2), "no numbers", SMALL, "middle", "dim")


def _mark(mark: Mark, x: Axis, y: Axis) -> Iterator[Shape]:
    colour = _colour(mark)
    if isinstance(mark, Line):
        for part in _unbroken(mark, x, y):
            if len(part) > 1:
                yield Stroke(part, colour, dash=mark.dash)
            for point in part if mark.dots or len(part) == 1 else ():
                yield Disc(point, 2.5, colour)
    elif isinstance(mark, Dots):
        for index, (a, b) in enumerate(zip(mark.x, mark.y)):
            if not (x.is_shown(a) and y.is_shown(b)):
                continue
            if index < len(mark.low):
                ends = mark.low[index], mark.high[index]
                pair = [(x.at(e), y.at(b)) if mark.along == "x" else (x.at(a), y.at(e)) for e in ends]
                yield Stroke(tuple(pair), colour if mark.radius else "fg")
            if mark.radius:
                yield Disc((x.at(a), y.at(b)), mark.radius, colour)
    elif isinstance(mark, Bars):
        texts = [*mark.texts, *[""] * (len(mark.x0) - len(mark.texts))]
        for a, b, c, d, name in zip(mark.x0, mark.y0, mark.x1, mark.y1, texts):
            a, b = max(a, x.low) if x.log else a, max(b, y.low) if y.log else b
            if all(map(x.is_shown, (a, c))) and all(map(y.is_shown, (b, d))):
                l, r, u, o = x.at(a), x.at(c), y.at(b), y.at(d)
                yield Stroke(((l, u), (r, u), (r, o), (l, o)), colour, fill=True)
                at = (r + 4, (u + o) / 2 + 4) if mark.lying else ((l + r) / 2, o - 3)
                if name:
                    yield Text(at, name, SMALL - 2, "start" if mark.lying else "middle")
    elif isinstance(mark, Area):
        there = [
            i for i, v in enumerate(mark.x) if x.is_shown(v) and y.is_shown(mark.low[i]) and y.is_shown(mark.high[i])
        ]
        over = [(x.at(mark.x[i]), y.at(mark.high[i])) for i in there]
        under = [(x.at(mark.x[i]), y.at(mark.low[i])) for i in reversed(there)]
        if there:
            yield Stroke((*over, *under), colour, fill=True, opacity=mark.opacity)
            yield Stroke(tuple(over), colour, 1)
    else:
        for (a, b, c, d), strength in zip(mark.ends, mark.strength):
            if not (x.is_shown(a) and y.is_shown(b) and x.is_shown(c) and y.is_shown(d)):
                continue
            yield Stroke(((x.at(a), y.at(b)), (x.at(c), y.at(d))), colour, 1.2, opacity=0.15 + 0.85 * strength)


def _unbroken(mark: Line, x: Axis, y: Axis) -> Iterator[tuple[Point, ...]]:
    part: list[Point] = []
    for a, b in zip(mark.x, mark.y):
        if b is not None and x.is_shown(a) and y.is_shown(b):
            part.append((x.at(a), y.at(b)))
        elif part:
            yield tuple(part)
            part = []
    if part:
        yield tuple(part)


def _colour(mark: Mark) -> str:
    return "dim" if mark.colour < 0 else f"c{mark.colour % COLOURS}"


def _legend_rows(marks: Sequence[Mark], width: float) -> list[list[Shape]]:
    """The marks that have a label, in as many rows as they need."""
    rows: list[list[Shape]] = [[]]
    x = 4.0
    for mark in marks:
        if isinstance(mark, (Area, Segments)) or not mark.label:
            continue
        name = _cut(mark.label, width - 30)
        wide = 24 + _wide(name) + 10
        if x + wide > width and rows[-1]:
            rows.append([])
            x = 4.0
        dash = mark.dash if isinstance(mark, Line) else None
        key: Shape = Stroke(((x, -4), (x + 18, -4)), _colour(mark), 3 if dash is None else 2, dash)
        if isinstance(mark, Dots):
            key = Disc((x + 9, -4), 3.5, _colour(mark))
        rows[-1] += [key, Text((x + 24, 0), name)]
        x += wide
    return rows if rows[0] else []


def _moved(shape: Shape, x: float, y: float) -> Shape:
    if isinstance(shape, Stroke):
        return replace(shape, points=tuple((a + x, b + y) for a, b in shape.points))
    return replace(shape, at=(shape.at[0] + x, shape.at[1] + y))


def _wide(text: str, size: float = SMALL) -> float:
    return math.ceil(len(text) * size * _WIDTH)


def _cut(text: str, width: float) -> str:
    most = max(4, int(width / (SMALL * _WIDTH)))
    return text if len(text) <= most else text[: most - 1] + "…"


def _wrapped(text: str, width: float, size: float = SMALL) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and _wide(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
