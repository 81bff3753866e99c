"""Run folders, one for each training run. The room's page lists their files."""

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
OF_FIT = "fit"  # key of config.json instead of "config", in runs of `xnor_ref.fit`
_LOCK = ".lock"
_UNFINISHED = f"{TEMPORARY}*.part"  # files left by interrupted writes


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
        """Create the folder. Raises OutputError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the run folder {self.path}: {error.strerror}") from error
        return self

    def write_json(self, path: Path, value: Any) -> None:
        """Write a small JSON file atomically."""
        write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())

    def config(self) -> TrainConfig:
        """Return the run's config. Raises ModelFileError if it is missing or damaged."""
        values: Any = None
        try:
            written = json.loads(self.config_path.read_bytes())
            if OF_FIT in written:
                raise ModelFileError(
                    f"{self.path} is a run of a program; resume it by xnor_ref.fit with the same network, images "
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
        """Return the digest of the images with which the run began, or None."""
        with contextlib.suppress(OSError, ValueError, TypeError, LookupError, RecursionError):
            return str(json.loads(self.config_path.read_bytes())["data"]["sha256"])
        return None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Context manager: lock the folder against other processes. The lock ends with the process."""
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
        """Return the lines of metrics.jsonl, without a truncated last line."""
        lines: list[dict[str, Any]] = []
        with contextlib.suppress(FileNotFoundError, ValueError, RecursionError):
            for row in self.metrics_path.read_text(encoding="utf-8", errors="replace").splitlines():
                line = json.loads(row)
                if not isinstance(line, dict):
                    break
                lines.append(line)
        return lines

    def truncate_metrics(self, epochs: int) -> None:
        """Keep only the lines of the first `epochs` epochs, so that a resumed run writes no line twice."""
        kept = [line for line in self.metrics() if line.get("epoch", epochs + 1) <= epochs]
        write_atomically(self.metrics_path, "".join(json.dumps(line) + "\n" for line in kept).encode())


def is_empty(folder: Path) -> bool:
    """Whether `folder` holds nothing but what a run leaves that was killed before it wrote its config."""
    return all(name == _LOCK or fnmatch(name, _UNFINISHED) for name in os.listdir(folder))


def check_free(out: Path) -> None:
    """Raise InputError if `out` is not free for a new run."""
    if out.is_dir() and not is_empty(out):
        is_run = (out / "config.json").is_file()
        advice = "add --resume auto to resume the run in it, or name" if is_run else "it holds no run; name"
        raise InputError(f"--out {out} is not empty: {advice} another folder")


def new_run(name: str, out: Path | None) -> RunFolder:
    """Create the folder of a new run: `out`, or the first free one of runs/<name>, runs/<name>-2, ...

    Raises InputError if `out` is not empty, and OutputError if the folder cannot be created.
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
    """Return the run of `--resume auto`: the newest that agrees with all given settings. None if there is none.

    Only settings that the user gave count, so `--resume auto` alone takes the newest run of all. Raises ModelFileError
    if there are runs with this data set, model, method and seed, but all differ in other given settings.
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
            continue  # damaged: another run, or one that cannot be resumed
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
    """Raise ModelFileError if options clash with the config of the run to resume."""
    said = {key: value for key, value in said.items() if FIELDS[key].metadata["identity"]}
    if found := differences(config.to_dict(), said):
        raise ModelFileError(
            f"the run in {folder} has other settings: {'; '.join(found)}. Leave these options out to resume "
            "it, or leave --resume out to start a new run"
        )


def _changed(folder: Path) -> float:
    """Return the time of a run's last write."""
    paths = [folder / "config.json", folder / "checkpoints", folder / "metrics.jsonl"]
    return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)
