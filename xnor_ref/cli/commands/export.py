"""`export`: write a checkpoint as a packed model file, or a network in ONNX."""

from pathlib import Path
from typing import Any

import click

from xnor_ref.cli import options
from xnor_ref.cli.group import Command
from xnor_ref.cli.onnx_text import RUNNERS, compared, compared_text

_MEANT = {  # options of each format
    "packed": (),
    "onnx": ("--unpacked", "--normalised", "--batch"),
    "qonnx": ("--batch",),
}


@click.command(
    cls=Command,
    examples=(
        "export runs/shapes-shapes-net-xnor-0 -o model.safetensors --which best --force",
        "export runs/shapes-shapes-net-xnor-0 -o net.onnx",
        "export model.safetensors -o net.onnx --format qonnx --batch 8",
    ),
)
@click.argument("source", metavar="RUN|MODEL")
@click.option("-o", "--output", required=True, metavar="FILE", help="The file to write.")
@click.option(
    "--format", type=click.Choice(list(_MEANT)), help="Format of FILE  [default: onnx if it ends in .onnx, else packed]"
)
@click.option("--which", type=click.Choice(["best", "last"]), help="Checkpoint of a run.  [default: last]")
@click.option(
    "--unpacked", is_flag=True, help="ONNX: store binary weights as float32, for tools that do not fold constants."
)
@click.option("--normalised", is_flag=True, help="ONNX: the input is float32 (N, C, H, W), already normalised.")
@click.option("--batch", type=click.IntRange(1, 65_536), help="ONNX, QONNX: fix the batch size to N.")
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@options.plugin_option(expose_value=False)
@options.json_option
def command(
    source: str,
    output: str,
    format: str | None,
    which: str | None,
    unpacked: bool,
    normalised: bool,
    batch: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write a network for use, as a packed model file or in ONNX.

    SOURCE is a run, whose checkpoint is frozen, or a model file. The answers of the new file are compared with those
    of the network before the command reports success. ONNX files take pixels, uint8 (N, H, W, C), and keep the weights
    packed. QONNX is for FINN and other compilers of quantised networks.
    """
    format = format or ("onnx" if output.endswith(".onnx") else "packed")
    flags = {"--unpacked": unpacked, "--normalised": normalised, "--batch": batch is not None}
    useless = [flag for flag, given in flags.items() if given and flag not in _MEANT[format]]
    if useless:
        raise click.UsageError(f"{', '.join(useless)} has no effect with --format {format}")
    is_model = Path(source).is_file()
    if is_model and which is not None:
        raise click.UsageError(f"--which chooses a run's checkpoint, but {source} is a file")
    if format == "packed":
        if is_model:
            raise click.UsageError(
                f"{source} is a packed file already; to convert it to ONNX, give -o a name that ends in .onnx"
            )
        from xnor_ref.training.export import export_run

        target = options.model_target(output, force)
        options.answer(export_run(Path(source), target, which or "last"), as_json, _text)
        return
    from xnor_ref.interop import onnx_check

    target = options.target_of(output, force, onnx_check.is_onnx, "a network in ONNX")
    how: dict[str, Any] = {"unpacked": unpacked, "normalised": normalised, "batch": batch}
    if format == "qonnx":
        how = {"normalised": True, "batch": batch or 1}
    packed = _packed(Path(source), which or "last")
    size, agreement = onnx_check.write_checked(packed, target, qonnx=format == "qonnx", **how)
    found = compared(agreement, RUNNERS[format]) if agreement else {"images_compared": 0}
    options.answer({"file": str(target), "format": format, "bytes": size, **found}, as_json, _onnx_text)


def _packed(source: Path, which: str) -> Any:
    from xnor_ref.packed import load_packed

    if source.is_file():
        return load_packed(source)
    from xnor_ref.packed.freeze import freeze
    from xnor_ref.training.export import checkpoint_of

    _, model, about, _ = checkpoint_of(source, which)
    return freeze(model, **about)


def _onnx_text(result: dict[str, Any]) -> str:
    from xnor_ref.interop.onnx_out_graph import OPSET, QONNX_OPSET

    opset = QONNX_OPSET if result["format"] == "qonnx" else OPSET
    missing = f"not compared with its model, because {RUNNERS[result['format']]} is not installed"
    head = f"{result['file']}: {options.size_text(result['bytes'])}, {result['format'].upper()}, opset {opset}"
    return f"{head}\n{compared_text(result) if result['images_compared'] else missing}"


def _text(result: dict[str, Any]) -> str:
    return (
        f"{result['file']}: {options.size_text(result['packed_bytes'])}, from {result['checkpoint']} "
        f"(after {result['epochs']} epochs)\n"
        f"{result['float_parameter_bytes'] / result['packed_bytes']:.1f} times smaller than its "
        f"{options.size_text(result['float_parameter_bytes'])} of float32 parameters and statistics of BatchNorm\n"
        f"read back and compared on {result['images_compared']} images: largest difference of a logit "
        f"{result['max_logit_difference']:g}"
    )
