"""Functions on torch tensors, and torch modules, as functions on NumPy arrays. torch is imported only when needed."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from xnor_ref.conformance.basics.roles import Layer
from xnor_ref.errors import InputError


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise InputError("torch is not installed; install it with: pip install 'xnor_ref[torch]'") from None


def _tensor(value: Any) -> Any:
    """Return a tensor with a copy of the numbers."""
    return (
        _torch().from_numpy(np.array(value, value.dtype.newbyteorder("="))) if isinstance(value, np.ndarray) else value
    )


def _array(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, _torch().Tensor) else value


class TorchFunction:
    """See `torch_function`."""

    def __init__(self, function: Callable[..., Any]):
        _torch()
        if not callable(function):
            raise InputError(f"torch_function: function must be a function of tensors, got {function!r}")
        self.function = function

    def for_role(self, role: str) -> Callable[..., Any]:
        return self._gradient if role == "ste" else self._call

    def _call(self, *arguments: Any, **named: Any) -> Any:
        tensors = {name: _tensor(value) for name, value in named.items()}
        return _array(self.function(*map(_tensor, arguments), **tensors))

    def _gradient(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        of = _tensor(x).requires_grad_()
        self.function(of).backward(_tensor(dy))
        return _array(of.grad) if of.grad is not None else np.zeros_like(x)


class TorchModule:
    """See `torch_module`."""

    def __init__(self, module: Any, weight: str):
        self.module, self.weight = module, weight
        if not isinstance(module, _torch().nn.Module) and not callable(module):
            raise InputError(
                f"torch_module: module must be a module, or a class or function that makes one, got {module!r}"
            )

    def for_role(self, role: str) -> Any:
        if isinstance(self.module, _torch().nn.Module):
            if role != "layer":
                raise InputError(
                    "torch_module: a module has fixed sizes, so it can only be tested as Kit(layer=...); "
                    f"for {role}, give its class, or a function that makes a module"
                )
            return self._layer(self.module)
        if role not in ("conv2d", "linear"):
            raise InputError(f"torch_module: modules can be conv2d, linear or layer, not {role}")
        return self._conv2d if role == "conv2d" else self._linear

    def _layer(self, module: Any) -> Layer:
        weight = np.asarray(_array(_found(module, self.weight)), np.float32)
        if weight.ndim == 2:
            return Layer(lambda x: self._run(module, x), weight)
        place = {name: _pair(getattr(module, name, default)) for name, default in (("stride", 1), ("padding", 0))}
        dilation, groups = _pair(getattr(module, "dilation", 1)), int(getattr(module, "groups", 1))
        return Layer(lambda x: self._run(module, x), weight, **place, dilation=dilation, groups=groups)

    def _conv2d(self, x, weight, stride, padding, pad_value, dilation=(1, 1), groups=1) -> np.ndarray:
        padding = padding if isinstance(padding, str) else tuple(padding)
        more: dict[str, Any] = {} if tuple(dilation) == (1, 1) else {"dilation": tuple(dilation)}
        more |= {} if groups == 1 else {"groups": groups}
        module = self.module(
            x.shape[1], len(weight), tuple(weight.shape[2:]), stride=tuple(stride), padding=padding, **more
        )
        return self._run(self._given(module, weight), x)

    def _linear(self, x, weight) -> np.ndarray:
        return self._run(self._given(self.module(x.shape[1], len(weight)), weight), x)

    def _given(self, module: Any, weight: np.ndarray) -> Any:
        """Set the module's weight, in the module's own dtype, and its bias to 0."""
        torch = _torch()
        with torch.no_grad():
            held = _found(module, self.weight)
            if tuple(held.shape) != weight.shape:
                raise InputError(
                    f"torch_module: {self.weight} has shape {tuple(held.shape)}, but the case's weight has "
                    f"{weight.shape}"
                )
            if not held.dtype.is_floating_point:
                weight = np.where(weight < 0, -1, 1)
            held.copy_(_tensor(weight))
            if isinstance(bias := getattr(module, "bias", None), torch.Tensor):
                bias.zero_()
        return module

    def _run(self, module: Any, x: np.ndarray) -> np.ndarray:
        with _torch().no_grad():
            return _array(module.eval()(_tensor(x)))


def _found(module: Any, name: str) -> Any:
    """Return a parameter or buffer by its dotted name."""
    try:
        for part in name.split("."):
            module = getattr(module, part)
    except AttributeError:
        raise InputError(f"torch_module: a {type(module).__name__} has no {part!r}; weight= names the tensor") from None
    if not isinstance(module, _torch().Tensor):
        raise InputError(f"torch_module: {name} is a {type(module).__name__}, but must be a tensor")
    return module


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value if isinstance(value, str) else tuple(value)


def torch_function(function: Callable[..., Any]) -> TorchFunction:
    """Make a function on torch tensors checkable, for any role but `layer`.

    It gets tensors instead of arrays, and returns one. For the role `ste`, give the sign itself: autograd computes its
    gradient.

    Raises
    ------
    InputError : torch is not installed
    """
    return TorchFunction(function)


def torch_module(module: Any, weight: str = "weight") -> TorchModule:
    """Make a torch layer checkable: `Kit(conv2d=torch_module(BinaryConv2d))`, or `Kit(layer=torch_module(layer))`.

    Parameters
    ----------
    module : for `conv2d`, a class or function that is called like torch.nn.Conv2d, with (in_channels, out_channels,
        kernel_size, stride=, padding=), and dilation= and groups= if a case has them; for `linear`, with (in_features,
        out_features). For each case a new module gets the case's weight and a bias of 0. For `layer`, a module, which
        keeps its weight.
    weight : the dotted name of the weight in the module. If its dtype is not floating-point, it gets signs, +1 and -1.

    Raises
    ------
    InputError : torch is not installed, or there is no such weight
    """
    return TorchModule(module, weight)
