"""Reading a Keras model's configuration, which may say anything: typed access, and which layer reads which."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from xnor_ref.errors import InputError
from xnor_ref.interop.keras.quantizers import plain

MAX_CALLS = 10_000  # of layers
MAX_DEPTH = 32  # of models in models
MAX_SIZE = 2**24  # of an integer
_NEEDED: Any = object()


class Config:
    """The settings of a layer. Each is asked for with its type; InputError for another one."""

    def __init__(self, values: Any):
        if not isinstance(values, dict):
            raise InputError(f"its configuration must be an object, got {type(values).__name__}")
        self.values = values

    def get(self, name: str, default: Any = None) -> Any:
        """A setting as it is."""
        return self.values.get(name, default)

    def _of(self, name: str, kind: Any, what: str, default: Any) -> Any:
        value = self.values.get(name, default)
        if value is default and default is not _NEEDED:
            return value
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            said = "is missing" if value is _NEEDED else f"is {value!r:.60}"
            raise InputError(f"its {name} {said}; it must be {what}")
        return value

    def integer(self, name: str, default: int = _NEEDED) -> int:
        """A positive integer."""
        value = self._of(name, int, "an integer", default)
        if not 0 < value <= MAX_SIZE:
            raise InputError(f"its {name} is {value}; it must be from 1 to {MAX_SIZE}")
        return value

    def number(self, name: str, default: float = _NEEDED) -> float:
        """A finite number."""
        value = float(self._of(name, int | float, "a number", default))
        if not -1e30 < value < 1e30:
            raise InputError(f"its {name} is {value}; it must be finite")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        return self._of(name, bool, "true or false", default)

    def text(self, name: str, default: str = _NEEDED) -> str:
        """A string."""
        return self._of(name, str, "a string", default)

    def pair(self, name: str, default: Any = _NEEDED) -> tuple[int, int]:
        """Two positive integers, or one for both."""
        value = self._of(name, int | list | tuple, "an integer or two", default)
        both = value if isinstance(value, list | tuple) else (value, value)
        if len(both) != 2 or not all(type(size) is int and 0 < size <= MAX_SIZE for size in both):
            raise InputError(f"its {name} is {value!r:.60}; it must be one or two integers from 1 to {MAX_SIZE}")
        return both[0], both[1]

    def images(self) -> "Config":
        """Itself. Raises InputError for channels before pixels."""
        if self.text("data_format", "channels_last") != "channels_last":
            raise InputError("its data_format is channels_first; only channels_last can be imported")
        return self


@dataclass(frozen=True)
class Call:
    """One use of a layer: its name, its class, its configuration, and which calls' results it reads."""

    name: str
    kind: str
    config: Any
    reads: tuple[tuple[str, int], ...]
    index: int = 0
    calls: int = 1
    trains: bool = False  # whether it is told to behave as in training


@dataclass(frozen=True)
class Model:
    """A model's layers with their keys by class, in an order in which they can be computed."""

    calls: tuple[Call, ...]
    keys: dict[str, str]
    inputs: tuple[str, ...]  # names of layers that stand for what it is given
    shape: Any  # that of its input, without the batch; None where it is not said
    output: tuple[str, int]


def is_model(config: Any) -> bool:
    """Whether a layer is a model, of whatever class: it has layers, in a row or with inputs and outputs."""
    return isinstance(config, dict) and isinstance(config.get("layers"), list)


def parsed(config: Any) -> Model:
    """A model from its configuration. Raises InputError unless it has one input and one output."""
    layers = Config(config).get("layers")
    if not isinstance(layers, list) or not layers or len(layers) > MAX_CALLS:
        raise InputError(f"a model needs 1 to {MAX_CALLS} layers")
    keys, counts = {}, dict[str, int]()
    entries = []
    for entry in layers:
        layer = Config(entry)
        of_class = layer.text("class_name").rpartition(">")[2]
        inner = Config(layer.get("config"))
        name = inner.text("name", "") or layer.text("name")
        if name in keys:
            raise InputError(f"two layers are called {name!r:.60}")
        stem = plain(of_class)
        keys[name] = f"{stem}_{counts[stem]}" if stem in counts else stem
        counts[stem] = counts.get(stem, 0) + 1
        entries.append((name, of_class, inner, layer))
    made = _functional if "input_layers" in config else _sequential
    return made(entries, keys, Config(config))


def _shape(config: Config) -> Any:
    """That of an input, without the batch."""
    for key in ("batch_input_shape", "batch_shape"):
        if isinstance(config.get(key), list | tuple):
            return tuple(config.get(key)[1:])
    return None


def _sequential(entries: list, keys: dict[str, str], config: Config) -> Model:
    calls: list[Call] = []
    first = entries[0]
    shape = _shape(first[2])
    if shape is None and isinstance(config.get("build_input_shape"), list | tuple):
        shape = tuple(config.get("build_input_shape")[1:])
    if first[1] == "InputLayer":
        entries = entries[1:]
    if not entries:
        raise InputError("a model needs a layer")
    for name, kind, inner, _ in entries:
        calls.append(Call(name, kind, inner, ((calls[-1].name if calls else "", 0),)))
    return Model(tuple(calls), keys, ("",), shape, (calls[-1].name, 0))


def _functional(entries: list, keys: dict[str, str], config: Config) -> Model:
    inputs, outputs = _ends(config.get("input_layers")), _ends(config.get("output_layers"))
    for what, found in (("inputs", inputs), ("outputs", outputs)):
        if len(found) != 1:
            raise InputError(f"a model with {len(found)} {what}; one is needed")
    waiting: list[Call] = []
    shape = None
    models = {name for name, _, inner, _ in entries if is_model(inner.values)}
    for name, kind, inner, layer in entries:
        if name == inputs[0][0]:
            shape = _shape(inner)
            continue
        nodes = layer.get("inbound_nodes", [])
        nodes = nodes if isinstance(nodes, list) else []
        for index, node in enumerate(nodes):
            # a model has had one call, of its own, before the first
            reads = tuple((source, max(at - (source in models), 0)) for source, at in _tensors(node))
            waiting.append(Call(name, kind, inner, reads, index, len(nodes), _trains(node)))
    if len(waiting) > MAX_CALLS:
        raise InputError(f"a model uses its layers {len(waiting)} times; at most {MAX_CALLS} are allowed")
    single = {call.name for call in waiting if call.calls == 1} | {inputs[0][0]}

    def exact(read: tuple[str, int]) -> tuple[str, int]:
        return (read[0], 0) if read[0] in single else read

    done, calls = {exact(inputs[0])}, list[Call]()
    while waiting:
        left = []
        for call in waiting:
            reads = tuple(map(exact, call.reads))
            if reads and done.issuperset(reads):
                done.add((call.name, call.index))
                calls.append(Call(call.name, call.kind, call.config, reads, call.index, call.calls, call.trains))
            else:
                left.append(call)
        if len(left) == len(waiting):
            raise InputError(f"layer {left[0].name!r:.60} reads what no other layer gives")
        waiting = left
    output = exact(outputs[0])
    if output not in done:
        raise InputError(f"its output {output[0]!r:.60} is no layer")
    return Model(tuple(_needed(calls, output)), keys, (inputs[0][0],), shape, output)


def _needed(calls: list[Call], output: tuple[str, int]) -> Iterator[Call]:
    """Those that the output depends on, in order."""
    needed = {output}
    for call in reversed(calls):
        if (call.name, call.index) in needed:
            needed.update(call.reads)
    return (call for call in calls if (call.name, call.index) in needed)


def _ends(value: Any) -> list[tuple[str, int]]:
    """(layer, call) of inputs or outputs: one, or a list of some."""
    if isinstance(value, list) and len(value) == 3 and isinstance(value[0], str):
        value = [value]
    if not isinstance(value, list):
        raise InputError("it does not say what its inputs and outputs are")
    found = list(map(_reference, value))
    if None in found:
        raise InputError(f"its inputs or outputs are {value!r:.80}")
    return found  # type: ignore[return-value]


def _reference(value: Any) -> tuple[str, int] | None:
    """A layer's result: [name, call, which of its results, ...]."""
    if not isinstance(value, list) or len(value) < 3 or not isinstance(value[0], str):
        return None
    if type(value[1]) is not int or type(value[2]) is not int or value[1] < 0:
        return None
    return value[0], value[1]  # layers that give several results are refused by themselves


def _tensors(node: Any, depth: int = 0) -> Iterator[tuple[str, int]]:
    """The results that a call reads, by Keras 2's lists or Keras 3's objects."""
    found = _reference(node)
    if found is not None:
        yield found
        node = node[3] if len(node) > 3 else {}
    if depth > 8:
        return
    if isinstance(node, dict) and node.get("class_name") == "__keras_tensor__":
        history = node.get("config", {})
        found = _reference(history.get("keras_history")) if isinstance(history, dict) else None
        if found is not None:
            yield found
        return
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _tensors(value, depth + 1)


def _trains(node: Any, depth: int = 0) -> bool:
    """Whether a call says training=True."""
    if depth > 4 or not isinstance(node, dict | list):
        return False
    if isinstance(node, dict) and node.get("training") is True:
        return True
    return any(_trains(value, depth + 1) for value in (node.values() if isinstance(node, dict) else node))
