"""Parameter and Module: a tree of named layers with a training flag and a state."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff import Tensor
from xnor_ref.errors import InputError, InputTypeError
from xnor_ref.steady import steady

_draws = itertools.count()


class Parameter(Tensor):
    """A float32 Tensor that an optimiser updates.

    `decay` says whether weight decay applies. It applies only to the real weights of convolutions and linear layers.
    `latent` marks the latent weights of a binary layer: the real weights whose signs the layer uses. Decay would only
    make their signs flip more easily. Optimisers multiply their learning rate by `lr_scale`.
    """

    def __init__(self, data: NDArray[np.float32], *, decay: bool = False, latent: bool = False, lr_scale: float = 1.0):
        super().__init__(data, requires_grad=True)
        self.decay = decay
        self.latent = latent
        self.lr_scale = lr_scale


class Module:
    """Base class of all layers and networks. Subclasses set Parameters and Modules as attributes and define `forward`.

    `buffer_names` lists the arrays that belong to the state but are not trained. `about` holds the keyword arguments of
    `packed.freeze.freeze` that describe the network's data. `fit` sets it.

    Examples
    --------
    >>> from xnor_ref import nn
    >>> class Twice(nn.Module):
    ...     def __init__(self, channels):
    ...         self.conv = nn.BinaryConv2d(channels, channels, 3, padding=1, rng=np.random.default_rng(0))
    ...
    ...     def forward(self, x):
    ...         return self.conv(self.conv(x))
    >>> net = Twice(8).eval()
    >>> net(np.ones((2, 8, 5, 5), np.float32)).shape
    (2, 8, 5, 5)
    >>> [name for name, _ in net.named_parameters()]
    ['conv.weight']
    """

    buffer_names: tuple[str, ...] = ()
    training = True
    about: Mapping[str, Any] = MappingProxyType({})

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    @steady
    def __call__(self, *inputs: Tensor | NDArray) -> Tensor:
        """Return the output for a Tensor or a float32 array. Images are (N, C, H, W).

        Layers that join take several inputs.

        Raises
        ------
        InputTypeError
            The input is neither, or is an array of integers, such as raw pixels.
        """
        return self.forward(*(x if isinstance(x, Tensor) else _as_tensor(type(self).__name__, x) for x in inputs))

    def forward_through(self, x: Tensor, following: Sequence["Module"]) -> tuple[Tensor, int]:
        """Return (output, count) after this layer and `count` following ones, computed together if possible."""
        return self(x), 0

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """Yield (name, module) of the direct children, in order of definition."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Module))

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """Yield (dotted name, module) of this module (named "") and all below it, parents first."""
        yield prefix, self
        for name, child in self.children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, Parameter) of all layers."""
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter):
                    yield f"{prefix}.{name}" if prefix else name, value

    def parameters(self) -> Iterator[Parameter]:
        """All parameters."""
        return (parameter for _, parameter in self.named_parameters())

    def state_dict(self) -> dict[str, NDArray]:
        """Return parameters and buffers by dotted name. The values are the arrays themselves, not copies."""
        state = {name: parameter.data for name, parameter in self.named_parameters()}
        for prefix, module in self.named_modules():
            for name in module.buffer_names:
                state[f"{prefix}.{name}" if prefix else name] = getattr(module, name)
        return state

    def load_state_dict(self, state: dict[str, NDArray]) -> None:
        """Copy `state` into parameters and buffers.

        Raises InputError unless names, shapes and dtypes match exactly, and InputTypeError unless `state` is a dict of
        arrays.
        """
        if not isinstance(state, Mapping):
            raise InputTypeError(f"load_state_dict: state must be a dict of arrays by name, got {type(state).__name__}")
        own = self.state_dict()
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            raise InputError(f"load_state_dict: missing {missing[:5]}, unknown {unknown[:5]}")
        for name, array in own.items():
            new = state[name]
            if not isinstance(new, np.ndarray):
                raise InputTypeError(f"load_state_dict: {name} must be an ndarray, got {type(new).__name__}")
            if new.shape != array.shape or new.dtype != array.dtype:
                raise InputError(
                    f"load_state_dict: {name} is {new.dtype} {new.shape}, but {array.dtype} {array.shape} is needed"
                )
        for name, array in own.items():
            array[...] = state[name]

    def train(self, mode: bool = True) -> "Module":
        """Switch to training behaviour (batch statistics, dropout), or back with `mode=False`."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> "Module":
        """Switch to inference behaviour."""
        return self.train(False)

    def after_step(self) -> None:
        """Run after each optimiser step, on every module. Binary layers project their latent weights here."""

    def set_position(self, seed: int, step: int) -> None:
        """Set the seed and step on which random numbers depend, so that a resumed run draws the same numbers.

        Call it before every step. A layer without a position draws new numbers every time.
        """
        for index, (_, module) in enumerate(self.named_modules()):
            module._position = (seed, step, index)

    def zero_grad(self) -> None:
        """Set the gradients of all parameters to None."""
        for parameter in self.parameters():
            parameter.grad = None

    _position: tuple[int, int, int] | None = None

    def draw_position(self) -> tuple[int, int, int]:
        """Return (seed, step, layer). The layer's next random numbers depend only on these."""
        return self._position or (0, next(_draws), 0)

    def __repr__(self) -> str:
        inner = "".join(f"\n  ({name}): {child!r}".replace("\n", "\n  ") for name, child in self.children())
        return f"{type(self).__name__}({self.describe()}{inner}{chr(10) if inner else ''})"

    def describe(self) -> str:
        """Return the layer's settings as text, for `repr` and tables."""
        return ""


def bias_of(module: Module) -> str:
    """Return what `describe` adds for a layer with a bias."""
    return "" if getattr(module, "bias", None) is None else ", bias"


def _as_tensor(caller: str, x: Any) -> Tensor:
    """Return a constant Tensor of an array. Raises InputTypeError for anything else."""
    if isinstance(x, np.ndarray) and x.dtype in (np.float32, np.float64):
        return Tensor(x)
    got = f"an array of {x.dtype}" if isinstance(x, np.ndarray) else f"{type(x).__module__}.{type(x).__qualname__}"
    pixels = "; raw pixels must be normalised first: (pixels / 255 - mean) / std" if "uint8" in got else ""
    raise InputTypeError(f"{caller}: input must be a Tensor or an ndarray of float32, got {got}{pixels}")


def overrides(module: Module, kind: type, *names: str) -> bool:
    """Whether the module's class overrides any of these methods of its base class `kind`."""
    return any(name in vars(module) or getattr(type(module), name) is not getattr(kind, name) for name in names)


class Sequential(Module):
    """Layers in sequence, named by keyword or numbered."""

    def __init__(self, *layers: Module, **named: Module):
        self._layers = {str(index): layer for index, layer in enumerate(layers)} | named
        for name, layer in self._layers.items():
            if not isinstance(layer, Module):
                hint = "; give the layers of a list as Sequential(*layers)" if isinstance(layer, list | tuple) else ""
                raise InputTypeError(f"Sequential: layer {name!r} must be a Module, got {type(layer).__name__}{hint}")

    def __getitem__(self, index: int | str) -> Module:
        """Return a layer by its number or its name."""
        return self._layers[index] if isinstance(index, str) else list(self._layers.values())[index]

    def children(self) -> Iterator[tuple[str, Module]]:
        return iter(self._layers.items())

    def forward(self, x: Tensor) -> Tensor:
        return run_chain(x, list(self._layers.values()))


def run_chain(x: Tensor, layers: Sequence[Module]) -> Tensor:
    """Run layers in sequence. Layers that can be computed as one node are."""
    at = 0
    while at < len(layers):
        x, more = layers[at].forward_through(x, layers[at + 1 :])
        at += 1 + more
    return x


class Residual(Module):
    """body(x) + shortcut(x) (He et al. 2016, eq. 1 and 2). A shortcut of None is the identity."""

    def __init__(self, body: Module, shortcut: Module | None = None):
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + (x if self.shortcut is None else self.shortcut(x))
