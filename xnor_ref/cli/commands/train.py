"""`train`: train a network, freeze it and compare both."""

import dataclasses
import os
import shlex
import textwrap
from pathlib import Path
from typing import Any

import click

from xnor_ref.cli import options
from xnor_ref.cli.group import Command
from xnor_ref.cli.help import TRAIN
from xnor_ref.cli.text import plugin_flag, program
from xnor_ref.errors import ModelFileError
from xnor_ref.training.settings import recipes
from xnor_ref.training.settings.config import FIELDS, TrainConfig, check_values, load_toml
from xnor_ref.training.settings.faithful import overridden
from xnor_ref.training.settings.resolve import resolve


@click.command(
    cls=Command,
    groups=TRAIN,
    examples=(
        "train",
        "train --epochs 1 --train-size 200 --val-size 100 --out runs/quick-try",
        "train --method full",
        "train --resume auto",
    ),
)
@click.option("--tiny-imagenet", is_flag=True, help="The same as --dataset tiny-imagenet.")
@click.option(
    "--recipe",
    metavar=f"[{'|'.join(recipes.NAMES)}|list]",
    help="Settings by name; other options override them. list shows them, with what was measured.",
)
@options.field_options(*FIELDS)
@click.option("--download", is_flag=True, help="Download Tiny ImageNet if it is missing.")
@click.option("--config", "config_file", metavar="FILE.toml", help="File of settings. The command line overrides it.")
@click.option(
    "--resume",
    metavar="PATH|auto",
    help="Resume a run: a run folder, a checkpoint, or 'auto' for the newest run, finished or not, that matches the "
    "options given (if there is none, a new run starts).",
)
@click.option("--out", metavar="FOLDER", help="Run folder [runs/<dataset>-<model>-<method>-<seed>].")
@click.option("--distributed", is_flag=True, help="Share the work with all processes that mpirun started.")
@click.option(
    "--rank-timeout",
    type=float,
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up a rank that is silent, or hangs in a step, for so long.",
)
@options.quiet_option
@options.json_option
def command(
    tiny_imagenet: bool,
    recipe: str | None,
    download: bool,
    config_file: str | None,
    resume: str | None,
    out: str | None,
    distributed: bool,
    rank_timeout: float,
    quiet: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Train a network, freeze it to bits and check that both give equal logits.

    Without options, it trains a small XNOR-Net on the generated data set "shapes", in about a minute on two processors.
    The defaults of network, epochs, batch size and learning rate depend on the data set. Ctrl-C saves and stops.
    --resume auto continues, and the files end with the same bytes as those of an uninterrupted run.
    """
    said = {**(load_toml(config_file) if config_file else {}), **options.said(values)}
    if tiny_imagenet:
        if said.get("dataset", "tiny-imagenet") != "tiny-imagenet":
            raise click.UsageError(
                f"--tiny-imagenet and dataset {said['dataset']!r} contradict each other; give one of them"
            )
        said["dataset"] = "tiny-imagenet"
    if out == "":
        raise click.UsageError("--out needs the name of a folder")
    check_values(said)
    if recipe == "list":
        return options.answer(recipes.listed(), as_json, recipe_text)
    if recipe is not None:
        said |= recipes.named(recipe, said)
    said |= {key: os.path.abspath(said[key]) for key in ("init_from", "teacher", "plugin") if said.get(key)}

    from xnor_ref.cli.progress import Progress
    from xnor_ref.cli.ranks import joined
    from xnor_ref.training.job import train_run
    from xnor_ref.training.storing import runs

    new = Path(out) if out else None
    with (
        joined(distributed, rank_timeout) as ranks,
        Progress(quiet or (ranks is not None and ranks.rank > 0)) as progress,
    ):
        if clashes := overridden(said):
            progress.note(f"--faithful {said['faithful']}, overridden by your options: {', '.join(clashes)}")
        folder, start = _resumed(resume, said, new)
        if folder is not None:
            progress.note(f"resuming the run in {folder.path}")
            config = _going_on(folder.config(), said)
        else:
            config = _anchored(resolve({"data_dir": options.default_data_dir(), **said}))
            if new:
                runs.check_free(new)
            if resume:
                progress.note("no run to resume: starting a new one")
        where = {"out": new, "resume": folder, "start": start}
        report = train_run(config, **where, download=download, observer=progress, ranks=ranks)
    if ranks is None or ranks.rank == 0:
        options.answer(report, as_json, lambda _: report_text(report, config))


def _resumed(resume: str | None, said: dict[str, Any], out: Path | None):
    """Return the (run folder, checkpoint) that --resume names, or (None, None) for a new run."""
    from xnor_ref.training.storing import runs

    if resume is None:
        return None, None
    if resume == "auto":
        return runs.find_run(said, out), None
    if out is not None:
        raise click.UsageError("--out is the folder of a new run; with --resume PATH the run stays in its own folder")
    path, start = Path(resume), None
    if path.is_file():
        if path.absolute().parent.name != "checkpoints":
            raise ModelFileError(
                f"--resume {resume}is not a checkpoint; name the run folder, or a file in its checkpoints/"
            )
        start, path = path, path.absolute().parent.parent
    elif not path.exists():
        raise ModelFileError(f"--resume {resume}: no such run folder or checkpoint")
    run = runs.RunFolder(path)
    runs.check_said(path, run.config(), said)
    return run, start


def _anchored(config: TrainConfig) -> TrainConfig:
    """Return the config with absolute paths, so that the run can be resumed from any folder."""
    archive = os.path.abspath(config.archive) if config.archive else config.archive
    return dataclasses.replace(config, data_dir=os.path.abspath(config.data_dir), archive=archive)


def _going_on(config: TrainConfig, said: dict[str, Any]) -> TrainConfig:
    """Return a run's config, with the settings that may change on resuming (threads, folders) as given now."""
    free = {key: value for key, value in said.items() if not FIELDS[key].metadata["identity"]}
    return dataclasses.replace(config, **free)


def report_text(report: dict[str, Any], config: TrainConfig) -> str:
    """Return the final report and the commands to try next."""
    ratio = report["float_bytes"] / report["packed_bytes"]
    per_epoch = report["seconds_per_epoch"]
    lines = [
        f"{report['model']} ({report['method']}) on {report['dataset']}, {report['epochs']} epochs, "
        f"{report['images']:,} validation images",
        "",
        *options.score_lines(report),
        f"the packed file is {ratio:.1f} times smaller than that of the float network",
        f"time per epoch: {per_epoch:.1f} s"
        if per_epoch
        else "time per epoch: not measured, since the run was interrupted",
        f"run folder: {report['run']}",
        "",
        "next:",
        *(f"  {program()} {line}" for line in _next_commands(report, config)),
    ]
    return "\n".join(lines)


def recipe_text(listed: list[dict[str, Any]]) -> str:
    """The recipes, each with its settings and what was measured."""
    blocks = []
    for entry in listed:
        settings = ", ".join(f"{key} {value}" for key, value in entry["settings"].items())
        measured = [
            f"{card['top1']:.1f} % top-1 on {card['data']}, {card['minutes']:.0f} minutes on {card['machine']}"
            for card in entry["measured"]
        ]
        title = f"{entry['recipe']}, method {entry['method']}: {entry['summary']}"
        parts = [f"settings: {settings}", *(f"measured: {line}" for line in measured or ["not yet"])]
        wrapped = [textwrap.fill(part, 80, initial_indent="  ", subsequent_indent="    ") for part in parts]
        blocks.append("\n".join([textwrap.fill(title, 80), *wrapped]))
    return "\n\n".join(blocks)


def _next_commands(report: dict[str, Any], config: TrainConfig) -> list[str]:
    run = shlex.quote(report["run"])
    lines = [
        f"show {run}{plugin_flag(config.plugin)}",
        f"evaluate {run}{plugin_flag(config.plugin)}",
        f"predict {run} {shlex.quote(str(Path(report['run']) / 'sample.png'))}",
        f"info {shlex.quote(str(Path(report['run']) / 'model.safetensors'))}",
        "verify",
    ]
    if config.method == "xnor" and config.dataset == "shapes":
        lines.append("train --method full")
    return lines
