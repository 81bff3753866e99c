"""Stopping at the first NaN or infinity, with its place."""

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.errors import NonFiniteError
from xnor_ref.nn import Module
from xnor_ref.training.fitting.trainer import Callback, Step, Trainer


class FiniteCheck(Callback):
    """Raises NonFiniteError if the loss or a gradient is NaN or infinite, before the step changes a parameter.

    It must come after callbacks that change either.
    """

    def after_forward(self, trainer: Trainer, step: Step) -> None:
        if not np.isfinite(step.loss.data):
            where = first_non_finite(trainer.model, step.images)
            raise NonFiniteError(f"step {step.number + 1}: the loss is {step.loss.data}; {where}")

    def after_backward(self, trainer: Trainer, step: Step) -> None:
        for name, parameter in trainer.model.named_parameters():
            grad = parameter.grad
            # A sum is NaN or infinite if a term is. It may also overflow, so the elements are checked then.
            if grad is not None and not np.isfinite(grad.sum()) and not np.isfinite(grad).all():
                raise NonFiniteError(
                    f"step {step.number + 1}: the gradient of {name} {grad.shape} holds NaN or infinity"
                )


def first_non_finite(model: Module, x: NDArray[np.float32]) -> str:
    """Return where the first NaN or infinity of a forward pass occurs, by running it again."""
    for name, parameter in model.named_parameters():
        if not np.isfinite(parameter.data).all():
            return f"the first NaN or infinity is in {name} {parameter.shape}"
    found: list[str] = []

    def watch(name: str, module: Module) -> None:
        forward = module.forward

        def watched(value):
            out = forward(value)
            if not found and not np.isfinite(out.data).all():
                found.append(f"the first NaN or infinity is in the output {out.shape} of {name}")
            return out

        module.forward = watched  # type: ignore[method-assign]

    layers = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    for name, module in layers:
        watch(f"{name} ({type(module).__name__})", module)
    try:
        with no_grad():
            model(Tensor(x))
    finally:
        for _, module in layers:
            del module.forward
    return found[0] if found else "all activations are finite"
