"""`predict`: classify photos."""

from pathlib import Path
from typing import Any

import click

from xnor_ref.cli import options
from xnor_ref.cli.group import Command
from xnor_ref.cli.text import say, show
from xnor_ref.errors import DatasetError, XnorRefError


@click.command(
    cls=Command,
    examples=(
        "predict runs/shapes-shapes-net-xnor-0 runs/shapes-shapes-net-xnor-0/sample.png",
        "predict runs/shapes-shapes-net-xnor-0/model.safetensors --top 3 runs/shapes-shapes-net-xnor-0/sample.png",
    ),
)
@click.argument("paths", metavar="[MODEL|RUN] IMAGE...", nargs=-1, required=True)
@click.option("--top", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many classes to print.")
@options.field_options("threads")
@options.json_option
def command(paths: tuple[str, ...], top: int, threads: int | None, as_json: bool) -> None:
    """Classify photos.

    MODEL is a packed model file, or a run folder that holds one; without it, the most accurate network that comes with
    the project answers. Photos may have any size and mode: they are converted to the network's size and colours. An
    image that cannot be read is reported, the others are classified, and the exit code is 3.
    """
    from xnor_ref import box
    from xnor_ref.datasets.images import load_photo
    from xnor_ref.packed import load_packed

    options.use_threads(threads)
    path, images = (Path(paths[0]), paths[1:]) if options.names_a_network(Path(paths[0])) else (box.best(), paths)
    if not images:
        raise click.UsageError(f"{paths[0]} is a network; name at least one image after it")
    network = load_packed(path / "model.safetensors" if path.is_dir() else path)
    channels, *size = network.input_shape
    results: list[dict[str, Any]] = []
    failed: list[XnorRefError] = []
    for image in images:
        try:
            pixels = load_photo(Path(image), (size[0], size[1]), channels)
        except XnorRefError as error:
            failed.append(error)
            say(f"error: {error}")
            results.append({"image": image, "error": str(error)})
            continue
        classes = ranked(network.logits(pixels[None])[0], network.classes, top)
        results.append({"image": image, "classes": classes})
        if not as_json:
            show(_text(image, classes))
    if as_json:
        options.print_json({"model": str(path), "results": results})
    if failed:
        raise DatasetError(f"{len(failed)} of {len(images)} images could not be read")


def ranked(logits, classes: tuple[str, ...], top: int) -> list[dict[str, Any]]:
    """Return the `top` classes by descending probability. The softmax is computed in float64."""
    import numpy as np

    z = logits.astype(np.float64) - logits.max()
    probability = np.exp(z) / np.exp(z).sum()
    order = np.argsort(-probability, kind="stable")[:top]
    return [{"class": classes[i], "label": int(i), "probability": float(probability[i])} for i in order]


def _text(image: str, classes: list[dict[str, Any]]) -> str:
    rows = [(f"{c['probability']:7.2%}", c["class"]) for c in classes]
    return f"{image}\n" + "\n".join("  " + line for line in options.table(rows).splitlines())
