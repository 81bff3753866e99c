"""Inference with a frozen network: load a file, give it images, get logits or labels.

Nothing of the training code is imported: this needs the kernels and the file format alone.
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

BATCH_MEMORY = 256 * 2**20  # bytes of activations that a batch is cut to fit in
MAX_BATCH = 256
MAX_PLANNED = 4  # images that a plan carries out together: enough to share weights, few enough for the caches


class PackedNetwork:
    """A network whose binary layers are bits.

    Parameters
    ----------
    metadata : dict
        The description that docs/model-format.md defines.
    tensors : dict of ndarray
        Named "<node>.<field>".

    Raises
    ------
    ModelFileError
        The description is not sound.

    Notes
    -----
    The logits of an image have the same bits whatever else is in its batch, at any number of threads and with
    every backend for the binary layers. Instances may be shared by threads: each call takes buffers of its own. They
    can be pickled and copied, for processes of any start method.

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
        self._idle: dict[int, list[Plan]] = {}  # plans by the number of images that they hold

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, and workers that are spawned, get the description and the bits, and lay them out themselves."""
        return type(self), (self._metadata, self._tensors)

    def __repr__(self) -> str:
        bits = sum(node.step.weight_bits for node in self._network.nodes)
        return (
            f"PackedNetwork(input {self.input_shape}, {len(self._network.nodes)} layers, {bits:,} binary weights, "
            f"{len(self.classes)} classes)"
        )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self._network.input_shape

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self._network.classes

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, of pixel/255: what raw pixels are normalised with."""
        return self._network.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, of pixel/255: what raw pixels are normalised with."""
        return self._network.std

    @property
    def examined(self) -> file.ExaminedNetwork:
        """Node by node what the description says, checked; for programs that write the network in another form."""
        return self._network

    @property
    def metadata(self) -> dict[str, Any]:
        """A copy of the description, with "training", "producer" and "data_sha256"."""
        return copy.deepcopy(self._metadata)

    @steady
    def logits(self, images: NDArray, threads: int | None = None, backend: str = "auto") -> F32:
        """Scores of every class.

        Parameters
        ----------
        images : uint8 (N, H, W, C), uint8 (H, W, C) or float32 (N, C, H, W)
            Raw pixels, which are normalised here; one raw image; or images that are normalised already.
        threads : int, optional
        backend : {"auto", "reference", "numba", "simd", "float"}
            How the integers of the binary layers are computed; all give the same.

        Returns
        -------
        float32 (N, classes)

        Raises
        ------
        InputTypeError
            Not an array, or another dtype.
        InputError
            Another shape, no image, or NaN or infinity in float images.
        NonFiniteError
            The network's own numbers overflowed.
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
            raise NonFiniteError("PackedNetwork.logits: the network's numbers overflow on these images")
        return logits

    def predict(self, images: NDArray, threads: int | None = None, backend: str = "auto") -> NDArray[np.int64]:
        """Label of the highest logit, int64 (N,), the first of equals. Arguments and errors as for `logits`."""
        return self.logits(images, threads, backend).argmax(axis=1).astype(np.int64, copy=False)

    def save(self, path: PathLike) -> None:
        """Write the model file, atomically. Raises OutputError, or InputTypeError if `path` is none."""
        save_tensors(path, self._tensors, self._metadata)

    def summary(self) -> list[dict[str, Any]]:
        """A row for each node: op, name, output_shape of one image, bits, how they are stored ("bits", along a "tree",
        or None), float_params, bytes in the file."""
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
        """All layers in the order in which they are computed: name, kind, inputs, input_shape, output_shape and
        weight_shape of each."""
        return contents.layers(self._network)

    def weights(self, name: str) -> NDArray[Any]:
        """The weights of a layer, whatever way its file holds them.

        Parameters
        ----------
        name : str
            One of `layers`.

        Returns
        -------
        ndarray of the layer's `weight_shape`, (O, C, KH, KW) or (O, I)
            Binary layers: int8, +1 and -1. Layers of k-bit weights: int16, the odd integers from -(2**k - 1) to
            2**k - 1. Both times `alpha` are the weights that training computed with. Real layers: float32.

        Raises
        ------
        InputError
            There is no such layer, or it has no weights; names what there is.
        """
        return contents.weights(contents.find(self._network, name, "weights"))

    def words(self, name: str) -> NDArray[np.uint64]:
        """The weights of a binary layer as bits, as `conv2d_words` and `linear_words` take them.

        Parameters
        ----------
        name : str
            One of `layers`.

        Returns
        -------
        uint64 (O, ceil(C/64), KH, KW) or (O, ceil(I/64))
            `pack_bits(weights, axis=1)` of the layer's `weights`. Layers of k-bit weights have an axis of k planes in
            front, the lowest first: bit p of a weight w is that of (w + 2**k - 1) // 2.

        Raises
        ------
        InputError
            There is no such layer, or its weights are no bits; names what there is.
        """
        return contents.words(contents.find(self._network, name, "words"))

    def alpha(self, name: str) -> F32:
        """The scale of each filter of a binary layer, float32 (O,); ones where the layer has none.

        Raises
        ------
        InputError
            There is no such layer, or its weights are no bits; names what there is.
        """
        return contents.alpha(contents.find(self._network, name, "alpha"))

    @steady
    def trace(
        self, images: NDArray, threads: int | None = None, backend: str = "auto"
    ) -> dict[str, dict[str, NDArray[Any]]]:
        """What every layer takes and gives for some images, bit for bit what `logits` computes.

        Parameters
        ----------
        images, threads, backend
            As for `logits`.

        Returns
        -------
        dict of dict of ndarray
            By the names of `layers`, in their order, and then by these names:

            | name | what | of which layers | dtype, shape |
            |---|---|---|---|
            | input | the real input, X | all | float32 (N, C, H, W) or (N, I) |
            | input2, ... | the other inputs | add, concat | as input; other channels |
            | signs | signs of X, by thresholds where BatchNorm was folded | binary inputs | int8, as input |
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
        K is computed from A in float64; A is rounded to be shown. Numbers that overflow are shown as they are.
        """
        images = self._check_images(images)
        threads = check_options("PackedNetwork.trace", backend, threads)
        numbers = sum(math.prod(layer.input_shape) + 2 * math.prod(layer.output_shape) for layer in self.layers)
        check_memory("PackedNetwork.trace", 4 * len(images) * numbers, f"(images {images.shape})")
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return contents.trace(self._network, self._normalised(images), Settings(threads, backend))

    def profile(self, images: NDArray, threads: int | None = None) -> list[tuple[str, str, float]]:
        """Where the time of a run goes: name, operation and seconds of every planned stage.

        Parameters
        ----------
        images : as for `logits`; more than are carried out together take turns, and their times are added up
        threads : int, optional

        Raises
        ------
        InputTypeError, InputError
            As for `logits`; or a processor without vectors, where nothing is planned.
        """
        images = self._check_images(images)
        threads = check_options("PackedNetwork.profile", "simd", threads)
        blueprint = self._planned_or_not("PackedNetwork.profile")
        size = min(self._most_together(), len(images))
        pieces = [np.ascontiguousarray(images[start : start + size]) for start in range(0, len(images), size)]
        with self._plan(blueprint, size) as plan:
            plan.profile(pieces[0], threads)  # so that code and buffers are in place
            rounds = [plan.profile(piece, threads) for piece in pieces]
        stages = [stage[:2] for stage in rounds[0]]
        return [(*stage, sum(row[i][2] for row in rounds)) for i, stage in enumerate(stages)]

    def work(self) -> "list[Work]":
        """What each stage of `profile` must do for one image. Raises InputError as `profile` does."""
        check_options("PackedNetwork.work", "simd", None)
        return self._planned_or_not("PackedNetwork.work").work()

    def _planned_or_not(self, caller: str) -> "Blueprint":
        blueprint = self._blueprint()
        if blueprint is None:
            raise InputError(f"{caller}: nothing is planned, because a layer has too large a padding")
        return blueprint

    def _blueprint(self) -> "Blueprint | None":
        """The network laid out for the SIMD rung, made at the first use; None if it can't be."""
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
        """A plan for so many images that no other caller uses meanwhile."""
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
        """In pieces, one thread each; a single image is shared by all threads."""
        if images.dtype == np.float32:
            _require_finite(images)
        size = min(self._most_together(), -(-len(images) // threads))
        if size == len(images):  # what shares pieces among threads takes as long as a small layer
            with self._plan(blueprint, size) as plan:
                plan.run(np.ascontiguousarray(images), logits, threads if size == 1 else 1)
            return

        def one_piece(start: int, stop: int) -> None:
            with self._plan(blueprint, stop - start) as plan:
                piece = np.ascontiguousarray(images[start:stop])
                plan.run(piece, logits[start:stop], 1)

        parallel_chunks(one_piece, len(images), size, threads)

    def _run_steps(self, images: NDArray, logits: F32, settings: Settings) -> None:
        """Node by node, for the backends without a plan."""
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
            return f"needed is uint8 (N, {h}, {w}, {c}) or ({h}, {w}, {c}), or float32 (N, {c}, {h}, {w})"

        if not isinstance(images, np.ndarray) or images.dtype not in (np.uint8, np.float32):
            got = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
            raise InputTypeError(f"PackedNetwork: images are {got}; {wanted()}")
        shape = images.shape
        if images.dtype == np.uint8 and shape == (h, w, c):
            return images[None]
        if len(shape) != 4 or shape[1:] != ((h, w, c) if images.dtype == np.uint8 else (c, h, w)):
            raise InputError(f"PackedNetwork: images are {images.dtype} {shape}; {wanted()}")
        if len(images) == 0:
            raise InputError("PackedNetwork: there are no images (N = 0)")
        return images

    def _normalised(self, images: NDArray) -> F32:
        """A batch as the network computes on it: float32 (N, C, H, W), C-contiguous."""
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
    """A read-only, C-contiguous copy."""
    own = np.array(array, order="C")
    own.flags.writeable = False
    return own


def load_packed(path: PathLike) -> PackedNetwork:
    """Read a model file.

    Parameters
    ----------
    path : str or PathLike

    Returns
    -------
    PackedNetwork

    Raises
    ------
    ModelFileError
        The file is missing, unreadable, cut short, altered, of another kind or version, or not sound.
    """
    metadata, tensors = file.read(path)
    try:
        return PackedNetwork(metadata, tensors)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
