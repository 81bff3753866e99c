"""Observer, which receives a job's progress. Without one, a job reports nothing."""

from typing import Any


class Observer:
    """Receives progress. The methods do nothing; subclasses override them."""

    def progress(self, what: str, done: int, total: int, **figures: Any) -> None:
        """Report that `done` of `total` units of work are done. `figures` are named numbers to show with it."""

    def note(self, text: str) -> None:
        """Report one line that the user should know."""

    def epoch(self, line: dict[str, Any]) -> None:
        """Report the end of an epoch. `line` holds the line of metrics.jsonl and the figures of `Pace`."""
