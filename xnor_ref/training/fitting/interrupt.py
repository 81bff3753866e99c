"""Ctrl-C and SIGTERM in training: the step is finished and saved, then training stops."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A signal stopped the work. `run` is the folder of a run that can be resumed, with its `plugin`, if any."""

    def __init__(self, signal_number: int, message: str = "", run: Path | None = None, plugin: str | None = None):
        super().__init__(message)
        self.signal_number = signal_number
        self.run, self.plugin = run, plugin


class StopRequest:
    """Context manager: the first SIGINT or SIGTERM is only stored in `signal_number`; a second one acts at once.

    Outside the main thread, Python allows no signal handlers, so nothing is caught.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = number
