"""How training went, epoch by epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xnor_ref.charts.chart import Area, Chart, Line
from xnor_ref.show.page import is_number
from xnor_ref.show.source import Run

DASH = "5,4"  # of training; validation is solid
SHOWN = 8  # epochs in a picture of latent weights, at most
_SPREAD = 1.7  # rows that the highest bar of a histogram takes


def numbers(values: Sequence[Any], factor: float = 1.0) -> list[float | None]:
    """Finite numbers times a factor, None for anything else: files hold null and NaN too."""
    return [factor * value if is_number(value) else None for value in values]


CURVES: tuple[tuple[str, str, str, tuple[tuple[str, str], ...], float, int], ...] = (
    # file name, title, y axis, (column, label), factor, base of a logarithmic axis
    ("loss", "Loss", "cross-entropy", (("train_loss", "training"), ("val_loss", "validation")), 1, 0),
    ("accuracy", "Top-1 accuracy", "%", (("train_top1", "training"), ("val_top1", "validation")), 100, 0),
    ("learning-rate", "Learning rate at the end of each epoch", "", (("lr", ""),), 1, 0),
    ("flips", "Binary weights that flip in a step", "%", (("flips", ""),), 100, 0),
    ("dead", "Dead latent weights (outside [-1, 1])", "%", (("dead", ""),), 100, 0),
)  # fmt: skip


def curves(runs: Sequence[Run]) -> dict[str, Chart]:
    """Charts by file name, without those of which no run has a number.

    One run has a colour for each of its columns; several have a colour each, and training is dashed.
    """
    charts = {}
    for name, title, unit, columns, factor, log in CURVES:
        marks = []
        for number, run in enumerate(runs):
            for at, (key, label) in enumerate(columns):
                y = numbers(run.column(key), factor)
                if not any(value is not None for value in y):
                    continue
                training = key.startswith("train")
                of_run = run.label if len(runs) > 1 and (at == len(columns) - 1) else None
                marks.append(
                    Line(
                        run.column("epoch"),
                        y,
                        of_run if len(runs) > 1 else label or None,
                        number if len(runs) > 1 else (1 if training else 0),
                        DASH if training else None,
                        dots=len(y) <= 20 and not training,
                    )
                )
        if marks:
            dashed = len(runs) > 1 and len(columns) > 1
            title = f"{title}; dashed: training" if dashed else title
            last = int(max(max(mark.x) for mark in marks))
            ticks = [(e, str(e)) for e in range(1, last + 1)] if last <= 8 else None
            charts[name] = Chart(title, marks, "epoch", unit, y_log=log, x_ticks=ticks)
    return charts


def spreads(run: Run) -> dict[str, Chart]:
    """Histograms of latent weights by layer, one above the other from the first epoch to the last.

    From metrics.jsonl; where that has none, from the trained network alone.
    """
    found: dict[str, list[tuple[str, float, list[float]]]] = {}
    every = max(1, -(-len(run.lines) // SHOWN))
    lines = run.lines[::-1][::every][::-1]  # the last one is always there
    for line in lines:
        latent = line.get("latent")
        for name, of in latent.items() if isinstance(latent, dict) else ():
            if isinstance(of, dict) and is_number(of.get("reach")) and _are_counts(of.get("counts")):
                found.setdefault(name, []).append((f"epoch {line['epoch']}", of["reach"], of["counts"]))
    for name, values in run.latent.items() if not found else ():
        reach = float(np.abs(values).max())
        if 0 < reach < np.inf:
            found[name] = [("trained", reach, np.histogram(values, 40, (-reach, reach))[0].tolist())]
    return {name: _spread(name, rows) for name, rows in found.items()}


def _are_counts(counts: Any) -> bool:
    return isinstance(counts, list) and len(counts) > 1 and all(map(is_number, counts))


def _spread(name: str, rows: list[tuple[str, float, list[float]]]) -> Chart:
    densities = [(reach, np.array(counts) / (max(sum(counts), 1) * (2 * reach or 1.0))) for _, reach, counts in rows]
    highest = max(float((values * reach).max()) for reach, values in densities) or 1.0
    widest = max(reach for reach, _ in densities) or 1.0
    marks, ticks, n = [], [], len(rows)
    for at, ((label, *_), (reach, values)) in enumerate(zip(rows, densities)):
        base = float(n - 1 - at)
        edges = np.linspace(-reach, reach, len(values) + 1)
        x = np.repeat(edges, 2)[1:-1]
        top = base + _SPREAD * np.repeat(values * reach, 2) / highest
        marks.append(Area(x.tolist(), [base] * len(x), top.tolist(), 0, 0.35))
        ticks.append((base, label))
    return Chart(
        name, marks, "latent weight", y_ticks=ticks, x_range=(-widest, widest), y_range=(-0.1, n - 1 + _SPREAD + 0.1),
        size=(360, 90 + 20 * n + 30),
    )  # fmt: skip
