"""`info`: describe the installation, a model file, a run, or a network before training."""

from pathlib import Path
from typing import Any

import click

from xnor_ref.cli import options
from xnor_ref.cli.group import Command
from xnor_ref.cli.summary_text import summary_text
from xnor_ref.cli.text import say
from xnor_ref.errors import InputError
from xnor_ref.training.settings.config import did_you_mean


@click.command(
    cls=Command,
    examples=(
        "info",
        "info runs/shapes-shapes-net-xnor-0",
        "info runs/shapes-shapes-net-xnor-0/model.safetensors",
        "info --network resnet20 --method bwn",
    ),
)
@click.argument("path", metavar="[MODEL|RUN]", required=False)
@click.option("--network", metavar="NETWORK", help="Show a network's cost by layer, before training.")
@click.option(
    "--size", type=int, metavar="N", help="With --network: height and width in pixels [the network's usual size]."
)
@click.option("--channels", type=int, metavar="C", help="With --network: image channels.")
@click.option("--classes", type=int, metavar="N", help="With --network: number of classes.")
@options.field_options("method", "model_options")
@options.field_options("data_dir")
@options.plugin_option(expose_value=False)
@options.json_option
def command(path: str | None, network: str | None, data_dir: str | None, as_json: bool, **settings: Any) -> None:
    """Describe the installation, a model file, a run, or a network's cost.

    Without an argument, it lists versions and data sets. A model file is checked completely (digest, layers, limits)
    before anything of it is shown.
    """
    given = {key: value for key, value in settings.items() if value is not None and value != ()}
    if given and network is None:
        flags = {"model_options": "--model-option"}
        raise click.UsageError(f"{', '.join(flags.get(key, '--' + key) for key in given)} needs --network")
    if path is not None and network is not None:
        raise click.UsageError(f"give either --network {network} or {path}, not both")
    if network is not None:
        result, text = _network(network, given), summary_text
    elif path is None:
        result, text = _installation(Path(data_dir or options.default_data_dir())), _installation_text
    elif Path(path).is_dir():
        result, text = _run(Path(path)), _run_text
    else:
        result, text = _model(Path(path)), _model_text
    options.answer(result, as_json, text)


def _installation(data_dir: Path) -> dict[str, Any]:
    from xnor_ref import datasets, models
    from xnor_ref.kernels.basics import checks, rungs
    from xnor_ref.training.storing import environment

    return {
        **environment.describe(),
        "backends": [name for name in checks.BACKENDS if name != "auto" and (name != "simd" or rungs.has_vectors())],
        "models": list(models.names()),
        "data_sets": list(datasets.names()),
        "data_dir": str(data_dir),
        "found_in_data_dir": sorted(p.name for p in data_dir.iterdir()) if data_dir.is_dir() else [],
    }


def _installation_text(result: dict[str, Any]) -> str:
    rows = []
    for key, value in result.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        if key == "data_dir" and not Path(value).is_dir():
            shown += " (this folder does not exist)"
        rows.append((key.replace("_", " "), shown or "nothing"))
    return options.table(rows)


def _network(name: str, given: dict[str, Any]) -> dict[str, Any]:
    from xnor_ref import models
    from xnor_ref.packed.summary import summarise

    if name not in models.names():
        known = ", ".join(models.names())
        raise InputError(f"--network must be one of {known}; got {name!r}{did_you_mean(name, models.names())}")
    size, channels, classes = models.usual_input(name)
    own = options.said({"model_options": given.get("model_options")}).get("model_options", {})
    network = models.build(
        name,
        image_size=given.get("size", size),
        in_channels=given.get("channels", channels),
        num_classes=given.get("classes", classes),
        method=given.get("method", "xnor"),
        **models.combined({}, own),
    )
    return summarise(network)


def _model(path: Path) -> dict[str, Any]:
    from xnor_ref.packed import load_packed

    network = load_packed(path)
    metadata = network.metadata
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "digest": "ok",
        "input_shape": list(network.input_shape),
        "mean": list(network.mean),
        "std": list(network.std),
        "classes": list(network.classes),
        "layers": network.summary(),
        "training": metadata["training"],
        "producer": metadata["producer"],
        "data_sha256": metadata["data_sha256"],
    }


def _model_text(result: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [("layer", "op", "output", "bits", "float32", "bytes")]
    counted = ("bits", "float_params", "bytes")
    for layer in result["layers"]:
        op = layer["op"] + (", tree" if layer["stored"] == "tree" else "")
        shape = "x".join(map(str, layer["output_shape"]))
        rows.append((layer["name"], op, shape, *(f"{layer[key]:,}" for key in counted)))
    rows.append(("total", "", "", *(f"{sum(layer[key] for layer in result['layers']):,}" for key in counted)))
    classes = result["classes"]
    shown = ", ".join(classes[:12]) + (f", ... ({len(classes)})" if len(classes) > 12 else f" ({len(classes)})")
    c, h, w = result["input_shape"]
    facts = [
        ("file", f"{result['file']}, {options.size_text(result['bytes'])}, digest {result['digest']}"),
        ("input", f"{c} channels, {h}x{w} pixels"),
        ("classes", shown),
        ("trained", _pairs(result["training"])),
        ("made by", _pairs(result["producer"])),
        ("data SHA-256", str(result["data_sha256"] or "not said")),
    ]
    return options.table(facts) + "\n\n" + options.table(rows, right=(3, 4, 5))


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items()) or "not said"


def _run(path: Path) -> dict[str, Any]:
    from xnor_ref.training.report import finished_report
    from xnor_ref.training.storing.checkpoint import CheckpointFolder
    from xnor_ref.training.storing.runs import RunFolder

    folder = RunFolder(path)
    config, lines, report = folder.config(), folder.metrics(), finished_report(folder)
    rows = folder.metrics_path.read_bytes().count(b"\n") if folder.metrics_path.exists() else 0
    if len(lines) < max(rows, config.epochs if report else 0):
        say(f"warning: {folder.metrics_path} is damaged: lines are missing or unreadable")
    if report is None and folder.report_path.exists():
        say(f"warning: {folder.report_path} is damaged, or belongs to other networks than those beside it")
    result = {
        "run": str(path),
        "config": {key: value for key, value in config.to_dict().items() if value is not None},
        "epochs_done": len(lines),
        "checkpoints": [p.name for p in CheckpointFolder(folder.checkpoints_path).candidates()],
        "report": report,
    }
    if folder.packed_path.exists():
        result["model"] = _model(folder.packed_path)
    return result


def _run_text(result: dict[str, Any]) -> str:
    config, report = result["config"], result["report"]
    facts = [
        ("run", result["run"]),
        ("config", _pairs(config)),
        ("epochs", f"{result['epochs_done']} of {config['epochs']}"),
        ("checkpoints", ", ".join(result["checkpoints"]) or "none"),
    ]
    if report is None:
        facts.append(("state", "not finished"))
    else:
        facts += [(f"{kind} network", f"top-1 {report[kind]['top1']:.2%}") for kind in ("float", "packed")]
        facts.append(("disagreements", f"{report['disagreements']} of {report['images']:,} images"))
    text = options.table(facts)
    return text + "\n\n" + _model_text(result["model"]) if "model" in result else text
