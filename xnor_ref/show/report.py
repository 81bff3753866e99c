"""The page of one run, or of a model file that came without its run."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xnor_ref.charts.chart import Chart
from xnor_ref.errors import XnorRefError
from xnor_ref.packed import PackedNetwork, load_packed
from xnor_ref.show.classes import confusion_section, mistakes_section
from xnor_ref.show.curves import curves, spreads
from xnor_ref.show.layers import costs, costs_section, filters_section
from xnor_ref.show.page import Html, charts, el, facts, is_number, join, missing, page, percent, table
from xnor_ref.show.source import Answers, Run, answers, read_run
from xnor_ref.training.fitting.observer import Observer
from xnor_ref.training.settings.config import FIELDS
from xnor_ref.training.settings.words import train_words


def run_page(path: Path, said: dict[str, Any], program: str, observer: Observer) -> tuple[bytes, dict[str, Chart]]:
    """The page of a run, and its charts by the names of their files.

    Parameters
    ----------
    path : Path
        The run folder.
    said : dict
        Settings of where the data set lies and how much of it is looked at, in place of the run's own.
    program : str
        How this program is called in the command that repeats the run.

    Raises
    ------
    ModelFileError
        There is no run at `path`. Whatever else is missing or damaged is said on the page.
    """
    run = read_run(path)
    found, why = _answers(run, said, observer)
    lines, latent = curves([run]), spreads(run)
    on_images = [
        ("Which classes are confused", confusion_section),
        ("The surest mistakes", mistakes_section),
    ]
    sections = [
        ("Training", _training(run, lines)),
        *((heading, _shown(make, found, why)) for heading, make in on_images),
        ("Latent weights", _latent(run, latent)),
        *_of_network(run.network),
        ("What was run", _how(run, program)),
    ]
    named = {**lines, **{f"latent-{name}": chart for name, chart in latent.items()}}
    return page(f"Run {run.name}", _head(run, found), sections), named


def model_page(path: Path) -> bytes:
    """The page of a model file. Raises ModelFileError."""
    network = load_packed(path)
    return page(f"Model {path.name}", join((_model_facts(network), _sentence(network))), _of_network(network))


def _of_network(network: PackedNetwork | None) -> list[tuple[str, Html]]:
    if network is None:
        return []
    return [("Filters", filters_section(network)), ("Sizes and operations, layer by layer", costs_section(network))]


def _answers(run: Run, said: dict[str, Any], observer: Observer) -> tuple[Answers | None, str]:
    """What the network answers on the validation images, or why that is not known."""
    try:
        return answers(run, said, observer), ""
    except XnorRefError as error:
        return None, f"Not shown, because {error}."


def _shown(make: Callable[[Answers], Html], found: Answers | None, why: str) -> Html:
    return missing(why) if found is None else make(found)


def _head(run: Run, found: Answers | None) -> Html:
    report, known = run.report, []
    if report:
        known += [(f"top-1 of the {kind} network", percent(report[kind]["top1"])) for kind in ("packed", "float")]
        known.append(("images on which the two differ", f"{report['disagreements']:,} of {report['images']:,}"))
    elif found is not None:
        top1 = (found.logits.argmax(axis=1) == found.data.val.labels).mean()
        known.append(("top-1 of the network as it stands", percent(float(top1))))
    epochs = f"{len(run.lines)} of {run.epochs}" if run.epochs else str(len(run.lines))
    known.append(("epochs", epochs))
    best = max(
        (line for line in run.lines if is_number(line.get("val_top1"))), key=lambda o: o["val_top1"], default=None
    )
    if best:
        known.append((f"best validation, epoch {best['epoch']}", percent(best["val_top1"])))
    if run.folder.packed_path.exists():
        known.append(("packed file", f"{run.folder.packed_path.stat().st_size / 1000:,.1f} kB"))
    seconds = [line["seconds"] for line in run.lines if is_number(line.get("seconds"))]
    if seconds:
        known.append(("seconds an epoch, training", f"{sum(seconds) / len(seconds):,.1f}"))
    return join((_about(run), facts(known), *map(missing, run.problems)))


def _about(run: Run) -> Html:
    data, settings = run.data, run.settings
    parts = [settings.get("model"), settings.get("method") and f"method {settings['method']}"]
    parts.append(data.get("data set") and f"on {data['data set']}")
    counts = [f"{data[key]:,} {what}" for key, what in _COUNTS if isinstance(data.get(key), int)]
    return el("p", ", ".join([part for part in parts if part] + counts), class_="dim")


_COUNTS = (("train images", "training images"), ("val images", "validation images"), ("classes", "classes"))


def _training(run: Run, lines: dict[str, Chart]) -> Html:
    if not run.lines:
        return missing("No epoch is finished yet, so there are no curves.")
    text = (
        "Training figures are means over an epoch's augmented images while the network changes; validation is after it."
    )
    one = el("p", "One epoch is done: each curve is one point.", class_="dim") if len(run.lines) == 1 else Html()
    bad = [
        key for key in ("train_loss", "val_loss") if any(v is not None and not is_number(v) for v in run.column(key))
    ]
    odd = (
        missing(f"Numbers of {' and '.join(bad)} are not finite in some epochs; curves are broken there.")
        if bad
        else ""
    )
    keys = ("epoch", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5", "flips", "dead")
    shares = {"train_top1", "val_top1", "val_top5", "flips", "dead"}
    rows = [
        [line.get(k) if k == "epoch" else _figure(line.get(k), k in shares) for k in keys] for line in run.lines
    ]  # fmt: skip
    every = el("details", el("summary", "The figures of every epoch"), table(keys, rows, right=range(len(keys))))
    return join((el("p", text), one, odd, charts(lines.values()), every))


def _figure(value: Any, share: bool) -> str:
    if not is_number(value):
        return "–"
    return percent(value, 2) if share else f"{value:.4f}"


def _latent(run: Run, latent: dict[str, Chart]) -> Html:
    if not latent:
        return Html()
    recorded = any(isinstance(line.get("latent"), dict) for line in run.lines)
    text = (
        "The real weights whose signs are the binary weights, layer by layer and epoch by epoch. Clamped weights "
        "show as peaks at -1 and 1."
        if recorded
        else "The real weights whose signs are the binary weights, after training. They were not recorded by epoch."
    )
    return join((el("p", text), charts(latent.values())))


def _how(run: Run, program: str) -> Html:
    parts: list[Html] = []
    if run.config is not None:
        command = f"{program} train {shlex.join(train_words(run.config))}".rstrip()
        parts += [el("p", "This command repeats the run:"), el("pre", command)]
    else:
        text = "A program trained this network by xnor_ref.fit, which these settings were given or found:"
        parts.append(el("p", text))
    rows = [
        (key, _value(value), FIELDS[key].metadata["help"] if key in FIELDS else "")
        for key, value in run.settings.items()
    ]
    parts.append(el("details", el("summary", "All settings"), table(("setting", "value", "what it is"), rows)))
    for title, values in (("Data", run.data), ("Versions and processor", run.environment)):
        if values:
            parts.append(
                el("details", el("summary", title), table(("", ""), [(k, _value(v)) for k, v in values.items()]))
            )
    return join(parts)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _model_facts(network: PackedNetwork) -> Html:
    rows = costs(network)
    size, whole = (sum(row[key] for row in rows) for key in ("bytes", "float_bytes"))
    known = [
        ("input: channels, height, width", "×".join(map(str, network.input_shape))),
        ("classes", len(network.classes)),
        ("binary weights", f"{sum(row['bits'] for row in rows):,}"),
        ("packed weights", f"{size / 1000:,.1f} kB"),
        ("smaller than in float32", f"{whole / max(size, 1):.1f} times"),
    ]
    return facts(known)


def _sentence(network: PackedNetwork) -> Html:
    told = {"trained": network.metadata["training"], "made by": network.metadata["producer"]}
    rows = [(key, ", ".join(f"{k} {v}" for k, v in value.items())) for key, value in told.items() if value]
    return table(("", ""), [*rows, ("classes", ", ".join(network.classes))])
