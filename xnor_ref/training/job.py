"""The entry points of training. They take a run's settings apart, for the command line and for `fit`.

Files further down do not know `TrainConfig`.
"""

import dataclasses
import signal
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref import __version__, datasets, models, optim
from xnor_ref.datasets import AugmentSpec, Dataset, Split
from xnor_ref.datasets.arrays import ArrayDataset
from xnor_ref.datasets.batches import epoch_order
from xnor_ref.datasets.store import find_packed
from xnor_ref.errors import InputError, NonFiniteError
from xnor_ref.kernels.basics.rungs import reference_only, without_kernels
from xnor_ref.kernels.basics.threads import set_threads
from xnor_ref.nn import LOSSES, Module
from xnor_ref.nn.backend import backward_in, in_bytes, multiplies_bytes
from xnor_ref.packed.freeze import freeze
from xnor_ref.training.ahead import compile_ahead
from xnor_ref.training.allocator import keep_freed_memory
from xnor_ref.training.callbacks.agreement import AgreementCheck
from xnor_ref.training.callbacks.average import WeightAverage
from xnor_ref.training.callbacks.clip import ClipNorm
from xnor_ref.training.callbacks.finite import FiniteCheck
from xnor_ref.training.callbacks.image_size import SmallerImages
from xnor_ref.training.callbacks.latent import LatentFigures
from xnor_ref.training.callbacks.mst import MstPull
from xnor_ref.training.callbacks.progress import Progress
from xnor_ref.training.callbacks.projections import Projections
from xnor_ref.training.callbacks.teacher import Teacher
from xnor_ref.training.distributed.team import Ranks, Team, one_first, usual_shards
from xnor_ref.training.fitting.interrupt import Interrupted
from xnor_ref.training.fitting.observer import Observer
from xnor_ref.training.fitting.trainer import Callback, Trainer, steps_per_epoch
from xnor_ref.training.report import finish, finished_report
from xnor_ref.training.settings import plugins
from xnor_ref.training.settings.config import TrainConfig
from xnor_ref.training.storing import environment
from xnor_ref.training.storing.checkpoint import CheckpointFolder
from xnor_ref.training.storing.runs import RunFolder, new_run
from xnor_ref.training.storing.sources import start_from


def train_run(
    config: TrainConfig,
    *,
    out: Path | None = None,
    resume: RunFolder | None = None,
    start: Path | None = None,
    download: bool = False,
    observer: Observer | None = None,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Train, evaluate, freeze, and write everything to a run folder.

    Parameters
    ----------
    out : folder of the new run; by default one is named under runs/
    resume : the run to resume from its newest valid checkpoint, or from the beginning if it has none. A finished run is
        not computed again.
    start : with `resume`, the only checkpoint to resume from
    download : download the data set if it is missing
    ranks : the processes that share the work. All of them call this function and see the same files

    Returns
    -------
    dict
        The final report as JSON values. It is also written to report.json.

    Raises
    ------
    DatasetError, ModelFileError, NonFiniteError, EquivalenceError, OutputError
    Interrupted : SIGINT or SIGTERM arrived; the step was finished and everything saved
    """
    observer = observer or Observer()
    with reference_only(config.backend == "reference"), backward_in(config.backward):
        if ranks is None or config.threads is not None:
            set_threads(config.threads)
        keep_freed_memory()
        if resume is not None and start is None and (report := finished_report(resume)) is not None:
            observer.note("this run is finished; this is its report")
            return report
        compile_steps(config)
        own = resume.data_sha256() if resume else None
        data = one_first(ranks, lambda: load_data(config, download, observer, own))
        team = make_team(config, data, ranks)
        steps = steps_per_epoch(len(data.train), config.batch_size)
        model, about = build_network(config, data), about_training(config, data)
        begun = resume and any(CheckpointFolder(resume.checkpoints_path).candidates())
        if config.init_from and not begun:
            observer.note(start_from(model, Path(config.init_from)))
        freeze(model, **about)  # reject a network that cannot be frozen before training
        callbacks = make_callbacks(config, model, data, steps)
        observer.note(describe_model(model, data))
        if config.backward == "int8" and not multiplies_bytes():
            computing = "the NumPy references are in use"
            why = computing if without_kernels() else "this processor has no instructions for bytes (VNNI)"
            observer.note(f"{why}: gradients are multiplied in fp32")
        said = f"{config.identity()}, data {data.sha256}, in {resume.path if resume else 'a new run'}"
        team.require_same(f"{said}, xnor_ref {__version__}", "the settings")
        name = f"{config.dataset}-{config.model}-{config.method}-{config.seed}"
        folder = resume or RunFolder(Path(team.texts(str(new_run(name, out).path) if team.writes else "")[0]))
        trainer = build_trainer(
            config,
            model,
            data,
            callbacks,
            observer,
            folder=folder,
            identity=config.identity(),
            about=about,
            validator=lambda: freeze(model, **about).logits,
            team=team,
        )
        with folder.lock() if team.writes else nullcontext():
            try:
                if resume:
                    trainer.resume(start, observer.note)
                if team.writes:
                    describe_run(config, {"config": config.to_dict()}, folder, trainer, resume is not None, observer)
                train(trainer, config.lr)
                return finish(folder, model, data, about, observer, team)
            except KeyboardInterrupt as error:  # it is safe to stop at any time; attach the folder to resume
                number = getattr(error, "signal_number", signal.SIGINT)
                raise Interrupted(number, str(error) or "stopped", folder.path, config.plugin) from None


def build_trainer(
    config: TrainConfig,
    model: Any,
    data: Dataset,
    callbacks: list[Callback],
    observer: Observer,
    *,
    folder: RunFolder | None,
    identity: dict[str, Any],
    about: dict[str, Any],
    validator: Callable[[], Callable[[NDArray], NDArray[np.float32]]] | None,
    record: Callable[[dict[str, Any]], None] = lambda line: None,
    team: Team | None = None,
) -> Trainer:
    """Return the trainer of a run, with the training settings of `config`.

    Parameters
    ----------
    folder : RunFolder, optional
        The folder that the trainer writes to.
    identity : dict
        The settings that must be the same when the run is resumed.
    about : dict
        The description of the network's data in the checkpoints.
    validator, record, team
        See `Trainer`. Each line is also added to the folder's metrics.jsonl.
    """
    steps = steps_per_epoch(len(data.train), config.batch_size)
    checkpoints, records = None, [record]
    if folder is not None:
        of_run = {"config": identity, "data": data_identity(data, callbacks)}
        if config.plugin:
            of_run["data"]["plugin"] = plugins.load(config.plugin)
        described = {"model": model.config if isinstance(model, models.Network) else None, "about": about}
        every = config.checkpoint_every
        checkpoints = CheckpointFolder(folder.checkpoints_path, of_run, described, config.keep, every)
        records.append(folder.append_metrics)
    return make_trainer(
        model,
        data,
        make_optimizer(config, model, steps),
        make_schedule(config, steps),
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        loss=partial(LOSSES[config.loss], **config.options_of("loss")),
        augment=_augment(config, data) if config.augment else None,
        callbacks=[*([AgreementCheck()] if config.check_agreement else []), *callbacks],
        observer=observer,
        validator=validator,
        checkpoints=checkpoints,
        record=lambda line: [write(line) for write in records],  # type: ignore[func-returns-value]
        team=team or make_team(config, data),
    )


def _augment(config: TrainConfig, data: Dataset) -> AugmentSpec:
    """Return the random crops and flips of a data set."""
    return AugmentSpec(None, flip=True) if isinstance(data, ArrayDataset) else datasets.default_augment(config.dataset)


def describe_run(
    config: TrainConfig,
    settings: dict[str, Any],
    folder: RunFolder,
    trainer: Trainer,
    resumed: bool,
    observer: Observer,
) -> None:
    """Write config.json and env.json, cut metrics.jsonl to the trainer's position, and remove an old report."""
    assert trainer.checkpoints is not None
    folder.write_json(folder.config_path, {**settings, "data": trainer.checkpoints.identity["data"]})
    here = environment.describe("int8" if trains_in_bytes(config) else "fp32")
    if resumed and (changed := environment.changes(folder.env_path, here)):
        observer.note(f"the run began under other conditions, so results may differ: {changed}")
    folder.write_json(folder.env_path, here)
    folder.truncate_metrics(trainer.position.epoch)
    folder.report_path.unlink(missing_ok=True)


def train(trainer: Trainer, lr: float) -> None:
    """Train. If a value becomes NaN or infinite, name the last good checkpoint and advise a smaller lr."""
    try:
        trainer.fit()
    except NonFiniteError as error:
        last = next(trainer.checkpoints.candidates(), None) if trainer.checkpoints else None
        kept = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
        raise NonFiniteError(f"{error}; {kept}. A smaller lr usually helps (it was {lr:g})") from None


def make_trainer(
    model: Module,
    data: Dataset,
    optimizer: optim.Optimizer,
    learning_rate: Callable[[int], float],
    *,
    callbacks: Sequence[Callback] = (),
    observer: Observer | None = None,
    **others: Any,
) -> Trainer:
    """Return a trainer with the callbacks of every run: projections first, then `callbacks`, figures, checks, progress.

    `observer` hears of every step and epoch. The other arguments go to `Trainer`.
    """
    always = LatentFigures(model), FiniteCheck()
    joined = [Projections(), *callbacks, *always, *([Progress(observer)] if observer else [])]
    return Trainer(model, data, optimizer, learning_rate, callbacks=joined, **others)


# --- from settings to parts


def load_data(
    config: TrainConfig, download: bool = False, observer: Observer | None = None, own: str | None = None
) -> Dataset:
    """Load a config's data set, with its limits applied. If a packed copy has the digest `own`, that copy is used."""
    data = (own and find_packed(Path(config.data_dir), own)) or datasets.load(
        config.dataset,
        data_dir=Path(config.data_dir),
        archive=Path(config.archive) if config.archive else None,
        download=download,
        progress=observer.progress if observer else None,
        **config.options_of("dataset"),
    )
    return limited(config, data)


def limited(config: TrainConfig, data: Dataset) -> Dataset:
    """Apply the limits of a config to a data set."""
    count = config.limit_classes
    if count is not None and count > data.num_classes:
        raise InputError(f"limit_classes (={count}): the data set {data.name} has {data.num_classes} classes")
    return dataclasses.replace(
        data,
        classes=data.classes[:count],
        train=_part(data.train, count, config.limit_train),
        val=_part(data.val, count, config.limit_val),
    )


def build_network(config: TrainConfig, data: Dataset) -> models.Network:
    """Build a config's network for the images and classes of `data`. Raises InputError."""
    return models.build(
        config.model,
        image_size=data.image_size,
        in_channels=data.channels,
        num_classes=data.num_classes,
        method=config.method,
        seed=config.seed,
        **models.combined(config.options_of("method"), config.model_options),
    )


def make_optimizer(config: TrainConfig, model: Module, steps: int) -> optim.Optimizer:
    """Make a config's optimiser of all parameters. `steps` is the number of steps per epoch."""
    parameters = list(model.named_parameters())
    if config.decay_all:
        for _, parameter in parameters:
            parameter.decay = True
    options = {"weight_decay": config.weight_decay, **config.options_of("optimizer")}
    optimizer = optim.OPTIMIZERS[config.optimizer](parameters, config.lr, **options)
    if config.decay_epochs is not None:
        optimizer.decay_steps = config.decay_epochs * steps
    return optimizer


def make_schedule(config: TrainConfig, steps: int) -> Callable[[int], float]:
    """Return a config's learning rate as a function of the step. `steps` is the number of steps per epoch."""
    options = config.options_of("schedule")
    if "milestones" in options:
        options["milestones"] = [epoch * steps for epoch in options["milestones"]]
    total, warmup = config.epochs * steps, round(config.warmup_epochs * steps)
    return optim.make_schedule(config.schedule, config.lr, total, warmup_steps=warmup, **options)


def make_callbacks(config: TrainConfig, model: Any, data: Dataset, steps: int) -> list[Callback]:
    """Return a config's callbacks. `steps` is the number of steps per epoch."""
    callbacks: list[Callback] = []
    if config.teacher is not None:
        callbacks.append(Teacher(Path(config.teacher), data, **config.parts_of("teacher")))
    if config.small_images is not None:
        epochs = round(config.epochs * (config.small_share or 0.6))
        callbacks.append(SmallerImages(model, data, config.small_images, epochs))
    if config.average is not None:
        callbacks.append(WeightAverage(model, config.average))
    if config.clip_norm is not None:
        callbacks.append(ClipNorm(config.clip_norm))
    if config.mst_lambda is not None:
        options = {name.removeprefix("mst_"): value for name, value in config.parts_of("mst_lambda").items()}
        callbacks.append(MstPull(model, steps, config.mst_lambda, **options))
    return callbacks


def make_team(config: TrainConfig, data: Dataset, ranks: Ranks | None = None) -> Team:
    """Who computes the shards of a batch: these processes, or this one alone. Raises InputError."""
    compress = config.compress_gradients
    shards = config.shards
    if shards is None:
        shards = 1 if ranks is None else usual_shards(ranks.size, min(config.batch_size, len(data.train)), compress)
    if config.norm_over == "shard" and shards == 1:
        raise InputError("norm_over (=shard) needs shards, 2 or more")
    return Team(shards, ranks=ranks, apart=config.norm_over == "shard", compress=compress)


def trains_in_bytes(config: TrainConfig) -> bool:
    """Whether the gradients of binary convolutions are multiplied in bytes."""
    return config.has_gradients_of_signs and in_bytes(config.backward)


def compile_steps(config: TrainConfig) -> bool:
    """Let another process compile the kernels of a run's steps. Return whether there were any."""
    return compile_ahead(config.method, config.options_of("method"), config.optimizer, trains_in_bytes(config))


def about_training(config: TrainConfig, data: Dataset) -> dict[str, Any]:
    """Return the origin of a network for its files. Nothing in it depends on the clock or the machine."""
    return {
        "classes": list(data.classes),
        "mean": list(data.mean),
        "std": list(data.std),
        "data_sha256": data.sha256,
        "training": {
            key: Path(value).name if key in ("init_from", "teacher") else value
            for key, value in config.identity().items()
            if value is not None
        }
        | ({"plugin": Path(config.plugin).name} if config.plugin else {}),
    }


# --- data


def _part(split: Split, classes: int | None, limit: int | None) -> Split:
    """Return `limit` images of the first `classes` classes, in their stored order.

    A fixed shuffle picks them, since data sets are sorted by class.
    """
    chosen = np.arange(len(split)) if classes is None else np.flatnonzero(split.labels < classes)
    if limit is not None and limit < len(chosen):
        chosen = chosen[np.sort(epoch_order(len(chosen), 0, 0)[:limit])]
    if len(chosen) == len(split):
        return split
    return split.subset(chosen)


def data_identity(data: Dataset, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Return the digests that a checkpoint stores of its data and of the teacher among the callbacks."""
    teachers = [("teacher", one.sha256) for one in callbacks if isinstance(one, Teacher)]
    return {
        "data set": data.name,
        "sha256": data.sha256,
        "classes": data.num_classes,
        "train images": len(data.train),
        "val images": len(data.val),
        **dict(teachers),
    }


def describe_model(model: models.Network, data: Dataset) -> str:
    """Return one line that describes the network and the data set."""
    latent = sum(p.size for p in model.parameters() if p.latent)
    real = sum(p.size for p in model.parameters() if not p.latent)
    return (
        f"{model.config['name']} ({model.config['method']}): {latent:,} binary and {real:,} real parameters; "
        f"{data.name}: {len(data.train):,} training and {len(data.val):,} validation images of "
        f"{data.image_size}x{data.image_size}, {data.num_classes} classes"
    )
