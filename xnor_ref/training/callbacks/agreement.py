"""A check before the first step: binary layers must train and evaluate with the same results.

Training computes several layers at once, in kernels that know the papers' rules. Single layers in NumPy are the
readable form of the same computation. Both get the same input, a piece of the layer's input in the network. So
differences in earlier layers do not accumulate.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.datasets import Dataset
from xnor_ref.datasets.batches import make_batch, normalization_table
from xnor_ref.errors import EquivalenceError
from xnor_ref.kernels.basics.rungs import has_vectors, reference_only
from xnor_ref.nn import Graph, Module, Residual, Sequential, binary_backend, fused
from xnor_ref.nn.graph import INPUT
from xnor_ref.nn.layers.binary_layers import BinaryLayer
from xnor_ref.nn.layers.real_layers import BatchNorm2d, Convolution
from xnor_ref.nn.module import overrides
from xnor_ref.training.fitting.trainer import Callback, Trainer

F32 = NDArray[np.float32]
IMAGES, SIDE, FILTERS = 4, 8, 64  # size of a piece; enough for BatchNorm
OUTPUT, GRADIENT = 1e-4, 0.02  # largest relative differences; byte gradients are rounded
FLIPS = 0.05  # the same after a BatchNorm, whose rounding flips a few signs


class AgreementCheck(Callback):
    """Raises EquivalenceError if a binary layer gives different results in training and evaluation."""

    def before_training(self, trainer: Trainer) -> None:
        images, _ = trainer.batch(0, 0)  # this batch exists even if no step is left
        check_agreement(trainer.model, images[:IMAGES])


def check_agreement(model: Module, images: F32, gradients: bool = True) -> None:
    """Compare training, the readable layers and inference, for every binary layer of a network.

    Parameters
    ----------
    model : the network; its state is unchanged
    images : float32 (N, C, H, W); a few images, at least 2
    gradients : whether to compare gradients too

    Raises
    ------
    EquivalenceError : outputs or gradients differ by more than rounding; the message names the layer
    """
    if not has_vectors():  # there is no fused path
        return
    modules = [module for _, module in model.named_modules()]
    buffers = [getattr(module, name) for module in modules for name in module.buffer_names]
    kept, modes = [array.copy() for array in buffers], [module.training for module in modules]
    model.train()
    model.set_position(0, 0)
    try:
        with np.errstate(all="ignore"):
            _follow(model, "", images, gradients)
    finally:
        for array, before in zip(buffers, kept, strict=True):
            array[...] = before
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for parameter in model.parameters():
            parameter.grad = None


def check_on(model: Module, data: Dataset) -> None:
    """`check_agreement` on the first validation images, without gradients."""
    count = np.arange(min(IMAGES, len(data.val)))
    check_agreement(model, make_batch(data.val.images, count, normalization_table(data.mean, data.std)), False)


def _follow(module: Module, name: str, x: F32, gradients: bool, of_input: bool = True) -> F32:
    """Compare the binary layers below `module`, and return its output for x.

    `of_input` says whether the gradient of x is still to be compared.
    """
    if isinstance(module, Residual) and not overrides(module, Residual, "forward"):
        y = _follow(module.body, f"{name}.body", x, gradients)
        return y + (x if module.shortcut is None else _follow(module.shortcut, f"{name}.shortcut", x, gradients))
    prefix = f"{name}." if name else ""
    if isinstance(module, Graph) and not overrides(module, Graph, "forward"):
        values = {INPUT: x}
        for chain in module.chains():
            first, *others = (values[source] for source in module.inputs[chain[0]])
            layers = [(prefix + key, module[key]) for key in chain]
            if others:
                first = layers.pop(0)[1](Tensor(first), *map(Tensor, others)).data
            values[chain[-1]] = x = _follow_chain(layers, first, gradients)
        return x
    if not isinstance(module, Sequential) or overrides(module, Sequential, "forward"):
        _compare([module], name, x, gradients, of_input)
        return Sequential(module)(Tensor(np.ascontiguousarray(x))).data  # as in training
    return _follow_chain([(prefix + key, layer) for key, layer in module.children()], x, gradients)


def _follow_chain(layers: Sequence[tuple[str, Module]], x: F32, gradients: bool) -> F32:
    """Do the same for layers in sequence. A BatchNorm and the binary layer after it are also compared together."""
    paired = False
    for at, (own, layer) in enumerate(layers):
        of_input = not paired
        after = layers[at + 1 : at + 2]
        paired = bool(after) and isinstance(layer, BatchNorm2d) and isinstance(after[0][1], BinaryLayer)
        if paired:
            _compare([layer, after[0][1]], f"{own} and {after[0][0]}", x, gradients)
        x = _follow(layer, own, x, gradients, of_input)
    return x


def _compare(layers: Sequence[Module], name: str, x: F32, gradients: bool, of_input: bool = True) -> None:
    """Compare a binary layer, and the layers before it, in training and in readable form."""
    binary = layers[-1]
    if not isinstance(binary, BinaryLayer):
        return
    if x.ndim == 4:
        rows, columns = binary.window((1, 1)).extent if isinstance(binary, Convolution) else (1, 1)
        x = x[:, :, : max(SIDE, rows), : max(SIDE, columns)]
    whole, for_each = binary.weight.data, binary.bias is not None or getattr(binary, "groups", 1) > 1
    if (
        type(binary).__module__.startswith("xnor_ref.") and not for_each
    ):  # classes from outside may hold something for each filter
        binary.weight.data = whole[:FILTERS]
    try:
        wanted = _computed(layers, x, gradients, of_input, readable=True)
        found = _computed(layers, x, gradients, of_input, readable=False)
        for what, array in wanted.items():
            limit = FLIPS if len(layers) > 1 else OUTPUT if what == "output" else GRADIENT
            _require_near(f"{name}: training", found[what], array, what, limit)
        if len(layers) == 1 and not binary.stochastic:
            binary.eval()
            with no_grad(), binary_backend("float"):
                y = binary(Tensor(np.ascontiguousarray(x))).data
            _require_near(f"{name}: inference", y, wanted["output"], "output", OUTPUT)
            binary.train()
    finally:
        binary.weight.data = whole
        fused.forget(binary)  # drop the plans for this small piece


def _computed(layers: Sequence[Module], x: F32, gradients: bool, of_input: bool, readable: bool) -> dict[str, F32]:
    """Return output and gradients of some layers, computed one by one in NumPy or as in training."""
    image = Tensor(np.ascontiguousarray(x), requires_grad=of_input)
    parameters = {key: p for layer in layers for key, p in layer.named_parameters()}
    for parameter in parameters.values():
        parameter.grad = None
    with reference_only(readable), binary_backend("float") if readable else nullcontext():
        y = reduce(lambda x, layer: layer(x), layers, image) if readable else Sequential(*layers)(image)
        if gradients:  # the gradient of a sum with signs, which bytes hold almost exactly
            y.backward(np.random.default_rng(0).choice(np.array([-1, 1], np.float32), y.shape))
    found = {"gradient of its input": image.grad}
    found |= {f"gradient of {key}": parameter.grad for key, parameter in parameters.items()}
    return {"output": y.data} | {what: array for what, array in found.items() if array is not None}


def _require_near(where: str, found: F32, wanted: F32, what: str, limit: float) -> None:
    far = float(np.linalg.norm(found - wanted)) / max(float(np.linalg.norm(wanted)), 1e-6)
    if not far <= limit and np.isfinite(wanted).all():
        raise EquivalenceError(
            f"{where} computes another {what} than the layer's own formulas: the relative difference is {far:.2g}, "
            f"but {limit:g} is allowed; the fast path has a wrong form of a rule or a layer"
        )
