"""A layout: what the layers of a file of numbers are, in TOML; and the file itself, read as data.

A layout has `input_shape`, maybe `mean`, `std`, `classes` and `ignore`, and a table for each layer: its `kind`, and
what `description.KINDS` lets it be told. `name` and `inputs` may be left out: then a layer is numbered, and reads the
one before. `from` is how the names of its numbers begin; `arrays` names single ones.
"""

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from xnor_ref.errors import InputError, InputTypeError, ModelFileError, UnreadableError
from xnor_ref.interop.description import INPUT, KINDS, Description, Kind, Layer, Reasons, refuse_all

MAX_FILE = 2 * 2**30  # bytes of a file of numbers
MAX_LAYOUT = 2**20
_PICKLES = (".pth", ".pt", ".pkl", ".pickle", ".bin", ".ckpt", ".tar")
_UNUSED = ("num_batches_tracked",)
_OWN_KEYS = {"input_shape", "mean", "std", "classes", "ignore", "layers"}


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_name, value))


_LAYER_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "kind": (_is_name, "a name"),
    "name": (_is_name, "a name"),
    "from": (_is_name, "a name"),
    "inputs": (_is_names, "a list of names"),
    "arrays": (lambda value: isinstance(value, dict) and _is_names([*value.values()]), "a table of names"),
}


class Numbers:
    """Arrays by name, of a file or a dict; a file's are read one by one, when they are asked for."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], get: Any, source: str):
        self.shapes, self._get, self.source = shapes, get, source

    def __getitem__(self, name: str) -> NDArray:
        array: NDArray = self._get(name)
        return array


def read_numbers(source: Any) -> Numbers:
    """The arrays of a `.safetensors` file, or of a dict of arrays or tensors. Raises ModelFileError, InputTypeError."""
    if isinstance(source, Mapping):
        arrays = {str(name): _array(name, value) for name, value in source.items()}
        return Numbers({name: array.shape for name, array in arrays.items()}, arrays.__getitem__, "a dict of numbers")
    path = os.fspath(source)
    if path.lower().endswith(_PICKLES):
        raise ModelFileError(
            f"{path}: a file of pickles can run any code when it is read, so it is not opened. Where you trust it, "
            "convert it:\n"
            f'  state = torch.load("{path}", weights_only=True, map_location="cpu")\n'
            f'  safetensors.torch.save_file({{k: v.contiguous() for k, v in state.items()}}, "net.safetensors")'
        )
    try:
        if not os.path.isfile(path):
            raise ModelFileError(f"{path}: there is no such file")
        if os.path.getsize(path) > MAX_FILE:
            raise ModelFileError(f"{path}: larger than {MAX_FILE} bytes")
        with safe_open(path, framework="np") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in sorted(file.keys(), key=_natural)}
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or error}") from None
    except ModelFileError:
        raise
    except Exception as error:  # of the parser
        raise ModelFileError(f"{path}: is no safetensors file: {error}") from None

    def get(name: str) -> NDArray:
        try:
            with safe_open(path, framework="np") as file:
                array: NDArray = file.get_tensor(name)
                return array
        except Exception as error:
            raise ModelFileError(f"{path}: {name} cannot be read ({error}); float32 can") from None

    return Numbers(shapes, get, Path(path).name)


def _array(name: Any, value: Any) -> NDArray:
    """A NumPy array of an array or a tensor."""
    if hasattr(value, "detach"):
        value = value.detach().to("cpu").float().numpy()
    if not isinstance(value, np.ndarray):
        raise InputTypeError(f"{name!r} must be an array or a tensor, got {type(value).__name__}")
    return value


def _natural(name: str) -> list[Any]:
    """A key that puts conv2 before conv10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def read_layout(layout: Any) -> dict[str, Any]:
    """What a layout says, from a TOML file or a dict. Raises InputError."""
    if isinstance(layout, str | os.PathLike):
        try:
            if os.path.getsize(layout) > MAX_LAYOUT:
                raise InputError(f"{layout}: a layout has at most {MAX_LAYOUT} bytes")
            layout = tomllib.loads(Path(layout).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{layout}: {error}") from None
    if not isinstance(layout, dict) or not isinstance(layout.get("layers"), list) or not layout["layers"]:
        raise InputError("a layout must have layers, a table [[layers]] for each")
    unknown = sorted(layout.keys() - _OWN_KEYS)
    if unknown:
        raise InputError(f"a layout has {', '.join(sorted(_OWN_KEYS))}, not {', '.join(unknown)}")
    if not _is_names(layout.get("ignore", [])):
        raise InputError(f"ignore of a layout must be a list of names, got {layout['ignore']!r}")
    for place, layer in enumerate(layout["layers"]):
        kind = layer.get("kind") if isinstance(layer, dict) else layer
        if not isinstance(kind, str) or kind not in KINDS:
            raise InputError(f"layer {place} of the layout: kind must be one of {', '.join(KINDS)}, got {kind!r}")
        for key, (right, wanted) in _LAYER_KEYS.items():
            if key in layer and not right(layer[key]):
                raise InputError(f"layer {place} of the layout ({kind}): {key} must be {wanted}, got {layer[key]!r}")
    return dict(layout)


def described(
    numbers: Numbers,
    layout: dict[str, Any],
    told: dict[str, Any],
    names: Mapping[str, str] = MappingProxyType({}),
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Description, str]:
    """The description, and a text that says what became what.

    `told` stands before what the layout says; `names` give where the numbers of a layer are; `settings` are for the
    binary layers. Raises InputError, which names each layer that cannot be imported.
    """
    told = {key: layout[key] for key in ("input_shape", "mean", "std", "classes") if key in layout} | told
    if "input_shape" not in told:
        raise InputError(f"{numbers.source}: input_shape (C, H, W) must be given, or stand in the layout")
    called = [layer.get("name", f"{place}.{layer['kind']}") for place, layer in enumerate(layout["layers"])]
    unknown = sorted(names.keys() - set(called))
    if unknown:
        raise InputError(f"names has {', '.join(unknown)}, which are no layers; there are {', '.join(called)}")
    places = _Places(numbers, layout, called, names)
    reasons: Reasons = []
    layers: list[Layer] = []
    rows = []
    before = INPUT
    for name, entry in zip(called, layout["layers"], strict=True):
        kind = KINDS[entry["kind"]]
        given = {key: _tuples(value) for key, value in entry.items() if key not in _LAYER_KEYS}
        given = {key: value for key, value in settings.items() if key in kind.settings} | given
        inputs = entry.get("inputs", [before])
        before = name
        try:
            found = places.of(name, entry, kind)
            arrays = {
                key: _squeezed(numbers[place], {**kind.arrays, **kind.optional}[key]) for key, place in found.items()
            }
            layers.append(Layer(name, entry["kind"], tuple(inputs), given, arrays))
        except (InputError, TypeError) as error:
            reasons.append(
                (f"layer {name!r} ({entry['kind']})", str(error).removeprefix(f"layer {name!r} ({entry['kind']}): "))
            )
            continue
        rows.append(
            f"{name}  {entry['kind']}  {', '.join(f'{key} = {place}' for key, place in found.items())}".rstrip()
        )
    refuse_all(numbers.source, reasons)
    if left := places.left():
        more = f" and {len(left) - 8} more" if len(left) > 8 else ""
        raise InputError(
            f"{numbers.source}: no layer has the numbers {', '.join(left[:8])}{more}; name them in `ignore` of the "
            "layout if none should\n  " + "\n  ".join(rows)
        )
    return Description(tuple(layers), source=numbers.source, **told), "\n".join(rows)


class _Places:
    """Where the numbers of each layer are: as told, by its name, or by order among those of the right shapes."""

    def __init__(self, numbers: Numbers, layout: dict[str, Any], called: list[str], names: Mapping[str, str]):
        self._shapes = {name: shape for name, shape in numbers.shapes.items() if not name.endswith(_UNUSED)}
        self._groups: dict[str, dict[str, str]] = {}  # beginnings of names, and from their ends to whole names
        for name in self._shapes:
            owner, _, end = name.rpartition(".")
            self._groups.setdefault(owner, {})[end] = name
        self._names = names
        told = {names.get(name, entry.get("from", name)) for name, entry in zip(called, layout["layers"], strict=True)}
        single = {place for entry in layout["layers"] for place in dict(entry.get("arrays", {})).values()}
        self._ignored = tuple(layout.get("ignore", []))
        self._free = [
            owner for owner, group in self._groups.items() if owner not in told and not single & {*group.values()}
        ]
        self._free = [owner for owner in self._free if not self._is_ignored(owner)]
        self._used: set[str] = set()

    def of(self, name: str, entry: dict[str, Any], kind: Kind) -> dict[str, str]:
        """From the arrays of a layer to the names of their numbers."""
        known = {**kind.arrays, **kind.optional}
        found = dict(entry.get("arrays", {}))
        if not known:
            return {}
        owner = self._names.get(name, entry.get("from"))
        if owner is not None and owner not in self._groups:
            if owner not in self._shapes or len(known) != 1:
                raise InputError(f"there are no numbers {owner!r}")
            found[next(iter(known))] = owner
        elif owner is None and name in self._groups:
            owner = name
        elif owner is None and not found:
            owner = next((free for free in self._free if self._fits(free, kind)), None)
        group = self._groups.get(owner or "", {}) if owner is not None else {}
        found = {key: group[key] for key in known if key in group} | found
        for place in found.values():
            if place not in self._shapes:
                raise InputError(f"there are no numbers {place!r}")
        missing = [key for key in kind.arrays if key not in found]
        if missing:
            raise InputError(f"no numbers were found for {', '.join(missing)}; `from` says where they are")
        if owner in self._free:
            self._free.remove(owner)
        self._used |= set(found.values())
        return found

    def _fits(self, owner: str, kind: Kind) -> bool:
        """Whether numbers are all that a kind of layer needs, and no more."""
        known, group = {**kind.arrays, **kind.optional}, self._groups[owner]
        whole = set(kind.arrays) <= set(group) <= set(known)
        return whole and all(_axes(self._shapes[group[key]], known[key]) is not None for key in group)

    def left(self) -> list[str]:
        """Names of numbers that no layer has."""
        return [name for name in self._shapes if name not in self._used and not self._is_ignored(name)]

    def _is_ignored(self, name: str) -> bool:
        return any(name == ignored or name.startswith(f"{ignored}.") for ignored in self._ignored)


def _axes(shape: tuple[int, ...], axes: int) -> tuple[int, ...] | None:
    """A shape with so many axes, others of size 1 left out; None where there is none."""
    if len(shape) == axes:
        return shape
    if axes == 1:
        large = [size for size in shape if size != 1]
        return tuple(large or [1]) if len(large) <= 1 else None
    return None


def _squeezed(array: NDArray, axes: int) -> NDArray:
    shape = _axes(array.shape, axes)
    return array if shape is None else array.reshape(shape)


def _tuples(value: Any) -> Any:
    """TOML's arrays as the tuples that layers take."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
