"""Bar charts of measurements, and the paper's Figure 4."""

from typing import Any

from xnor_ref.charts.chart import Bars, Chart, Figure, Line, Mark
from xnor_ref.charts.files import save
from xnor_ref.storage import PathLike


def plot_layers(path: PathLike, rows: list[dict[str, Any]], caption: str) -> None:
    """Draw a group of bars for each layer: how many times faster ours is than each baseline. Raises OutputError."""
    names = list(dict.fromkeys(entry["baseline"] for row in rows for entry in row["baselines"]))
    bars = []
    for index, name in enumerate(names):
        found = [next((e["ratio"] for e in row["baselines"] if e["baseline"] == name), 0.0) for row in rows]
        texts = [f"{ratio:.0f}" if ratio else "" for ratio in found]
        bars.append(_group(found, index, len(names), f"{name} / ours", texts))
    chart = Chart(
        "XNOR layers, times faster than each baseline",
        bars,
        y_label="their time / our time, whole operation",
        x_ticks=[(place, row["layer"]) for place, row in enumerate(rows)],
        size=(max(640, 110 * len(rows)), 420),
    )
    save(Figure([chart], caption=caption), path)


def plot_bars(path: PathLike, values: dict[str, float], label: str, title: str, caption: str) -> None:
    """Draw one horizontal bar for each value, on a logarithmic axis. Raises OutputError."""
    n, least = len(values), min(values.values())
    middles = range(n - 1, -1, -1)  # the first bar is on top
    bars = Bars(
        [least / 2] * n,
        [middle - 0.4 for middle in middles],
        list(values.values()),
        [middle + 0.4 for middle in middles],
        texts=[_digits(value) for value in values.values()],
        lying=True,
    )
    chart = Chart(
        title,
        [bars],
        label,
        x_log=10,
        x_range=(least / 2, 4 * max(values.values())),
        y_ticks=list(zip(middles, values)),
        size=(720, 90 + 30 * n),
    )
    save(Figure([chart], caption=caption), path)


def plot_figure4(path: PathLike, rows: list[dict[str, Any]], memory: list[dict[str, Any]], caption: str) -> None:
    """Draw the paper's Figure 4: memory (a), and speed-up against channels (b) and filter size (c).

    Raises OutputError.
    """
    bars = []
    for index, (key, label) in enumerate((("double", "double"), ("float32", "float32"), ("bits", "bits"))):
        sizes = [row[key] / 2**20 for row in memory]
        bars.append(_group(sizes, index, 3, label, [_digits(size) for size in sizes], bottom=0.1))
    ticks = [(place, row["network"]) for place, row in enumerate(memory)]
    charts = [Chart("(a) memory", bars, y_label="MiB of parameters", y_log=10, x_ticks=ticks, size=(420, 400))]
    for curve, title, label in (
        ("channels", "(b) 3x3 filters", "channels"),
        ("filter", "(c) 256 channels", "filter size"),
    ):
        points = [row for row in rows if row["curve"] == curve]
        x = [row[curve] for row in points]
        lines: list[Mark] = [
            Line(x, [row["theory"] for row in points], "theory, paper", -1),
            Line(x, [row["theory_with_scales"] for row in points], "theory, with A and K", -1, "2,3"),
        ]
        for index, name in enumerate(dict.fromkeys(name for row in points for name in row["measured"])):
            for how, dash in (("kernel", "5,4"), ("whole", None)):
                y = [row["measured"][name][how] if name in row["measured"] else None for row in points]
                lines.append(Line(x, y, f"{name} / ours, {how}", index, dash, dots=True))
        log = 2 if curve == "channels" else 0
        charts.append(Chart(title, lines, label, "speed-up", x_log=log, y_zero=True, size=(420, 400)))
    save(Figure(charts, 3, caption), path)


def _group(values: list[float], index: int, of: int, label: str, texts: list[str], bottom: float = 0.0) -> Bars:
    """Return bar number `index` of every group of `of` bars; the groups' centres are 0, 1, 2, ..."""
    width = 0.8 / of
    left = [place - 0.4 + index * width for place in range(len(values))]
    return Bars(left, [bottom] * len(values), [x + width for x in left], values, label, index, texts)


def _digits(value: float) -> str:
    """Format a number with three digits, or more if it has more before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
