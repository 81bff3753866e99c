"""A struct array out of a MATLAB 5 file, as the devkit of ImageNet holds one: `meta.mat`.

Only what that takes is read: numbers, text and struct arrays, in either byte order, compressed or not. A file is not
trusted: every length is checked against what is there, and the unpacked size has a limit.

A file is 128 bytes, of which the last two give the byte order, then elements. An element is a tag (type, bytes) and its
data, padded to 8 bytes; up to 4 bytes of data lie in the tag itself. An element of type 14 is an array: flags,
dimensions, name, then the data. Source: MathWorks, "MAT-File Format", level 5.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from xnor_ref.errors import DatasetError

MAX_BYTES = 64 * 2**20  # unpacked; that of the official devkit is under 1 MiB
MAX_ELEMENTS = 1_000_000  # of an array
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 3: "utf-16", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _CHARACTERS, _FIRST_NUMBER, _LAST_NUMBER = 2, 4, 6, 15  # classes of arrays


class _Fault(Exception):
    """What is wrong with a file."""


def read_structs(data: bytes, variable: str, fields: Sequence[str], what: str) -> list[dict[str, Any]]:
    """The elements of the struct array `variable`, of each only `fields`.

    Parameters
    ----------
    data : content of the file
    what : how errors name the file

    Returns
    -------
    list of dict
        By field a str, or a float64 array, flat.

    Raises
    ------
    DatasetError : no MATLAB 5 file, damaged, without that variable or those fields, or too large
    """
    try:
        return _find(data, variable, fields)
    except (_Fault, struct.error, zlib.error, ValueError, OverflowError) as fault:
        raise DatasetError(f"{what}: cannot be read as a MATLAB 5 file: {fault}") from None


def _find(data: bytes, variable: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise _Fault("it does not begin as one")
    room = MAX_BYTES
    for kind, content in _elements(data[128:], order):
        if kind == _COMPRESSED:
            unpacking = zlib.decompressobj()
            content = unpacking.decompress(content, room)
            if unpacking.unconsumed_tail or not unpacking.eof:
                raise _Fault(f"it unpacks to more than {MAX_BYTES} bytes, or was cut short")
            room -= len(content)
            kind, content = next(_elements(content, order), (0, b""))
        if kind == _MATRIX:
            array = _Array(content, order)
            if array.name == variable:
                return array.structs(fields)
    raise _Fault(f"it holds no variable {variable!r}")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, data) of elements that follow each other."""
    at = 0
    while at + 8 <= len(data):
        kind, length = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # a small element: both numbers in the first word, the data in the second
            kind, length, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if length > 4:
                raise _Fault("a small element says that it holds more than 4 bytes")
        else:
            start = at + 8
            end = start + length + (0 if kind == _COMPRESSED else -length % 8)
        if start + length > len(data):
            raise _Fault("it was cut short")
        yield kind, data[start : start + length]
        at = end


class _Array:
    """An array: its class, shape and name, and its data as they lie."""

    def __init__(self, data: bytes, order: str) -> None:
        self._order, self._parts = order, _elements(data, order)
        flags = self._next()
        self.kind = struct.unpack_from(f"{order}I", flags[1])[0] & 0xFF
        self.count = prod(self._integers())
        self.name = self._next()[1].decode("latin-1")
        if self.count > MAX_ELEMENTS:
            raise _Fault(f"an array of {self.count} elements; up to {MAX_ELEMENTS} are read")

    def structs(self, fields: Sequence[str]) -> list[dict[str, Any]]:
        """The elements of a struct array."""
        if self.kind != _STRUCT:
            raise _Fault(f"the variable {self.name!r} is no struct array")
        width = self._integers()[0]
        joined = self._next()[1]
        if width < 1 or len(joined) % width:
            raise _Fault("the names of its fields have no whole number of characters")
        names = [joined[at : at + width].partition(b"\0")[0].decode("latin-1") for at in range(0, len(joined), width)]
        missing = [field for field in fields if field not in names]
        if missing:
            raise _Fault(f"{self.name!r} has no field {missing[0]!r}")
        found = []
        for _ in range(self.count):
            values = [self._next() for _ in names]
            found.append({field: _value(*values[names.index(field)], self._order) for field in fields})
        return found

    def value(self) -> Any:
        """Text or numbers."""
        kind, data = next(self._parts, (2, b""))
        if self.kind == _CHARACTERS and kind in _TEXTS:
            encoding = _TEXTS[kind] + ({"<": "-le", ">": "-be"}[self._order] if _TEXTS[kind] == "utf-16" else "")
            return data.decode(encoding)
        if _FIRST_NUMBER <= self.kind <= _LAST_NUMBER and kind in _NUMBERS:
            return np.frombuffer(data, np.dtype(self._order + _NUMBERS[kind])).astype(np.float64)
        raise _Fault(f"an array of class {self.kind}, type {kind}, in place of text or numbers")

    def _integers(self) -> list[int]:
        return np.frombuffer(self._next()[1], np.dtype(f"{self._order}i4")).tolist()

    def _next(self) -> tuple[int, bytes]:
        found = next(self._parts, None)
        if found is None:
            raise _Fault("it was cut short")
        return found


def _value(kind: int, data: bytes, order: str) -> Any:
    if kind != _MATRIX:
        raise _Fault(f"an element of type {kind} in place of an array")
    return _Array(data, order).value() if data else np.zeros(0)
