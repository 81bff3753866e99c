"""Comparison of ONNX files with their models, and its text, for `export` and `verify --onnx`."""

from pathlib import Path
from typing import Any

from xnor_ref.cli import options
from xnor_ref.errors import EquivalenceError

RANDOM = 1000  # random images, if none are named
RUNNERS = {"onnx": "onnxruntime", "qonnx": "qonnx"}


def verify_onnx(onnx: str, model: str, images: tuple[str, ...], count: int | None, seed: int, as_json: bool) -> None:
    """Compare a file with its model, on images or on random pixels, and print how the answers compare.

    Raises
    ------
    EquivalenceError
        An image's answers differ, and rounding at a threshold does not explain it.
    The errors of `load_packed`, `onnx_check.read` and `load_photo` also occur.
    """
    import numpy as np

    from xnor_ref.datasets.images import load_photo
    from xnor_ref.interop import onnx_check
    from xnor_ref.kernels.basics.threads import get_threads
    from xnor_ref.packed import load_packed

    path = Path(model)
    packed = load_packed(path / "model.safetensors" if path.is_dir() else path)
    file = onnx_check.read(onnx, packed, get_threads())
    channels, height, width = packed.input_shape
    if images:
        pixels = np.stack([load_photo(Path(image), (height, width), channels) for image in images])
    else:
        pixels = onnx_check.random_pixels(packed, count or RANDOM, seed)
    agreement = onnx_check.compare(file, pixels)
    result = {
        "file": onnx,
        "model": model,
        **compared(agreement, file.runner),
        "tolerance": onnx_check.TOLERANCE,
        "passed": not agreement.wrong,
        "wrong": [images[position] if images else position for position in agreement.wrong],
        "reason": agreement.reason,
    }
    options.answer(result, as_json, _text)
    if agreement.wrong:
        first = images[agreement.wrong[0]] if images else f"random image {agreement.wrong[0]}"
        raise EquivalenceError(
            f"{onnx} and {model} give different answers on {len(agreement.wrong)} of {agreement.images} images; "
            f"{first}: {agreement.reason}"
        )


def compared(agreement: Any, runner: str) -> dict[str, Any]:
    """Return a comparison as JSON values."""
    return {
        "run_in": runner,
        "images_compared": agreement.images,
        "labels_equal": agreement.labels_equal,
        "near_a_threshold": agreement.near,
        "largest_difference": agreement.difference,
    }


def compared_text(result: dict[str, Any]) -> str:
    """Return the text of `compared`, and the number of images near a threshold, if any."""
    text = (
        f"run in {result['run_in']} on {result['images_compared']:,} images: {result['labels_equal']:,} labels equal; "
        f"largest difference of a logit {result['largest_difference']:.1e} of the largest"
    )
    near = f"near a threshold: {result['near_a_threshold']:,}images, where rounding flips a sign; not counted above"
    return f"{text}\n{near}" if result["near_a_threshold"] else text


def _text(result: dict[str, Any]) -> str:
    verdict = (
        f"differs on {len(result['wrong']):,} images"
        if result["wrong"]
        else f"gives the same answers as {result['model']}"
    )
    return f"{result['file']} {verdict}\n{compared_text(result)}"
