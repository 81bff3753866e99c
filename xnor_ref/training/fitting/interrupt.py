"""Ctrl-C and SIGTERM while training: finish the step, save, then stop."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A signal ended the work; `run` is the folder of a run that can go on from there, with this `plugin`, if any."""

    def __init__(self, signal_number: int, message: str = "", run: Path | None = None, plugin: str | None = None):
        super().__init__(message)
        self.signal_number = signal_number
        self.run, self.plugin = run, plugin


class StopRequest:
    """While inside, the first SIGINT or SIGTERM is only noted in `signal_number`; a second one acts at once.

    Outside the main thread, where Python allows no handlers, nothing is caught.
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
