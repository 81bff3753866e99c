"""`reproduce`: train the papers' tables and figures."""

import tempfile
from pathlib import Path
from typing import Any

import click

from xnor_ref.cli import options
from xnor_ref.cli.group import Command
from xnor_ref.cli.text import show
from xnor_ref.errors import InputError, NonFiniteError

_FIELDS = (
    *("dataset", "model", "epochs", "batch_size", "lr", "seed", "train_size", "val_size"),
    *("limit_classes", "limit_train", "limit_val", "relu", "input_scale"),
    *("image_size", "in_place", "model_options", "data_dir", "store_dir", "archive", "threads"),
)


@click.command(
    cls=Command,
    examples=(
        "reproduce --list",
        "reproduce table1 --dry-run",
        "reproduce controls --seeds 4 --dry-run",
        "reproduce table3b --epochs 1 --train-size 200 --val-size 100 --out runs/quick-look",
    ),
)
@click.argument("name", metavar="[EXPERIMENT]", required=False)
@click.option("--list", "list_them", is_flag=True, help="List the experiments and their rows.")
@click.option("--all", "everything", is_flag=True, help="Every experiment, one after the other.")
@click.option(
    "--budget",
    metavar="[quick|full]",
    help="quick: minutes, a small network on the data set shapes. full: hours per row, the experiment's own network on "
    "Tiny ImageNet [quick; with --dataset imagenet full].",
)
@click.option(
    "--seeds", type=int, default=1, show_default=True, metavar="N", help="Runs of each row, each with its own seed."
)
@click.option("--rows", metavar="A,B,...", help="Only these rows.")
@click.option("--dry-run", is_flag=True, help="Print what is left to do and how long it would take. Trains nothing.")
@click.option(
    "--machines",
    metavar="N,...",
    help="With --dry-run: compute the time on N machines like this one too, with 10 Gbit/s between them.",
)
@click.option("--out", metavar="FOLDER", help="Folder that holds the experiments' folders [runs/reproduce].")
@click.option(
    "--summary",
    metavar="FILE.md",
    help="Write the results of all experiments under --out to one document. Text that you add at its end stays.",
)
@options.field_options(*_FIELDS)
@click.option("--download", is_flag=True, help="Download Tiny ImageNet if it is missing.")
@options.quiet_option
@options.json_option
def command(
    name: str | None,
    list_them: bool,
    everything: bool,
    budget: str | None,
    seeds: int,
    rows: str | None,
    dry_run: bool,
    machines: str | None,
    out: str | None,
    summary: str | None,
    download: bool,
    quiet: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Train the rows of a paper's table or figure under equal conditions, and print them beside the paper's figures.

    Results are written to FOLDER/EXPERIMENT-DATASET-BUDGET: table.md, results.json, plot.svg, and a
    run folder for each row and seed. Finished rows are not trained again. After Ctrl-C, the same command continues.
    """
    from xnor_ref.cli.progress import Progress
    from xnor_ref.experiments import catalogue, plan, report
    from xnor_ref.storage import write_atomically

    if [name is not None, everything, list_them, summary is not None].count(True) != 1:
        raise click.UsageError("give the name of an experiment, or one of --all, --list and --summary")
    if machines is not None and not dry_run:
        raise click.UsageError("--machines needs --dry-run; to train on several machines is the work of `train`")
    counts = _machines(machines)
    if out == "":
        raise click.UsageError("--out needs the name of a folder")
    root = Path(out) if out else plan.ROOT
    if list_them:
        _list(as_json)
        return
    if summary is not None:
        write_atomically(summary, report.summary(root, _written_before(Path(summary))).encode())
        show(f"written: {summary}")
        return
    experiments = list(catalogue.EXPERIMENTS.values()) if everything else list(catalogue.find_all(str(name)))
    if len(experiments) > 1 and rows is not None:
        raise InputError(f"--rows needs the name of one experiment, not {name or '--all'}")
    said = {"data_dir": options.default_data_dir(), **options.said(values)}
    named = rows.split(",") if rows is not None else None
    plans = [plan.make_plan(e, said, budget=budget, seeds=seeds, rows=named, root=root) for e in experiments]
    with Progress(quiet) as progress:
        shown = [_estimated(p, download, progress, counts) if dry_run else _run(p, download, progress) for p in plans]
    text = _estimate_text if dry_run else _result_text
    together = "\n\n".join(text(p, result) for p, result in zip(plans, shown))
    options.answer(shown if len(experiments) > 1 else shown[0], as_json, lambda _: together)
    failed = [] if dry_run else [run for result in shown for row in result["rows"] for run in row["failures"]]
    if failed:
        raise NonFiniteError(
            f"a loss, gradient or activation became NaN or infinite in {', '.join(failed)}; the other runs are finished"
        )


def _written_before(path: Path) -> str:
    """Return the text of an existing --summary document, or "" if there is none. Raises InputError for another file."""
    from xnor_ref.experiments.report import KEPT

    before = path.read_bytes() if path.is_file() else b""
    try:
        text = before.decode()
    except UnicodeDecodeError:
        text = ""
    if before and KEPT not in text:
        raise InputError(f"--summary {path} exists and was not written by this command; name another file")
    return text


def _run(plan: Any, download: bool, progress: Any) -> dict[str, Any]:
    from xnor_ref.experiments import execute, mst, plot

    results = execute.run_plan(plan, download=download, observer=progress)
    plot.plot(results, plan.folder / plot.NAME)
    if plan.experiment.compression:
        mst.plot(results, plan.folder / mst.PLOT)
    return results


def _machines(text: str | None) -> tuple[int, ...]:
    try:
        counts = tuple(int(word) for word in text.split(",")) if text is not None else ()
    except ValueError:
        counts = (0,)
    if not all(2 <= count <= 1_000_000 for count in counts):
        raise InputError(f"machines must be numbers from 2 to 1,000,000 with commas between them, got {text!r}")
    return counts


def _estimated(plan: Any, download: bool, progress: Any, machines: tuple[int, ...]) -> dict[str, Any]:
    from xnor_ref.experiments import estimate, execute

    with tempfile.TemporaryDirectory(prefix="xnor_ref-") as folder:
        data, states = execute.prepare(plan, download, progress, stand_in=Path(folder))
        runs = estimate.estimate(plan, data, states, progress, machines)
    return {"experiment": plan.experiment.name, "folder": str(plan.folder), "runs": runs}


def _result_text(plan: Any, results: dict[str, Any]) -> str:
    from xnor_ref.experiments import report

    return f"{report.markdown(results).rstrip()}\n\nwritten: {plan.folder}"


def _estimate_text(plan: Any, result: dict[str, Any]) -> str:
    from xnor_ref.experiments.report import clock

    machines = list(result["runs"][0]["on_machines"]) if result["runs"] else []
    of_machines = [f"{count:,} machines" for count in machines]
    rows = [("run", "epochs", "images", "images/s", "time", "sum", *of_machines)]
    for run in result["runs"]:
        speed = "-" if run["images_per_second"] is None else f"{run['images_per_second']:.0f}"
        time = "finished" if run["finished"] else clock(run["seconds"])
        line = (run["name"], str(run["epochs"]), f"{run['images']:,}", speed, time, clock(run["seconds_so_far"]))
        rows.append((*line, *(clock(run["on_machines"][count]) for count in machines)))
    config = plan.runs[0].config
    return (
        f"{plan.experiment.title}: {config.dataset}, budget {plan.budget}; what is left to do\n\n"
        f"{options.table(rows, right=range(1, 6 + len(machines)))}\n\n"
        f"results will be in {result['folder']}; times are estimated from a few steps and include validation"
        + (
            "; times on several machines are computed, with 10 Gbit/s between them and nothing hidden"
            if machines
            else ""
        )
    )


def _list(as_json: bool) -> None:
    from xnor_ref.experiments.catalogue import EXPERIMENTS, GROUPS

    if as_json:
        options.print_json({e.name: [row.name for row in e.rows] for e in EXPERIMENTS.values()})
        return
    rows = [("name", "title", "rows")]
    for e in EXPERIMENTS.values():
        named = ", ".join(row.name for row in e.rows)
        rows.append((e.name, e.title, f"{len(e.rows)}, see --json" if e.claims else named))
    rows += [(name, "all of: " + ", ".join(e.name for e in of), "") for name, of in GROUPS.items()]
    show(options.table(rows))
