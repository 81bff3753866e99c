"""The page that compares runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xnor_ref.charts.chart import Chart
from xnor_ref.charts.drawing import COLOURS
from xnor_ref.show.curves import curves
from xnor_ref.show.page import Html, charts, el, is_number, join, missing, page, percent, table
from xnor_ref.show.source import Run, read_run

_PLACES = ("data_dir", "archive", "threads")  # settings that change no result


def compare_page(paths: Sequence[Path]) -> tuple[bytes, dict[str, Chart]]:
    """The page of several runs, and its charts by the names of their files. Raises ModelFileError."""
    runs = [read_run(path) for path in paths]
    for run, name in zip(runs, _names([run.folder.path for run in runs])):
        run.label = name
    lines = curves(runs)
    sections = [
        ("How they ended", _ends(runs)),
        ("Settings that differ", _settings(runs)),
        ("Training", charts(lines.values()) if lines else missing("No run has finished an epoch yet.")),
    ]
    keys = el(
        "p",
        *(el("span", el("i", style=f"background:var(--c{at % COLOURS})"), run.label) for at, run in enumerate(runs)),
        class_="keys",
    )
    troubles = [missing(f"{run.label}: {problem}") for run in runs for problem in run.problems]
    return page(f"{len(runs)} runs", join((keys, *troubles)), sections), lines


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(part[-1:])} ({at + 1})" for at, part in enumerate(parts)]


def _ends(runs: Sequence[Run]) -> Html:
    rows = []
    for run in runs:
        report, last = run.report or {}, run.lines[-1] if run.lines else {}
        best = [v for v in run.column("val_top1") if is_number(v)]
        top1 = report.get("packed", {}).get("top1", last.get("val_top1"))
        seconds = [v for v in run.column("seconds") if is_number(v)]
        rows.append(
            (
                run.label,
                f"{len(run.lines)} of {run.epochs}" if run.epochs else len(run.lines),
                percent(top1, 2),
                percent(max(best, default=None), 2),
                _number(last.get("val_loss")),
                _number(last.get("train_loss")),
                percent(last.get("flips"), 3),
                f"{report['packed_bytes'] / 1000:,.1f} kB" if "packed_bytes" in report else "–",
                f"{sum(seconds) / len(seconds):,.1f}" if seconds else "–",
            )
        )
    head = (
        "run",
        "epochs",
        "top-1",
        "best top-1",
        "loss",
        "training loss",
        "flips a step",
        "packed file",
        "s an epoch",
    )
    note = "Top-1 and loss are those of the last epoch, on validation images."
    return join((table(head, rows, right=range(1, 9)), el("p", note, class_="dim"), *_of_other_data(runs)))


def _of_other_data(runs: Sequence[Run]) -> list[Html]:
    """A warning where the runs were not validated on the same images."""
    digests = {(run.data.get("sha256"), run.data.get("val images")) for run in runs}
    text = "The runs were trained and validated on different images, so their accuracies cannot be compared."
    return [missing(text)] if len(digests) > 1 else []


def _number(value: Any) -> str:
    return f"{value:.4f}" if is_number(value) else "–"


def _settings(runs: Sequence[Run]) -> Html:
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    rows = []
    for key in keys:
        values = [run.settings.get(key) for run in runs]
        if key not in _PLACES and any(value != values[0] for value in values):
            rows.append((key, *("–" if value is None else str(value) for value in values)))
    if not rows:
        return el("p", "All settings that change results are equal.")
    return table(("setting", *(run.label for run in runs)), rows)
