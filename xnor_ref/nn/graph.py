"""Networks as graphs of layers, and layers that join several inputs."""

from collections import Counter
from collections.abc import Iterator, Mapping

from xnor_ref.autodiff import Tensor, concatenate
from xnor_ref.errors import InputError, InputTypeError
from xnor_ref.nn.module import Module, run_chain

INPUT = "input"  # the name of the network's input


class Add(Module):
    """Sum of two or more inputs of equal shape, added from left to right."""

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        _require_several("Add", x, *others)
        for other in others:
            if other.shape != x.shape:
                raise InputError(f"Add: inputs have shapes {x.shape} and {other.shape}; both must match")
            x = x + other
        return x


class Concat(Module):
    """Concatenation of two or more inputs along the channels: (N, C1 + C2 + ..., H, W), or (N, I1 + I2 + ...)."""

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        _require_several("Concat", x, *others)
        for other in others:
            if other.ndim != x.ndim or other.shape[2:] != x.shape[2:] or len(other.data) != len(x.data):
                raise InputError(f"Concat: inputs have shapes {x.shape} and {other.shape}; only channels may differ")
        return concatenate([x, *others], axis=1)


def _require_several(caller: str, *inputs: Tensor) -> None:
    if len(inputs) < 2:
        raise InputError(f"{caller}: needs at least two inputs, got {len(inputs)}; use it in an nn.Graph")


class Graph(Module):
    """A graph of named layers. Each layer reads earlier layers, or "input", the network's input.

    Parameters
    ----------
    layers : mapping
        From a name to a layer, or to (layer, name, ...) with the names that it reads. A layer without names reads the
        one before it; the first reads "input". Every layer but the last must be read by another. The last layer's
        output is the network's output. `Add` and `Concat` read several.

    Raises
    ------
    InputTypeError, InputError
        A value is not a layer, a layer reads one that is not before it or is never read, or there are no layers.

    Examples
    --------
    >>> import numpy as np
    >>> from xnor_ref import nn
    >>> net = nn.Graph({
    ...     "bn": nn.BatchNorm2d(3),
    ...     "conv": nn.BinaryConv2d(3, 3, 3, padding=1),
    ...     "sum": (nn.Add(), "conv", "input"),
    ...     "all": (nn.Concat(), "sum", "bn"),
    ... })
    >>> net(np.ones((2, 3, 5, 5), np.float32)).shape
    (2, 6, 5, 5)
    """

    def __init__(self, layers: Mapping[str, "Module | tuple"]):
        self._layers: dict[str, Module] = {}
        self.inputs: dict[str, tuple[str, ...]] = {}
        before = INPUT
        for name, entry in layers.items():
            layer, *sources = entry if isinstance(entry, tuple) else (entry,)
            if not isinstance(layer, Module):
                raise InputTypeError(f"Graph: layer {name!r} must be a Module, got {type(layer).__name__}")
            if not isinstance(name, str) or name == INPUT or not name:
                raise InputError(f"Graph: a layer cannot have the name {name!r}")
            if isinstance(entry, tuple) and not sources:
                raise InputError(f"Graph: layer {name!r} reads nothing")
            for source in sources:
                if source != INPUT and source not in self._layers:
                    raise InputError(f"Graph: layer {name!r} reads {source!r}, which is not a layer before it")
            self._layers[name], self.inputs[name] = layer, tuple(sources) or (before,)
            before = name
        self._readers = Counter(source for sources in self.inputs.values() for source in sources)
        unread = [name for name in self._layers if not self._readers[name] and name != before]
        if unread or not self._layers:
            raise InputError(
                f"Graph: layer {unread[0]!r} is not read by another layer" if unread else "Graph: has no layers"
            )

    def __getitem__(self, name: str) -> Module:
        """Return a layer by its name."""
        return self._layers[name]

    def children(self) -> Iterator[tuple[str, Module]]:
        return iter(self._layers.items())

    def chains(self) -> Iterator[list[str]]:
        """Yield lists of layer names in order.

        A list ends where an output has several readers or a layer has several inputs.
        """
        chain: list[str] = []
        for name, sources in self.inputs.items():
            if chain and (sources != (chain[-1],) or self._readers[chain[-1]] > 1):
                yield chain
                chain = []
            chain.append(name)
        yield chain

    def forward(self, x: Tensor) -> Tensor:
        values, left = {INPUT: x}, self._readers.copy()
        for chain in self.chains():
            sources, layers = self.inputs[chain[0]], [self._layers[name] for name in chain]
            inputs = [values[source] for source in sources]
            for source in sources:
                left[source] -= 1
                if not left[source]:
                    del values[source]
            x = run_chain(inputs[0], layers) if len(inputs) == 1 else run_chain(layers[0](*inputs), layers[1:])
            values[chain[-1]] = x
        return x

    def describe(self) -> str:
        branches = (f"{name} <- {', '.join(sources)}" for name, sources in self.inputs.items() if len(sources) > 1)
        return "; ".join(branches)
