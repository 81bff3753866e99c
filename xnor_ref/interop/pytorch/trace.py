"""What a torch module computes, operation by operation, written down while it runs on a few images.

Torch hands every operation that reaches a kernel to a recorder. What a class or a function is called does not matter,
nor where its weights are made binary: operations on weights alone are carried out, and their results are constants
here. Tensors are known by where they lie in memory, so that `x.data = ...` and operations in place are followed, too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from xnor_ref.errors import InputError
from xnor_ref.interop.pytorch.modules import torch

T = Any  # torch.Tensor
try:
    from torch.utils._python_dispatch import TorchDispatchMode
except ImportError:
    TorchDispatchMode = object


@dataclass(eq=False)
class Constant:
    """A tensor that does not depend on the images, and the named tensors of the module that it was made of."""

    value: T
    sources: dict[str, T] = field(default_factory=dict)


@dataclass(eq=False)
class Node:
    """An operation whose result depends on the images; among `args` are Nodes and Constants in place of tensors."""

    op: str  # its name in torch.ops.aten
    target: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    value: T
    module: str  # the innermost module in which it ran
    written: int | None = None  # which argument it changes in place
    users: list["Node"] = field(default_factory=list)

    @property
    def parents(self) -> list["Node"]:
        """The nodes that it reads, in order."""
        found: list[Node] = []
        _visit((self.args, self.kwargs), lambda part: found.append(part) if isinstance(part, Node) else None)
        return found

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by its place or its name."""
        return self.args[index] if index < len(self.args) else self.kwargs.get(name, default)


def _visit(tree: Any, look: Callable[[Any], Any]) -> Any:
    """The same tree of tuples, lists and dicts, with what `look` gives in place of other parts, unless it is None."""
    if isinstance(tree, tuple | list):
        return type(tree)(_visit(part, look) for part in tree)
    if isinstance(tree, dict):
        return {key: _visit(part, look) for key, part in tree.items()}
    found = look(tree)
    return tree if found is None else found


def replaced(node: Node, look: Callable[[Any], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a node with what `look` gives in place of parts for which it is not None."""
    return _visit((node.args, node.kwargs), look)


def _key(tensor: T) -> tuple[Any, ...]:
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


class _Recorder(TorchDispatchMode):  # type: ignore[misc,valid-type]
    def __init__(self, named: dict[str, T], path: Callable[[], str]):
        super().__init__()
        self._path = path
        self._nodes: dict[tuple[Any, ...], Node] = {}
        self._sources = {_key(tensor): {name: tensor} for name, tensor in named.items()}
        self._alive: list[T] = []  # so that no memory is used twice
        self.nodes: list[Node] = []

    def begin(self, images: T) -> Node:
        """The node of the images."""
        return self._add(Node("input", None, (), {}, images.clone(), ""), images)

    def _add(self, node: Node, *results: T) -> Node:
        self.nodes.append(node)
        for parent in node.parents:
            parent.users.append(node)
        for tensor in results:
            self._alive.append(tensor)
            self._nodes[_key(tensor)] = node
        return node

    def find(self, tensor: T) -> Node | Constant:
        key = _key(tensor)
        if key in self._nodes:
            return self._nodes[key]
        return Constant(tensor.detach().clone(), self._sources.get(key, {}))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = _visit((args, kwargs), lambda part: self.find(part) if isinstance(part, torch.Tensor) else None)
        parts: list[Node | Constant] = []
        _visit(found, lambda part: parts.append(part) if isinstance(part, Node | Constant) else None)
        _visit((args, kwargs), lambda part: self._alive.append(part) if isinstance(part, torch.Tensor) else None)
        result = func(*args, **kwargs)
        results = [
            r for r in (result if isinstance(result, tuple | list) else (result,)) if isinstance(r, torch.Tensor)
        ]
        if any(isinstance(part, Node) for part in parts) and results:
            places = enumerate(func._schema.arguments)
            written = next((i for i, a in places if a.alias_info is not None and a.alias_info.is_write), None)
            name, several = func._schema.name.split("::")[1], len(results) > 1 and not name_of_first_only(func)
            node = Node(name, func, found[0], found[1], results[0].detach().clone(), self._path(), written)
            if several:
                node.op = f"{name} (several results)"
            elif name == "view" and results[0].shape == node.parents[0].value.shape:
                node.op = "alias"  # what a Function makes of a result that is one of its inputs
            self._add(node, results[0])
            for other in results[1:]:
                self._add(Node(f"another result of {name}", None, (node,), {}, other.clone(), self._path()), other)
        else:
            sources = {
                name: tensor for part in parts if isinstance(part, Constant) for name, tensor in part.sources.items()
            }
            for tensor in results:
                self._alive.append(tensor)
                self._nodes.pop(_key(tensor), None)
                self._sources[_key(tensor)] = sources
        return result


def name_of_first_only(func: Any) -> bool:
    """Whether the first result of an operation is what networks go on with, and the others are by the way."""
    return any(part in func._schema.name for part in ("batch_norm", "pool", "dropout"))


@contextmanager
def _paths(module: Any) -> Iterator[Callable[[], str]]:
    """The name of the innermost module that runs."""
    names = {id(child): name for name, child in module.named_modules()}
    stack = [""]
    hooks = torch.nn.modules.module

    def enter(child: Any, inputs: Any) -> None:
        stack.append(names.get(id(child), stack[-1]))

    def leave(child: Any, inputs: Any, result: Any) -> None:
        stack.pop()

    handles = hooks.register_module_forward_pre_hook(enter), hooks.register_module_forward_hook(leave, always_call=True)
    try:
        yield lambda: stack[-1]
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def unchanged(module: Any) -> Iterator[None]:
    """The module in inference mode; afterwards its mode and all its numbers are what they were."""
    modes = {child: child.training for child in module.modules()}
    tensors = [*module.parameters(), *module.buffers()]
    kept = [(tensor, tensor.data, tensor.detach().clone(), dict(vars(tensor))) for tensor in tensors]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes.items():
            child.training = mode
        for tensor, place, values, attributes in kept:
            place.copy_(values)
            tensor.data = place
            vars(tensor).clear()
            vars(tensor).update(attributes)


def trace(module: Any, images: T) -> tuple[list[Node], Node]:
    """All nodes in the order in which they ran, and that of the result, for images (N, C, H, W).

    Raises InputError where the module fails on such images, or does not give one tensor.
    """
    named = dict([*module.named_parameters(), *module.named_buffers()])
    for name, parameter in list(named.items()):
        if isinstance(latent := getattr(parameter, "org", None), torch.Tensor):  # as BinaryNet's code keeps them
            named[f"{name}.org"] = latent
    with torch.no_grad(), _paths(module) as path:
        recorder = _Recorder(named, path)
        recorder.begin(images)
        try:
            with recorder:
                result = module(images)
        except Exception as error:
            raise InputError(
                f"from_torch: the module fails on images {tuple(images.shape)}: {type(error).__name__}: {error}"
            ) from error
    if not isinstance(result, torch.Tensor):
        raise InputError(f"from_torch: the module gives a {type(result).__name__}; it must give one tensor, the logits")
    last = recorder.find(result)
    if not isinstance(last, Node):
        raise InputError("from_torch: what the module gives does not depend on its images")
    return recorder.nodes, last
