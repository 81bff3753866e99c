"""Inference with a frozen network: load a file, pass images, get logits or labels.

No training code is imported; inference needs only the kernels and the file format.
"""

import copy
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError, InputTypeError, ModelFileError, NonFiniteError
from xnor_ref.kernels.basics.checks import check_options
from xnor_ref.kernels.basics.memory import check_memory
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.basics.threads import parallel_chunks
from xnor_ref.packed import contents, file
from xnor_ref.packed.contents import Layer
from xnor_ref.packed.ops import Settings
from xnor_ref.steady import steady
from xnor_ref.storage import PathLike, save_tensors

if TYPE_CHECKING:
    from xnor_ref.packed.plan import Blueprint, Plan, Work

F32 = NDArray[np.float32]

BATCH_MEMORY = 256 * 2**20  # most bytes of activations per batch
MAX_BATCH = 256
MAX_PLANNED = 4  # most images per plan: enough to share weights, few enough for the caches


class PackedNetwork:
    """A network whose binary layers are bits.

    Parameters
    ----------
    metadata : dict
        The description defined in docs/model-format.md.
    tensors : dict of ndarray
        By name, "<node>.<field>".

    Raises
    ------
    ModelFileError
        The description is not valid.

    Notes
    -----
    The logits of an image have the same bits whatever else is in its batch, at any number of threads and with every
    backend of the binary layers. Threads may share an instance: each call takes its own buffers. Instances can be
    pickled and copied, for processes of any start method.

    Examples
    --------
    >>> from xnor_ref import freeze, nn
    >>> network = nn.Sequential(flat=nn.Flatten(), fc=nn.BinaryLinear(4, 2))
    >>> dict(network.named_modules())["fc"].weight.data[...] = [[0.5, -1, 2, 0], [-3, 0, -1, 2]]
    >>> packed = freeze(network, input_shape=(1, 2, 2), mean=0, std=1, classes=("no", "yes"))
    >>> packed.weights("fc").tolist(), packed.alpha("fc").tolist(), packed.words("fc").tolist()
    ([[1, -1, 1, 1], [-1, 1, -1, 1]], [0.875, 1.5], [[13], [10]])
    >>> fc = packed.trace(np.float32([[[[3, -1], [-2, 2]]]]))["fc"]
    >>> {name: array.tolist() for name, array in fc.items() if name in ("signs", "K", "Z", "output")}
    {'signs': [[1, -1, -1, 1]], 'K': [[2.0]], 'Z': [[2, 0]], 'output': [[3.5, 0.0]]}
    """

    def __init__(self, metadata: dict[str, Any], tensors: dict[str, NDArray]) -> None:
        self._tensors = {name: _frozen(array) for name, array in tensors.items()}
        self._metadata = copy.deepcopy({key: value for key, value in metadata.items() if key != "digest"})
        self._network = file.examine(self._metadata, self._tensors)
        self._last_uses = file.last_uses(self._network.nodes)
        self._lock = threading.Lock()
        self._planned: list[Blueprint | None] = []
        self._idle: dict[int, list[Plan]] = {}  # plans by their number of images

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle only the description and the bits. Copies and spawned workers plan the network again."""
        return type(self), (self._metadata, self._tensors)

    def __repr__(self) -> str:
        bits = sum(node.step.weight_bits for node in self._network.nodes)
        return (
            f"PackedNetwork(input {self.input_shape}, {len(self._network.nodes)} layers, {bits:,} binary weights, "
            f"{len(self.classes)} classes)"
        )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one image."""
        return self._network.input_shape

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self._network.classes

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of pixel/255 of each channel, used to normalise raw pixels."""
        return self._network.mean

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation of pixel/255 of each channel, used to normalise raw pixels."""
        return self._network.std

    @property
    def examined(self) -> file.ExaminedNetwork:
        """The checked nodes of the description, for programs that convert the network to another format."""
        return self._network

    @property
    def metadata(self) -> dict[str, Any]:
        """A copy of the description, with "training", "producer" and "data_sha256"."""
        return copy.deepcopy(self._metadata)

    @steady
    def logits(self, images: NDArray, threads: int | None = None, backend: str = "auto") -> F32:
        """Return the logits of images, one per class.

        Parameters
        ----------
        images : uint8 (N, H, W, C), uint8 (H, W, C) or float32 (N, C, H, W)
            Raw images, which are normalised here; one raw image; or normalised images.
        threads : int, optional
        backend : {"auto", "reference", "numba", "simd", "float"}
            The implementation that computes the integers of the binary layers. All give equal results.

        Returns
        -------
        float32 (N, classes)

        Raises
        ------
        InputTypeError
            `images` is not an array, or has another dtype.
        InputError
            `images` has another shape, is empty, or holds NaN or infinity.
        NonFiniteError
            A value inside the network overflowed.
        """
        images = self._check_images(images)
        threads = check_options("PackedNetwork.logits", backend, threads)
        check_memory("PackedNetwork.logits", 5 * len(images) * len(self.classes), f"(images {images.shape})")
        logits = np.empty((len(images), len(self.classes)), np.float32)
        blueprint = self._blueprint() if backend in ("auto", "simd") and has_vectors() else None
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            if blueprint:
                self._run_plans(blueprint, images, logits, threads)
            else:
                self._run_steps(images, logits, Settings(threads, backend))
        if not np.isfinite(logits).all():
            raise NonFiniteError("PackedNetwork.logits: a value inside the network overflows on these images")
        return logits

    def predict(self, images: NDArray, threads: int | None = None, backend: str = "auto") -> NDArray[np.int64]:
        """Return the label of the highest logit, int64 (N,); the first of equal ones.

        Arguments and errors as for `logits`.
        """
        return self.logits(images, threads, backend).argmax(axis=1).astype(np.int64, copy=False)

    def save(self, path: PathLike) -> None:
        """Write the model file, atomically. Raises OutputError, or InputTypeError if `path` is not a path."""
        save_tensors(path, self._tensors, self._metadata)

    def summary(self) -> list[dict[str, Any]]:
        """Return a row for each node: op, name, output_shape of one image, bits, their storage ("bits", "tree", None),
        float_params, and bytes in the file."""
        return [
            {
                "op": node.op,
                "name": node.name,
                "output_shape": node.step.shape,
                "bits": node.step.weight_bits,
                "stored": next((field for field in ("bits", "tree") if field in node.tensors), None),
                "float_params": sum(t.size for t in node.tensors.values() if t.dtype == np.float32),
                "bytes": sum(t.nbytes for t in node.tensors.values()),
            }
            for node in self._network.nodes
        ]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers in the order of computation. Each has name, kind, inputs, input_shape, output_shape and
        weight_shape."""
        return contents.layers(self._network)

    def weights(self, name: str) -> NDArray[Any]:
        """Return the weights of a layer, however the file stores them.

        Parameters
        ----------
        name : str
            One of `layers`.

        Returns
        -------
        ndarray of the layer's `weight_shape`, (O, C, KH, KW) or (O, I)
            Binary layers: int8, +1 and -1. Layers with k-bit weights: int16, odd integers from -(2**k - 1) to 2**k - 1.
            Times `alpha`, both are the weights that training computed with. Real layers: float32.

        Raises
        ------
        InputError
            There is no such layer, or it has no weights. The message names close layers.
        """
        return contents.weights(contents.find(self._network, name, "weights"))

    def words(self, name: str) -> NDArray[np.uint64]:
        """Return the weights of a binary layer as packed bits, for `conv2d_words` and `linear_words`.

        Parameters
        ----------
        name : str
            One of `layers`.

        Returns
        -------
        uint64 (O, ceil(C/64), KH, KW) or (O, ceil(I/64))
            `pack_bits(weights, axis=1)` of the layer's `weights`. Layers with k-bit weights have a leading axis of k
            planes, lowest first: bit p of a weight w is bit p of (w + 2**k - 1) // 2.

        Raises
        ------
        InputError
            There is no such layer, or its weights are not binary. The message names close layers.
        """
        return contents.words(contents.find(self._network, name, "words"))

    def alpha(self, name: str) -> F32:
        """Return the scale of each filter of a binary layer, float32 (O,). It is 1 if the layer has no alpha.

        Raises
        ------
        InputError
            There is no such layer, or its weights are not binary. The message names close layers.
        """
        return contents.alpha(contents.find(self._network, name, "alpha"))

    @steady
    def trace(
        self, images: NDArray, threads: int | None = None, backend: str = "auto"
    ) -> dict[str, dict[str, NDArray[Any]]]:
        """Return inputs, intermediate values and output of every layer for some images, bit for bit those of `logits`.

        Parameters
        ----------
        images, threads, backend
            As for `logits`.

        Returns
        -------
        dict of dict of ndarray
            By layer name, in the order of `layers`, and then by these names:

            | name | meaning | layers | dtype, shape |
            |---|---|---|---|
            | input | the real input, X | all | float32 (N, C, H, W) or (N, I) |
            | input2, ... | the other inputs | add, concat | as input, but other channels |
            | signs | signs of X; by thresholds if BatchNorm was folded | binary inputs | int8, as input |
            | levels | X as integers of k bits | k-bit inputs | int16, as input |
            | A | mean of abs(X) over the channels of a group | convolutions with K | float32 (N, groups, H, W) |
            | K | mean of A over each window, or of abs(X) | layers with K | float32 (N, groups, OH, OW) or (N, 1) |
            | Z | signs (levels, or X) convolved with the weights | binary weights | int32 (X: float32), as output |
            | output | the result, (Z alpha) K | all | float32 (N, O, OH, OW) or (N, O) |

        Raises
        ------
        InputTypeError, InputError
            As for `logits`.

        Notes
        -----
        K is computed from A in float64; the A returned is rounded. Overflow is not an error here.
        """
        images = self._check_images(images)
        threads = check_options("PackedNetwork.trace", backend, threads)
        numbers = sum(math.prod(layer.input_shape) + 2 * math.prod(layer.output_shape) for layer in self.layers)
        check_memory("PackedNetwork.trace", 4 * len(images) * numbers, f"(images {images.shape})")
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return contents.trace(self._network, self._normalised(images), Settings(threads, backend))

    def profile(self, images: NDArray, threads: int | None = None) -> list[tuple[str, str, float]]:
        """Run once, and return (name, operation, seconds) of every planned stage.

        Parameters
        ----------
        images : as for `logits`; if they do not fit into one plan, they take turns, and times are added
        threads : int, optional

        Raises
        ------
        InputTypeError, InputError
            As for `logits`, or nothing is planned because the processor lacks vectors.
        """
        images = self._check_images(images)
        threads = check_options("PackedNetwork.profile", "simd", threads)
        blueprint = self._planned_or_not("PackedNetwork.profile")
        size = min(self._most_together(), len(images))
        pieces = [np.ascontiguousarray(images[start : start + size]) for start in range(0, len(images), size)]
        with self._plan(blueprint, size) as plan:
            plan.profile(pieces[0], threads)  # warm up code and buffers
            rounds = [plan.profile(piece, threads) for piece in pieces]
        stages = [stage[:2] for stage in rounds[0]]
        return [(*stage, sum(row[i][2] for row in rounds)) for i, stage in enumerate(stages)]

    def work(self) -> "list[Work]":
        """Return the work of each stage of `profile` for one image. Raises InputError as `profile` does."""
        check_options("PackedNetwork.work", "simd", None)
        return self._planned_or_not("PackedNetwork.work").work()

    def _planned_or_not(self, caller: str) -> "Blueprint":
        blueprint = self._blueprint()
        if blueprint is None:
            raise InputError(f"{caller}: nothing is planned, because the padding of a layer is too large")
        return blueprint

    def _blueprint(self) -> "Blueprint | None":
        """The network planned for the SIMD kernels, made at first use; None if that is impossible."""
        with self._lock:
            if not self._planned:
                from xnor_ref.packed.plan import Blueprint

                try:
                    self._planned.append(Blueprint(self._network))
                except InputError:
                    self._planned.append(None)
            return self._planned[0]

    def _most_together(self) -> int:
        return max(1, min(MAX_PLANNED, BATCH_MEMORY // self._network.image_memory))

    @contextmanager
    def _plan(self, blueprint: "Blueprint", images: int) -> "Iterator[Plan]":
        """Context manager: a plan for `images` images that no other caller uses meanwhile."""
        from xnor_ref.packed.plan import Plan

        batch = 1 << (images - 1).bit_length()
        idle = self._idle.setdefault(batch, [])
        try:
            plan = idle.pop()  # atomic
        except IndexError:
            plan = Plan(blueprint, batch)
        try:
            yield plan
        finally:
            idle.append(plan)

    def _run_plans(self, blueprint: "Blueprint", images: NDArray, logits: F32, threads: int) -> None:
        """Run the images in pieces, one thread each. All threads share a single image."""
        if images.dtype == np.float32:
            _require_finite(images)
        size = min(self._most_together(), -(-len(images) // threads))
        if size == len(images):  # sharing pieces among threads costs as much as a small layer
            with self._plan(blueprint, size) as plan:
                plan.run(np.ascontiguousarray(images), logits, threads if size == 1 else 1)
            return

        def one_piece(start: int, stop: int) -> None:
            with self._plan(blueprint, stop - start) as plan:
                piece = np.ascontiguousarray(images[start:stop])
                plan.run(piece, logits[start:stop], 1)

        parallel_chunks(one_piece, len(images), size, threads)

    def _run_steps(self, images: NDArray, logits: F32, settings: Settings) -> None:
        """Run node by node, for the backends without a plan."""
        size = max(1, min(MAX_BATCH, BATCH_MEMORY // self._network.image_memory))
        for start in range(0, len(images), size):
            logits[start : start + size] = self._run(self._normalised(images[start : start + size]), settings)

    def _run(self, batch: F32, settings: Settings) -> F32:
        values = {-1: batch}
        for index, node in enumerate(self._network.nodes):
            values[index] = node.step.run(settings, *(values[source] for source in node.inputs))
            for source in set(node.inputs):
                if self._last_uses[source] == index:
                    del values[source]
        return values[len(self._network.nodes) - 1]

    def _check_images(self, images: NDArray) -> NDArray:
        c, h, w = self.input_shape

        def wanted() -> str:
            return f"images must be uint8 (N, {h}, {w}, {c}) or ({h}, {w}, {c}), or float32 (N, {c}, {h}, {w})"

        if not isinstance(images, np.ndarray) or images.dtype not in (np.uint8, np.float32):
            got = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
            raise InputTypeError(f"PackedNetwork: got {got}; {wanted()}")
        shape = images.shape
        if images.dtype == np.uint8 and shape == (h, w, c):
            return images[None]
        if len(shape) != 4 or shape[1:] != ((h, w, c) if images.dtype == np.uint8 else (c, h, w)):
            raise InputError(f"PackedNetwork: got {images.dtype} {shape}; {wanted()}")
        if len(images) == 0:
            raise InputError("PackedNetwork: there are no images (N = 0)")
        return images

    def _normalised(self, images: NDArray) -> F32:
        """Return a batch as float32 (N, C, H, W), normalised and C-contiguous."""
        if images.dtype == np.float32:
            _require_finite(images)
            return np.ascontiguousarray(images)
        batch = np.empty((len(images), *self.input_shape), np.float32)
        for channel in range(self.input_shape[0]):
            np.take(self._network.table[:, channel], images[..., channel], out=batch[:, channel])
        return batch


def _require_finite(images: NDArray) -> None:
    if not np.isfinite(images).all():
        raise InputError("PackedNetwork: images hold NaN or infinity")


def _frozen(array: NDArray) -> NDArray:
    """Return a read-only, C-contiguous copy."""
    own = np.array(array, order="C")
    own.flags.writeable = False
    return own


def load_packed(path: PathLike) -> PackedNetwork:
    """Load a packed network from a model file.

    Parameters
    ----------
    path : str or PathLike

    Returns
    -------
    PackedNetwork

    Raises
    ------
    ModelFileError
        The file is missing, unreadable, truncated, altered, invalid, or of another format or version.
    """
    metadata, tensors = file.read(path)
    try:
        return PackedNetwork(metadata, tensors)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
