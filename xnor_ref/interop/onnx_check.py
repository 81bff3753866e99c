"""Checking that an ONNX file gives the answers of the packed network that it was written from.

Runtimes sum real numbers in other orders than this project. A value that close to a threshold may then get another
sign, and all values computed from it may differ. `compare` distinguishes such images from wrong ones. It follows the
file's own values from sign to sign. At each place it checks that the file's values equal ours up to rounding, that the
file takes the signs that we would take of them, and that our layers lead from there to the file's next values.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import EquivalenceError, InputError, ModelFileError, UnreadableError
from xnor_ref.interop.onnx_out import onnx_bytes
from xnor_ref.interop.onnx_out_graph import MAX_BYTES, QONNX_DOMAIN, onnx_module
from xnor_ref.kernels.ops.bit_planes import Levels
from xnor_ref.packed import PackedNetwork
from xnor_ref.packed.file import ExaminedNode
from xnor_ref.packed.nodes import Settings
from xnor_ref.steady import steady
from xnor_ref.storage import PathLike, write_atomically

F32 = NDArray[np.float32]
Values = dict[str, NDArray[Any]]
Run = Callable[[NDArray], list[NDArray]]  # from the file's input images to its logits and other values

TOLERANCE = 1e-4  # of logits, relative to the image's largest logit, or to the mean over images if that is larger
ROUNDING = 2.0**-16  # of a value before a sign, relative to the layer's largest input: a few hundred roundings
FEW_ROUNDINGS = 2.0**-22  # likewise: the distance from a threshold at which rounding may flip the sign
CHECKED = 16  # images checked when a file is written
TOGETHER = 50  # images per run
MOST_TOGETHER = 65_536
FOLLOWED = 16  # images per run when all values before signs are compared


@dataclass(frozen=True)
class Agreement:
    """The comparison of a file's answers with its model's.

    Attributes
    ----------
    images : int
    labels_equal : int
        Images with the same label. Others may still be right if two logits are nearly equal.
    difference : float
        The largest difference of a logit, relative to the image's largest logit, or to the mean over images if that is
        larger. Images that are `near` are left out.
    near : int
        Images that differ because rounding flips the sign of a value at its threshold.
    wrong : tuple of int
        Indices of images that differ for another reason.
    reason : str
        The reason for the first of them, or "".
    """

    images: int
    labels_equal: int
    difference: float
    near: int
    wrong: tuple[int, ...]
    reason: str


class OnnxFile:
    """A file from images to logits, run by onnxruntime, or by qonnx if it has QONNX nodes.

    Raises
    ------
    InputError
        A package is missing.
    ModelFileError
        The file is missing, or not such a network.
    """

    def __init__(self, content: bytes, name: str, packed: PackedNetwork, threads: int = 1) -> None:
        onnx = onnx_module()
        self.name, self.packed, self.threads = name, packed, threads
        try:
            self._model = onnx.load_model_from_string(content)
        except Exception as error:  # the class depends on the implementation of protocol buffers
            raise ModelFileError(f"{name}: not an ONNX file ({error})") from None
        graph = self._model.graph
        constants = {constant.name for constant in graph.initializer}
        self._inputs = [value for value in graph.input if value.name not in constants]
        if len(self._inputs) != 1 or len(graph.output) != 1:
            what = f"{len(self._inputs)} inputs and {len(graph.output)} outputs"
            raise ModelFileError(
                f"{name}: it must have one input of images and one output of logits, but it has {what}"
            )
        self.input, self.logits = self._inputs[0].name, graph.output[0].name
        kind = self._inputs[0].type.tensor_type
        self.pixels = kind.elem_type == onnx.TensorProto.UINT8
        self.batch = kind.shape.dim[0].dim_value if kind.shape.dim else 0  # 0: any
        if self.batch > MOST_TOGETHER:
            raise ModelFileError(f"{name}: takes {self.batch:,} images at once; the limit is {MOST_TOGETHER:,}")
        self.values = {value for node in graph.node for value in node.output}
        self._qonnx = any(entry.domain == QONNX_DOMAIN for entry in self._model.opset_import)
        self._ready: dict[tuple[str, ...], Run] = {}  # by the names of the extra values that they return

    @property
    def runner(self) -> str:
        """The package that runs the file."""
        return "qonnx" if self._qonnx else "onnxruntime"

    def prepared(self, images: NDArray) -> NDArray:
        """Convert pixels to the file's input."""
        return images if self.pixels else self.normalised(images)

    def normalised(self, images: NDArray) -> F32:
        """Return pixels as normalised float32 (N, C, H, W)."""
        table = self.packed.examined.table
        return np.stack([np.take(table[:, c], images[..., c]) for c in range(images.shape[3])], axis=1)

    def run(self, images: NDArray, names: Sequence[str] = ()) -> Values:
        """Return the logits of pixels, and more values of the graph by name."""
        return self.ask(self.prepared(images), names)

    def ask(self, x: NDArray, names: Sequence[str] = ()) -> Values:
        """Do the same for images in the file's input format."""
        more = tuple(names)
        if more not in self._ready:
            self._ready[more] = self._executor(more) if self._qonnx else self._session(more)
        wanted, step, parts = [self.logits, *more], self.batch or TOGETHER, []
        for start in range(0, len(x), step):
            piece = x[start : start + step]
            short = step - len(piece) if self.batch else 0
            results = self._ready[more](np.concatenate([piece, np.repeat(piece[-1:], short, axis=0)]))
            parts.append([array[: len(piece)] for array in results])
        found = dict(zip(wanted, (np.concatenate(arrays) for arrays in zip(*parts))))
        logits, shape = found[self.logits], (len(x), len(self.packed.classes))
        if logits.shape != shape or logits.dtype.kind != "f":
            what = f"{logits.dtype} {logits.shape}"
            raise ModelFileError(f"{self.name}: returns {what} for {len(x)} images, but float32 {shape} is needed")
        return found

    def _session(self, names: Sequence[str]) -> Run:
        """Return a run by onnxruntime."""
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(f"this needs the package onnxruntime ({error}): pip install 'xnor_ref[onnx]'") from None
        onnx = onnx_module()
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self.threads, 3
        providers = ["CPUExecutionProvider"]
        try:
            session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
        except Exception as error:  # onnxruntime has a class for every kind of error
            raise ModelFileError(f"{self.name}: onnxruntime rejects it: {error}") from None

        def run(x: NDArray) -> list[NDArray]:
            try:
                found = session.run([self.logits, *names], {self.input: x})
            except Exception as error:
                raise ModelFileError(f"{self.name}: onnxruntime cannot run it: {error}") from None
            if not all(isinstance(array, np.ndarray) and array.shape[:1] == x.shape[:1] for array in found):
                raise ModelFileError(f"{self.name}: returns values that are not one per image")
            return found

        return run

    def _executor(self, names: Sequence[str]) -> Run:
        """Return a run by qonnx, node by node."""
        try:
            from qonnx.core.modelwrapper import ModelWrapper
            from qonnx.core.onnx_exec import execute_onnx
            from qonnx.transformation.infer_shapes import InferShapes
        except ImportError as error:
            raise InputError(f"this needs the package qonnx ({error}): pip install 'xnor_ref[qonnx]'") from None
        if not self.batch:
            raise InputError(f"{self.name}: qonnx runs only files with a fixed batch size; write it with batch=1")

        def run(x: NDArray) -> list[NDArray]:
            try:
                model = ModelWrapper(self._model).transform(InferShapes())
                values = execute_onnx(model, {self.input: x}, return_full_exec_context=True)
                return [values[name] for name in (self.logits, *names)]
            except Exception as error:
                raise ModelFileError(f"{self.name}: qonnx cannot run it: {error}") from None

        return run


def read(path: PathLike, packed: PackedNetwork, threads: int = 1) -> OnnxFile:
    """Read a file of `to_onnx` or `to_qonnx`, or another with one input of images. Raises the errors of `OnnxFile`."""
    if not os.path.isfile(path):
        raise ModelFileError(f"{path}: no such file")
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise ModelFileError(f"{path}: it has more than the limit of 2 GiB")
    return OnnxFile(content, str(path), packed, threads)


def is_onnx(path: PathLike) -> bool:
    """Whether a file is a network in ONNX."""
    try:
        return bool(onnx_module().load_model(path, load_external_data=False).graph.node)
    except InputError:
        raise
    except Exception:  # of protocol buffers, by whichever implementation
        return False


def write_checked(packed: PackedNetwork, path: PathLike, *, qonnx: bool, **how: Any) -> tuple[int, Agreement | None]:
    """Write a file like `to_onnx` or `to_qonnx`, after checking its answers on random pixels.

    Return its bytes, and the comparison of its answers, or None if the package that runs it is not installed.

    Raises
    ------
    EquivalenceError
        Its answers differ; then nothing is written.
    The errors of `to_onnx` also occur.
    """
    content = onnx_bytes(packed, qonnx=qonnx, **how)
    agreement = None
    if find_spec("qonnx" if qonnx else "onnxruntime") is not None:
        agreement = compare(OnnxFile(content, str(path), packed), random_pixels(packed, CHECKED))
        if agreement.wrong:
            raise EquivalenceError(
                f"{path} is not written, because its answers would differ from its model's: {agreement.reason}"
            )
    write_atomically(path, content)
    return len(content), agreement


def random_pixels(packed: PackedNetwork, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return images with random pixels."""
    channels, height, width = packed.input_shape
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), np.uint8)


@steady
def compare(file: OnnxFile, images: NDArray[np.uint8]) -> Agreement:
    """Compare a file with the packed network on pixels, uint8 (N, H, W, C)."""
    ours, theirs = file.packed.logits(images), file.run(images)[file.logits]
    scale = np.abs(ours).max(axis=1).astype(np.float64)
    scale = np.maximum(np.maximum(scale, scale.mean()), np.finfo(np.float32).tiny)
    difference, same = _furthest(ours, theirs) / scale, ours.argmax(axis=1) == theirs.argmax(axis=1)
    chosen = np.take_along_axis(ours, theirs.argmax(axis=1)[:, None], axis=1)[:, 0]
    tied = ours.max(axis=1) - chosen <= 2 * TOLERANCE * scale  # rounding may exchange two labels
    suspects = np.flatnonzero(~((difference <= TOLERANCE) & (same | tied)))
    reasons = _reasons(file, images[suspects], scale[suspects]) if len(suspects) else []
    wrong = tuple(int(image) for image, reason in zip(suspects, reasons) if reason)
    near = [int(image) for image, reason in zip(suspects, reasons) if not reason]
    largest = float(np.delete(difference, near).max(initial=0.0))
    return Agreement(len(images), int(same.sum()), largest, len(near), wrong, next(filter(None, reasons), ""))


def _furthest(ours: F32, theirs: F32) -> NDArray[np.float64]:
    """Return the largest difference of a logit for each image."""
    return np.abs(theirs.astype(np.float64) - ours).max(axis=1)


def _reasons(file: OnnxFile, images: NDArray, scale: NDArray[np.float64]) -> list[str]:
    """Return, for each image that differs, "" if rounding at thresholds explains it, else the reason."""
    names = {index: _names(file, index) for index, node in enumerate(file.packed.examined.nodes) if _takes_sides(node)}
    values = sorted({name for pair in names.values() for name in pair} - {file.input, file.logits})
    missing = [name for name in values if name not in file.values]
    if missing:
        return [f"it has no value {missing[0]!r}, so the difference cannot be located"] * len(images)
    found = []
    for start in range(0, len(images), FOLLOWED):
        part = slice(start, start + FOLLOWED)
        found += _follow(file, names, file.run(images[part], values), images[part], scale[part])
    return found


def _takes_sides(node: ExaminedNode) -> bool:
    """Whether a layer takes signs or levels of its input."""
    return node.op == "sign" or node.op.startswith(("binary", "kbit"))


def _names(file: OnnxFile, index: int) -> tuple[str, str]:
    """Return the file's names for the input of such a layer, and for its signs or levels."""
    nodes = file.packed.examined.nodes
    node = nodes[index]
    source = node.inputs[0]
    image = f"{file.input}/normalised" if file.pixels else file.input
    x = image if source == -1 else f"{nodes[source].name}/output"
    if node.op == "sign":
        return x, file.logits if index == len(nodes) - 1 else f"{node.name}/output"
    return x, f"{node.name}/{'levels' if node.attributes.get('input_bits', 1) > 1 else 'signs'}"


def _quantised(node: ExaminedNode, x: F32) -> NDArray[Any]:
    """Return our signs or levels of values."""
    bits = node.attributes.get("input_bits", 1)
    if bits > 1:
        return Levels(bits, node.attributes.get("input_levels") == "ternary").of(x)
    positive = x >= 0
    if "threshold" in node.tensors:
        threshold, flip = (node.tensors[key].reshape(-1, *(1,) * (x.ndim - 2)) for key in ("threshold", "flip"))
        positive = np.where(flip == 1, x <= threshold, x >= threshold)
    return np.where(positive, 1, -1)


def _of_images(array: NDArray) -> NDArray:
    """Return the largest value of each image."""
    return array.reshape(len(array), -1).max(axis=1)


def _follow(
    file: OnnxFile, names: dict[int, tuple[str, str]], values: Values, images: NDArray, scale: NDArray[np.float64]
) -> list[str]:
    """Follow images from sign to sign. Return for each "" if rounding at thresholds explains it, else the reason."""
    settings = Settings(file.threads)
    results: list[F32] = [file.normalised(images)]
    values[file.input] = file.prepared(images)
    reasons, beside = [""] * len(images), np.zeros(len(images), np.bool_)

    def blame(wrong: NDArray[np.bool_], text: str, *numbers: NDArray) -> None:
        for image in np.flatnonzero(wrong):
            reasons[image] = reasons[image] or text.format(*(array[image] for array in numbers))

    for index, node in enumerate(file.packed.examined.nodes):
        inputs = [results[source + 1] for source in node.inputs]
        if index in names:
            ours, (theirs, sides) = inputs[0], (values[name] for name in names[index])
            if theirs.shape != ours.shape or sides.shape != ours.shape or theirs.dtype.kind != "f":
                what = f"{theirs.dtype} {theirs.shape}"
                return [f"before {node.name} its values are {what}, but float32 {ours.shape} is needed"] * len(images)
            far, largest = _of_images(np.abs(theirs - ours)), _of_images(np.abs(ours))
            blame(
                ~(far <= ROUNDING * largest),
                f"before {node.name} values differ by {{:g}}, the largest is {{:g}}",
                far,
                largest,
            )
            blame(
                _of_images(sides != _quantised(node, theirs)),
                f"{node.name} gets other signs or levels for the same values",
            )
            reach = np.maximum(2 * far, FEW_ROUNDINGS * largest).reshape(-1, *(1,) * (ours.ndim - 1))
            beside |= _of_images(_quantised(node, ours - reach) != _quantised(node, ours + reach))
            inputs = [theirs]
        results.append(node.step.run(settings, *inputs))
    far = _furthest(results[-1], values[file.logits]) / scale
    blame(~(far <= TOLERANCE), "its logits differ by {:.1e} of the largest, even with its own signs", far)
    blame(~beside, "it differs, but no value lies at a threshold")
    return reasons
