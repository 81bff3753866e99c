"""What calls of functions in another process have in common: a time limit, one way to fail, and no surprise twice.

Such a function may crash, wait for ever or answer with rubbish. Each of these is a finding about one case. It is
remembered, so that the case fails in the same way while Hypothesis looks for a smaller one.
"""

import hashlib
import os
import selectors
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from xnor_ref.conformance.basics.roles import Crashed, Late
from xnor_ref.errors import InputError

TIMEOUT = 60.0  # seconds for one answer
SAID = 400  # characters of what a process said last
_PIECE = 1 << 20


class Elsewhere:
    """Functions by role that another process computes. It ends with `close`, or with this process."""

    def __init__(self, what: str, timeout: float):
        if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not 0 < timeout < float("inf"):
            raise InputError(f"{what}: timeout must be a number of seconds above 0, got {timeout!r}")
        self.what, self.timeout = what, float(timeout)
        self._fatal: dict[bytes, tuple[type[Crashed], str]] = {}

    def for_role(self, role: str) -> Callable[..., Any]:
        raise NotImplementedError

    def close(self) -> None:
        """End the process."""

    def _once(self, key: bytes, exchange: Callable[[], Any]) -> Any:
        """What `exchange` returns; if it raised Crashed for this key before, that again, from the same line."""
        digest = hashlib.sha256(key).digest()
        if digest not in self._fatal:
            try:
                return exchange()
            except Crashed as crash:
                self._fatal[digest] = type(crash), str(crash)
        kind, message = self._fatal[digest]
        raise kind(message)

    def _late(self) -> Late:
        return Late(f"{self.what} gave no answer within {self.timeout:g} s and was stopped")


class Pipe:
    """The reading end of a pipe, with a deadline on every wait."""

    def __init__(self, descriptor: int):
        self.descriptor, self.ended = descriptor, False
        os.set_blocking(descriptor, False)

    def read(self) -> bytes:
        """What is there now."""
        with suppress(BlockingIOError):
            data = os.read(self.descriptor, _PIECE)
            self.ended = not data
            return data
        return b""

    def close(self) -> None:
        os.close(self.descriptor)


def wait(pipes: list[Pipe], seconds: float) -> list[Pipe]:
    """Those of the pipes that have something to read, or ended; none where nothing comes in time."""
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe.descriptor, selectors.EVENT_READ, pipe)
        return [key.data for key, _ in selector.select(max(0.0, seconds))]


def left(deadline: float) -> float:
    """Seconds until the deadline."""
    return deadline - time.monotonic()


def ending(code: int) -> str:
    """How a process ended, by its exit code as `subprocess` gives it."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"died of signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"died of signal {-code}"


def tail(said: bytes) -> str:
    """The last that a process said, as the end of a message."""
    text = " ".join(said.decode("utf-8", "replace").split())
    if not text:
        return ""
    return f"; it said: {text if len(text) <= SAID else '...' + text[-SAID:]}"


def kill_group(pid: int) -> None:
    """End a process that leads a group of its own, and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
