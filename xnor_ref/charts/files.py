"""Charts as SVG text and as files: SVG is written here; matplotlib, which is optional, turns the same shapes into PNG
and PDF."""

import html
import io
from importlib.util import find_spec
from pathlib import Path

from xnor_ref.charts.chart import Chart, Figure
from xnor_ref.charts.drawing import Disc, Shape, Stroke, Text, draw
from xnor_ref.errors import InputError
from xnor_ref.storage import PathLike, write_atomically

FORMATS = ("svg", "png", "pdf")
MARKS = (b"xnor_ref chart", b"atplotlib")  # what the files that are written here are known by
LIGHT = {
    "bg": "#ffffff", "fg": "#1c2026", "dim": "#5b6470", "rule": "#d9dde3", "c0": "#2a66b8", "c1": "#c2571a",
    "c2": "#2d8048", "c3": "#a83a7a", "c4": "#7a5cc0", "c5": "#8a6d1d", "c6": "#1d8089", "c7": "#b03a3a",
}  # fmt: skip
DARK = {
    "bg": "#14171b", "fg": "#e6e9ed", "dim": "#a0a9b4", "rule": "#343b45", "c0": "#7fb2ff", "c1": "#ff9f5a",
    "c2": "#6fcf8f", "c3": "#f08cc4", "c4": "#b8a1ff", "c5": "#dcc060", "c6": "#5fd0da", "c7": "#ff8a8a",
}  # fmt: skip
INCH = 96  # units of a chart


def can_raster() -> bool:
    """Whether matplotlib is there, which PNG and PDF need."""
    return find_spec("matplotlib") is not None


def check_plot(path: PathLike, option: str = "--plot") -> None:
    """Raise InputError unless `path` names a kind of file that a chart can be written to here."""
    kind = _kind(path)
    if kind not in FORMATS:
        raise InputError(f"{option} needs a file name that ends in one of {', '.join(FORMATS)}; got {str(path)!r}")
    if kind != "svg" and not can_raster():
        raise InputError(
            f"{option}: {kind} needs matplotlib, which is not installed (pip install 'xnor_ref[plot]'); svg does not"
        )


def save(figure: Figure | Chart, path: PathLike) -> None:
    """Write a figure, in the format that the file's name says. Raises InputError as `check_plot`, OutputError."""
    check_plot(path)
    kind = _kind(path)
    figure = figure if isinstance(figure, Figure) else Figure([figure])
    write_atomically(path, _file_svg(figure) if kind == "svg" else _raster(figure, kind))


def palette() -> str:
    """CSS variables of the colours, light and dark, as the reader's device prefers."""
    light, dark = (";".join(f"--{key}:{value}" for key, value in of.items()) for of in (LIGHT, DARK))
    return f":root{{color-scheme:light dark;{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"


def svg(figure: Figure | Chart, style: str | None = None) -> str:
    """An `<svg>` whose colours are the variables of `palette`; with a `style` of its own, it also has a size."""
    figure = figure if isinstance(figure, Figure) else Figure([figure])
    (width, height), shapes = draw(figure)
    title = html.escape("; ".join(chart.title for chart in figure.charts if chart.title))
    size = f' width="{width:g}" height="{height:g}"' if style else ""
    inside = f"<style>{style}</style>" if style else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"{size} role="img" '
        f'font-family="system-ui,sans-serif"><title>{title}</title>{inside}{"".join(map(_shape, shapes))}</svg>'
    )


def _file_svg(figure: Figure) -> bytes:
    return f"<!-- xnor_ref chart -->\n{svg(figure, palette() + 'svg{background:var(--bg)}')}\n".encode()


def _shape(shape: Shape) -> str:
    colour = f"var(--{shape.colour})"
    if isinstance(shape, Disc):
        x, y = shape.at
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{shape.radius:g}" fill="{colour}"/>'
    if isinstance(shape, Stroke):
        points = "L".join(f"{x:.1f} {y:.1f}" for x, y in shape.points)
        see = f' opacity="{shape.opacity:.2g}"' if shape.opacity < 1 else ""
        if shape.fill:
            return f'<path d="M{points}Z" fill="{colour}"{see}/>'
        dash = f' stroke-dasharray="{shape.dash}"' if shape.dash else ""
        return f'<path d="M{points}" fill="none" stroke="{colour}" stroke-width="{shape.width:g}"{dash}{see}/>'
    x, y = shape.at
    turn = f' transform="rotate({-shape.turn:g} {x:.1f} {y:.1f})"' if shape.turn else ""
    bold = ' font-weight="600"' if shape.bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{shape.size:g}" text-anchor="{shape.anchor}" fill="{colour}"'
        f"{turn}{bold}>{html.escape(shape.text)}</text>"
    )


def _raster(figure: Figure, kind: str) -> bytes:
    """The shapes on an empty sheet of matplotlib, in the light colours."""
    from matplotlib import patches
    from matplotlib.figure import Figure as Sheet  # without pyplot, which would look for a screen
    from matplotlib.lines import Line2D

    (width, height), shapes = draw(figure)
    sheet = Sheet(figsize=(width / INCH, height / INCH), facecolor=LIGHT["bg"])
    axes = sheet.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    point = 72 / INCH
    places = {"start": "left", "middle": "center", "end": "right"}
    for order, shape in enumerate(shapes):
        how = {"color": LIGHT[shape.colour], "zorder": order}
        if isinstance(shape, Disc):
            axes.add_patch(patches.Circle(shape.at, shape.radius, linewidth=0, **how))
        elif isinstance(shape, Text):
            axes.text(
                *shape.at, shape.text, size=shape.size * point, va="baseline", ha=places[shape.anchor],
                rotation=shape.turn, rotation_mode="anchor", parse_math=False,
                weight="bold" if shape.bold else "normal", **how,
            )  # fmt: skip
        elif shape.fill:
            axes.add_patch(patches.Polygon(shape.points, linewidth=0, alpha=shape.opacity, **how))
        else:
            dash = (0, [float(part) / shape.width for part in shape.dash.split(",")]) if shape.dash else "-"
            x, y = zip(*shape.points)
            axes.add_line(Line2D(x, y, linewidth=shape.width * point, linestyle=dash, alpha=shape.opacity, **how))
    buffer = io.BytesIO()
    sheet.savefig(buffer, format=kind, dpi=2 * INCH)
    return buffer.getvalue()


def _kind(path: PathLike) -> str:
    return Path(path).suffix.lower().lstrip(".")
