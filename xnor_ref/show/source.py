"""What a run folder holds, as far as it is there and sound; what is not is told in words."""

import dataclasses
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.datasets import Dataset
from xnor_ref.errors import InputError, ModelFileError, XnorRefError
from xnor_ref.packed import PackedNetwork, load_packed
from xnor_ref.packed.freeze import freeze
from xnor_ref.training.fitting.evaluation import all_logits, of_stored_images
from xnor_ref.training.fitting.observer import Observer
from xnor_ref.training.job import load_data
from xnor_ref.training.report import finished_report
from xnor_ref.training.settings.config import TrainConfig
from xnor_ref.training.storing.checkpoint import CheckpointFolder
from xnor_ref.training.storing.runs import OF_FIT, RunFolder
from xnor_ref.training.storing.sources import load_network


@dataclass
class Run:
    """One run; `problems` are sentences on what could not be read.

    `config` is None for a run of a program, which `settings` tell of then. `network` is the packed one, or the newest
    checkpoint frozen; None, with a problem, where there is neither.
    """

    folder: RunFolder
    config: TrainConfig | None
    settings: dict[str, Any]
    data: dict[str, Any]  # what the run says of its data
    environment: dict[str, Any]
    lines: list[dict[str, Any]]
    report: dict[str, Any] | None
    network: PackedNetwork | None = None
    latent: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # by layer
    problems: list[str] = field(default_factory=list)
    label: str = ""  # what it is called beside other runs

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.path.resolve().name

    @property
    def epochs(self) -> int | None:
        """How many epochs the run was to have."""
        return self.config.epochs if self.config else self.settings.get("epochs")

    def column(self, key: str) -> list[Any]:
        """One figure of each epoch; None where a line lacks it."""
        return [line.get(key) for line in self.lines]


def read_run(path: Path) -> Run:
    """Read a run. Raises ModelFileError where there is no run at `path`, or its config.json is damaged."""
    folder = RunFolder(path)
    written = _json(folder.config_path)
    config = None if isinstance(written.get(OF_FIT), dict) else folder.config()
    settings = _dict(written.get(OF_FIT)) if config is None else config.to_dict()
    run = Run(
        folder,
        config,
        {key: value for key, value in settings.items() if value is not None and value != {}},
        _dict(written.get("data")),
        _json(folder.env_path),
        [line for line in folder.metrics() if isinstance(line.get("epoch"), int)],
        finished_report(folder),
    )
    _read_networks(run)
    _find_problems(run)
    return run


def _json(path: Path) -> dict[str, Any]:
    try:
        return _dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return {}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_networks(run: Run) -> None:
    folder = run.folder
    try:
        if folder.packed_path.exists():
            run.network = load_packed(folder.packed_path)
    except ModelFileError as error:
        run.problems.append(f"The packed network cannot be used: {error}.")
    trained = folder.float_path.exists() or CheckpointFolder(folder.checkpoints_path).newest_first()
    if not trained:
        run.problems.append("There is no trained network yet, neither finished nor in a checkpoint.")
        return
    try:
        model, about = load_network(folder.path)
        run.network = run.network or freeze(model, **about)
    except XnorRefError as error:
        run.problems.append(f"The trained network cannot be used: {error}.")
        return
    for name, parameter in model.named_parameters():
        if parameter.latent:
            run.latent[name.removesuffix(".weight")] = parameter.data


def _find_problems(run: Run) -> None:
    path = run.folder.metrics_path
    rows = path.read_bytes().count(b"\n") if path.is_file() else 0
    if len(run.lines) < rows:
        run.problems.append(f"{path.name} is damaged: {rows - len(run.lines)} of its {rows} lines cannot be read.")
    whole = run.config is None and run.folder.float_path.exists()  # a run of a program has no closing report
    if run.report is None and not (whole and run.epochs == len(run.lines)):
        done = f"{len(run.lines)} of {run.epochs}" if run.epochs else str(len(run.lines))
        state = "its closing report is missing or not of these networks" if run.epochs == len(run.lines) else "so far"
        run.problems.append(f"This run is not finished: {done} epochs are done; {state}.")


@dataclass
class Answers:
    """The logits (N, classes) of a network for validation images, and the data set that they are of."""

    data: Dataset
    logits: NDArray[np.float32]


def answers(run: Run, said: dict[str, Any], observer: Observer) -> Answers:
    """What the run's network answers on its validation images; `said` are settings of where the data lie.

    Raises XnorRefError that says what is missing.
    """
    if run.network is None:
        raise ModelFileError("there is no network to ask")
    if run.config is None:
        raise InputError("the run was trained on images that a program gave, and holds none of them")
    config = dataclasses.replace(run.config, **said)
    data = load_data(config, observer=observer, own=run.folder.data_sha256())
    wanted, given = run.network.input_shape, (data.channels, data.image_size, data.image_size)
    if wanted != given or len(run.network.classes) != data.num_classes:
        raise InputError(
            f"the network takes images {wanted} of {len(run.network.classes)} classes, the data set {data.name} has "
            f"{given} and {data.num_classes}"
        )
    progress = partial(observer.progress, "asking the packed network")
    return Answers(data, all_logits(of_stored_images(run.network), data.val.images, progress))
