"""Results of an experiment: collected from its run folders, as JSON and as a Markdown table beside the paper's."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xnor_ref.datasets import Dataset
from xnor_ref.errors import ModelFileError
from xnor_ref.experiments import approximation, mst
from xnor_ref.experiments.catalogue import EXPERIMENTS
from xnor_ref.experiments.mst import table
from xnor_ref.experiments.plan import Plan, Run, differing
from xnor_ref.experiments.verdict import MARGIN, best_rates, judged
from xnor_ref.storage import write_atomically
from xnor_ref.training.fitting.observer import Observer
from xnor_ref.training.report import finished_report
from xnor_ref.training.storing.float_file import load_float
from xnor_ref.training.storing.runs import RunFolder

RESULTS, TABLE = "results.json", "table.md"
FORMAT = "xnor_ref experiment 3"
_VERSIONS = ("xnor_ref", "python", "numpy", "numba", "blas", "cpu", "threads")
_NOT_COMPARABLE = (
    "The paper's figures are of ImageNet at 224 pixels and of longer training: compare the differences between rows, "
    "not the figures."
)


def write(
    plan: Plan,
    data: Dataset,
    folders: Mapping[str, Path],
    failures: Mapping[str, str],
    *,
    approximation: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Write results.json and table.md from the finished runs of a plan. Return the results.

    Parameters
    ----------
    folders : the folder of each finished run, by its name
    failures : why a run could not be finished, by its name
    approximation : whether to measure the errors of `approximation`, too, for the first seed of each row
    """
    models = list(dict.fromkeys(run.config.model for run in plan.runs))
    rows = collected(plan, folders, failures)
    results: dict[str, Any] = {
        "format": FORMAT,
        "experiment": plan.experiment.name,
        "title": plan.experiment.title,
        "question": plan.experiment.question,
        "notes": list(plan.experiment.notes),
        "command": plan.command,
        "budget": plan.budget,
        "dataset": {
            "name": data.name,
            "classes": data.num_classes,
            "train": len(data.train),
            "val": len(data.val),
            "pixels": data.image_size,
            "sha256": data.sha256,
        },
        "models": models,
        "epochs": sorted({run.config.epochs for run in plan.runs}),
        "seeds": list(plan.seeds),
        "complete": all(run.name in folders for run in needed(plan, rows, plan.runs)),
        "versions": _versions(list(folders.values())),
        "seconds": sum(run["seconds"] for row in rows for run in row["runs"]),
        "rows": rows,
    }
    if plan.experiment.compression:
        for run in (run for row in rows for run in row["runs"]):
            run["compression"] = mst.figures(Path(run["folder"]) / "model.safetensors")
    if plan.experiment.claims:
        results["judged"] = judged(rows, plan.experiment.claims, plan.seeds[0])
    if approximation:
        results["approximation"] = _approximation(plan, data, folders, observer or Observer())
    write_atomically(plan.folder / RESULTS, json.dumps(results, indent=2).encode() + b"\n")
    write_atomically(plan.folder / TABLE, markdown(results).encode())
    return results


def collected(plan: Plan, folders: Mapping[str, Path], failures: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the results of each row so far, as in results.json; `folders` and `failures` as for `write`."""
    settings, rows = differing(plan), []
    for row in plan.experiment.rows:
        runs = [run for run in plan.runs if run.row.name == row.name]
        done = [_run_figures(folders[run.name], run.seed) for run in runs if run.name in folders]
        if row.name not in plan.chosen and not done:
            continue
        rows.append(
            {
                "name": row.name,
                "label": row.label,
                "base": row.base or plan.experiment.rows[0].name,
                "arm": row.arm,
                "settings": settings[row.name],
                "paper": None if row.paper is None else vars(row.paper),
                "runs": done,
                "failures": {run.name: failures[run.name] for run in runs if run.name in failures},
                "top1": _spread([run["top1"] for run in done]),
                "top5": _spread([run["top5"] for run in done]),
            }
        )
    return rows


def needed(plan: Plan, rows: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> list[Run]:
    """Return the runs that an experiment needs.

    A control needs further seeds only at each arm's best learning rate. Until that is known, its first rate is used.

    Parameters
    ----------
    rows : as `collected` returns them
    runs : the plan's runs, or some of them
    """
    if not plan.experiment.claims:
        return list(runs)
    first = plan.seeds[0]
    best = {row.arm or "": row.name for row in reversed(plan.experiment.rows)}
    best.update(best_rates(rows, first))
    return [run for run in runs if run.seed == first or run.row.name == best[run.row.arm or ""]]


def _run_figures(folder: Path, seed: int) -> dict[str, Any]:
    run = RunFolder(folder)
    report = finished_report(run)
    if report is None:
        raise ModelFileError(f"the run in {folder} was changed after it was finished")
    lines = run.metrics()
    per_epoch = report["seconds_per_epoch"]
    spent = sum(line["seconds"] + line["val_seconds"] for line in lines)
    return {
        "seed": seed,
        "folder": str(folder),
        **{key: report["packed"][key] for key in ("top1", "top5", "loss")},
        "halves": report["packed_halves"],
        **{key: report[key] for key in ("best_val_top1", "best_epoch", "float_bytes", "packed_bytes")},
        "seconds": spent if per_epoch is None else per_epoch * report["epochs"],
        "by_epoch": [
            {key: line[key] for key in ("epoch", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5")}
            for line in lines
        ],
    }


def _spread(values: list[float]) -> dict[str, Any] | None:
    """Return the mean and standard deviation (n - 1 in the denominator); None for the latter with one value."""
    if not values:
        return None
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def _versions(folders: list[Path]) -> dict[str, list[Any]]:
    """Return the versions that the runs were computed with: all values of each entry, usually one."""
    found: dict[str, list[Any]] = {key: [] for key in _VERSIONS}
    for folder in folders:
        env = json.loads((folder / "env.json").read_bytes())
        for key in _VERSIONS:
            if env.get(key) not in found[key]:
                found[key].append(env.get(key))
    return found


def _approximation(plan: Plan, data: Dataset, folders: Mapping[str, Path], observer: Observer) -> dict[str, Any]:
    networks = {}
    runs = [run for run in plan.runs if run.seed == plan.seeds[0] and run.name in folders]
    for index, run in enumerate(runs):
        observer.progress("measuring approximation errors", index, len(runs))
        model, _ = load_float(folders[run.name] / "float.safetensors")
        layers = approximation.network_errors(model, data)
        networks[run.row.name] = {"layers": layers, "mean": approximation.mean_errors(layers)}
    observer.progress("measuring approximation errors", len(runs), len(runs))
    return {"images": approximation.IMAGES, "networks": networks}


# --- Markdown --------------------------------------------------------------------------------------------------


def markdown(results: dict[str, Any]) -> str:
    """Return the table of an experiment as Markdown, with notes for its reader."""
    parts = _figures(results), _notes(results), _details(results, "##")
    lines = [line for part in parts if part for line in ("", *part)]
    return "\n".join([f"# {results['title']}", "", results["question"], *lines]) + "\n"


def _figures(results: dict[str, Any]) -> list[str]:
    """Return the table, the command and the data."""
    data, seeds = results["dataset"], results["seeds"]
    several = len(seeds) > 1
    lines = [
        *(_judged(results) if "judged" in results else _table(results["rows"])),
        "",
        f"`python cli.py {results['command']}`",
        "",
        f"Data: {data['name']}, {data['train']:,} training and {data['val']:,} validation images of "
        f"{data['pixels']}x{data['pixels']}, {data['classes']} classes. Network: {', '.join(results['models'])}. "
        f"Epochs: {', '.join(map(str, results['epochs']))}. Seed{'s' if several else ''}: "
        f"{', '.join(map(str, seeds))}. Figures are those of the packed networks after the last epoch, in percent"
        + (", mean ± standard deviation over the seeds." if several and "judged" not in results else "."),
        "",
        f"{_versions_text(results['versions'])}; {clock(results['seconds'])} of training in all.",
    ]
    return lines if results["complete"] else [*lines, "", "Not all runs are finished."]


def _notes(results: dict[str, Any]) -> list[str]:
    """Return where the paper prints its numbers, and notes on them."""
    sources = dict.fromkeys(row["paper"]["source"] for row in results["rows"] if row["paper"])
    notes = ([f"Paper: {'; '.join(sources)}. {_NOT_COMPARABLE}"] if sources else []) + results["notes"]
    return "\n\n".join(notes).splitlines()


def _details(results: dict[str, Any], heading: str) -> list[str]:
    """Return other measurements of an experiment's networks, under a `heading`."""
    if any("compression" in run for row in results["rows"] for run in row["runs"]):
        return mst.lines(results, heading)
    return _approximation_lines(results, heading) if "approximation" in results else []


def _table(rows: list[dict[str, Any]]) -> list[str]:
    with_paper = any(row["paper"] for row in rows)
    head = ["row", "settings", "top-1", "top-5", "difference", "packed", "time a run"]
    if with_paper:
        head[5:5] = ["paper, ImageNet", "difference there"]
    by_name = {row["name"]: row for row in rows}
    cells = []
    for row in rows:
        base = by_name.get(row["base"], row)
        ours = [str(row["label"]), _settings(row["settings"]), _percent(row["top1"]), _percent(row["top5"])]
        if row["failures"]:
            ours[2] += " (not finite: " + ", ".join(row["failures"]) + ")"
        runs = row["runs"]
        ours.append(_difference(row, base, lambda r: r["top1"] and 100 * r["top1"]["mean"]))
        if with_paper:
            ours += [_paper(row["paper"]), _difference(row, base, lambda r: r["paper"] and r["paper"]["top1"])]
        ours.append(f"{runs[0]['packed_bytes'] / 1000:,.0f} kB" if runs else "-")
        ours.append(clock(statistics.fmean(run["seconds"] for run in runs)) if runs else "-")
        cells.append(ours)
    return table(head, cells)


def _judged(results: dict[str, Any]) -> list[str]:
    """Return tables of the claims with verdicts and of the arms at their best learning rates."""
    found, first = results["judged"], results["seeds"][0]
    claims = [["claim", "paper", "here, 95 % interval", "verdict", "because"]]
    for claim in found["claims"]:
        here = f"{claim['difference']:+.1f} ({claim['low']:+.1f} to {claim['high']:+.1f})"
        paper = "-" if claim["paper"] is None else f"{claim['paper']:+.1f}"
        text = f"{claim['text']} ({claim['other']} - {claim['base']})"
        claims.append([text, paper, here, claim["verdict"], claim["why"]])
    by_name = {row["name"]: row for row in results["rows"]}
    arms = [["arm", "best lr", "seeds", "top-1", "time a run"]]
    for arm in found["arms"]:
        row = by_name[arm["row"]]
        spread = _percent(_spread([top / 100 for top in arm["top1"]]))
        seconds = statistics.fmean(run["seconds"] for run in row["runs"]) if row["runs"] else None
        time = "-" if seconds is None else clock(seconds)
        arms.append([arm["arm"], f"{row['settings']['lr']:g}", str(len(arm["top1"])), spread, time])
    return [
        *table(claims[0], claims[1:]),
        "",
        f"Differences are in points of top-1. Each arm has the learning rate that was best with seed {first}; the "
        f"figures are of the other seeds, mean ± standard deviation. The same: the 90 % interval lies within "
        f"{MARGIN:g} points. Better or worse: the 95 % interval leaves out 0, and the difference is larger than that.",
        "",
        *table(arms[0], arms[1:]),
    ]


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items() if value not in ({}, [])) or "-"


def _percent(value: dict[str, Any] | None) -> str:
    if value is None:
        return "-"
    spread = "" if value["std"] is None else f" ± {100 * value['std']:.1f}"
    return f"{100 * value['mean']:.1f}{spread}"


def _paper(paper: dict[str, Any] | None) -> str:
    if paper is None:
        return "-"
    return f"{paper['top1']:.1f}" + ("" if paper["top5"] is None else f" / {paper['top5']:.1f}")


def _difference(row: dict[str, Any], base: dict[str, Any], of: Any) -> str:
    """Return the difference in top-1 to the row that this one is compared with."""
    if row is base or of(row) is None or of(base) is None:
        return "-"
    return f"{of(row) - of(base):+.1f}"


def _versions_text(versions: Mapping[str, list[Any]]) -> str:
    def text(key: str) -> str:
        return " and ".join(map(str, versions[key])) or "unknown"

    return (
        f"xnor_ref {text('xnor_ref')}, Python {text('python')}, NumPy {text('numpy')}, Numba {text('numba')}, "
        f"{text('blas')}; {text('cpu')}, {text('threads')} threads"
    )


def _approximation_lines(results: dict[str, Any], heading: str) -> list[str]:
    measured = results["approximation"]
    labels = {row["name"]: row["label"] for row in results["rows"]}
    columns = ("number", "alpha", "alpha K", "c alpha K", "c alpha K valid", "o", "ohw", "o-hw", "o-h-w", "trained")
    means = {labels[name]: network["mean"] for name, network in measured["networks"].items()}
    cells = [[label, *(f"{mean[c]:.3f}" if c in mean else "-" for c in columns)] for label, mean in means.items()]
    return [
        f"{heading} Approximation of the real convolution",
        "",
        "||Y - Y'|| / ||Y||, Y the real convolution of what enters a layer with its latent weights, Y' its "
        "approximation; the mean over the binary convolutions of each trained network (every layer is in "
        f"{RESULTS}). Errors are taken on {measured['images']} validation images, fitted scales are fitted by least "
        f"squares on {measured['images']} training images.",
        "",
        *table(["network", *columns], cells),
        "",
        "number: one fitted number times the binary convolution; alpha: eq. 6 times one fitted number; alpha K: "
        "eq. 11, nothing fitted; c alpha K: times one fitted number, with plain K or over valid taps; o to o-h-w: "
        "Gamma of XNOR-Net++, fitted; trained: the network's own Gamma times one fitted number.",
    ]


def clock(seconds: float) -> str:
    """'45 s', '12 min', '3.4 h', '25 days'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 86400:,.0f} days"


# --- all experiments in one document ---------------------------------------------------------------------------

_PREFACE = """\
# The papers' tables and figures

Each table is computed by the command under it. `difference` is top-1 less that of
the first row (in table 2 of the network's own full-precision row, in figure 5 BinaryNet's of XNOR-Net's); `difference
there` is the same in the paper's figures.
The document is put together from what is finished:

```sh
python cli.py reproduce --list                     # the experiments and their rows
python cli.py reproduce table3b --dry-run          # what is left to do, and how long it would take
python cli.py reproduce table3b                    # minutes: a small network on the data set shapes
python cli.py reproduce control-binaryconnect --seeds 4 --dry-run   # one of the controls; `controls` are all of them
python cli.py reproduce --summary tables.md        # this document
```

`--budget full` takes the experiment's own network and Tiny ImageNet (or a part of it: `--archive`, `--limit-classes`,
`--limit-train`), hours a row; `--seeds N` repeats every row. All rows of a table have the same seed, the same order of
the same images, the same epochs and the same optimiser; they differ in the column `settings` and in nothing else. A run
that is finished is not computed again, also if another table has made it; one that was stopped goes on.

A control settles a claim of the paper that did not come out. Each arm is trained with several learning rates; the first
seed chooses one, and the others are judged.
"""


KEPT = "<!-- what follows is kept by reproduce --summary -->"


def summary(root: Path, before: str = "") -> str:
    """Return a Markdown document of all experiments: their results under `root`, or the command that makes them.

    The document ends with the line `KEPT`, followed by the text after that line in `before`. Raises ModelFileError if a
    results.json is damaged.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in EXPERIMENTS}
    for path in sorted(root.glob(f"*/{RESULTS}")):
        results = _read(path)
        if results["experiment"] in found:
            found[results["experiment"]].append(results)
    parts = [_PREFACE]
    for name, experiment in EXPERIMENTS.items():
        lines = [f"## {experiment.title}", "", experiment.question]
        lines += ["", *(_notes(found[name][0]) if found[name] else [f"Not run yet: `reproduce {name}`."])]
        for results in found[name]:
            lines += ["", f"### {results['dataset']['name']}, budget {results['budget']}", "", *_figures(results)]
            lines += ["", *details] if (details := _details(results, "####")) else []
        parts.append("\n".join(lines).rstrip() + "\n")
    return "\n".join([*parts, KEPT + (before.partition(KEPT)[2] or "\n")])


def _read(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_bytes())
        if results["format"] != FORMAT:
            raise ValueError(f"format {results['format']!r}")
        markdown(results)
        return results
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path} is not a results file of this program: {error!r}") from None
