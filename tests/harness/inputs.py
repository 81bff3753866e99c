"""Damaged images, archives, data sets and settings: `python -m tests.harness.inputs --count 100000`.

Each number stands for a change of a sound file, as in `tests.harness.damage`. Reading it must give its content or end
in the typed error, within 20 seconds and 200 MB, and must write nothing outside the folder of prepared data.
`--atheris SECONDS --kind KIND` lets coverage choose the changes of one kind (`pip install atheris`).
"""

import argparse
import gzip
import io
import random
import shutil
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.datasets.test_tiny_imagenet import layout, write_zip
from tests.harness.damage import damaged, fast_folder, report, tried
from xnor_ref import datasets
from xnor_ref.datasets.images import load_photo
from xnor_ref.errors import DatasetError, InputError, XnorRefError
from xnor_ref.training.settings.config import load_toml
from xnor_ref.training.settings.resolve import resolve

MEMORY = 200 * 2**20
SETTINGS = b"""dataset = "tiny-imagenet"
epochs = 20
lr = 0.002
milestones = [5, 10]
schedule = "step"
model-options = {width = 8}
"""


@dataclass
class Kind:
    """Files of one kind: sound ones, how one is read, and what refuses it."""

    sound: list[bytes]
    load: Callable[[Path], Any]
    refused: type[XnorRefError] = DatasetError


def _images(name: str, modes: tuple[str, ...], **options: Any) -> list[bytes]:
    rng, found = np.random.default_rng(0), []
    picture = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
    for mode in modes:
        stream = io.BytesIO()
        picture.convert(mode).save(stream, name, **options)
        found.append(stream.getvalue())
    return found


def _photo(path: Path) -> None:
    load_photo(path, (16, 16))


def _idx() -> bytes:
    rng = np.random.default_rng(0)
    return struct.pack(">IIII", 0x803, 6, 28, 28) + rng.integers(0, 256, 6 * 784, np.uint8).tobytes()


def _data_set(name: str, files: dict[str, bytes], changed: str) -> Callable[[Path], None]:
    """Read a data set in which one file is the changed one."""

    def load(path: Path) -> None:
        folder = path.parent / "data"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for one, content in files.items():
            (folder / one).parent.mkdir(exist_ok=True)
            (folder / one).write_bytes(path.read_bytes() if one == changed else content)
        datasets.load(name, data_dir=folder)

    return load


def _archive(path: Path) -> None:
    datasets.load("tiny-imagenet", data_dir=path.parent / "data", archive=path)


def kinds(folder: Path) -> dict[str, Kind]:
    """All kinds of files that are read and not ours."""
    rng = np.random.default_rng(0)
    labels = struct.pack(">II", 0x801, 6) + rng.integers(0, 10, 6, np.uint8).tobytes()
    mnist = {
        f"mnist/{part}-{what}": content
        for part in ("train", "t10k")
        for what, content in (("images-idx3-ubyte", _idx()), ("labels-idx1-ubyte", labels))
    }
    records = rng.integers(0, 10, (3, 3073), np.uint8).tobytes()
    cifar = {f"cifar10/{one}.bin": records for one in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")}
    zips = [write_zip(folder / "set.zip", layout(), method=method).read_bytes() for method in (0, 8)]
    return {
        "JPEG": Kind(_images("JPEG", ("L", "RGB", "CMYK")) + _images("JPEG", ("RGB",), progressive=True), _photo),
        "PNG": Kind(_images("PNG", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")), _photo),
        "other images": Kind(
            _images("GIF", ("P",)) + _images("BMP", ("RGB",)) + _images("PPM", ("RGB",)) + _images("WEBP", ("RGB",))
            + _images("TIFF", ("L", "RGB"), compression="tiff_lzw"),
            _photo,
        ),
        "zip": Kind(zips, _archive),
        "idx": Kind([_idx()], _data_set("mnist", mnist, "mnist/train-images-idx3-ubyte")),
        "idx.gz": Kind(
            [gzip.compress(_idx(), mtime=0)],
            _data_set(
                "mnist",
                {k + ".gz": gzip.compress(v) for k, v in mnist.items()},
                "mnist/t10k-images-idx3-ubyte.gz",
            ),
        ),
        "cifar": Kind([records], _data_set("cifar10", cifar, "cifar10/data_batch_2.bin")),
        "toml": Kind([SETTINGS], lambda path: resolve(load_toml(path)), InputError),
    }  # fmt: skip


def _written(folder: Path) -> set[Path]:
    return {path for path in folder.iterdir() if path.name not in ("file", "data")}


def run(count: int, first: int = 0) -> int:
    """Try changes; print what was found, and return the number of faults."""
    with tempfile.TemporaryDirectory(prefix="xnor_ref-inputs-", dir=fast_folder()) as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        all_kinds, path = kinds(folder), folder / "file"
        choices = [(title, kind, content) for title, kind in all_kinds.items() for content in kind.sound]
        for _, kind, content in choices:
            path.write_bytes(content)
            kind.load(path)
        before = _written(folder)

        def one(number: int) -> tuple[str, str]:
            title, kind, content = choices[number % len(choices)]
            path.write_bytes(damaged(content, random.Random(number)))
            shutil.rmtree(folder / "data", ignore_errors=True)
            result = tried(kind.load, kind.refused, path, MEMORY)
            more = _written(folder) - before
            return title, result if not more else f"written outside the folder of data: {more}"

        return report(count, first, one)


def guided(seconds: int, title: str) -> None:
    """Changes of one kind of files, chosen by coverage. Does not return."""
    import atheris

    folder = Path(tempfile.mkdtemp(prefix="xnor_ref-atheris-", dir=fast_folder()))
    kind, path, corpus = kinds(folder)[title], folder / "file", folder / "corpus"
    corpus.mkdir()
    for number, content in enumerate(kind.sound):
        (corpus / str(number)).write_bytes(content)

    def one(data: bytes) -> None:
        path.write_bytes(data)
        shutil.rmtree(folder / "data", ignore_errors=True)
        try:
            kind.load(path)
        except kind.refused:
            pass

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], str(corpus), f"-max_total_time={seconds}", "-rss_limit_mb=2048", "-timeout=20"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--atheris", type=int, metavar="SECONDS", help="changes chosen by coverage, for so long")
    parser.add_argument("--kind", default="JPEG", help="the kind of files that --atheris changes")
    options = parser.parse_args()
    if options.atheris:
        guided(options.atheris, options.kind)
    sys.exit(6 if run(options.count, options.first) else 0)
