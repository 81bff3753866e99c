"""Inference with a frozen network: load a file, give it images, get logits or labels.

Nothing of the training code is imported: this needs the kernels and the file format alone.
"""

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError, InputTypeError, ModelFileError, NonFiniteError
from xnor_ref.kernels.checks import check_memory, check_options
from xnor_ref.packed import file
from xnor_ref.packed.ops import Settings
from xnor_ref.storage import PathLike, save_tensors

F32 = NDArray[np.float32]

BATCH_MEMORY = 256 * 2**20  # bytes of activations that a batch is cut to fit in
MAX_BATCH = 256


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
    every backend for the binary layers. Instances hold no state that changes and may be shared by threads.
    """

    def __init__(self, metadata: dict[str, Any], tensors: dict[str, NDArray]) -> None:
        self._tensors = {name: _frozen(array) for name, array in tensors.items()}
        self._metadata = copy.deepcopy({key: value for key, value in metadata.items() if key != "digest"})
        self._network = file.examine(self._metadata, self._tensors)
        self._last_uses = file.last_uses(self._network.nodes)

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
    def metadata(self) -> dict[str, Any]:
        """A copy of the description, with "training", "producer" and "data_sha256"."""
        return copy.deepcopy(self._metadata)

    def logits(self, images: NDArray, threads: int | None = None, backend: str = "auto") -> F32:
        """Scores of every class.

        Parameters
        ----------
        images : uint8 (N, H, W, C), uint8 (H, W, C) or float32 (N, C, H, W)
            Raw pixels, which are normalised here; one raw image; or images that are normalised already.
        threads : int, optional
        backend : {"auto", "reference", "numba", "float"}
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
        settings = Settings(check_options("PackedNetwork.logits", backend, threads), backend)
        check_memory("PackedNetwork.logits", 5 * len(images) * len(self.classes), f"(images {images.shape})")
        size = max(1, min(MAX_BATCH, BATCH_MEMORY // self._network.image_memory))
        logits = np.empty((len(images), len(self.classes)), np.float32)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for start in range(0, len(images), size):
                batch = self._normalised(images[start : start + size])
                logits[start : start + size] = self._run(batch, settings)
        if not np.isfinite(logits).all():
            raise NonFiniteError("PackedNetwork.logits: the network's numbers overflow on these images")
        return logits

    def predict(self, images: NDArray, threads: int | None = None, backend: str = "auto") -> NDArray[np.int64]:
        """Label of the highest logit, int64 (N,), the first of equals. Arguments and errors as for `logits`."""
        return self.logits(images, threads, backend).argmax(axis=1).astype(np.int64, copy=False)

    def save(self, path: PathLike) -> None:
        """Write the model file, atomically. Raises OutputError."""
        save_tensors(path, self._tensors, self._metadata)

    def summary(self) -> list[dict[str, Any]]:
        """A row for each node: op, name, output_shape of one image, bits, float_params, bytes in the file."""
        return [
            {
                "op": node.op,
                "name": node.name,
                "output_shape": node.step.shape,
                "bits": node.step.weight_bits,
                "float_params": sum(t.size for t in node.tensors.values() if t.dtype == np.float32),
                "bytes": sum(t.nbytes for t in node.tensors.values()),
            }
            for node in self._network.nodes
        ]

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
        wanted = f"uint8 (N, {h}, {w}, {c}) or ({h}, {w}, {c}), or float32 (N, {c}, {h}, {w})"
        if not isinstance(images, np.ndarray) or images.dtype not in (np.uint8, np.float32):
            got = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
            raise InputTypeError(f"PackedNetwork: images are {got}; needed is {wanted}")
        shape = images.shape
        if images.dtype == np.uint8 and shape == (h, w, c):
            return images[None]
        if len(shape) != 4 or shape[1:] != ((h, w, c) if images.dtype == np.uint8 else (c, h, w)):
            raise InputError(f"PackedNetwork: images are {images.dtype} {shape}; needed is {wanted}")
        if len(images) == 0:
            raise InputError("PackedNetwork: there are no images (N = 0)")
        return images

    def _normalised(self, images: NDArray) -> F32:
        """A batch as the network computes on it: float32 (N, C, H, W), C-contiguous."""
        if images.dtype == np.float32:
            if not np.isfinite(images).all():
                raise InputError("PackedNetwork: images hold NaN or infinity")
            return np.ascontiguousarray(images)
        batch = np.empty((len(images), *self.input_shape), np.float32)
        for channel in range(self.input_shape[0]):
            np.take(self._network.table[:, channel], images[..., channel], out=batch[:, channel])
        return batch


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
