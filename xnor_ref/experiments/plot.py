"""Charts of an experiment: top-1 of each row beside the paper's, and by epoch."""

from pathlib import Path
from typing import Any

from xnor_ref.charts.chart import Area, Bars, Chart, Dots, Figure, Line, Mark
from xnor_ref.charts.files import save
from xnor_ref.experiments.verdict import MARGIN

NAME = "plot.svg"
_NONE = -1  # a colour that no row has


def plot(results: dict[str, Any], path: Path) -> None:
    """Plot bars of top-1 (with standard deviations over seeds), and curves by epoch: validation solid, training dashed.

    Training accuracy is the running accuracy over each epoch's augmented images. Raises OutputError.
    """
    if "judged" in results:
        _plot_judged(results, path)
        return
    rows = [row for row in results["rows"] if row["runs"]]
    data = results["dataset"]
    caption = (
        f"{data['name']}, {data['train']:,} training images, {', '.join(results['models'])}, "
        f"seeds {', '.join(map(str, results['seeds']))}"
    )
    save(Figure([_scores(results["title"], rows), _by_epoch(rows)], 2, caption), path)


def _scores(title: str, rows: list[dict[str, Any]]) -> Chart:
    here = [100 * row["top1"]["mean"] for row in rows]
    marks: list[Mark] = [_bars([place - 0.2 for place in range(len(rows))], here, "here", 0)]
    for place, (row, top1) in enumerate(zip(rows, here)):
        if row["top1"]["std"]:
            reach = 100 * row["top1"]["std"]
            marks.append(Dots([place - 0.34], [top1], None, _NONE, [top1 - reach], [top1 + reach], "y", 0))
    printed = [(place + 0.2, row["paper"]["top1"]) for place, row in enumerate(rows) if row["paper"]]
    if printed:
        places, theirs = zip(*printed)
        marks.append(_bars(places, theirs, "paper, ImageNet", _NONE))
    ticks = [(place, row["name"]) for place, row in enumerate(rows)]
    return Chart(title, marks, y_label="top-1, %", x_ticks=ticks, size=(560, 420))


def _bars(middles: Any, values: Any, label: str, colour: int) -> Bars:
    ends = [m - 0.2 for m in middles], [0.0] * len(values), [m + 0.2 for m in middles], list(values)
    return Bars(*ends, label, colour, [f"{value:.1f}" for value in values])


def _by_epoch(rows: list[dict[str, Any]]) -> Chart:
    marks = []
    for index, row in enumerate(rows):
        lines = [run["by_epoch"] for run in row["runs"]]
        epochs = [line["epoch"] for line in lines[0]]
        for key, dash in (("val_top1", None), ("train_top1", "5,4")):
            mean = [100 * sum(run[at][key] for run in lines) / len(lines) for at in range(len(epochs))]
            marks.append(Line(epochs, mean, None if dash else row["name"], index, dash))
    return Chart("validation (solid), training (dashed)", marks, "epoch", "top-1, %", size=(560, 420))


def _plot_judged(results: dict[str, Any], path: Path) -> None:
    """Plot each arm's top-1 at its best rate, for each seed, and each claim's difference with its 95 % interval."""
    arms, claims = results["judged"]["arms"], results["judged"]["claims"]
    height = 110 + 26 * max(len(arms), len(claims), 8)
    scores = [Dots(arm["top1"], [place] * len(arm["top1"])) for place, arm in enumerate(arms)]
    ticks = [(place, arm["arm"]) for place, arm in enumerate(arms)]
    left = Chart(results["title"], scores, "top-1, %", y_ticks=ticks, size=(560, height))
    places = range(len(claims))
    differences, low, high = ([claim[key] for claim in claims] for key in ("difference", "low", "high"))
    printed = [(claim["paper"], place) for place, claim in enumerate(claims) if claim["paper"] is not None]
    marks: list[Mark] = [
        Area((-MARGIN, MARGIN), (-0.5, -0.5), (len(claims) - 0.5, len(claims) - 0.5), _NONE, 0.25),
        Dots(differences, places, "difference, 95 % interval", 0, low, high),
    ]
    if printed:
        theirs, at = zip(*printed)
        marks.append(Dots(theirs, at, "paper, ImageNet", 1))
    names = [(place, f"{claim['other']} - {claim['base']}") for place, claim in enumerate(claims)]
    title = "grey: what counts as the same"
    right = Chart(title, marks, "difference, points of top-1", y_ticks=names, size=(560, height))
    save(Figure([left, right], 2), path)
