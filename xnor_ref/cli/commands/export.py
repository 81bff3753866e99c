"""`export`: a checkpoint as a packed model file."""

from pathlib import Path
from typing import Any

import click

from xnor_ref.cli import options
from xnor_ref.cli.group import Command


@click.command(
    cls=Command,
    examples=("export runs/shapes-shapes-net-xnor-0 -o model.safetensors --which best --force",),
)
@click.argument("run", metavar="RUN")
@click.option("-o", "--output", required=True, metavar="FILE", help="The model file to write.")
@click.option("--which", type=click.Choice(["best", "last"]), default="last", show_default=True, help="Checkpoint.")
@click.option("--force", is_flag=True, help="Overwrite FILE if it is there.")
@options.plugin_option(expose_value=False)
@options.json_option
def command(run: str, output: str, which: str, force: bool, as_json: bool) -> None:
    """Freeze a run's checkpoint to a model file.

    The file is read back and its logits compared with those of the float network before the command reports success.
    """
    from xnor_ref.training.export import export_run

    target = options.model_target(output, force)
    options.answer(export_run(Path(run), target, which), as_json, _text)


def _text(result: dict[str, Any]) -> str:
    return (
        f"{result['file']}: {options.size_text(result['packed_bytes'])}, from {result['checkpoint']} "
        f"(after {result['epochs']} epochs)\n"
        f"{result['float_parameter_bytes'] / result['packed_bytes']:.1f} times smaller than its "
        f"{options.size_text(result['float_parameter_bytes'])} of float32 parameters and statistics of BatchNorm\n"
        f"read back and compared on {result['images_compared']} images: largest difference of a logit "
        f"{result['max_logit_difference']:g}"
    )
