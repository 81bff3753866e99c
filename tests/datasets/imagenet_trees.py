"""ImageNet in small: the same photos in every layout in which its users have it."""

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

SYNSETS = tuple(f"n{number:08d}" for number in range(2000000, 2000020))
# Of meta.mat: the numbers do not follow the order of the synsets, and two classes share their first name.
NUMBERS = {synset: number for number, synset in enumerate(SYNSETS[7:] + SYNSETS[:7], 1)}
WORDS = {synset: f"thing {index}, object {index}" for index, synset in enumerate(SYNSETS)}
WORDS |= {SYNSETS[3]: "crane, lifting device", SYNSETS[4]: "crane"}
TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def photo(seed: int, width: int, height: int, mode: str = "RGB", kind: str = "JPEG", **options) -> bytes:
    """A photo-like picture: smooth colours and some grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels = np.clip(smooth + rng.integers(-9, 10, (height, width, 1)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def photos(train: int = 3, val: int = 2) -> dict[str, dict[str, bytes]]:
    """Synset -> name -> file of the training images; "val" -> those of validation."""
    special = [
        photo(1, 70, 90, "CMYK"),
        photo(2, 50, 44, "L"),
        photo(3, 90, 60, exif=exif(6)),
        photo(4, 64, 50, kind="PNG"),
        photo(5, 700, 600),
        photo(6, 256, 300),
        photo(7, 40, 260),
    ]
    found: dict[str, dict[str, bytes]] = {}
    for index, synset in enumerate(SYNSETS):
        files = [photo(100 * index + n, 60 + 7 * index % 50, 50 + 11 * n) for n in range(train)]
        if index < len(special):
            files[1] = special[index]
        found[synset] = {f"{synset}_{37 * n + 5}.JPEG": data for n, data in enumerate(files)}
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(len(SYNSETS)), val))
    found["val"] = {
        f"ILSVRC2012_val_{n:08d}.JPEG": photo(5000 + n, 50 + n % 30, 60 + label)
        for n, label in enumerate(labels.tolist(), 1)
    }
    found["labels"] = dict(zip(found["val"], (SYNSETS[label].encode() for label in labels)))
    return found


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def meta_mat(compressed: bool = True) -> bytes:
    """The devkit's meta.mat: leaves, then a synset of a higher level."""
    from scipy.io import savemat

    rows = sorted((number, synset) for synset, number in NUMBERS.items())
    rows.append((len(rows) + 1, "n00001740"))
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    array = np.empty((len(rows), 1), [(field, object) for field in fields])
    for row, (number, synset) in enumerate(rows):
        values = (float(number), synset, WORDS.get(synset, "entity"), "a gloss", 0.0, np.zeros((0, 0)), 0.0)
        array[row, 0] = values
    buffer = io.BytesIO()
    savemat(buffer, {"first": np.eye(3), "synsets": array}, do_compression=compressed)
    return buffer.getvalue()


def truth(found: dict[str, dict[str, bytes]]) -> bytes:
    return "".join(f"{NUMBERS[synset.decode()]}\n" for synset in found["labels"].values()).encode()


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def archives(root: Path, found: dict[str, dict[str, bytes]]) -> Path:
    """As downloaded."""
    classes = {f"{synset}.tar": tar_of(found[synset]) for synset in reversed(SYNSETS)}
    write(root, {"ILSVRC2012_img_train.tar": tar_of(classes), "ILSVRC2012_img_val.tar": tar_of(found["val"])})
    devkit(root, found)
    return root


def devkit(root: Path, found: dict[str, dict[str, bytes]]) -> None:
    inside = {"data/meta.mat": meta_mat(), f"data/{TRUTH}": truth(found), "readme.txt": b"about"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in inside.items():
            info = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    write(root, {"ILSVRC2012_devkit_t12.tar.gz": buffer.getvalue()})


def folders(root: Path, found: dict[str, dict[str, bytes]]) -> Path:
    """Unpacked, the validation images flat."""
    for synset in SYNSETS:
        write(root / "train" / synset, found[synset])
    write(root / "val", found["val"])
    write(root / "ILSVRC2012_devkit_t12" / "data", {"meta.mat": meta_mat(False), TRUTH: truth(found)})
    return root


def sorted_folders(root: Path, found: dict[str, dict[str, bytes]]) -> Path:
    """The validation images by class, everything in one more folder."""
    inner = folders(root / "imagenet", found)
    shutil.rmtree(inner / "val")
    for name, synset in found["labels"].items():
        write(inner / "val" / synset.decode(), {name: found["val"][name]})
    return root


def kaggle(root: Path, found: dict[str, dict[str, bytes]]) -> Path:
    """As Kaggle's competition has it."""
    inner = root / "ILSVRC" / "Data" / "CLS-LOC"
    for synset in SYNSETS:
        write(inner / "train" / synset, found[synset])
    write(inner / "val", found["val"])
    rows = [f"{name.removesuffix('.JPEG')},{synset.decode()} 1 2 3 4 " for name, synset in found["labels"].items()]
    lines = [f"{synset} {WORDS[synset]}" for synset in SYNSETS]
    write(
        root,
        {
            "LOC_val_solution.csv": "\n".join(["ImageId,PredictionString", *rows]).encode(),
            "LOC_synset_mapping.txt": "\n".join(lines).encode(),
        },
    )
    return root


LAYOUTS = (archives, folders, sorted_folders, kaggle)
