"""Makes the runs of an experiment from the user's options: a config and a folder for each."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xnor_ref.errors import InputError
from xnor_ref.experiments.definition import Experiment, Row
from xnor_ref.training.settings.config import TrainConfig, did_you_mean
from xnor_ref.training.settings.resolve import resolve
from xnor_ref.training.settings.words import words

ROOT = Path("runs") / "reproduce"
BUDGETS = {"quick": "shapes", "full": "tiny-imagenet"}  # each with its usual data set
_USUAL = {"imagenet": "full"}  # data sets whose default budget is not "quick"
_QUICK = {"shapes": {"train_size": 3000, "val_size": 1200, "epochs": 8}}
_QUICK_ELSEWHERE = {"limit_train": 6000, "limit_val": 1000, "epochs": 6}
_SAME = {"alexnet": {"layout": "xnor"}}  # otherwise networks leave it to the method, and rows would differ in it, too
_RUNS = {"keep": 1, "checkpoint_every": 600.0}  # a checkpoint of AlexNet takes half a gigabyte


@dataclass(frozen=True)
class Run:
    """One training run: a row of the table with one seed."""

    row: Row
    seed: int
    config: TrainConfig
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(frozen=True)
class Plan:
    """The runs of an experiment. `folder` holds their folders and the results; `command` is the command line.

    Rows that are not `chosen` are part of the plan, too, so that their finished runs are shown.
    """

    experiment: Experiment
    budget: str
    chosen: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    folder: Path
    command: str


def make_plan(
    experiment: Experiment,
    said: Mapping[str, Any],
    *,
    budget: str | None = None,
    seeds: int = 1,
    rows: Sequence[str] | None = None,
    root: Path = ROOT,
) -> Plan:
    """Make the runs of an experiment: all rows with one seed, then all with the next.

    Parameters
    ----------
    said : config fields for all rows, which replace those of the budget; `seed` is the first seed
    budget : one of `BUDGETS`: "quick" uses the data set's usual small network, "full" the experiment's own. The default
        is "quick", but "full" for imagenet, which has no quick network
    seeds : number of runs of each row
    rows : names of the rows to run; by default all
    root : the folder that contains, or will contain, NAME-DATASET-BUDGET

    Raises
    ------
    InputError : an unknown budget or row, or settings that a row does not support
    """
    budget = _USUAL.get(said.get("dataset", ""), "quick") if budget is None else budget
    if budget not in BUDGETS:
        raise InputError(f"budget must be one of {', '.join(BUDGETS)}, got {budget!r}{did_you_mean(budget, BUDGETS)}")
    if not 1 <= seeds <= 1000:
        raise InputError(f"seeds must be from 1 to 1000, got {seeds}")
    chosen = _chosen(experiment, rows)
    fixed = {key for row in experiment.rows for key in row.settings} | {*experiment.settings.get("all", {})}
    for key in said:
        if key in fixed:
            raise InputError(f"{experiment.name} sets {key} itself, so it cannot be chosen")
    dataset = said.get("dataset", BUDGETS[budget])
    folder = root / f"{experiment.name}-{dataset}-{budget}"
    shared = {**_RUNS, "dataset": dataset, **_of_budget(experiment, dataset, budget), **said}
    shared["data_dir"] = os.path.abspath(shared.get("data_dir", "data"))
    if shared.get("archive") is not None:
        shared["archive"] = os.path.abspath(shared["archive"])
    if shared.get("model") in _SAME:
        shared["model_options"] = {**_SAME[shared["model"]], **(shared.get("model_options") or {})}
    first = shared.pop("seed", 0)
    runs = []
    for seed in range(first, first + seeds):
        for row in experiment.rows:
            try:
                config = resolve({**shared, **row.settings, "seed": seed})
                config = replace(config, epochs=row.length * config.epochs)
            except InputError as error:
                raise InputError(f"{experiment.name}, row {row.name}: {error}") from None
            runs.append(Run(row, seed, config, folder / f"{row.name}-seed{seed}"))
    command = _command(experiment, said, budget, seeds, rows)
    return Plan(experiment, budget, chosen, tuple(range(first, first + seeds)), tuple(runs), folder, command)


def _command(
    experiment: Experiment, said: Mapping[str, Any], budget: str, seeds: int, rows: Sequence[str] | None
) -> str:
    """Return the command line that makes this plan, without options for folders."""
    options: dict[str, Any] = {"budget": budget} if budget != "quick" else {}
    options |= {"seeds": seeds} if seeds != 1 else {}
    options |= {"rows": ",".join(rows)} if rows is not None else {}
    options |= {key: value for key, value in said.items() if key not in ("data_dir", "model_options", "archive")}
    if said.get("archive") is not None:
        options["archive"] = Path(said["archive"]).name
    options |= {"model_options": said.get("model_options")}
    return shlex.join(["reproduce", experiment.name, *words(options)])


def _chosen(experiment: Experiment, rows: Sequence[str] | None) -> tuple[str, ...]:
    names = tuple(row.name for row in experiment.rows)
    for name in rows or ():
        if name not in names:
            raise InputError(
                f"{experiment.name} has no row {name!r}{did_you_mean(name, names)} (its rows: {', '.join(names)})"
            )
    return names if rows is None else tuple(rows)


def _of_budget(experiment: Experiment, dataset: str, budget: str) -> dict[str, Any]:
    settings: dict[str, Any] = dict(experiment.settings.get("all", {}))
    if budget == "full":
        if experiment.model is not None and not experiment.own_models:
            settings["model"] = experiment.model
        return settings
    settings |= _QUICK.get(dataset, _QUICK_ELSEWHERE)
    if dataset in _QUICK:
        settings |= experiment.settings.get("quick", {})
    return settings


def differing(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return for each row the config fields in which rows differ, without defaults that the method sets."""
    configs = {run.row.name: run.config.identity() for run in plan.runs}
    fields = [key for key in next(iter(configs.values())) if key != "seed"]
    varying = [key for key in fields if len({repr(config[key]) for config in configs.values()}) > 1]
    return {name: {key: config[key] for key in varying if config[key] is not None} for name, config in configs.items()}
