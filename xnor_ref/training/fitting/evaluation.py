"""Scores of a network on labelled images, and comparison of two networks image by image."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref import models
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.datasets import Dataset
from xnor_ref.datasets.batches import make_batch, table_of
from xnor_ref.errors import EquivalenceError, NonFiniteError
from xnor_ref.nn import binary_backend
from xnor_ref.packed import PackedNetwork
from xnor_ref.training.distributed.team import Team
from xnor_ref.training.fitting.observer import Observer

Logits = NDArray[np.float32]
BATCH = 100


@dataclass(frozen=True)
class Scores:
    """The fractions of images whose label is ranked first and among the first five, and the mean cross-entropy."""

    top1: float
    top5: float
    loss: float
    images: int

    def figures(self) -> dict[str, float]:
        """Return the scores as JSON values."""
        return {"top1": self.top1, "top5": self.top5, "loss": self.loss}


def float_logits(model, lut: NDArray[np.float32] | None) -> Callable[[NDArray], Logits]:
    """Return a trained network's inference as a function of images (N, H, W, C), as in `make_batch`."""

    def logits(images: NDArray) -> Logits:
        x = make_batch(images, np.arange(len(images)), lut)
        was_training = model.training
        model.eval()
        try:
            with no_grad():
                return model(Tensor(x)).data
        finally:
            model.train(was_training)

    return logits


def all_logits(
    logits_of: Callable[[NDArray], Logits],
    images: NDArray,
    progress: Callable[[int, int], None] | None = None,
    batch_size: int = BATCH,
    team: Team | None = None,
) -> Logits:
    """Apply `logits_of` to all images, in batches shared by the processes of a team: (N, classes)."""
    team = team or Team()
    parts = []
    for batch in team.share(len(images), batch_size):
        parts.append(logits_of(images[batch]))
        if progress is not None:
            progress(min(batch.stop, len(images)), len(images))
    return team.joined(parts, len(images), batch_size)


def score(logits: Logits, labels: NDArray[np.int64], what: str = "evaluation") -> Scores:
    """Return top-1, top-5 and cross-entropy of logits (N, classes). Among equal logits, the lower class comes first.

    Raises NonFiniteError if a logit is NaN or infinite.
    """
    bad = ~np.isfinite(logits).all(axis=1)
    if bad.any():
        raise NonFiniteError(f"{what}: logits of {int(bad.sum())} images hold NaN or infinity")
    rows = np.arange(len(labels))
    own = logits[rows, labels][:, None]
    before = np.arange(logits.shape[1]) < labels[:, None]
    rank = (logits > own).sum(axis=1) + ((logits == own) & before).sum(axis=1)
    z = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    loss = np.log(np.exp(z).sum(axis=1)) - z[rows, labels]
    return Scores(float((rank == 0).mean()), float((rank < 5).mean()), float(loss.mean()), len(labels))


@dataclass(frozen=True)
class Agreement:
    """The agreement of two networks: images with different first classes, and the largest difference of a logit."""

    disagreements: int
    max_logit_difference: float


def compare(a: Logits, b: Logits) -> Agreement:
    """Compare logits (N, classes) of two networks on the same images."""
    difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
    different = a.argmax(axis=1) != b.argmax(axis=1)
    return Agreement(int(different.sum()), float(difference.max(initial=0.0)))


def evaluate_both(
    model: models.Network, packed: PackedNetwork, data: Dataset, observer: Observer, team: Team | None = None
) -> dict[str, Any]:
    """Return the scores of the float and the packed network on the validation images, and their agreement.

    The float network convolves matrices of +-1 with BLAS, and the packed network counts bits: independent code for the
    same numbers. "packed_halves" is top-1 on images with even and with odd index: what is chosen on one half can be
    judged on the other.
    """
    images, labels = data.val.images, data.val.labels
    with binary_backend("float"), np.errstate(over="ignore", invalid="ignore"):
        network = float_logits(model, table_of(data))
        of_float = all_logits(network, images, partial(observer.progress, "evaluating the float network"), team=team)
    of_packed = packed_logits(packed, data, observer, team)
    agreement = compare(of_float, of_packed)
    return {
        "images": len(labels),
        "float": score(of_float, labels, "the float network").figures(),
        "packed": score(of_packed, labels, "the packed network").figures(),
        "packed_halves": [score(of_packed[i::2], labels[i::2]).top1 for i in range(min(2, len(labels)))],
        "disagreements": agreement.disagreements,
        "max_logit_difference": agreement.max_logit_difference,
    }


def packed_logits(packed: PackedNetwork, data: Dataset, observer: Observer, team: Team | None = None) -> Logits:
    """Return the logits of a packed network for all validation images."""
    progress = partial(observer.progress, "evaluating the packed network")
    return all_logits(of_stored_images(packed), data.val.images, progress, team=team)


def of_stored_images(packed: PackedNetwork) -> Callable[[NDArray], Logits]:
    """Return logits as a function of a data set's images (N, H, W, C): uint8, or normalised float32."""

    def logits(images: NDArray) -> Logits:
        return packed.logits(images if images.dtype == np.uint8 else images.transpose(0, 3, 1, 2))

    return logits


def require_agreement(result: dict[str, Any]) -> None:
    """Raise EquivalenceError if the two networks have different first classes for any image."""
    if result["disagreements"]:
        raise EquivalenceError(
            f"the float and the packed network disagree on {result['disagreements']} of {result['images']} images "
            f"(largest difference of a logit: {result['max_logit_difference']:g}); they must agree on all"
        )
