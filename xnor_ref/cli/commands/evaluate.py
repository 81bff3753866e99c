"""`evaluate`: score networks on the validation images."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from xnor_ref.cli import options
from xnor_ref.cli.group import Command
from xnor_ref.cli.text import say
from xnor_ref.errors import DatasetError, InputError, ModelFileError
from xnor_ref.training.settings.resolve import resolve

# Of a run's own data set:
_SIZES = ("train_size", "val_size", "image_size", "in_place", "limit_classes", "limit_val")
_FIELDS = ("dataset", "data_dir", "store_dir", "archive", *_SIZES, "threads")


@click.command(
    cls=Command,
    examples=(
        "evaluate runs/shapes-shapes-net-xnor-0",
        "evaluate runs/shapes-shapes-net-xnor-0/model.safetensors --limit-val 100",
    ),
)
@click.argument("run", metavar="RUN|MODEL")
@options.field_options(*_FIELDS)
@options.quiet_option
@options.plugin_option(expose_value=False)
@options.json_option
def command(run: str, quiet: bool, as_json: bool, **values: Any) -> None:
    """Score a run's networks, or a model file, on the validation images.

    RUN is a run folder. Its float network and its packed network are evaluated by independent code and compared.
    MODEL is a packed model file. It is evaluated on the data set it was trained on, or on the one of --dataset.
    """
    from xnor_ref.cli.progress import Progress

    path, said = Path(run), options.said(values)
    with Progress(quiet) as progress:
        result = _of_run(path, said, progress) if path.is_dir() else _of_file(path, said, progress)
    options.answer(result, as_json, _text)
    if "disagreements" in result:
        from xnor_ref.training.fitting.evaluation import require_agreement

        require_agreement(result)


def _of_run(path: Path, said: dict[str, Any], progress) -> dict[str, Any]:
    from xnor_ref.packed import load_packed
    from xnor_ref.training.callbacks.agreement import check_on
    from xnor_ref.training.fitting.evaluation import evaluate_both
    from xnor_ref.training.storing.float_file import load_float
    from xnor_ref.training.storing.runs import RunFolder

    folder = RunFolder(path)
    config = folder.config()
    if said.get("dataset", config.dataset) != config.dataset:
        said = {**dict.fromkeys((*_SIZES, "archive")), **said}
    config = dataclasses.replace(config, **said)
    missing = [file.name for file in (folder.float_path, folder.packed_path) if not file.exists()]
    if missing:
        raise ModelFileError(
            f"the run in {path} is not finished: it has no {' and no '.join(missing)} yet; "
            f"resume it with: train --resume {path}"
        )
    model, about = load_float(folder.float_path)
    packed = load_packed(folder.packed_path)
    data = _data_for(packed, config, path, said, progress)
    data = dataclasses.replace(data, mean=tuple(about["mean"]), std=tuple(about["std"]))  # those used in training
    check_on(model, data)
    if data.sha256 != about["data_sha256"]:
        progress.note("note: these images differ from those that the run was trained and validated with")
    return {"run": str(path), "dataset": data.name, **evaluate_both(model, packed, data, progress)}


def _of_file(path: Path, said: dict[str, Any], progress) -> dict[str, Any]:
    from xnor_ref.packed import load_packed
    from xnor_ref.training.fitting.evaluation import packed_logits, score

    packed = load_packed(path)
    trained = packed.metadata["training"]
    if "dataset" not in said:
        known = {key: trained[key] for key in _SIZES if key in trained}
        if "dataset" not in trained:
            raise InputError(f"{path} does not say which data set it was trained on; name one with --dataset")
        said = {"dataset": trained["dataset"], **known, **said}
    config = resolve({"data_dir": options.default_data_dir(), **said})
    data = _data_for(packed, config, path, said, progress)
    scores = score(packed_logits(packed, data, progress), data.val.labels, str(path))
    return {"model": str(path), "dataset": data.name, "images": scores.images, "packed": scores.figures()}


def _data_for(packed, config, path: Path, said: dict[str, Any], progress):
    """Load a config's data set, check that the packed network of `path` takes it, and set the config's threads."""
    from xnor_ref.datasets.store import find_packed
    from xnor_ref.kernels.basics.threads import set_threads
    from xnor_ref.training.job import limited, load_data

    set_threads(config.threads)
    try:
        data = load_data(config, observer=progress)
    except DatasetError as error:
        own = "" if "archive" in said else packed.metadata["data_sha256"]
        copy = find_packed(Path(config.data_dir), own) if own else None
        if copy is None or copy.name != config.dataset:
            raise
        say(f"warning: {error}; using the packed copy of the images of training and validation")
        data = limited(config, copy)
    wanted, given = packed.input_shape, (data.channels, data.image_size, data.image_size)
    if wanted != given:
        raise InputError(f"{path} takes images (C, H, W) = {wanted}, but the data set {data.name} has {given}")
    if len(packed.classes) != data.num_classes:
        raise InputError(
            f"{path} has {len(packed.classes)} classes, but the data set {data.name} has {data.num_classes}"
        )
    unnamed = tuple(map(str, range(data.num_classes)))  # e.g. an imported network: labels are numbers
    if tuple(packed.classes) not in (tuple(data.classes), unnamed):
        raise InputError(f"{path} was trained for other classes than those of the data set {data.name}")
    return data


def _text(result: dict[str, Any]) -> str:
    what = result.get("run", result.get("model"))
    title = f"{what} on {result['images']:,} validation images of {result['dataset']}"
    return "\n".join([title, "", *options.score_lines(result)])
