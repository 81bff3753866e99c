"""Damaged and hostile files: `python -m tests.harness.damage --count 1000000`.

Each number stands for one change of a model file, a float file or a checkpoint: flipped bits, blocks that are cut out,
repeated or overwritten, edited headers, huge shapes, doubled keys, values of the description of other types and sizes.
Half of the changes sign the file again, so that its digest is right and the checks behind it are reached. Loading must
give the file's own content or end in the typed error, within `SECONDS`, and within twice the file and 50 MB of memory.
A network that loads is run on one image.

`--atheris SECONDS` lets coverage choose the changes instead (`pip install atheris`). A number that fails is printed;
`--first N --count 1` repeats it.
"""

import argparse
import io
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np

from tests.packed.packed_samples import SAMPLES
from xnor_ref.cli import main
from xnor_ref.errors import ModelFileError, NonFiniteError
from xnor_ref.packed import load_packed
from xnor_ref.storage import METADATA_KEY, canonical_json, tensors_digest
from xnor_ref.training.storing import checkpoint
from xnor_ref.training.storing.float_file import load_float

SECONDS = 20
ROOM = 50 * 2**20
_DTYPES = {"U8": "u1", "I8": "i1", "I32": "<i4", "I64": "<i8", "U64": "<u8", "F32": "<f4", "F64": "<f8", "BOOL": "?"}
_ODD: tuple[Any, ...] = (
    *(None, True, False, "", "x" * 300, [], {}, [[]], [[[[]]]], -1, 0, 1, 2, 3, 7, 2**31, 2**63, 10**30, 1e308, -0.5),
    *("affine", "conv2d", "binary_conv2d", "off", "plain", [1], [0, 0], [1, 1], [2**40, 2**40], ["a", "a"]),
)


def _run_packed(path: Path) -> None:
    network = load_packed(path)
    shape = network.input_shape
    with suppress(NonFiniteError):  # of weights near the largest float
        network.logits(np.zeros((1, *shape[1:], shape[0]), np.uint8))


LOADERS: dict[str, Callable[[Path], Any]] = {"model": _run_packed, "float": load_float, "checkpoint": checkpoint.read}


def files(folder: Path) -> list[tuple[str, bytes]]:
    """(kind, content) of sound files: every operation of a model file, and those of a run."""
    found = []
    for number, sample in enumerate(SAMPLES):
        sample().network().save(folder / f"{number}.safetensors")
        found.append(("model", (folder / f"{number}.safetensors").read_bytes()))
    options = "--train-size 24 --val-size 12 --batch-size 12 --epochs 1 --model-option width=4 --average 0.9 --quiet"
    with redirect_stdout(io.StringIO()):
        assert main(["train", *options.split(), "--out", str(folder / "run"), "--data-dir", str(folder)]) == 0
    for kind, name in (
        ("model", "model.safetensors"),
        ("float", "float.safetensors"),
        ("checkpoint", "checkpoints/best.safetensors"),
    ):
        found.append((kind, (folder / "run" / name).read_bytes()))
    return found


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A file with some bytes changed, and nothing signed."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(data))
        if rng.random() < 0.5:  # mostly in the header, where there is more to break
            at = rng.randrange(min(len(data), 8 + int.from_bytes(content[:8], "little")))
        size = rng.choice((1, 4, 8, 64, 4096))
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:]
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = data[at : at + size]
            case 4:
                data[at : at + size] = bytes(rng.choices((0, 255, 34, 44, 58, 91, 123, 125), k=1)) * size
            case _:
                data[at : at + size] = rng.randbytes(size)
        if not data:
            data = bytearray(b"\0")
    return bytes(data)


def _edited(value: Any, rng: random.Random) -> Any:
    """A JSON value with one place in it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if rng.random() < 0.05:
            return {**value, rng.choice(("more", "", "op", key + "2")): rng.choice(_ODD)}
        return {**value, key: _edited(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:at] + (value[at:] * 2 if rng.random() < 0.5 else value[at + 1 :])
        return [*value[:at], _edited(value[at], rng), *value[at + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.7:
        return rng.choice((value + 1, value - 1, value * 2, -value, value * 2**20, float(value)))
    return rng.choice(_ODD)


def resigned(content: bytes, rng: random.Random) -> bytes:
    """A file whose description, arrays or header were changed by someone who can compute the digest."""
    size = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    description = json.loads(header.pop("__metadata__")[METADATA_KEY])
    arrays = {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
    }
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(sorted(arrays)) if arrays else ""
        match rng.randrange(8):
            case 0 | 1 | 2 | 3:
                description = _edited(description, rng)
            case 4 if name:  # odd numbers
                array = arrays[name].copy()
                flat = array.reshape(-1)
                if flat.size:
                    odd = (np.nan, np.inf, -np.inf, 0.0, 1e38) if array.dtype.kind == "f" else (0, 1, -1, 255)
                    with np.errstate(all="ignore"):
                        flat[rng.randrange(flat.size)] = np.array(rng.choice(odd)).astype(array.dtype)
                arrays[name] = array
            case 5 if name and arrays[name].ndim:  # another shape
                array = arrays[name]
                arrays[name] = rng.choice(
                    (array.reshape(-1), array[..., None], array[:0], np.concatenate([array, array]))
                )
            case 6 if name:
                arrays[name] = arrays[name].astype(rng.choice(list(_DTYPES.values())), casting="unsafe")
            case _ if name:
                arrays[rng.choice((name + "2", "", "n0.conv2d.weight"))] = arrays.pop(name)
    if not isinstance(description, dict):
        description = {"format": description}
    try:
        description["digest"] = tensors_digest(arrays, description)
        text = canonical_json(description).decode()
    except Exception:  # what no JSON can say: as it is
        text = json.dumps(description)
    offset, entries, parts = 0, [], []
    codes = {np.dtype(code): name for name, code in _DTYPES.items()}
    for name, array in sorted(arrays.items()):
        shape = list(array.shape)
        if rng.random() < 0.01:
            shape = [rng.choice((2**31, 2**62, 0)), *shape]
        entries.append(
            (name, {"dtype": codes[array.dtype], "shape": shape, "data_offsets": [offset, offset + array.nbytes]})
        )
        parts.append(array.tobytes())
        offset += array.nbytes
    if entries and rng.random() < 0.02:  # a doubled key
        entries.append(rng.choice(entries))
    lines = [
        json.dumps({"__metadata__": {METADATA_KEY: text}})[1:-1],
        *(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in entries),
    ]
    encoded = ("{" + ",".join(lines) + "}").encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + b"".join(parts)


def _limit(more: int) -> None:
    """Let this process take so many bytes more than it has now."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.RLIM_INFINITY))


def tried(load: Callable[[Path], Any], refused: type[Exception], path: Path, more: int) -> str:
    """What becomes of loading a file with so many bytes of memory: "loaded", "refused", or the trace of a fault."""
    signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(SECONDS)
    _limit(more)
    try:
        with np.errstate(all="ignore"):
            load(path)
    except refused:
        return "refused"
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return "loaded"


def attempt(number: int, sound: list[tuple[str, bytes]], path: Path) -> str:
    """Change number `number`: "loaded" or "refused"; or a fault."""
    rng = random.Random(number)
    kind, content = sound[number % len(sound)]
    signed = rng.random() < 0.5
    data = resigned(content, rng) if signed else damaged(content, rng)
    path.write_bytes(data)
    found = tried(LOADERS[kind], ModelFileError, path, 2 * len(data) + ROOM)
    if found == "loaded" and not signed and data != content:
        return "a changed file that was not signed again was loaded"
    return found


def report(count: int, first: int, one: Callable[[int], tuple[str, str]]) -> int:
    """Try numbers; print what was found, and return the number of faults. `one` gives (kind, what `tried` gives)."""
    found, faults = Counter[str](), 0
    for number in range(first, first + count):
        kind, result = one(number)
        if result in ("loaded", "refused"):
            found[result] += 1
        else:
            faults += 1
            print(f"{kind}, number {number}: {result}", flush=True)
    print(f"{count} changes: {found['refused']} refused, {found['loaded']} loaded, {faults} faults")
    return faults


def fast_folder() -> str | None:
    """Where files can be written without a disk."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def run(count: int, first: int = 0) -> int:
    """Try changes; print what was found, and return the number of faults."""
    with tempfile.TemporaryDirectory(prefix="xnor_ref-damage-", dir=fast_folder()) as folder:
        sound, path = files(Path(folder)), Path(folder) / "file"
        for kind, content in sound:  # kernels are compiled now, without a limit
            path.write_bytes(content)
            LOADERS[kind](path)
        return report(count, first, lambda number: (sound[number % len(sound)][0], attempt(number, sound, path)))


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"loading took more than {SECONDS} s")


def guided(seconds: int) -> None:
    """Changes chosen by coverage. Does not return."""
    import atheris

    with atheris.instrument_imports(include=["xnor_ref.storage", "xnor_ref.packed"]):
        for name in [n for n in sys.modules if n.startswith(("xnor_ref.storage", "xnor_ref.packed"))]:
            del sys.modules[name]
        from xnor_ref.packed import load_packed as load
        from xnor_ref.storage import ModelFileError as Refused
    folder = tempfile.mkdtemp(prefix="xnor_ref-atheris-", dir=fast_folder())
    path, corpus = Path(folder) / "file", Path(folder) / "corpus"
    corpus.mkdir()
    for number, (kind, content) in enumerate(files(Path(folder))):
        if kind == "model" and len(content) < 65536:
            (corpus / str(number)).write_bytes(content)

    def one(data: bytes) -> None:
        path.write_bytes(signed_again(data))
        try:
            load(path)
        except Refused:
            pass

    atheris.Setup([sys.argv[0], str(corpus), f"-max_total_time={seconds}", "-rss_limit_mb=4096", "-timeout=20"], one)
    atheris.Fuzz()


def signed_again(data: bytes) -> bytes:
    """The same file with the digest that its content has, where it can be told; else as it is."""
    try:
        size = int.from_bytes(data[:8], "little")
        header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
        description = json.loads(header["__metadata__"][METADATA_KEY])
        arrays = {
            name: np.frombuffer(body[slice(*entry["data_offsets"])], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in header.items()
            if name != "__metadata__"
        }
        description["digest"] = tensors_digest(arrays, description)
        header["__metadata__"][METADATA_KEY] = canonical_json(description).decode()
        encoded = json.dumps(header).encode()
        encoded += b" " * (-len(encoded) % 8)
        return struct.pack("<Q", len(encoded)) + encoded + body
    except Exception:
        return data


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--atheris", type=int, metavar="SECONDS", help="changes chosen by coverage, for so long")
    options = parser.parse_args()
    if options.atheris:
        guided(options.atheris)
    sys.exit(6 if run(options.count, options.first) else 0)
