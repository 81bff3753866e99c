"""ONNX files as plain data, read from their bytes without another library.

An ONNX file is a protocol buffer: fields with a number, a wire type and a value. This reads the few messages that a
graph without control flow needs (onnx/onnx.proto3). A file is not trusted. Lengths are compared with the bytes that
there are before anything is made of them, and the size of an array with its declared shape. What messages take in
memory is bounded.
"""

import math
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputTypeError, ModelFileError, UnreadableError

MAX_FILE_BYTES = 2 * 2**30 - 1  # what a protocol buffer can hold
MAX_MESSAGES = 1_000_000  # messages and strings of a file; each may take a hundred times its bytes
MAX_NODES = 100_000
MAX_AXES = 16
STANDARD = ("", "ai.onnx")

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
DTYPES = {1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8", 12: "<u4",
           13: "<u8"}  # fmt: skip
_NAMES = {8: "string", 14: "complex64", 15: "complex128", 16: "bfloat16", 21: "uint4", 22: "int4"}
# Where a tensor's values stand when they are no raw bytes: field number and how its entries are coded.
_TYPED = {"<f4": 4, "<f8": 10, "<i8": 7, "<u8": 11, "<u4": 11} | dict.fromkeys(
    ("u1", "i1", "<u2", "<i2", "<i4", "?", "<f2"), 5
)
_PACKED = {4: "<f4", 10: "<f8"}  # the other fields hold varints


@dataclass(frozen=True)
class Node:
    """One operation: `inputs` and `outputs` are names of values, "" stands for one that is left out."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    def __str__(self) -> str:
        return f"node {self.name or self.outputs[0]!r} ({self.op})"


@dataclass(frozen=True)
class ValueInfo:
    """A graph's input or output: dtype, or None for one that is not read, and sizes, None where they are open."""

    name: str
    dtype: np.dtype | None
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class OnnxGraph:
    """A graph as it stands in a file, nodes in the order of the file."""

    nodes: list[Node]
    constants: dict[str, NDArray]
    inputs: list[ValueInfo]
    outputs: list[ValueInfo]
    metadata: dict[str, str]
    opset: int
    producer: str


def read_onnx(path: str | os.PathLike[str]) -> OnnxGraph:
    """Read an ONNX file.

    Weights that lie in files of their own are read too, from the folder of `path` and below it only.

    Raises
    ------
    InputTypeError : `path` is no path
    ModelFileError : missing, too large, damaged, no ONNX file, or of a kind that is not read
    UnreadableError : it is there and cannot be read now
    """
    if not isinstance(path, str | os.PathLike):
        raise InputTypeError(f"path must be a str or PathLike, got {path!r}")
    try:
        return _Reader(Path(path)).graph()
    except _Refused as refusal:
        raise ModelFileError(f"{path}: {refusal}") from None
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file") from None
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise ModelFileError(f"{path}: damaged: a name is not UTF-8") from None


class _Refused(Exception):
    """Why a file is not read."""


def _file_bytes(path: Path, limit: int, offset: int = 0, length: int | None = None) -> memoryview:
    """Bytes of a regular file, whose size is looked at first."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise _Refused(f"{'a folder' if stat.S_ISDIR(status.st_mode) else 'not a regular file'}, a file is needed")
    count = status.st_size - offset if length is None else length
    if offset < 0 or count < 0 or offset + count > status.st_size:
        raise _Refused(f"{path.name} has {status.st_size} bytes, {offset + count} are needed")
    if count > limit:
        raise _Refused(f"{count} bytes are more than the {limit} that are read")
    with open(path, "rb") as file:
        file.seek(offset)
        return memoryview(file.read(count))


Field = tuple[int, int, Any]  # number, wire type, value: an int, or bytes


@dataclass
class _Reader:
    path: Path
    messages: int = 0
    external: int = 0  # bytes read of other files
    names: set[str] = field(default_factory=set)

    def fields(self, data: memoryview) -> Iterator[Field]:
        """The fields of a message. Raises _Refused where they do not fill it exactly."""
        at, end = 0, len(data)
        value: Any
        while at < end:
            key, at = _varint(data, at)
            number, wire = key >> 3, key & 7
            if wire == _VARINT:
                value, at = _varint(data, at)
            elif wire == _BYTES:
                length, at = _varint(data, at)
                if length > end - at:
                    raise _Refused("cut short, or no ONNX file: a field is longer than what holds it")
                value, at = data[at : at + length], at + length
            elif wire in (_FIXED64, _FIXED32):
                size = 8 if wire == _FIXED64 else 4
                if size > end - at:
                    raise _Refused("cut short, or no ONNX file: a number lacks bytes")
                value, at = data[at : at + size], at + size
            else:
                raise _Refused("damaged, or no ONNX file: an unknown kind of field")
            if number == 0:
                raise _Refused("damaged, or no ONNX file: a field without number")
            self.messages += 1
            if self.messages > MAX_MESSAGES:
                raise _Refused(f"it has more than {MAX_MESSAGES} fields")
            yield number, wire, value

    def graph(self) -> OnnxGraph:
        data = _file_bytes(self.path, MAX_FILE_BYTES)
        if not data:
            raise _Refused("the file is empty")
        graph, opset, producer, metadata, version = None, 0, "", {}, 0
        for number, wire, value in self.fields(data):
            if number == 1:
                version = _integer(wire, value)
            elif number == 2:
                producer = _text(wire, value)
            elif number == 7:
                if graph is not None:
                    raise _Refused("damaged: it has two graphs")
                graph = _message(wire, value)
            elif number == 8:
                domain, at = self._opset(_message(wire, value))
                opset = at if domain in STANDARD else opset
            elif number == 14:
                pair = [(n, _text(w, v)) for n, w, v in self.fields(_message(wire, value)) if n in (1, 2)]
                metadata[dict(pair).get(1, "")] = dict(pair).get(2, "")
            elif number == 25:
                raise _Refused("it defines functions of its own, which are not supported; inline them (onnx.inliner)")
        if graph is None or not version:
            raise _Refused("no ONNX file: it has no graph or no version")
        return self._graph(graph, opset, producer, metadata)

    def _opset(self, data: memoryview) -> tuple[str, int]:
        domain, version = "", 0
        for number, wire, value in self.fields(data):
            if number == 1:
                domain = _text(wire, value)
            elif number == 2:
                version = _integer(wire, value)
        return domain, version

    def _graph(self, data: memoryview, opset: int, producer: str, metadata: dict[str, str]) -> OnnxGraph:
        nodes: list[Node] = []
        constants: dict[str, NDArray] = {}
        inputs, outputs = [], []
        for number, wire, value in self.fields(data):
            if number == 1:
                nodes.append(self._node(_message(wire, value)))
            elif number == 5:
                name, array = self.tensor(_message(wire, value))
                if name in constants:
                    raise _Refused(f"damaged: two tensors are called {name!r}")
                constants[name] = array
            elif number == 11:
                inputs.append(self._value_info(_message(wire, value)))
            elif number == 12:
                outputs.append(self._value_info(_message(wire, value)))
            elif number == 15:
                raise _Refused("it has sparse tensors, which are not supported")
        if len(nodes) > MAX_NODES:
            raise _Refused(f"it has {len(nodes)} nodes, more than {MAX_NODES}")
        inputs = [info for info in inputs if info.name not in constants]
        return OnnxGraph(nodes, constants, inputs, outputs, metadata, opset, producer)

    def _node(self, data: memoryview) -> Node:
        inputs, outputs, texts, attributes = [], [], {3: "", 4: "", 7: ""}, {}
        for number, wire, value in self.fields(data):
            if number == 1:
                inputs.append(_text(wire, value))
            elif number == 2:
                outputs.append(_text(wire, value))
            elif number in texts:
                texts[number] = _text(wire, value)
            elif number == 5:
                name, content = self._attribute(_message(wire, value))
                attributes[name] = content
        if not outputs or not texts[4]:
            raise _Refused("damaged: a node without operation or result")
        return Node(texts[4], texts[7], texts[3], tuple(inputs), tuple(outputs), attributes)

    def _attribute(self, data: memoryview) -> tuple[str, Any]:
        """(name, value): a number, text, an array or a list; what cannot be read is None."""
        name, kind = "", 0
        content: dict[int, list[tuple[int, Any]]] = {}
        for number, wire, value in self.fields(data):
            if number == 1:
                name = _text(wire, value)
            elif number == 20:
                kind = _integer(wire, value)
            else:
                content.setdefault(number, []).append((wire, value))
        found: Any = None
        if kind == 1 or (not kind and 2 in content):
            found = _floats(content.get(2, []))[-1:]
        elif kind == 2 or (not kind and 3 in content):
            found = self._integers(content.get(3, []))[-1:]
        elif kind == 3 or (not kind and 4 in content):
            found = [_text(*entry) for entry in content.get(4, [])][-1:]
        elif kind == 4 or (not kind and 5 in content):
            found = [self.tensor(_message(*entry))[1] for entry in content.get(5, [])[-1:]]
        elif kind == 6 or (not kind and 7 in content):
            return name, _floats(content.get(7, []))
        elif kind == 7 or (not kind and 8 in content):
            return name, self._integers(content.get(8, []))
        elif kind == 8 or (not kind and 9 in content):
            return name, [_text(*entry) for entry in content.get(9, [])]
        if found == []:  # a number that is 0 may be left out
            found = [{1: 0.0, 2: 0, 3: ""}.get(kind)]
        return name, found[0] if found else None

    def _integers(self, entries: list[tuple[int, Any]]) -> list[int]:
        """Signed integers, each by itself or packed."""
        found: list[int] = []
        for wire, value in entries:
            if wire == _BYTES:
                found += _varints(value, "<i8", MAX_MESSAGES).tolist()
            else:
                found.append(_integer(wire, value))
        return found

    def _value_info(self, data: memoryview) -> ValueInfo:
        name, dtype, shape = "", None, None
        for number, wire, value in self.fields(data):
            if number == 1:
                name = _text(wire, value)
            elif number == 2:
                for n, w, v in self.fields(_message(wire, value)):
                    if n == 1:  # tensor_type
                        dtype, shape = self._tensor_type(_message(w, v))
        return ValueInfo(name, dtype, shape)

    def _tensor_type(self, data: memoryview) -> tuple[np.dtype | None, tuple[int | None, ...] | None]:
        dtype, shape = None, None
        for number, wire, value in self.fields(data):
            if number == 1:
                known = DTYPES.get(_integer(wire, value))
                dtype = np.dtype(known) if known else None
            elif number == 2:
                sizes: list[int | None] = []
                for n, w, v in self.fields(_message(wire, value)):
                    if n == 1:
                        given = [_integer(w2, v2) for n2, w2, v2 in self.fields(_message(w, v)) if n2 == 1]
                        sizes.append(given[-1] if given and given[-1] > 0 else None)
                shape = tuple(sizes)
        return dtype, shape

    def tensor(self, data: memoryview) -> tuple[str, NDArray]:
        """(name, array). Nothing is allocated before the declared size is that of the bytes."""
        dims: list[int] = []
        kind, name, raw, elsewhere, location = 0, "", None, [], 0
        typed: dict[int, list[tuple[int, Any]]] = {}
        for number, wire, value in self.fields(data):
            if number == 1:
                dims += self._integers([(wire, value)])
            elif number == 2:
                kind = _integer(wire, value)
            elif number == 8:
                name = _text(wire, value)
            elif number == 9:
                raw = _message(wire, value)
            elif number == 13:
                pair = {n: _text(w, v) for n, w, v in self.fields(_message(wire, value)) if n in (1, 2)}
                elsewhere.append((pair.get(1, ""), pair.get(2, "")))
            elif number == 14:
                location = _integer(wire, value)
            elif number in (4, 5, 7, 10, 11):
                typed.setdefault(number, []).append((wire, value))
        what = f"tensor {name!r}"
        if kind not in DTYPES:
            raise _Refused(f"{what} is of type {_NAMES.get(kind, kind)}, which is not supported")
        dtype = np.dtype(DTYPES[kind])
        if len(dims) > MAX_AXES or any(not 0 <= size < 2**40 for size in dims):
            raise _Refused(f"{what} has the shape {dims[:MAX_AXES]}, which is not supported")
        count = math.prod(dims)
        if location == 1:
            raw = self._elsewhere(what, dict(elsewhere), count * dtype.itemsize)
        if raw is None:
            number = _TYPED[DTYPES[kind]]
            array = _typed(what, typed.get(number, []), number, dtype, count)
        elif len(raw) != count * dtype.itemsize:
            raise _Refused(
                f"{what} of shape {dims} and type {dtype} needs {count * dtype.itemsize} bytes, has {len(raw)}"
            )
        else:
            array = np.frombuffer(raw, np.uint8 if dtype == np.bool_ else dtype)
        if dtype == np.bool_:
            array = array != 0
        return name, array.reshape(dims)

    def _elsewhere(self, what: str, at: dict[str, str], needed: int) -> memoryview:
        """The bytes of a tensor that lies in a file of its own, beside the model or below."""
        location = at.get("location", "")
        folder = self.path.resolve().parent
        parts = Path(location.replace("\\", "/"))
        inside = location and not parts.is_absolute() and ".." not in parts.parts and "\0" not in location
        target = (folder / parts).resolve() if inside else folder
        if not inside or not target.is_relative_to(folder) or target == folder:
            raise _Refused(f"{what} lies in {location!r}, outside of the folder of the model; it is not read")
        try:
            offset, length = int(at.get("offset") or 0), int(at.get("length") or needed)
        except ValueError:
            raise _Refused(f"{what}: damaged: its place in {location!r} is no number") from None
        if length != needed:
            raise _Refused(f"{what} needs {needed} bytes, {length} are named in {location!r}")
        self.external += needed
        if self.external > 4 * MAX_FILE_BYTES:
            raise _Refused("its tensors in other files are more than are read")
        try:
            return _file_bytes(target, MAX_FILE_BYTES, offset, length)
        except FileNotFoundError:
            raise _Refused(f"{what} lies in {location!r}, which is not there") from None


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """An unsigned integer of 7 bits a byte, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _Refused("cut short, or no ONNX file: a number lacks bytes")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), at
    raise _Refused("damaged, or no ONNX file: a number of more than 64 bits")


def _varints(data: memoryview, dtype: str, limit: int) -> NDArray:
    """Packed varints as 64-bit integers."""
    content = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(content < 128)
    if len(content) and (not len(ends) or ends[-1] != len(content) - 1):
        raise _Refused("damaged: a list of numbers is cut short")
    if len(ends) > limit:
        raise _Refused(f"a list of {len(ends)} numbers is more than is expected")
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
    lengths = ends - starts + 1
    if len(lengths) and lengths.max() > 10:
        raise _Refused("damaged: a number of more than 64 bits")
    found = np.zeros(len(ends), np.uint64)
    for byte in range(int(lengths.max()) if len(lengths) else 0):
        has = lengths > byte
        part = (content[starts[has] + byte] & np.uint8(127)).astype(np.uint64)
        found[has] |= part << np.uint64(7 * byte)
    return found.view(np.int64) if dtype == "<i8" else found


def _typed(what: str, entries: list[tuple[int, Any]], number: int, dtype: np.dtype, count: int) -> NDArray:
    """A tensor's values from one of its typed fields."""
    parts: list[NDArray] = []
    for wire, value in entries:
        if number in _PACKED:
            kind = np.dtype(_PACKED[number])
            if wire not in (_BYTES, _FIXED32, _FIXED64) or len(value) % kind.itemsize:
                raise _Refused(f"{what}: damaged: its values are not whole numbers of {kind}")
            parts.append(np.frombuffer(value, kind))
        elif wire == _BYTES:
            parts.append(_varints(value, "<u8" if number == 11 else "<i8", count))
        else:
            parts.append(np.array([_integer(wire, value)], np.int64))
    if sum(map(len, parts)) != count:
        raise _Refused(f"{what} has {sum(map(len, parts))} values, its shape needs {count}")
    array = np.concatenate(parts) if parts else np.empty(0, np.int64)
    if dtype == np.float16 and number == 5:
        return array.astype(np.uint16).view(np.float16)
    return array.astype(dtype)


def _integer(wire: int, value: Any) -> int:
    if wire != _VARINT:
        raise _Refused("damaged, or no ONNX file: a number is of another kind")
    return int(value) - 2**64 if value >= 2**63 else int(value)


def _floats(entries: list[tuple[int, Any]]) -> list[float]:
    found: list[float] = []
    for wire, value in entries:
        if wire not in (_FIXED32, _BYTES) or len(value) % 4:
            raise _Refused("damaged, or no ONNX file: a number is of another kind")
        found += struct.unpack(f"<{len(value) // 4}f", value)
    return found


def _message(wire: int, value: Any) -> memoryview:
    if wire != _BYTES:
        raise _Refused("damaged, or no ONNX file: a message is of another kind")
    return value


def _text(wire: int, value: Any) -> str:
    return str(_message(wire, value), "utf-8")
