"""Run folders: one folder for each training run; the room's page lists its files."""

import contextlib
import json
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from xnor_ref.errors import InputError, ModelFileError, OutputError, UnreadableError
from xnor_ref.storage import TEMPORARY, lock_alone, write_atomically
from xnor_ref.training.settings.config import FIELDS, TrainConfig, differences
from xnor_ref.training.settings.plugins import plugin_hint

RUNS = Path("runs")
OF_FIT = "fit"  # a key of config.json, in place of "config": the settings of a network or of images that a program gave
_LOCK = ".lock"
_UNFINISHED = f"{TEMPORARY}*.part"  # what a write leaves behind that a kill interrupted


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.config_path = path / "config.json"
        self.env_path = path / "env.json"
        self.metrics_path = path / "metrics.jsonl"
        self.checkpoints_path = path / "checkpoints"
        self.float_path = path / "float.safetensors"
        self.packed_path = path / "model.safetensors"
        self.report_path = path / "report.json"

    def create(self) -> "RunFolder":
        """Make the folder. Raises OutputError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the run folder {self.path}: {error.strerror}") from error
        return self

    def write_json(self, path: Path, value: Any) -> None:
        """Write a small JSON file atomically."""
        write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())

    def config(self) -> TrainConfig:
        """The run's config. Raises ModelFileError where it is missing or damaged."""
        values: Any = None
        try:
            written = json.loads(self.config_path.read_bytes())
            if OF_FIT in written:
                raise ModelFileError(
                    f"{self.path} is a run of a program: xnor_ref.fit goes on with it, given the same network, images "
                    f"and resume=True; predict and info take {self.packed_path}"
                )
            values = written["config"]
            return TrainConfig(**values)
        except FileNotFoundError:
            raise ModelFileError(f"{self.path} is not a run folder: it has no config.json") from None
        except NotADirectoryError:
            raise ModelFileError(f"{self.path} is not a folder") from None
        except KeyError as error:
            raise ModelFileError(f"{self.config_path} is damaged: it has no {error}") from None
        except OSError as error:
            raise UnreadableError(f"{self.config_path}: cannot be read: {error.strerror or error}") from error
        except (ValueError, TypeError, RecursionError) as error:
            hint = plugin_hint(values)
            raise ModelFileError(f"{self.config_path}{'' if hint else ' is damaged'}: {error}{hint}") from None

    def data_sha256(self) -> str | None:
        """The fingerprint of the images that the run began with, if it says so."""
        with contextlib.suppress(OSError, ValueError, TypeError, LookupError, RecursionError):
            return str(json.loads(self.config_path.read_bytes())["data"]["sha256"])
        return None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process out of the folder while inside; the lock ends with the process."""
        try:
            file = open(self.path / _LOCK, "wb")
        except OSError as error:
            raise OutputError(f"cannot write into the run folder {self.path}: {error.strerror}") from error
        with file:
            if not lock_alone(file):
                raise InputError(f"another process is training in {self.path}")
            for folder in (self.path, self.checkpoints_path):
                for leftover in folder.glob(_UNFINISHED):
                    if leftover.is_file():
                        leftover.unlink(missing_ok=True)
            yield

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        try:
            with open(self.metrics_path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise OutputError(f"cannot write {self.metrics_path}: {error.strerror}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that was cut short is left out."""
        lines: list[dict[str, Any]] = []
        with contextlib.suppress(FileNotFoundError, ValueError, RecursionError):
            for row in self.metrics_path.read_text(encoding="utf-8", errors="replace").splitlines():
                line = json.loads(row)
                if not isinstance(line, dict):
                    break
                lines.append(line)
        return lines

    def truncate_metrics(self, epochs: int) -> None:
        """Keep the lines of the first `epochs` epochs only, so that a resumed run writes none twice."""
        kept = [line for line in self.metrics() if line.get("epoch", epochs + 1) <= epochs]
        write_atomically(self.metrics_path, "".join(json.dumps(line) + "\n" for line in kept).encode())


def is_empty(folder: Path) -> bool:
    """Whether a run in `folder`, if ever one began, was killed before it wrote its config."""
    return all(name == _LOCK or fnmatch(name, _UNFINISHED) for name in os.listdir(folder))


def check_free(out: Path) -> None:
    """Raise InputError if a new run cannot have the folder `out` because there is something in it."""
    if out.is_dir() and not is_empty(out):
        is_run = (out / "config.json").is_file()
        advice = "add --resume auto to go on with the run in it, or name" if is_run else "it holds no run; name"
        raise InputError(f"--out {out} is not empty: {advice} another folder")


def new_run(name: str, out: Path | None) -> RunFolder:
    """Make the folder of a new run: `out`, or the first free one of runs/<name>, runs/<name>-2, ...

    Raises InputError where `out` is not empty, OutputError where the folder cannot be made.
    """
    if out is not None:
        check_free(out)
        return RunFolder(out).create()
    RunFolder(RUNS).create()
    k = 1
    while True:
        path = RUNS / (name if k == 1 else f"{name}-{k}")
        try:
            path.mkdir()
            return RunFolder(path)
        except FileExistsError:
            k += 1
        except OSError as error:
            raise OutputError(f"cannot make the run folder {path}: {error.strerror}") from error


def find_run(said: dict[str, Any], out: Path | None) -> RunFolder | None:
    """The run that `--resume auto` means: the newest that agrees with all that was said; None where none exists.

    Only what the user said counts, so `--resume auto` alone takes the newest run of all. Raises ModelFileError where
    there are runs of this data set, model, method and seed, but all differ from what was said elsewhere.
    """
    if out is not None:
        if not out.exists() or (out.is_dir() and is_empty(out)):
            return None
        check_said(out, RunFolder(out).config(), said)
        return RunFolder(out)
    refusal = None
    folders = (path.parent for path in RUNS.glob("*/config.json"))
    for folder in sorted(folders, key=lambda f: (_changed(f), f.name), reverse=True):
        try:
            config = RunFolder(folder).config()
        except ModelFileError:
            continue  # damaged: not the run that was meant, or it cannot go on
        if any(getattr(config, k) != said.get(k, getattr(config, k)) for k in ("dataset", "model", "method", "seed")):
            continue
        try:
            check_said(folder, config, said)
            return RunFolder(folder)
        except ModelFileError as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal
    return None


def check_said(folder: Path, config: TrainConfig, said: dict[str, Any]) -> None:
    """Raise ModelFileError where options clash with the config of the run that is to go on."""
    said = {key: value for key, value in said.items() if FIELDS[key].metadata["identity"]}
    if found := differences(config.to_dict(), said):
        raise ModelFileError(
            f"the run in {folder} has other settings: {'; '.join(found)}. Leave these options out to go on with "
            "it, or leave --resume out to start a new run"
        )


def _changed(folder: Path) -> float:
    """When a run last wrote something."""
    paths = [folder / "config.json", folder / "checkpoints", folder / "metrics.jsonl"]
    return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)
