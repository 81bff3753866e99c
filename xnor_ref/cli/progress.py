"""Progress of a job, on stderr: a bar on a terminal, plain lines elsewhere."""

import shutil
import sys
import time
from typing import Any

from xnor_ref.cli.text import say
from xnor_ref.training.fitting.observer import Observer

_REDRAW_SECONDS = 0.1
_PLAIN_SECONDS = 60  # between lines about an epoch, without a bar


class Progress(Observer):
    """Prints progress, or nothing with `quiet`. As a context manager it removes the bar at the end."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        try:
            self.terminal = not quiet and sys.stderr.isatty()
        except (AttributeError, ValueError):
            self.terminal = False
        self._drawn = 0.0
        self._shown = False
        self._said = time.monotonic()
        self._announced: set[str] = set()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def progress(self, what: str, done: int, total: int, **figures: Any) -> None:
        if self.quiet:
            return
        now = time.monotonic()
        if not self.terminal:
            if "loss" in figures:
                if now - self._said >= _PLAIN_SECONDS:
                    self.note(f"{what}  {details(done, total, figures)}")
            elif what not in self._announced:
                self._announced.add(what)
                self.note(f"{what} ...")
            return
        if done < total and now - self._drawn < _REDRAW_SECONDS:
            return
        self._drawn, self._shown = now, True
        width = shutil.get_terminal_size().columns
        sys.stderr.write("\r\x1b[K" + bar(what, done, total, figures, width - 1))
        if done >= total and "loss" not in figures:
            self.clear()
        sys.stderr.flush()

    def note(self, text: str) -> None:
        if not self.quiet:
            self.clear()
            say(text)
            self._said = time.monotonic()

    def epoch(self, line: dict[str, Any]) -> None:
        took = [f"{line['seconds'] + line['val_seconds']:.1f} s", *speed(line)]
        self.note(
            f"epoch {line['epoch']:3d}  train loss {line['train_loss']:.4f} accuracy {line['train_top1']:6.2%}  "
            f"validation loss {line['val_loss']:.4f} top-1 {line['val_top1']:6.2%} top-5 {line['val_top5']:6.2%}  "
            f"{'  '.join(took)}{trees(line)}{'  best' if line['best'] else ''}"
        )

    def clear(self) -> None:
        """Remove the bar, so that other output starts on an empty line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False


def bar(what: str, done: int, total: int, figures: dict[str, Any], width: int) -> str:
    """Return one line of at most `width` characters: `what`, a bar, and the figures that fit."""
    tail = details(done, total, figures)
    cells = max(0, min(30, width - len(what) - len(tail) - 5))
    full = round(cells * part(done, total))
    drawn = f" [{'#' * full}{'.' * (cells - full)}] " if cells >= 5 else " "
    return f"{what}{drawn}{tail}"[:width]


def details(done: int, total: int, figures: dict[str, Any]) -> str:
    """Return the share that is done, and the figures of an epoch."""
    parts = [f"{part(done, total):4.0%}"]
    if "loss" in figures:
        parts += [f"loss {figures['loss']:.3f}", f"accuracy {figures['accuracy']:.1%}"]
    return "  ".join(parts + speed(figures))


def part(done: int, total: int) -> float:
    """Return the share that is done, from 0 to 1."""
    return min(1.0, done / total) if total else 1.0


def speed(figures: dict[str, Any]) -> list[str]:
    """Return images per second and the time left, if known."""
    if "seconds_left" not in figures:
        return []
    left = clock(figures["seconds_left"]) + ("" if figures["with_validation"] else " and validation")
    return [f"{figures['images_per_second']:.0f} images/s", f"{left} left"]


def trees(line: dict[str, Any]) -> str:
    """Return the cost ratio of the filters' trees, if training reduces it."""
    if "mst_ratio" not in line:
        return ""
    lost = f", {line['mst_equal']} filters lost" if line["mst_equal"] else ""
    return f"  trees {line['mst_ratio']:.3f}, depth {line['mst_depth']}{lost}"


def clock(seconds: float) -> str:
    """1:05, or 2:01:05."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
