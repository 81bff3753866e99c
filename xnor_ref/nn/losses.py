"""Losses of logits (N, classes) and integer labels (N,). Each returns a scalar Tensor, the mean over the batch."""

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff import Tensor, apply
from xnor_ref.errors import InputError, InputTypeError


def _check(logits: Tensor, labels: NDArray[np.integer], caller: str) -> None:
    if not isinstance(logits, Tensor):
        raise InputTypeError(f"{caller}: logits must be a Tensor, got {type(logits).__name__}")
    if logits.ndim != 2 or logits.shape[0] == 0:
        raise InputError(f"{caller}: logits must be (N, classes), got shape {logits.shape}")
    if not isinstance(labels, np.ndarray) or not np.issubdtype(labels.dtype, np.integer):
        raise InputTypeError(f"{caller}: labels must be an integer array, got {getattr(labels, 'dtype', labels)!r}")
    if labels.shape != logits.shape[:1]:
        raise InputError(f"{caller}: labels have shape {labels.shape}, but logits have shape {logits.shape}")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise InputError(
            f"{caller}: labels run from {labels.min()} to {labels.max()}, but there are {logits.shape[1]} classes"
        )


def cross_entropy(logits: Tensor, labels: NDArray[np.integer], label_smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood of the softmax, the loss of the XNOR-Net paper.

    With smoothing e, the target is (1 - e) one-hot + e / classes. dC/dlogits = (softmax - target) / N.
    """
    _check(logits, labels, "cross_entropy")
    if not 0 <= label_smoothing < 1:
        raise InputError(f"cross_entropy: label_smoothing must be in [0, 1), got {label_smoothing}")
    n, classes = logits.shape
    log_probability = _log_softmax(logits.data, 1)
    target = np.full((n, classes), label_smoothing / classes)
    target[np.arange(n), labels] += 1 - label_smoothing
    loss = -(target * log_probability).sum() / n
    grad = ((np.exp(log_probability) - target) / n).astype(logits.dtype)
    return apply("cross_entropy", np.asarray(loss, logits.dtype), (logits,), lambda dy: (dy * grad,))


def squared_hinge(logits: Tensor, labels: NDArray[np.integer]) -> Tensor:
    """Squared hinge loss of BinaryNet: the mean of max(0, 1 - t y)^2 over batch and classes.

    t is +1 for the label, else -1.
    """
    _check(logits, labels, "squared_hinge")
    target = np.full(logits.shape, -1, logits.dtype)
    target[np.arange(len(labels)), labels] = 1
    margin = np.maximum(0, 1 - target * logits.data)
    loss = np.square(margin, dtype=np.float64).mean()
    grad = -2 * target * margin / logits.dtype.type(logits.size)
    return apply("squared_hinge", np.asarray(loss, logits.dtype), (logits,), lambda dy: (dy * grad,))


def distillation(logits: Tensor, teacher: NDArray[np.float32], temperature: float) -> Tensor:
    """T^2 times the cross-entropy of softmax(logits/T) against softmax(teacher/T), both (N, classes); mean over N.

    With q and p for these two, dC/dlogits = T (q - p) / N. The factor T^2 keeps the gradient's size about equal at
    every temperature (Hinton et al. 2015, section 2).
    """
    if logits.ndim != 2 or logits.shape != teacher.shape or logits.shape[0] == 0:
        raise InputError(
            f"distillation: logits have shape {logits.shape}, the teacher's {teacher.shape}; both must match"
        )
    if not temperature > 0:
        raise InputError(f"distillation: temperature must be above 0, got {temperature}")
    log_q, log_p = (_log_softmax(z, temperature) for z in (logits.data, teacher))
    p, n = np.exp(log_p), len(teacher)
    loss = -(temperature**2) * (p * log_q).sum() / n
    grad = (temperature * (np.exp(log_q) - p) / n).astype(logits.dtype)
    return apply("distillation", np.asarray(loss, logits.dtype), (logits,), lambda dy: (dy * grad,))


def _log_softmax(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    z = logits.astype(np.float64) / temperature
    z -= z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


LOSSES = {"cross-entropy": cross_entropy, "squared-hinge": squared_hinge}
