"""Checking gradients against central differences."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff.tape import no_grad
from xnor_ref.autodiff.tensor import Tensor
from xnor_ref.errors import EquivalenceError, InputError, InputTypeError


class GradientError(EquivalenceError, AssertionError):
    """A gradient differs from the central difference of its function."""


def gradcheck(
    function: Callable[..., Tensor],
    inputs: Sequence[NDArray[np.float64]],
    *,
    directions: int = 3,
    eps: float = 1e-6,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> float:
    """Compare the gradients of a smooth function with central differences along random directions.

    Let f(x) = <w, function(x)> for one random w. For each input and several random directions v, it compares
    <df/dx, v> with (f(x + eps v) - f(x - eps v)) / (2 eps). A direction costs two evaluations, however large x is.

    Parameters
    ----------
    function : takes one Tensor per input, returns one Tensor. It must give the same result each time.
    inputs : float64 arrays at which to check; they are not modified
    directions : random directions per input
    eps : half the step of the difference
    tolerance : largest accepted |a - b| / max(|a|, |b|, 0.001)
    seed : of w and the directions

    Returns
    -------
    float
        The largest relative error found.

    Raises
    ------
    GradientError : the error is above the tolerance or NaN
    InputTypeError, InputError : inputs are not float64, or there are no inputs or no directions

    >>> gradcheck(lambda x: x * x, [np.array([1.0, 2.0, 3.0])]) < 1e-8
    True
    """
    for index, x in enumerate(inputs):
        if not isinstance(x, np.ndarray) or x.dtype != np.float64:
            raise InputTypeError(
                f"gradcheck: input {index} must be a float64 array, got {getattr(x, 'dtype', type(x).__name__)}"
            )
    if not inputs or directions < 1 or not eps > 0:
        raise InputError(
            f"gradcheck: needs inputs, got {len(inputs)}, and directions and eps above 0, got {directions} and {eps}"
        )

    rng = np.random.default_rng(seed)
    leaves = [Tensor(x.copy(), requires_grad=True) for x in inputs]
    out = function(*leaves)
    w = rng.standard_normal(out.shape)
    out.backward(w)

    def value(index: int, shifted: NDArray) -> float:
        with no_grad():
            at = [shifted if i == index else x for i, x in enumerate(inputs)]
            return float(np.sum(w * function(*(Tensor(x.copy()) for x in at)).data))

    worst = 0.0
    for index, (x, leaf) in enumerate(zip(inputs, leaves)):
        gradient = np.zeros(x.shape) if leaf.grad is None else leaf.grad
        for _ in range(directions):
            v = rng.standard_normal(x.shape)
            slope = (value(index, x + eps * v) - value(index, x - eps * v)) / (2 * eps)
            claimed = float(np.sum(gradient * v))
            error = abs(claimed - slope) / max(abs(claimed), abs(slope), 1e-3)
            if not error <= tolerance:
                raise GradientError(
                    f"gradcheck: along a direction of input {index} (shape {x.shape}) the gradient gives "
                    f"{claimed:.9g}, but central differences give {slope:.9g}: relative error {error:.3g}, "
                    f"allowed {tolerance:g}"
                )
            worst = max(worst, error)
    return worst
