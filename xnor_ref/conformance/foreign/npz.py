"""Writing .npz and .npy files that a short program in any language can read, and reading its answers.

Equal arrays give equal bytes. Members are not compressed. Each member begins at a multiple of 64 bytes, and so do its
elements, so a reader may use them in place.
"""

import ast
import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from xnor_ref.errors import InputError

MAGIC = b"\x93NUMPY"
ALIGNMENT = 64
MOST_BYTES = 2**30  # most bytes of a file that is read, and of its arrays
_KINDS = "biuf"
_PADDING = 0xD935  # a zip extra field that readers skip


def npy(array: np.ndarray) -> bytes:
    """Return an array as a .npy file of version 1.0: little-endian, last axis fastest."""
    array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    text = f"{{'descr': {array.dtype.str!r}, 'fortran_order': False, 'shape': {array.shape!r}, }}"
    text += " " * (-(len(MAGIC) + 4 + len(text) + 1) % ALIGNMENT) + "\n"
    return MAGIC + b"\x01\x00" + struct.pack("<H", len(text)) + text.encode("ascii") + array.tobytes()


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return arrays as an uncompressed .npz file, in order."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            member.create_system, member.external_attr = 3, 0o644 << 16
            filled = -(file.tell() + 30 + len(member.filename) + 4) % ALIGNMENT
            member.extra = struct.pack("<HH", _PADDING, filled) + bytes(filled)
            archive.writestr(member, npy(array))
    return file.getvalue()


def read_file(path: str | os.PathLike[str], most: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file, or of a .npy file under the name "result". Raises InputError or OSError."""
    size = os.stat(path).st_size
    if size > most:
        raise InputError(f"{os.path.basename(path)} has {size:,} bytes; the limit is {most:,}")
    with open(path, "rb") as file:
        return read(file.read(most), os.path.basename(path), most)


def read(data: bytes, what: str, most: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """Return the arrays of such a file's bytes. Raises InputError, with its name `what`, for anything else."""
    if data.startswith(MAGIC):
        return {"result": _read_npy(data, what)}
    if not data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        raise InputError(f"{what} is not a .npy or .npz file: it {_beginning(data)}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > most:
                raise InputError(f"{what} holds more than {most:,} bytes")
            return {
                m.filename.removesuffix(".npy"): _read_npy(_member(archive, m), f"{what}, {m.filename}")
                for m in members
            }
    except (
        zipfile.BadZipFile,
        OSError,
        EOFError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        zlib.error,
    ) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what} is a damaged .npz file: {error}") from None


def one_array(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the only array of a file, or the one named "result". Raises InputError."""
    try:
        arrays = read_file(path)
    except OSError as error:
        raise InputError(f"{os.path.basename(path)} cannot be read: {error.strerror or error}") from None
    if len(arrays) != 1 and "result" not in arrays:
        names = ", ".join(arrays) or "nothing"
        raise InputError(f"{os.path.basename(path)} must hold one array, or one named result; it holds {names}")
    return arrays.get("result", next(iter(arrays.values())))


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as file:
        return file.read(member.file_size)


def _read_npy(data: bytes, what: str) -> np.ndarray:
    try:
        if not data.startswith(MAGIC):
            raise ValueError(f"it {_beginning(data)}")
        width = 2 if data[6] == 1 else 4
        begin = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
        header = ast.literal_eval(data[8 + width : begin].decode("latin-1").strip())
        shape, dtype = header["shape"], np.dtype(header["descr"])
        if dtype.kind not in _KINDS:
            raise ValueError(f"its elements are {header['descr']!r}; they must be booleans, integers or floats")
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"its shape is {shape!r}")
        needed, there = math.prod(shape) * dtype.itemsize, len(data) - begin
        if needed != there:
            raise ValueError(
                f"shape {shape} of {dtype} needs {needed:,} bytes after the header, but there are {there:,}"
            )
    except (ValueError, KeyError, TypeError, IndexError, SyntaxError, RecursionError, MemoryError) as error:
        raise InputError(f"{what} is not a readable .npy file: {error}") from None
    array = np.frombuffer(data, dtype, offset=begin) if needed else np.zeros(0, dtype)
    return array.reshape(shape, order="F" if header.get("fortran_order") else "C").astype(dtype.newbyteorder("="))


def _beginning(data: bytes) -> str:
    return f"begins with {data[:12]!r}" if data else "is empty"
