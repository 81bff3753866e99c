"""Running ONNX and QONNX files by their own runtimes, for comparison."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError, ModelFileError
from xnor_ref.interop.onnx_in.reading import Reading

TOGETHER = 50  # images per run, if a file takes any number


def run(path: Path, reading: Reading, pixels: NDArray[np.uint8], table: NDArray[np.float32]) -> NDArray[Any]:
    """Return the file's first output for raw pixels, uint8 (N, H, W, C). `table` (256, C) normalises pixels.

    Raises InputError if the runtime is not installed, and ModelFileError if it rejects the file.
    """
    x = _prepared(reading, pixels, table)
    batch = (reading.image.shape or (None,))[0]
    step = batch or TOGETHER
    ask = _qonnx(path, reading) if reading.custom else _onnxruntime(path, reading)
    parts = []
    for start in range(0, len(x), step):
        piece = x[start : start + step]
        short = step - len(piece) if batch else 0
        parts.append(np.asarray(ask(np.concatenate([piece, piece[-1:].repeat(short, axis=0)])))[: len(piece)])
    return np.concatenate(parts)


def _prepared(reading: Reading, pixels: NDArray[np.uint8], table: NDArray[np.float32]) -> NDArray[Any]:
    """Convert pixels to the file's input."""
    info = reading.image
    if info.dtype == np.uint8:
        x: NDArray[Any] = pixels
    else:
        channels = [np.take(table[:, channel], pixels[..., channel]) for channel in range(pixels.shape[-1])]
        x = np.stack(channels, axis=-1).astype(info.dtype)
    if not reading.channels_last:
        x = x.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x.reshape(len(x), -1) if len(info.shape or ()) == 2 else x)


def _onnxruntime(path: Path, reading: Reading) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"this needs the package onnxruntime ({error}): pip install 'xnor_ref[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for every kind of error
        raise ModelFileError(f"{path}: onnxruntime rejects it: {error}") from None

    def ask(x: NDArray[Any]) -> NDArray[Any]:
        try:
            return session.run(None, {reading.image.name: x})[0]
        except Exception as error:
            raise ModelFileError(f"{path}: onnxruntime cannot run it: {error}") from None

    return ask


def _qonnx(path: Path, reading: Reading) -> Any:
    try:
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx
        from qonnx.transformation.infer_shapes import InferShapes
    except ImportError as error:
        raise InputError(f"this needs the package qonnx ({error}): pip install 'xnor_ref[qonnx]'") from None

    def ask(x: NDArray[Any]) -> NDArray[Any]:
        try:
            found = execute_onnx(model, {reading.image.name: x})
        except Exception as error:
            raise ModelFileError(f"{path}: qonnx cannot run it: {error}") from None
        return found[model.graph.output[0].name]

    try:
        model = ModelWrapper(str(path)).transform(InferShapes())
    except Exception as error:
        raise ModelFileError(f"{path}: qonnx rejects it: {error}") from None
    return ask
