"""How a running job tells what it does: the caller passes an Observer, or nothing to work in silence."""

from typing import Any


class Observer:
    """Receives what happens; every method may be overridden, none does anything here."""

    def progress(self, what: str, done: int, total: int, **figures: Any) -> None:
        """`done` of `total` units of some work are done; `figures` are named numbers to show beside it."""

    def note(self, text: str) -> None:
        """Something that the user should know, in one line."""

    def epoch(self, line: dict[str, Any]) -> None:
        """An epoch ended; `line` is what went to metrics.jsonl, and the figures of `Pace`."""
