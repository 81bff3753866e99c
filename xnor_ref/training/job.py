"""A whole training job: data, network, training, evaluation, freezing to bits, and the closing report."""

import dataclasses
import io
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from xnor_ref import datasets, models, optim
from xnor_ref.datasets import AugmentSpec, Dataset, Split
from xnor_ref.datasets.batches import epoch_order, normalization_table
from xnor_ref.errors import EquivalenceError, InputError, ModelFileError, NonFiniteError
from xnor_ref.kernels.basics.rungs import reference_only, without_kernels
from xnor_ref.kernels.basics.threads import set_threads
from xnor_ref.nn import binary_backend
from xnor_ref.nn.backend import backward_in, multiplies_bytes
from xnor_ref.packed import PackedNetwork, load_packed
from xnor_ref.packed.freeze import freeze
from xnor_ref.storage import sha256_file, write_atomically
from xnor_ref.training.ahead import compile_ahead
from xnor_ref.training.allocator import keep_freed_memory
from xnor_ref.training.callbacks.mst import MstPull, make_regularizer
from xnor_ref.training.callbacks.sources import Teacher, make_teacher, start_from
from xnor_ref.training.evaluation import Logits, all_logits, compare, float_logits, score
from xnor_ref.training.interrupt import Interrupted, StopRequest
from xnor_ref.training.loop import steps_per_epoch, train
from xnor_ref.training.observer import Observer
from xnor_ref.training.settings.config import TrainConfig
from xnor_ref.training.storing import environment
from xnor_ref.training.storing.checkpoint import CheckpointFolder, MismatchError, Position, read, split_state, state_of
from xnor_ref.training.storing.float_file import save_float
from xnor_ref.training.storing.runs import RunFolder, new_run


def train_run(
    config: TrainConfig,
    *,
    out: Path | None = None,
    resume: RunFolder | None = None,
    start: Path | None = None,
    download: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Train, evaluate, freeze, and write everything into a run folder.

    Parameters
    ----------
    out : Path, optional
        Folder of the new run; by default one is named under runs/.
    resume : RunFolder, optional
        Go on with this run, from its newest sound checkpoint; without one, from the beginning. A finished run is
        not computed again.
    start : Path, optional
        With `resume`, go on from this checkpoint and no other.
    download : bool
        Fetch the data set where it is missing.

    Returns
    -------
    dict
        The closing report, JSON values; also written to report.json.

    Raises
    ------
    DatasetError, ModelFileError, NonFiniteError, EquivalenceError, OutputError
    Interrupted
        SIGINT or SIGTERM: the step was finished and everything saved.
    """
    with reference_only(config.backend == "reference"):
        return _train_run(config, out, resume, start, download, observer or Observer())


def _train_run(
    config: TrainConfig,
    out: Path | None,
    resume: RunFolder | None,
    start: Path | None,
    download: bool,
    observer: Observer,
) -> dict[str, Any]:
    set_threads(config.threads)
    keep_freed_memory()
    if resume is not None and start is None:
        report = finished_report(resume)
        if report is not None:
            observer.note("this run is finished; here is its report again")
            return report
    compile_ahead(config)
    data = load_data(config, download, observer)
    steps = steps_per_epoch(len(data.train), config.batch_size)
    model = models.build(
        config.model,
        image_size=data.image_size,
        in_channels=data.channels,
        num_classes=data.num_classes,
        method=config.method,
        seed=config.seed,
        **models.combined(config.options_of("method"), config.model_options),
    )
    teacher = make_teacher(config, data)
    if config.init_from and not (resume and next(CheckpointFolder(resume.checkpoints_path, {}).candidates(), None)):
        observer.note(start_from(model, Path(config.init_from)))
    freeze_model(model, about_training(config, data))  # what cannot be frozen is refused now, not after training
    regularizer = make_regularizer(model, config, steps)
    observer.note(describe_model(model, data))
    if config.backward == "int8" and not multiplies_bytes():
        why = "the NumPy references compute" if without_kernels() else "this processor does not multiply bytes (VNNI)"
        observer.note(f"{why}: gradients are multiplied in fp32")
    folder = resume or new_run(config, out)
    with folder.lock():
        try:
            _train(config, folder, data, model, regularizer, teacher, resume is not None, start, observer)
            return finish(config, folder, data, model, observer)
        except KeyboardInterrupt as error:  # every moment is safe to stop at; say where to go on
            number = getattr(error, "signal_number", signal.SIGINT)
            raise Interrupted(number, str(error) or "stopped", folder.path) from None


def load_data(config: TrainConfig, download: bool = False, observer: Observer | None = None) -> Dataset:
    """The data set of a config, with its limits applied."""
    data = datasets.load(
        config.dataset,
        data_dir=Path(config.data_dir),
        archive=Path(config.archive) if config.archive else None,
        download=download,
        progress=observer.progress if observer else None,
        **config.options_of("dataset"),
    )
    count = config.limit_classes
    if count is not None and count > data.num_classes:
        raise InputError(f"limit_classes (={count}): the data set {data.name} has {data.num_classes} classes")
    return dataclasses.replace(
        data,
        classes=data.classes[:count],
        train=_limited(_of_classes(data.train, count), config.limit_train),
        val=_limited(_of_classes(data.val, count), config.limit_val),
    )


def _of_classes(split: Split, count: int | None) -> Split:
    """The images of the first `count` classes."""
    if count is None or split.labels.max() < count:
        return split
    chosen = split.labels < count
    return Split(np.ascontiguousarray(split.images[chosen]), split.labels[chosen])


def _limited(split: Split, limit: int | None) -> Split:
    """`limit` images in their stored order, picked by a fixed shuffle: data sets lie sorted by class."""
    if limit is None or limit >= len(split):
        return split
    picked = np.sort(epoch_order(len(split), 0, 0)[:limit])
    return Split(np.ascontiguousarray(split.images[picked]), split.labels[picked])


def data_identity(data: Dataset) -> dict[str, Any]:
    """What a checkpoint remembers of its data."""
    return {
        "data set": data.name,
        "sha256": data.sha256,
        "classes": data.num_classes,
        "train images": len(data.train),
        "val images": len(data.val),
    }


def describe_model(model: models.Network, data: Dataset) -> str:
    """One line: what is trained on what."""
    latent = sum(p.size for p in model.parameters() if p.latent)
    real = sum(p.size for p in model.parameters() if not p.latent)
    return (
        f"{model.config['name']} ({model.config['method']}): {latent:,} binary and {real:,} real parameters; "
        f"{data.name}: {len(data.train):,} training and {len(data.val):,} validation images of "
        f"{data.image_size}x{data.image_size}, {data.num_classes} classes"
    )


def augmentation(config: TrainConfig) -> AugmentSpec | None:
    """The data set's usual crops and flips, if asked for."""
    return datasets.default_augment(config.dataset) if config.augment else None


def _train(
    config: TrainConfig,
    folder: RunFolder,
    data: Dataset,
    model: models.Network,
    regularizer: MstPull | None,
    teacher: Teacher | None,
    resume: bool,
    start: Path | None,
    observer: Observer,
) -> None:
    steps = steps_per_epoch(len(data.train), config.batch_size)
    optimizer = make_optimizer(config, model, steps)
    schedule = optim.make_schedule(
        config.schedule,
        config.lr,
        total_steps=config.epochs * steps,
        warmup_steps=round(config.warmup_epochs * steps),
        **_schedule_options(config, steps),
    )
    identity = {"config": config.identity(), "data": data_identity(data)}
    if teacher:
        identity["data"]["teacher"] = teacher.sha256
    about = {"model": model.config, "about": about_training(config, data)}
    checkpoints = CheckpointFolder(folder.checkpoints_path, identity, about, config.keep)
    position = Position()
    if resume:
        position = _resume(checkpoints, start, model, optimizer, regularizer, steps, observer)
    folder.write_json(folder.config_path, {"config": config.to_dict(), "data": identity["data"]})
    here = environment.describe(config)
    if resume and (changed := environment.changes(folder.env_path, here)):
        observer.note(f"the run began under other conditions, its numbers may come out otherwise: {changed}")
    folder.write_json(folder.env_path, here)
    folder.truncate_metrics(position.epoch)
    folder.report_path.unlink(missing_ok=True)
    try:
        with (
            StopRequest() as stop,
            backward_in(config.backward),
            np.errstate(over="ignore", invalid="ignore", divide="ignore"),
        ):
            train(
                model,
                optimizer,
                schedule,
                data,
                normalization_table(data.mean, data.std),
                augmentation(config),
                lambda: freeze_model(model, about["about"]).logits,
                config,
                position,
                checkpoints,
                observer,
                stop,
                folder.append_metrics,
                regularizer,
                teacher,
            )
    except NonFiniteError as error:
        last = next(checkpoints.candidates(), None)
        kept = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
        raise NonFiniteError(f"{error}; {kept}. A smaller --lr usually helps (it was {config.lr:g})") from None


def make_optimizer(config: TrainConfig, model: models.Network, steps: int):
    """The optimiser of a config over all parameters, for epochs of so many steps."""
    parameters = list(model.named_parameters())
    if config.decay_all:
        for _, parameter in parameters:
            parameter.decay = True
    options = {"weight_decay": config.weight_decay, **config.options_of("optimizer")}
    optimizer = optim.OPTIMIZERS[config.optimizer](parameters, config.lr, **options)
    if config.decay_epochs is not None:
        optimizer.decay_steps = config.decay_epochs * steps
    return optimizer


def _schedule_options(config: TrainConfig, steps: int) -> dict[str, Any]:
    options = config.options_of("schedule")
    if "milestones" in options:
        options["milestones"] = [epoch * steps for epoch in options["milestones"]]
    return options


def _resume(checkpoints, start, model, optimizer, regularizer, steps: int, observer: Observer) -> Position:
    """Load the newest sound checkpoint, or the given one, and say which."""
    damaged = []
    for path in [start] if start else checkpoints.candidates():
        try:
            tensors, metadata = read(path, checkpoints.identity)
            of_model, of_optimizer = split_state(tensors)
            try:
                model.load_state_dict(of_model)
                optimizer.load_state_dict(of_optimizer)
                if regularizer:
                    regularizer.load_state_dict(state_of(tensors, "extra."))
            except (InputError, KeyError, ValueError) as error:
                raise ModelFileError(f"{path} does not fit this network: {error}") from None
        except MismatchError:
            raise
        except ModelFileError as error:
            if start:
                raise
            damaged.append(path)
            observer.note(f"skipped a checkpoint that cannot be used: {error}")
            continue
        position: Position = metadata["position"]
        done = position.epoch * steps + position.step
        checkpoints.discard_after(done)
        observer.note(f"resuming from {path}: epoch {position.epoch + 1}, step {done + 1}")
        return position
    if damaged:
        raise ModelFileError(
            f"none of the {len(damaged)} checkpoints in {checkpoints.folder} can be used; "
            "leave --resume out to start a new run"
        )
    observer.note("no checkpoint there yet: starting at the beginning")
    return Position()


def finish(
    config: TrainConfig, folder: RunFolder, data: Dataset, model: models.Network, observer: Observer
) -> dict[str, Any]:
    """Write both networks, evaluate each by its own path, compare, and report.

    Raises
    ------
    EquivalenceError
        The two networks disagree on an image.
    """
    about = about_training(config, data)
    save_float(folder.float_path, model, about)
    freeze_model(model, about).save(folder.packed_path)
    save_sample(folder.path / "sample.png", data)
    packed = load_packed(folder.packed_path)
    result = evaluate_both(model, packed, data, observer)
    lines = folder.metrics()
    whole = [line["seconds"] + line.get("val_seconds", 0.0) for line in lines if line.get("whole_epoch")]
    best = max(lines, key=lambda line: line.get("val_top1", -1.0), default={})
    report = {
        "run": str(folder.path),
        "dataset": config.dataset,
        "model": config.model,
        "method": config.method,
        "epochs": config.epochs,
        "seed": config.seed,
        **result,
        "best_epoch": best.get("epoch"),
        "best_val_top1": best.get("val_top1"),
        "float_bytes": folder.float_path.stat().st_size,
        "packed_bytes": folder.packed_path.stat().st_size,
        "float_sha256": sha256_file(folder.float_path),
        "packed_sha256": sha256_file(folder.packed_path),
        "seconds_per_epoch": sum(whole) / len(whole) if whole else None,
    }
    require_agreement(result)
    folder.write_json(folder.report_path, report)
    return report


def finished_report(folder: RunFolder) -> dict[str, Any] | None:
    """The report of a finished run whose files are still those that it describes."""
    try:
        report = json.loads(folder.report_path.read_bytes())
        if report["float_sha256"] != sha256_file(folder.float_path):
            return None
        if report["packed_sha256"] != sha256_file(folder.packed_path):
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    report["run"] = str(folder.path)
    return report


def about_training(config: TrainConfig, data: Dataset) -> dict[str, Any]:
    """What the files of a network say of its origin; nothing that depends on the clock or the machine."""
    return {
        "classes": list(data.classes),
        "mean": list(data.mean),
        "std": list(data.std),
        "data_sha256": data.sha256,
        "training": {
            key: Path(value).name if key in ("init_from", "teacher") else value
            for key, value in config.identity().items()
            if value is not None
        },
    }


def freeze_model(model: models.Network, about: dict[str, Any]) -> PackedNetwork:
    """The network on bits."""
    config = model.config
    return freeze(model, input_shape=(config["in_channels"], config["image_size"], config["image_size"]), **about)


def save_sample(path: Path, data: Dataset) -> None:
    """Write the first validation image as PNG, so that there is something to predict."""
    from PIL import Image

    pixels = np.asarray(data.val.images[0])
    buffer = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def evaluate_both(model: models.Network, packed: PackedNetwork, data: Dataset, observer: Observer) -> dict[str, Any]:
    """Scores of the float and the packed network on the validation images, and how far they agree.

    The float network convolves matrices of +-1 with BLAS, the packed one counts bits: two paths to the same numbers.
    """
    images, labels = data.val.images, data.val.labels
    with binary_backend("float"), np.errstate(over="ignore", invalid="ignore"):
        of_float = all_logits(
            float_logits(model, normalization_table(data.mean, data.std)),
            images,
            _reporter(observer, "evaluating the float network"),
        )
    of_packed = packed_logits(packed, data, observer)
    agreement = compare(of_float, of_packed)
    return {
        "images": len(labels),
        "float": _scores(of_float, labels, "the float network"),
        "packed": _scores(of_packed, labels, "the packed network"),
        "disagreements": agreement.disagreements,
        "max_logit_difference": agreement.max_logit_difference,
    }


def packed_logits(packed: PackedNetwork, data: Dataset, observer: Observer) -> Logits:
    """Logits of a packed network for all validation images."""
    return all_logits(packed.logits, data.val.images, _reporter(observer, "evaluating the packed network"))


def _scores(logits: Logits, labels, what: str) -> dict[str, float]:
    scores = score(logits, labels, what)
    return {"top1": scores.top1, "top5": scores.top5, "loss": scores.loss}


def require_agreement(result: dict[str, Any]) -> None:
    """Raise EquivalenceError if the two networks name another first class for any image."""
    if result["disagreements"]:
        raise EquivalenceError(
            f"the float and the packed network disagree on {result['disagreements']} of {result['images']} images "
            f"(largest difference of a logit: {result['max_logit_difference']:g}); they must agree on all"
        )


def _reporter(observer: Observer, what: str) -> Callable[[int, int], None]:
    return lambda done, total: observer.progress(what, done, total)
