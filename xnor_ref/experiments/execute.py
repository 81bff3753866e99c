"""Train the missing runs of a plan, one after the other, and update the results.

If another experiment under the same root has finished a run with the same settings on the same data, that run is used.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from xnor_ref import datasets
from xnor_ref.datasets import Dataset
from xnor_ref.errors import DatasetError, InputError, ModelFileError, NonFiniteError, OutputError
from xnor_ref.experiments import report
from xnor_ref.experiments.plan import Plan, Run
from xnor_ref.models import Network
from xnor_ref.training.fitting.interrupt import Interrupted
from xnor_ref.training.fitting.observer import Observer
from xnor_ref.training.fitting.trainer import steps_per_epoch
from xnor_ref.training.job import build_network, data_identity, limited, load_data, train_run
from xnor_ref.training.report import finished_report
from xnor_ref.training.settings.config import differences
from xnor_ref.training.storing.runs import RunFolder, is_empty


@dataclasses.dataclass(frozen=True)
class State:
    """The state of a run: its folder, its report if it is finished, and the number of finished epochs."""

    folder: Path
    report: dict[str, Any] | None
    epochs_done: int


def prepare(
    plan: Plan, download: bool = False, observer: Observer | None = None, stand_in: Path | None = None
) -> tuple[Dataset, dict[str, State]]:
    """Load the data, and return the state of every run, by its name.

    If the data set is missing, `stand_in` may hold random images of the same sizes, which are used to measure time
    only. They are written into that folder, and no run counts as done then.

    Raises
    ------
    ModelFileError : a folder of the plan holds a run with other settings or on other data
    DatasetError : the data set is missing or damaged
    """
    config = plan.runs[0].config
    try:
        data = load_data(config, download, observer)
    except DatasetError as missing:
        drawn = stand_in and datasets.stand_in(config.dataset, stand_in, **config.options_of("dataset"))
        if not drawn:
            raise
        (observer or Observer()).note(f"{missing}\nTime is measured with random images of the same number and sizes.")
        return limited(config, drawn), {run.name: State(run.folder, None, 0) for run in plan.runs}
    here = data_identity(data)
    for run in chosen_runs(plan):
        _check_same(run, here)
    return data, {run.name: _state(plan, run, here) for run in plan.runs}


def network_of(run: Run, data: Dataset) -> Network:
    """The network of a run. Raises InputError that names the row."""
    try:
        return build_network(run.config, data)
    except InputError as error:
        raise InputError(f"row {run.row.name}: {error}") from None


def work_left(plan: Plan, data: Dataset, states: dict[str, State]) -> dict[str, int]:
    """Return the images that each run of a chosen row must still be trained on, by its name."""
    left, images = {}, len(data.train)
    for run in planned_runs(plan, states):
        per_epoch = steps_per_epoch(images, run.config.batch_size) * min(run.config.batch_size, images)
        left[run.name] = per_epoch * (run.config.epochs - states[run.name].epochs_done)
    return left


def chosen_runs(plan: Plan) -> list[Run]:
    """Return the runs of the chosen rows."""
    return [run for run in plan.runs if run.row.name in plan.chosen]


def planned_runs(plan: Plan, states: dict[str, State]) -> list[Run]:
    """Return the runs that will be made, as far as the results so far decide it."""
    done = {name: state.folder for name, state in states.items() if state.report is not None}
    return report.needed(plan, report.collected(plan, done, {}), chosen_runs(plan))


def run_plan(plan: Plan, *, download: bool = False, observer: Observer | None = None) -> dict[str, Any]:
    """Run the rest of a plan; return the results and write them to results.json and table.md of its folder.

    If a row's numbers become infinite or NaN, the row is reported as failed and the other rows continue.

    Raises
    ------
    ModelFileError, DatasetError, EquivalenceError, OutputError
    Interrupted : the run was saved; the same call continues it
    """
    observer = observer or Observer()
    data, states = prepare(plan, download, observer)
    for run in chosen_runs(plan):
        if run.seed == plan.seeds[0] and states[run.name].report is None:
            network_of(run, data)  # raises before hours are spent on other rows
    left = work_left(plan, data, states)
    observer.note(
        f"{plan.experiment.name}: {len(left)} runs, {sum(not n for n in left.values())} of them finished; "
        f"{sum(left.values()):,} images to train on (--dry-run estimates the time)"
    )
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {plan.folder}: {error.strerror}") from error
    failures: dict[str, str] = {}
    folders = {name: state.folder for name, state in states.items() if state.report is not None}
    begun, images_done = time.monotonic(), 0
    runs = chosen_runs(plan)
    for index, run in enumerate(runs, start=1):
        if run not in report.needed(plan, report.collected(plan, folders, failures), [run]):
            continue
        state = states[run.name]
        if state.report is None:
            observer.note(f"run {index} of {len(runs)}: {run.row.label}, seed {run.seed}")
            try:
                _train(run, download, observer)
            except NonFiniteError as error:
                failures[run.name] = str(error)
                observer.note(f"{run.name} failed: {error}")
                continue
            images_done += left.get(run.name, 0)
            remaining = sum(left.get(later.name, 0) for later in runs[index:])
            if remaining:
                seconds = (time.monotonic() - begun) / max(images_done, 1) * remaining
                observer.note(f"about {report.clock(seconds)} left, if the next rows are as fast")
        elif state.folder != run.folder:
            observer.note(f"{run.name}: the same run is finished in {state.folder}")
        folders[run.name] = state.folder
        report.write(plan, data, folders, failures)
    return report.write(plan, data, folders, failures, approximation=plan.experiment.approximation, observer=observer)


def _train(run: Run, download: bool, observer: Observer) -> None:
    resume = None if not run.folder.exists() or is_empty(run.folder) else RunFolder(run.folder)
    try:
        train_run(run.config, out=run.folder, resume=resume, download=download, observer=observer)
    except Interrupted as interrupt:
        raise Interrupted(interrupt.signal_number, f"{interrupt}; the same command continues it") from None


def _state(plan: Plan, run: Run, data: dict[str, Any]) -> State:
    done = len(RunFolder(run.folder).metrics()) if run.folder.is_dir() else 0
    elsewhere = sorted(path.parent for path in plan.folder.parent.glob("*/*/report.json"))
    for folder in [run.folder] if done else [run.folder, *elsewhere]:
        if not _clashes(folder, run, data) and (report := finished_report(RunFolder(folder))):
            return State(folder, report, run.config.epochs)
    return State(run.folder, None, done)


def _clashes(folder: Path, run: Run, data: dict[str, Any]) -> list[str]:
    """Return how the run in `folder` differs from `run`, one text each; a run that cannot be read differs."""
    try:
        known = RunFolder(folder).config().identity()  # fields that are newer than the run have their defaults
        of_data = dict(json.loads((folder / "config.json").read_bytes())["data"])
        return differences(known, run.config.identity()) + differences(of_data, data)
    except (ModelFileError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return ["it cannot be read"]


def _check_same(run: Run, data: dict[str, Any]) -> None:
    if not (run.folder / "config.json").exists():
        if run.folder.is_dir() and not is_empty(run.folder):
            raise ModelFileError(f"{run.folder} exists but holds no run; remove it, or choose another --out")
        return
    found = _clashes(run.folder, run, data)
    if found:
        raise ModelFileError(
            f"the run in {run.folder} has other settings: {'; '.join(found)}. Give the same options again, choose "
            "another --out, or remove that folder to train the run again"
        )
