"""Checkpoints: everything that a run needs to continue as if it had never stopped.

A checkpoint is a safetensors file with the tensors `model.*` (parameters and buffers), `optimizer.*`, and `NAME.*` of
each callback with a state. Its description holds the run's identity (its config and the digest of its data), its
position, and the sums of the epoch so far. Nothing in it depends on the clock, so equal runs write equal bytes.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import ModelFileError, NonFiniteError, OutputError
from xnor_ref.storage import load_tensors, save_tensors
from xnor_ref.training.settings.config import differences

FORMAT = "xnor_ref checkpoint"
VERSION = 1
BEST = "best.safetensors"
AVERAGE = "average"  # prefix of the tensors of an average of the weights
_NAME = re.compile(r"step-(\d{9,})\.safetensors")


@dataclass
class Position:
    """The position of training: `step` steps of epoch `epoch` are done. The sums run over those steps."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    best_top1: float = -1.0
    best_epoch: int = -1

    def count(self, loss: float, correct: int, images: int) -> None:
        """Add a step: its mean loss, its number of correct images, and its number of images."""
        self.step, self.loss_sum = self.step + 1, self.loss_sum + loss * images
        self.correct, self.seen = self.correct + correct, self.seen + images

    def next_epoch(self) -> None:
        """Move to the start of the next epoch. The best score is kept."""
        self.epoch, self.step, self.loss_sum, self.correct, self.seen = self.epoch + 1, 0, 0.0, 0, 0


@dataclass
class CheckpointFolder:
    """The checkpoints of one run: the newest few, and the best."""

    folder: Path  # created with the first checkpoint
    # JSON values: those that must be equal for a checkpoint to match, {"config": {...}, "data": {...}}, and those that
    # make a checkpoint usable by itself, {"model": {...}, "about": {...}}
    identity: dict[str, Any] = dataclasses.field(default_factory=dict)
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    keep: int = 3  # number of checkpoints besides the best
    every: float = 60.0  # seconds between checkpoints inside an epoch

    def save(
        self,
        model,
        optimizer,
        position: Position,
        global_step: int,
        *,
        best: bool = False,
        others: Mapping[str, NDArray] = MappingProxyType({}),
    ) -> Path:
        """Write a checkpoint atomically, then remove the oldest beyond `keep`. `best` writes a second copy.

        `others` are the callbacks' tensors, by their names in the file.

        Raises
        ------
        NonFiniteError : a parameter or buffer is NaN or infinite; nothing is written, and older checkpoints stay
        OutputError : the file could not be written
        """
        tensors = {f"model.{name}": array for name, array in model.state_dict().items()}
        for name, array in tensors.items():
            if not np.isfinite(array).all():
                raise NonFiniteError(f"step {global_step}: {name.removeprefix('model.')} holds NaN or infinity")
        tensors |= {f"optimizer.{name}": array for name, array in optimizer.state_dict().items()}
        tensors |= others
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            **self.identity,
            **self.about,
            "position": dataclasses.asdict(position),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {self.folder}: {error.strerror}") from error
        path = self.folder / f"step-{global_step:09d}.safetensors"
        if best:
            save_tensors(self.folder / BEST, tensors, metadata)
        save_tensors(path, tensors, metadata)
        for old in self.newest_first()[self.keep :]:
            old.unlink(missing_ok=True)
        return path

    def newest_first(self) -> list[Path]:
        """Return the numbered checkpoints, newest first."""
        if not self.folder.is_dir():
            return []
        found = [(int(match[1]), path) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        return [path for _, path in sorted(found, reverse=True)]

    def candidates(self) -> Iterator[Path]:
        """Return the checkpoints to try when resuming: numbered ones, newest first, then the best."""
        yield from self.newest_first()
        if (self.folder / BEST).exists():
            yield self.folder / BEST

    def discard_after(self, global_step: int) -> None:
        """Remove numbered checkpoints beyond a step. They are damaged, or the run was resumed from an earlier one."""
        for path in self.newest_first():
            if int(_NAME.fullmatch(path.name)[1]) > global_step:  # type: ignore[index]
                path.unlink(missing_ok=True)


def read(path: Path, identity: dict[str, Any] | None = None) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Read a checkpoint and compare it with `identity`.

    Raises
    ------
    ModelFileError : the file is damaged, of another version, or of another config or data set; the message gives
        differing keys with both values
    """
    tensors, metadata = load_tensors(path, expect_format=FORMAT, max_version=VERSION)
    try:
        metadata["position"] = _position(metadata["position"])
        parts = {part: dict(metadata[part]) for part in ("config", "data")}
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: not a checkpoint of this program ({error!r})") from None
    if identity is not None:
        found = [line for part in parts for line in differences(parts[part], identity[part])]
        if found:
            raise MismatchError(f"{path} belongs to another run: {'; '.join(found)}")
    return tensors, metadata


class MismatchError(ModelFileError):
    """A valid checkpoint that belongs to another run."""


def _position(values: dict[str, Any]) -> Position:
    position = Position(**values)
    for field in dataclasses.fields(Position):
        value = getattr(position, field.name)
        if isinstance(value, bool) or not isinstance(value, (int, field.type)):  # type: ignore[arg-type]
            raise ValueError(f"{field.name} is {value!r}")
    if min(position.epoch, position.step, position.seen) < 0:
        raise ValueError("a negative position")
    return position


def state_of(tensors: dict[str, NDArray], prefix: str) -> dict[str, NDArray]:
    """Return the tensors of a checkpoint whose names begin with `prefix`, without the prefix."""
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
