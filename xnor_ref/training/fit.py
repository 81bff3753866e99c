"""`fit`: the trainer of the command line, for your own network or images."""

import hashlib
import inspect
import os
import signal
import sys
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref import models
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.datasets import Dataset
from xnor_ref.datasets.arrays import classes_of, from_arrays, images_of, labels_of
from xnor_ref.datasets.batches import make_batch, table_of
from xnor_ref.errors import InputError, InputTypeError, ModelFileError
from xnor_ref.kernels.basics import threads
from xnor_ref.kernels.basics.rungs import reference_only
from xnor_ref.nn import Module
from xnor_ref.nn.backend import backward_in
from xnor_ref.nn.settings import LayerSettings
from xnor_ref.packed.freeze import freeze
from xnor_ref.storage import PathLike
from xnor_ref.training import job
from xnor_ref.training.allocator import keep_freed_memory
from xnor_ref.training.fitting.evaluation import evaluate_both, of_stored_images, require_agreement
from xnor_ref.training.fitting.interrupt import Interrupted
from xnor_ref.training.fitting.observer import Observer
from xnor_ref.training.fitting.trainer import Callback, steps_per_epoch
from xnor_ref.training.report import finish
from xnor_ref.training.settings import plugins
from xnor_ref.training.settings.config import FIELDS, check_values, default_data_dir
from xnor_ref.training.settings.fields import choices_of, has_effect
from xnor_ref.training.settings.resolve import resolve
from xnor_ref.training.storing.checkpoint import CheckpointFolder
from xnor_ref.training.storing.float_file import save_float
from xnor_ref.training.storing.runs import OF_FIT, RunFolder, is_empty, new_run
from xnor_ref.training.storing.sources import start_from

SETTINGS = {name: field for name, field in FIELDS.items() if name not in ("dataset", "model")}
OF_NETWORKS = {"method", "faithful", "model_options"} | {
    name for name, field in FIELDS.items() if field.metadata.get("needs", ("",))[0] == "method"
}
OF_LAYERS = (
    *LayerSettings.names(),
    "gradient",
    "eps",
    "momentum",
    "whole_channels",
)  # the other settings are in `repr`
OF_DATA = {
    *("train_size", "val_size", "image_size", "data_dir", "archive"),
    *("crop", "scale_to", "in_place", "store_dir"),
}


@dataclass(frozen=True)
class History:
    """The result of `fit`.

    Attributes
    ----------
    network : Module
        The trained network, in inference mode; `freeze(network)` packs it.
    epochs : list of dict
        The figures of each epoch, as in metrics.jsonl: `epoch`, counted from 1; `step`, the optimiser's steps so far;
        `lr` of the last step; `train_loss` and `train_top1`, means over the epoch's training images while the network
        changed; `val_loss`, `val_top1` and `val_top5` after the epoch, or None without validation images; `best`,
        whether `val_top1` exceeds all earlier ones; `seconds` and `val_seconds`; `whole_epoch`, False if `seconds`
        covers only the part after a resume; of latent weights, `flips`, the share that changes its sign in a step,
        `dead`, the share outside [-1, 1], and `latent`, a histogram of each layer; and the figures of callbacks.
    settings : dict
        The value, given or chosen, of every setting that had an effect.
    report : dict
        The scores of the `float` and the `packed` network, and `disagreements`, the number of images on which they
        differ, which is 0. Empty without validation images, or if the network cannot be packed.
    folder : Path or None
        The folder that was written to.
    """

    network: Module
    epochs: list[dict[str, Any]]
    settings: dict[str, Any]
    report: dict[str, Any]
    folder: Path | None = None

    @property
    def best(self) -> dict[str, Any] | None:
        """The figures of the first epoch with the highest `val_top1`, or None without validation images."""
        return max((line for line in self.epochs if line["best"]), key=lambda line: line["epoch"], default=None)


class _Printer(Observer):
    """Prints a line on stderr for each note and each epoch."""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)

    def epoch(self, line: dict[str, Any]) -> None:
        val = "" if line["val_top1"] is None else f"  validation {line['val_loss']:.4f} {line['val_top1']:6.2%}"
        self.note(f"epoch {line['epoch']:3d}  loss {line['train_loss']:.4f} {line['train_top1']:6.2%}{val}")


def fit(
    network: Module | str,
    train: Any,
    validation: Any = None,
    *,
    classes: Sequence[Hashable] | None = None,
    layout: str = "auto",
    out: PathLike | None = None,
    resume: bool = False,
    download: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool | Observer = False,
    **settings: Any,
) -> History:
    """Train a network in place, with the trainer, checks and settings of the command `train`.

    Parameters
    ----------
    network : Module or str
        Any network of `nn` layers, from images (N, C, H, W) to logits (N, classes); or the name of a network in
        `models`, which is built for the images and classes and returned as `history.network`.
    train : (images, labels) or str
        Images are uint8 or float32. uint8 images are raw pixels. They are normalised by their mean and standard
        deviation, or by those in `network.about`, if the network was trained or imported before. float32 images are
        used unchanged. `layout` gives the place of their channels. Integer labels are the index of the logit. Other
        labels, such as texts, are sorted to classes. A str is the name of a data set, which has its own validation
        images.
    validation : (images, labels), optional
        Images and labels on which the network is scored after each epoch.
    classes : sequence, optional
        The classes in the order of the logits. With integer labels, they are names; other labels are looked up in them.
    layout : {"auto", "NHWC", "NCHW"}
        With "auto", channels are the second or the last of four axes, whichever has at most 4 entries. Images (N, H, W)
        have one channel. Rows (N, features) are images of one pixel; their network must begin with `Flatten`.
    out : path, optional
        Folder for checkpoints, metrics.jsonl, settings and the trained network. By default nothing is written.
    resume : bool
        Resume the run in `out`, if there is one, from its newest checkpoint. The files end with the same bytes as those
        of an uninterrupted run. Network, images and settings must be the same.
    download : bool
        Download a data set given by name if it is missing.
    callbacks : sequence of Callback
        Objects whose hooks run in each step and epoch, see `xnor_ref.Callback`.
    progress : bool or Observer
        True prints a line for each epoch to stderr.
    **settings
        The settings of `train`, listed below. A data set given by name brings defaults, its recipe. Arrays are not
        augmented unless `augment` is True. Settings for networks by name, such as `method`, are rejected if `network`
        is a Module. Settings for data sets by name are rejected if `train` is arrays.

    Returns
    -------
    History

    Raises
    ------
    InputTypeError, InputError
        An argument or a setting is wrong. The message gives the values that clash.
    DatasetError, ModelFileError, OutputError
        A data set, a file to start from or a run to resume is missing or damaged, or a folder cannot be written.
    NonFiniteError
        A loss or gradient became NaN or infinite.
    EquivalenceError
        Training, evaluation and the packed network do not agree.
    Interrupted
        Ctrl-C was pressed (a KeyboardInterrupt). The step was finished, and a checkpoint written if there is a folder.

    Examples
    --------
    >>> from xnor_ref import nn
    >>> rng = np.random.default_rng(0)
    >>> images = rng.integers(0, 256, (64, 8, 8), np.uint8)
    >>> labels = ["bright" if image.mean() > 127 else "dark" for image in images]
    >>> net = nn.Sequential(
    ...     nn.Conv2d(1, 16, 3, padding=1, rng=rng), nn.BatchNorm2d(16),
    ...     nn.BinaryConv2d(16, 16, 3, padding=1, rng=rng), nn.BatchNorm2d(16), nn.ReLU(),
    ...     nn.GlobalAvgPool2d(), nn.Linear(16, 2, rng=rng),
    ... )
    >>> history = fit(net, (images, labels), epochs=2, batch_size=16)
    >>> [line["step"] for line in history.epochs], net.about["classes"]
    ([4, 8], ['bright', 'dark'])
    """
    if not isinstance(network, (Module, str)):
        raise InputTypeError(f"fit: network must be a Module of nn or the name of one, got {type(network).__name__}")
    if not isinstance(callbacks, Sequence) or not all(isinstance(callback, Callback) for callback in callbacks):
        raise InputTypeError(f"fit: callbacks must be a list of Callback objects, got {callbacks!r}")
    if isinstance(classes, str) or not isinstance(classes, Iterable | None):
        raise InputTypeError(
            f"fit: classes must be a sequence such as a list, in the order of the logits; got {classes!r}"
        )
    if not isinstance(out, str | os.PathLike | None):
        raise InputTypeError(f"fit: out must be a str or PathLike, got {out!r}")
    if out is not None and not os.fspath(out):
        raise InputError("fit: out is empty; name a folder, or None to write nothing")
    observer = progress if isinstance(progress, Observer) else _Printer() if progress else Observer()
    config = _config(network, train, settings)
    with reference_only(config.backend == "reference"), backward_in(config.backward), _threads(config.threads):
        keep_freed_memory()
        if not isinstance(train, str):
            data: Dataset = job.limited(config, _arrays(network, train, validation, classes, layout))
        elif validation is not None or classes is not None or layout != "auto":
            raise InputError(f"fit: the data set {train!r} has its own validation images, classes and layout")
        else:
            data = job.load_data(config, download, observer)
        size = data.train.images.shape[1:3]
        if isinstance(network, str) and size[0] != size[1]:
            raise InputError(f"fit: networks by name take square images, got {size[0]}x{size[1]} pixels")
        model: Any = job.build_network(config, data) if isinstance(network, str) else network
        if (outputs := _outputs(model, data)) != data.num_classes:
            raise InputError(f"fit: the network has {outputs} logits, but there are {data.num_classes} classes")
        run = _Run(config, model, data, isinstance(network, str), isinstance(train, str), observer)
        folder, resumed = _folder(out, resume)
        return run.carry_out(folder, resumed, callbacks)


class _Run:
    """One call of `fit`: a network, its data and its settings."""

    def __init__(self, config: Any, model: Any, data: Dataset, built: bool, loaded: bool, observer: Observer):
        self.config, self.model, self.data, self.observer = config, model, data, observer
        self.built = built
        self.as_train = built and loaded  # everything, including the folder, is as with the command `train`
        without = (set() if built else {*OF_NETWORKS, "model"}) | (set() if loaded else {*OF_DATA, "dataset"})
        self.settings = {
            name: value
            for name, value in config.to_dict().items()
            if name not in without and value is not None and has_effect(FIELDS[name], vars(config))
        }
        self.identity = {name: value for name, value in config.identity().items() if name not in without}
        if not built:
            self.identity["network"] = _digest(model)
        self.about = job.about_training(config, data)
        training = self.about["training"].items()
        self.about["training"] = {name: value for name, value in training if name not in without}
        shape = data.train.images.shape[1:]
        model.about = {**self.about, "input_shape": (shape[2], *shape[:2])}

    def carry_out(self, folder: RunFolder | None, resumed: bool, callbacks: Sequence[Callback]) -> History:
        """Train, compare, and write to the folder, if there is one."""
        config, model, data, observer = self.config, self.model, self.data, self.observer
        lines: list[dict[str, Any]] = []
        path = folder.path if folder else None
        if self.built:
            job.compile_steps(config)
        begun = folder and resumed and any(CheckpointFolder(folder.checkpoints_path).candidates())
        if config.init_from and not begun:
            observer.note(start_from(model, Path(config.init_from)))
        packs = self._packs()
        trainer = job.build_trainer(
            config,
            model,
            data,
            [*job.make_callbacks(config, model, data, steps_per_epoch(len(data.train), config.batch_size)), *callbacks],
            observer,
            folder=folder,
            identity=self.identity,
            about=self.about,
            validator=(lambda: of_stored_images(freeze(model))) if packs else None,
            record=lines.append,
        )
        with folder.lock() if folder else nullcontext():
            try:
                if folder:
                    if resumed:
                        trainer.resume(note=observer.note)
                    as_said = {"config": config.to_dict()} if self.as_train else {OF_FIT: self.settings}
                    job.describe_run(config, as_said, folder, trainer, resumed, observer)
                    lines += folder.metrics()
                job.train(trainer, config.lr)
                report = self._end(folder, packs)
            except KeyboardInterrupt as error:
                number = getattr(error, "signal_number", signal.SIGINT)
                raise Interrupted(number, str(error) or "stopped", path) from None
            finally:
                model.eval()
        return History(model, lines, self.settings, report, path)

    def _packs(self) -> bool:
        """Whether the network can be packed. It is then validated on bits, since it will be used so."""
        try:
            freeze(self.model)
        except (InputError, ModelFileError) as reason:
            self.observer.note(f"the float network is validated, since it cannot be packed: {reason}")
            return False
        return True

    def _end(self, folder: RunFolder | None, packs: bool) -> dict[str, Any]:
        """Compare the float with the packed network, and write both if there is a folder."""
        if folder and self.as_train:
            return finish(folder, self.model, self.data, self.about, self.observer)
        report: dict[str, Any] = {}
        if packs:
            packed = freeze(self.model)
            if len(self.data.val):
                report = evaluate_both(self.model, packed, self.data, self.observer)
                require_agreement(report)
            if folder:
                packed.save(folder.packed_path)
        if folder:
            if isinstance(self.model, models.Network):
                save_float(folder.float_path, self.model, self.about)
            folder.write_json(folder.report_path, report)
        return report


def _config(network: Module | str, train: Any, settings: dict[str, Any]) -> Any:
    """Return the settings of a run, checked like those of `train`."""
    said = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in settings.items()
        if value is not None
    }
    for name in ("init_from", "teacher", "plugin"):
        if isinstance(said.get(name), (str, os.PathLike)):
            said[name] = os.path.abspath(said[name])
    if "plugin" in said:
        plugins.load(said["plugin"])
    for name, argument in (("dataset", "train"), ("model", "network")):
        if name in said:
            raise InputError(f"fit: {name} (={said[name]!r}) is given by the argument {argument}; leave it out")
    for foreign, of, instead in (
        (OF_NETWORKS if isinstance(network, Module) else (), "network", "its layers decide it"),
        (() if isinstance(train, str) else OF_DATA, "data set", "arrays have none"),
    ):
        for name in said:
            if name in foreign:
                raise InputError(f"fit: {name} (={said[name]!r}) is a setting of a {of} by name; {instead}")
    if isinstance(network, str):
        said["model"] = network
    if isinstance(train, str):
        said = {"data_dir": default_data_dir(), **said, "dataset": train}
    else:  # the settings for a folder of images, without augmentation
        said = {"augment": False, **said, "dataset": "folder"}
    check_values(said, "fit")
    return resolve(said)


def _arrays(
    network: Module | str, train: Any, validation: Any, classes: Sequence[Hashable] | None, layout: str
) -> Dataset:
    """Return arrays as a data set."""
    parts = {}
    for what, pair in (("train", train), ("validation", validation)):
        if pair is None and what == "validation":
            continue
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InputTypeError(f"fit: {what} must be (images, labels), got {type(pair).__name__}")
        parts[what] = images_of(pair[0], layout, f"fit: {what} images"), pair[1], f"fit: {what} labels"
    images, labels, what = parts["train"]
    if classes is None:
        classes = classes_of(labels, what)
    if classes is None:
        if isinstance(network, Module):
            classes = range(_logits(network, images[:1].transpose(0, 3, 1, 2).astype(np.float32)))
        else:
            classes = range(int(np.max(labels, initial=0)) + 1)
    split = [(pixels, labels_of(of, classes, what)) for pixels, of, what in parts.values()]
    data = from_arrays(*split[0], split[1] if len(split) > 1 else None, classes)
    about = {} if isinstance(network, str) else network.about
    if images.dtype != np.uint8 or not {"mean", "std"} <= about.keys():
        return data
    mean, std = (tuple(np.broadcast_to(about[key], images.shape[3:]).tolist()) for key in ("mean", "std"))
    return replace(data, mean=mean, std=std)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Context manager: use this number of threads."""
    before = threads.get_threads()
    if number is not None:
        threads.set_threads(number)
    try:
        yield
    finally:
        if number is not None:
            threads.set_threads(before)


def _outputs(model: Module, data: Dataset) -> int:
    """Return how many logits a network has for the images of a data set."""
    return _logits(model, make_batch(data.train.images, np.arange(1), table_of(data)))


def _logits(model: Module, x: NDArray[np.float32]) -> int:
    """Return how many logits a network has for an image (1, C, H, W)."""
    modes = [(module, module.training) for _, module in model.named_modules()]
    try:
        with no_grad():
            y = model.eval()(x)
    finally:
        for module, mode in modes:
            module.training = mode
    if not isinstance(y, Tensor):
        raise InputTypeError(f"fit: the network must return a Tensor, got {type(y).__name__}")
    if y.ndim != 2 or len(y.data) != 1:
        raise InputError(f"fit: for images {x.shape} the network returns {y.shape}; it must return logits (N, classes)")
    return y.shape[1]


def _folder(out: PathLike | None, resume: bool) -> tuple[RunFolder | None, bool]:
    """Return the folder of a run, and whether it holds a run to resume."""
    if out is None:
        if resume:
            raise InputError("fit: resume needs out, the folder of the run to resume")
        return None, False
    path = Path(out)
    if path.is_dir() and not is_empty(path):
        folder = RunFolder(path)
        if resume and folder.config_path.is_file():
            return folder, True
        if resume:
            raise InputError(f"fit: out ({path}) holds files, but no run to resume")
        raise InputError(f"fit: out ({path}) is not empty; name another folder, or resume its run with resume=True")
    return new_run("", path), False


def _digest(network: Module) -> str:
    """Return a digest of a network's layers and their settings, for checkpoints."""
    said = [repr(network)]
    for path, module in network.named_modules():
        said += [f"{path}.{name}: {getattr(module, name)}" for name in OF_LAYERS if hasattr(module, name)]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


def _help(name: str) -> str:
    """Return a setting with its help text and choices."""
    field = SETTINGS[name]
    kind = field.metadata["kind"]
    choices = f" One of {', '.join(map(str, choices_of(field)))}." if kind in ("choice", "int-choice") else ""
    return f"    {name}\n        {field.metadata['help']}{choices}"


def _document() -> None:
    """Add the settings of `train` to `fit`: names and defaults to its signature, help texts to its docstring."""
    own = inspect.signature(fit)
    known = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    more = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default={} if field.metadata["kind"] == "table" else field.default,
        )
        for name, field in SETTINGS.items()
    ]
    fit.__signature__ = own.replace(parameters=[*known, *more])  # type: ignore[attr-defined]
    before, title, after = (fit.__doc__ or "").partition("    Returns\n    -------\n")
    listed = "\n".join(map(_help, SETTINGS))
    fit.__doc__ = f"{before}    Settings\n    --------\n{listed}\n\n{title}{after}"


_document()
