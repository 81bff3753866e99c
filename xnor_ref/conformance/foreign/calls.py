"""The common part of calls to functions in another process: a time limit, one kind of failure, and repeatable failures.

Such a function may crash, hang or return nonsense. Each of these is a finding about one case. It is remembered, so that
the case fails in the same way while Hypothesis searches for a smaller one.
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
SAID = 400  # most characters of a process's last output in a message
_PIECE = 1 << 20


class Elsewhere:
    """Functions by role in another process, which ends with `close` or with this process."""

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
        """Return the result of `exchange`. If it raised Crashed for this key before, raise that again."""
        digest = hashlib.sha256(key).digest()
        if digest not in self._fatal:
            try:
                return exchange()
            except Crashed as crash:
                self._fatal[digest] = type(crash), str(crash)
        kind, message = self._fatal[digest]
        raise kind(message)

    def _late(self) -> Late:
        return Late(f"{self.what} did not answer within {self.timeout:g} s and was stopped")


class Pipe:
    """The reading end of a pipe, with a deadline on every wait."""

    def __init__(self, descriptor: int):
        self.descriptor, self.ended = descriptor, False
        os.set_blocking(descriptor, False)

    def read(self) -> bytes:
        """Return the data available now."""
        with suppress(BlockingIOError):
            data = os.read(self.descriptor, _PIECE)
            self.ended = not data
            return data
        return b""

    def close(self) -> None:
        os.close(self.descriptor)


def wait(pipes: list[Pipe], seconds: float) -> list[Pipe]:
    """Return the pipes that have data or have ended, or none if nothing arrives in time."""
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe.descriptor, selectors.EVENT_READ, pipe)
        return [key.data for key, _ in selector.select(max(0.0, seconds))]


def left(deadline: float) -> float:
    """Return the seconds until the deadline."""
    return deadline - time.monotonic()


def ending(code: int) -> str:
    """Return how a process ended, from its exit code in `subprocess`."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"died of signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"died of signal {-code}"


def tail(said: bytes) -> str:
    """Return the last output of a process, to append to a message."""
    text = " ".join(said.decode("utf-8", "replace").split())
    if not text:
        return ""
    return f"; its output: {text if len(text) <= SAID else '...' + text[-SAID:]}"


def kill_group(pid: int) -> None:
    """Kill a process that leads its own group, and all processes that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
