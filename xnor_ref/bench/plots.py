"""Bar charts of what was measured, and the paper's Figure 4; needs matplotlib."""

from typing import Any

from xnor_ref.plotting import save, subplots
from xnor_ref.storage import PathLike


def plot_layers(path: PathLike, rows: list[dict[str, Any]], caption: str) -> None:
    """A group of bars for each layer: how many times faster we are than each baseline. Raises OutputError."""
    names = list(dict.fromkeys(entry["baseline"] for row in rows for entry in row["baselines"]))
    figure, axes = subplots(1, 1, (max(7, 1.7 * len(rows)), 4.8))
    width = 0.8 / max(1, len(names))
    for index, name in enumerate(names):
        found = [next((e["ratio"] for e in row["baselines"] if e["baseline"] == name), 0.0) for row in rows]
        places = [position + (index - (len(names) - 1) / 2) * width for position in range(len(rows))]
        bars = axes[0].bar(places, found, width, label=f"{name} / ours")
        axes[0].bar_label(bars, [f"{ratio:.0f}" if ratio else "" for ratio in found], fontsize=6)
    axes[0].set_xticks(range(len(rows)), [_two_lines(row["layer"]) for row in rows], fontsize=8)
    axes[0].set_ylabel("their time / our time, whole operation")
    axes[0].set_title("XNOR layers, times faster than each baseline")
    if names:
        axes[0].legend(fontsize=8)
    figure.supxlabel(caption, fontsize=7)
    save(figure, path, dpi=150)


def plot_bars(path: PathLike, values: dict[str, float], label: str, title: str, caption: str) -> None:
    """One horizontal bar for each value, on a logarithmic axis. Raises OutputError."""
    figure, axes = subplots(1, 1, (8, 0.45 * len(values) + 1.8))
    bars = axes[0].barh(list(values), list(values.values()))
    axes[0].bar_label(bars, [_digits(value) for value in values.values()], padding=3, fontsize=8)
    axes[0].set_xscale("log")
    axes[0].margins(x=0.15)
    axes[0].invert_yaxis()
    axes[0].set_xlabel(label)
    axes[0].set_title(title)
    figure.supxlabel(caption, fontsize=7)
    save(figure, path, dpi=150)


def plot_figure4(path: PathLike, rows: list[dict[str, Any]], memory: list[dict[str, Any]], caption: str) -> None:
    """The paper's Figure 4: memory (a), and speed-up against channels (b) and filter size (c). Raises OutputError."""
    figure, axes = subplots(1, 3, (15, 4.8))
    for offset, (key, label) in enumerate((("double", "double"), ("float32", "float32"), ("bits", "bits"))):
        places = [position + (offset - 1) * 0.27 for position in range(len(memory))]
        bars = axes[0].bar(places, [row[key] / 2**20 for row in memory], 0.27, label=label)
        axes[0].bar_label(bars, [_digits(row[key] / 2**20) for row in memory], fontsize=7)
    axes[0].set_xticks(range(len(memory)), [row["network"] for row in memory])
    axes[0].set(yscale="log", ylabel="MiB of parameters", title="(a) memory")
    axes[0].legend(fontsize=8)
    for panel, curve, title in ((axes[1], "channels", "(b) 3x3 filters"), (axes[2], "filter", "(c) 256 channels")):
        points = [row for row in rows if row["curve"] == curve]
        x = [row[curve] for row in points]
        panel.plot(x, [row["theory"] for row in points], "k-", label="theory, paper")
        panel.plot(x, [row["theory_with_scales"] for row in points], "k:", label="theory, with A and K")
        for index, name in enumerate(dict.fromkeys(name for row in points for name in row["measured"])):
            for how, style in (("kernel", "o--"), ("whole", "s-")):
                shown = [row["measured"][name][how] if name in row["measured"] else float("nan") for row in points]
                panel.plot(x, shown, style, color=f"C{index}", markersize=4, label=f"{name} / ours, {how}")
        panel.set(title=title, ylabel="speed-up", xlabel="channels" if curve == "channels" else "filter size")
        if curve == "channels":
            panel.set_xscale("log", base=2)
        panel.set_ylim(bottom=0)
        panel.legend(fontsize=7)
    figure.supxlabel(caption, fontsize=7)
    save(figure, path, dpi=150)


def _digits(value: float) -> str:
    """Three digits, and all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _two_lines(name: str) -> str:
    image, _, rest = name.partition(" ")
    return f"{image}\n{rest}"
