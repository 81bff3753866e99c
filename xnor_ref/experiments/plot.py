"""A picture of an experiment: top-1 of each row beside the paper's, and by epoch. Needs matplotlib."""

from pathlib import Path
from typing import Any

from xnor_ref.experiments.verdict import MARGIN
from xnor_ref.plotting import save, subplots

NAME = "plot.png"


def plot(results: dict[str, Any], path: Path) -> None:
    """Bars of top-1 (with standard deviations over seeds), and curves by epoch: validation solid, training dashed.

    The training accuracy is the running one over each epoch's augmented images. Raises OutputError.
    """
    if "judged" in results:
        _plot_judged(results, path)
        return
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


def _plot_judged(results: dict[str, Any], path: Path) -> None:
    """Top-1 of each arm at its best rate, seed by seed, and the difference of each claim with its 95 % interval."""
    arms, claims = results["judged"]["arms"], results["judged"]["claims"]
    figure, (left, right) = subplots(1, 2, (13, 1.5 + 0.25 * max(len(arms), len(claims), 8)))
    for place, arm in enumerate(arms):
        left.plot(arm["top1"], [place] * len(arm["top1"]), "o", color="C0", alpha=0.6)
    left.set_yticks(range(len(arms)), [arm["arm"] for arm in arms], fontsize=8)
    left.set(xlabel="top-1, %", title=results["title"])
    for place, claim in enumerate(claims):
        reach = [[claim["difference"] - claim["low"]], [claim["high"] - claim["difference"]]]
        right.errorbar(claim["difference"], place, xerr=reach, fmt="o", color="C0", capsize=3)
    printed = [(claim["paper"], place) for place, claim in enumerate(claims) if claim["paper"] is not None]
    if printed:
        right.plot(*zip(*printed), "x", color="tab:gray", label="paper, ImageNet")
        right.legend(fontsize=8)
    right.axvspan(-MARGIN, MARGIN, color="tab:gray", alpha=0.2)
    right.set_yticks(range(len(claims)), [f"{claim['other']} - {claim['base']}" for claim in claims], fontsize=8)
    right.set(xlabel="difference, points of top-1", title="grey: what counts as the same")
    save(figure, path)
