"""A picture of an experiment: top-1 of each row beside the paper's, and by epoch. Needs matplotlib."""

from pathlib import Path
from typing import Any

from xnor_ref.plotting import save, subplots

NAME = "plot.png"


def plot(results: dict[str, Any], path: Path) -> None:
    """Bars of top-1 (with standard deviations over seeds), and curves by epoch: validation solid, training dashed.

    The training accuracy is the running one over each epoch's augmented images. Raises OutputError.
    """
    rows = [row for row in results["rows"] if row["runs"]]
    figure, (left, right) = subplots(1, 2, (13, 5))
    places = range(len(rows))
    spread = [100 * (row["top1"]["std"] or 0.0) for row in rows]
    bars = left.bar(
        [place - 0.2 for place in places], [100 * row["top1"]["mean"] for row in rows], 0.4, yerr=spread, label="here"
    )
    left.bar_label(bars, fmt="%.1f", fontsize=8)
    printed = [(place, row["paper"]["top1"]) for place, row in zip(places, rows) if row["paper"]]
    if printed:
        x, height = zip(*printed)
        theirs = left.bar([place + 0.2 for place in x], height, 0.4, label="paper, ImageNet", color="tab:gray")
        left.bar_label(theirs, fmt="%.1f", fontsize=8)
    left.set_xticks(places, [row["name"] for row in rows], rotation=30, ha="right", fontsize=8)
    left.set(ylabel="top-1, %", title=results["title"])
    left.legend(fontsize=8)
    for index, row in enumerate(rows):
        lines = [run["by_epoch"] for run in row["runs"]]
        epochs = [line["epoch"] for line in lines[0]]
        for key, style in (("val_top1", "-"), ("train_top1", "--")):
            mean = [100 * sum(run[at][key] for run in lines) / len(lines) for at in range(len(epochs))]
            right.plot(epochs, mean, style, color=f"C{index}", label=row["name"] if style == "-" else None)
    right.set(xlabel="epoch", ylabel="top-1, %", title="validation (solid), training (dashed)")
    right.legend(fontsize=8)
    data = results["dataset"]
    figure.supxlabel(
        f"{data['name']}, {data['train']:,} training images, {', '.join(results['models'])}, "
        f"seeds {', '.join(map(str, results['seeds']))}",
        fontsize=8,
    )
    save(figure, path)
