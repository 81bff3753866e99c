"""`import`: convert a network of another library to a packed model file."""

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from xnor_ref.cli import options
from xnor_ref.cli.group import Command
from xnor_ref.errors import EquivalenceError, InputError

TOLERANCE = 1e-4  # of a logit's difference, relative to the image's largest logit
MOST = 1000  # photos to compare
FEW = 0.1  # share of images that may differ because rounding flips a sign
TRIALS = 64
_SIGNS = ("binary_conv2d", "binary_linear", "kbit_conv2d", "kbit_linear")


@click.command(
    cls=Command,
    name="import",
    examples=(
        "import net.onnx -o imported.safetensors --mean 0.5 --std 0.25 --force",
        "import net.onnx -o imported.safetensors --check runs/shapes-shapes-net-xnor-0 --force",
    ),
)
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", required=True, metavar="FILE", help="The model file to write.")
@click.option("--map", "layers", metavar="FILE", help="TOML description of the layers, if FILE holds weights alone.")
@click.option("--check", "images", metavar="FOLDER", help="Compare with FILE's own library on the photos in FOLDER.")
@click.option("--mean", metavar="X,X,...", help="Mean of pixel/255 that FILE expects: one number, or one per channel.")
@click.option("--std", metavar="X,X,...", help="Standard deviation of pixel/255, likewise.")
@click.option("--classes", metavar="A,B,...|FILE", help="Class names in label order, or a file with one name per line.")
@click.option("--input-shape", metavar="C,H,W", help="Shape of an image, if FILE leaves it open or takes flat rows.")
@click.option("--force", is_flag=True, help="Overwrite the model file if it exists.")
@options.json_option
def command(file: str, output: str, images: str | None, force: bool, as_json: bool, **given: str | None) -> None:
    """Convert a network of another library to a packed model file.

    FILE is ONNX or QONNX (also from Brevitas or FINN), Keras (.keras, .h5; with larq's layers), or safetensors with
    the weights of a PyTorch network. --map describes the layers of the last in TOML. FILE's first bytes decide its
    format. Pickles (.pth, .pt) are never read. If a layer cannot be converted, its name and the reason are printed,
    and nothing is written.
    """
    from xnor_ref.interop import build
    from xnor_ref.interop.loading.kinds import load
    from xnor_ref.packed.freeze import freeze

    target = options.model_target(output, force)
    how = {
        "mean": _numbers("--mean", given["mean"]),
        "std": _numbers("--std", given["std"]),
        "classes": _names(given["classes"]),
        "input_shape": _shape(given["input_shape"]),
    }
    loaded = load(file, layers=given["layers"], **how)
    network = build.network(loaded.description)
    packed = freeze(network)
    compared = None if images is None else _compared(loaded, packed, Path(images))
    if compared and compared["wrong"]:
        share = f"{compared['wrong']} of {compared['images']} images"
        raise EquivalenceError(
            f"{file}: the logits of {share} differ from those of {compared['runtime']}, by up to "
            f"{compared['worst']:.2g} of the largest; {output} is not written"
        )
    packed.save(target)
    result = {
        "source": file,
        "kind": loaded.kind,
        "file": str(target),
        "bytes": target.stat().st_size,
        "input_shape": list(packed.input_shape),
        "mean": list(packed.mean),
        "std": list(packed.std),
        "classes": len(packed.classes),
        "layers": _rows(loaded.description, network, packed.input_shape),
        "notes": list(loaded.notes),
        "guessed": loaded.guessed.splitlines(),
        "compared": compared,
    }
    options.answer(result, as_json, _text)


def _numbers(option: str, text: str | None) -> Any:
    """Parse one number, or a list of numbers."""
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"{option} must be numbers, such as 0.5 or 0.49,0.48,0.45; got {text!r}")
    return numbers[0] if len(numbers) == 1 else numbers


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    path = Path(text)
    if "," in text or not path.is_file():
        return text.split(",")
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--classes {text} cannot be read as text: {error}") from None


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) for part in parts):
        raise InputError(f"--input-shape must be C,H,W, such as 3,32,32; got {text!r}")
    return tuple(map(int, parts))


def _rows(description: Any, network: Any, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return a row for each layer: what it was converted to."""
    from xnor_ref.interop.description import INPUT
    from xnor_ref.packed.shapes import output_shape

    shapes, rows = {INPUT: shape}, []
    for layer, (name, module) in zip(description.layers, network.children(), strict=True):
        shapes[name] = output_shape(module, *(shapes[source] for source in network.inputs[name]))
        weight = layer.arrays.get("weight")
        row = {
            "layer": layer.name,
            "kind": layer.kind,
            "output_shape": list(shapes[name]),
            "weights": _bits(layer.settings.get("weight_bits", 1)) if _is_binary(layer.kind) else "real",
            "inputs": _bits(layer.settings.get("input_bits", 1)) if layer.kind in _SIGNS else "real",
            "parameters": sum(array.size for array in layer.arrays.values()),
        }
        if weight is None or weight.ndim < 2:
            row["weights"] = row["inputs"] = ""
        rows.append(row)
    return rows


def _is_binary(kind: str) -> bool:
    return kind.startswith(("binary", "kbit"))


def _bits(count: int) -> str:
    return "signs" if count == 1 else f"{count} bits"


def _compared(loaded: Any, packed: Any, folder: Path) -> dict[str, Any]:
    """Compare the packed network's answers with those of the file's own library."""
    import numpy as np

    from xnor_ref.datasets.folder import SUFFIXES
    from xnor_ref.datasets.images import load_photos
    from xnor_ref.errors import DatasetError
    from xnor_ref.kernels.ops.float_ops import pixel_table

    channels, *size = packed.input_shape
    if not folder.is_dir():
        raise DatasetError(f"--check {folder}: no such folder")
    if channels not in (1, 3):
        raise InputError(
            f"--check compares on photos, so it needs 1 or 3 input channels; this network takes {channels}"
        )
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())[:MOST]
    if not paths:
        raise DatasetError(f"--check {folder}: it holds no photos (*{', *'.join(SUFFIXES)})")
    if loaded.run is None:
        return {"images": 0, "why": f"there is no runtime here for {loaded.kind} files", "wrong": 0}
    if find_spec(loaded.runtime) is None:
        extra = "qonnx" if loaded.runtime == "qonnx" else "onnx"
        why = f"the package {loaded.runtime} is not installed; install it with: pip install 'xnor_ref[{extra}]'"
        return {"images": 0, "why": why, "wrong": 0}
    pixels, table = load_photos(paths, (size[0], size[1]), channels), pixel_table(packed.mean, packed.std)
    x = np.stack([np.take(table[:, c], pixels[..., c]) for c in range(channels)], axis=1)
    theirs = np.asarray(loaded.run(pixels, table))

    def far(ours: Any, theirs: Any) -> tuple[Any, Any]:
        """Return each image's largest difference of logits, relative to its largest logit, and whether labels agree."""
        ours = ours.astype(np.float64)
        if loaded.last and loaded.last[-1] in ("TopK", "ArgMax"):
            same = ours.argmax(axis=1) == theirs.reshape(len(ours), -1)[:, 0]
            return np.where(same, 0.0, 1.0), same
        if loaded.last:  # softmax
            ours = np.exp(ours - ours.max(axis=1, keepdims=True))
            ours /= ours.sum(axis=1, keepdims=True)
            ours = np.log(ours) if "LogSoftmax" in loaded.last else ours
        theirs = theirs.reshape(ours.shape).astype(np.float64)
        difference = np.abs(ours - theirs).max(axis=1) / np.maximum(np.abs(theirs).max(axis=1), 1e-30)
        return difference, ours.argmax(axis=1) == theirs.argmax(axis=1)

    difference, same = far(packed.logits(pixels), theirs)
    unlike = difference > TOLERANCE
    # If rounding alone flipped a sign, a change of the pixels by as little flips it back in some trial.
    left, rng = np.flatnonzero(unlike), np.random.default_rng(0)
    for _ in range(TRIALS if unlike.mean() <= FEW else 0):
        if not len(left):
            break
        moved = x[left] * rng.uniform(1 - 2.0**-20, 1 + 2.0**-20, x[left].shape).astype(np.float32)
        left = left[far(packed.logits(moved), theirs[left])[0] > TOLERANCE]
    return {
        "images": len(paths),
        "runtime": loaded.runtime,
        "same_label": int(same.sum()),
        "difference": float(np.delete(difference, np.flatnonzero(unlike)).max(initial=0.0)),
        "beside_threshold": int(unlike.sum()) - len(left),
        "wrong": len(left),
        "worst": float(difference.max()),
    }


def _text(result: dict[str, Any]) -> str:
    keys = ("weights", "inputs")
    rows = [("layer", "kind here", "output", "weights", "inputs", "parameters")]
    for row in result["layers"]:
        shape = "x".join(map(str, row["output_shape"]))
        rows.append((row["layer"], row["kind"], shape, *(row[key] for key in keys), f"{row['parameters']:,}"))
    c, h, w = result["input_shape"]
    facts = [
        ("source", f"{result['source']}, {result['kind']}"),
        ("file", f"{result['file']}, {options.size_text(result['bytes'])}"),
        ("input", f"{c} channels, {h}x{w} pixels, (pixel/255 - mean)/std"),
        ("mean", ", ".join(f"{value:.6g}" for value in result["mean"])),
        ("std", ", ".join(f"{value:.6g}" for value in result["std"])),
        ("classes", f"{result['classes']:,}"),
        *(("note", note) for note in result["notes"]),
    ]
    if (compared := result["compared"]) is not None:
        facts.append(("check", _compared_text(compared)))
    found = ["\n".join(["where the weights were found in the file:", *result["guessed"]])] if result["guessed"] else []
    return "\n\n".join([options.table(rows, right=(5,)), *found, options.table(facts)])


def _compared_text(compared: dict[str, Any]) -> str:
    if not compared["images"]:
        return f"nothing was compared: {compared['why']}"
    label = f"{compared['same_label']} of {compared['images']} images have the same label as in {compared['runtime']}"
    near = compared["beside_threshold"]
    but = f"; {near} differ more, because rounding flips a sign in them" if near else ""
    return f"{label}; logits differ by at most {compared['difference']:.2g} of the image's largest{but}"
