"""Programs in any language. docs/conformance-kit.md describes their calls and files."""

import os
import shlex
import shutil
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from xnor_ref.conformance.basics import oracle
from xnor_ref.conformance.basics.roles import ROLES, Crashed
from xnor_ref.conformance.foreign import npz
from xnor_ref.conformance.foreign.calls import (
    SAID,
    TIMEOUT,
    Elsewhere,
    Pipe,
    ending,
    kill_group,
    left,
    tail,
    wait,
)
from xnor_ref.errors import InputError

DONE = b"done"  # the line that a program kept running prints after each answer
_FILL = {"MALLOC_PERTURB_": "165"}  # glibc fills new memory, so that unwritten values show


class Program(Elsewhere):
    """A program that computes roles; see `program`."""

    def __init__(self, command: str | Sequence[str], keep: bool = False, timeout: float = TIMEOUT):
        try:
            words = shlex.split(command) if isinstance(command, str) else [os.fspath(word) for word in command]
        except (ValueError, TypeError) as error:
            raise InputError(f"program: the command {command!r} cannot be read: {error}") from None
        if not words or "\0" in "".join(words):
            raise InputError(f"program: command must not be empty, got {command!r}")
        super().__init__(f"the program {shlex.join(words)}", timeout)
        found = shutil.which(os.path.expanduser(words[0]))
        if found is None:
            raise InputError(f"program: {words[0]!r} is not an executable file, and no program of this name is found")
        self._words, self._keep = [os.path.abspath(found), *words[1:]], keep
        self._running: list[subprocess.Popen] = []  # at most one
        self._folders: list[str] = []  # at most one
        self._said, self._line = b"", b""
        weakref.finalize(self, _leave, self._running, self._folders)

    def for_role(self, role: str) -> Callable[..., np.ndarray]:
        def call(*arguments: Any, **named: Any) -> np.ndarray:
            request = npz.npz(members(role, arguments, named))
            return self._once(role.encode() + request, lambda: self._ask(role, request))

        return call

    def close(self) -> None:
        _leave(self._running, self._folders)

    def _ask(self, role: str, request: bytes) -> np.ndarray:
        if not self._folders:
            self._folders.append(tempfile.mkdtemp(prefix="xnor_ref-program-"))
        place = Path(self._folders[0])
        asked, answer = place / "request.npz", place / "response.npy"
        asked.write_bytes(request)
        for path in place.glob("response*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        deadline = time.monotonic() + self.timeout
        if self._keep:
            self._tell(f"{role} {asked} {answer}\n".encode(), deadline)
        else:
            self._start([role, str(asked), str(answer)])
            self._listen(None, deadline)
            self._ended(deadline)
        return self._read(answer)

    def _read(self, answer: Path) -> np.ndarray:
        if not answer.is_file():
            answer = answer.with_name("response.npy.npz")  # np.savez appends .npz to the name
        if not answer.is_file():
            raise Crashed(f"{self.what} wrote no answer to its response file{tail(self._said)}")
        try:
            return npz.one_array(answer)
        except InputError as error:
            raise Crashed(f"{self.what} wrote an invalid answer: {error}{tail(self._said)}") from None

    def _tell(self, line: bytes, deadline: float) -> None:
        """Send a request to the running program, or start one, and wait until it reports that it is done."""
        if not self._running:
            self._start([])
        stdin = self._running[0].stdin
        assert stdin is not None
        with suppress(BrokenPipeError):  # it has ended, which is detected below
            os.write(stdin.fileno(), line)
        if not self._listen(DONE, deadline):
            self._ended(deadline, early=True)

    def _start(self, words: list[str]) -> None:
        self._said = self._line = b""
        try:
            process = subprocess.Popen(
                [*self._words, *words],
                stdin=subprocess.PIPE if self._keep else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_FILL | os.environ,
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(f"program: {self._words[0]} cannot be started: {error.strerror or error}") from None
        assert process.stdout is not None
        self._running.append(process)
        self._pipe = Pipe(process.stdout.fileno())

    def _listen(self, line: bytes | None, deadline: float) -> bool:
        """Whether the program printed this line before it ended. With None, wait until it ends."""
        while not self._pipe.ended and left(deadline) > 0:
            if wait([self._pipe], min(left(deadline), 0.1)):
                piece = self._pipe.read()
                self._said = (self._said + piece)[-8 * SAID :]
                lines = (self._line + piece).split(b"\n")
                self._line = lines.pop()[-len(DONE) - 1 :]
                if line is not None and line in [one.strip() for one in lines]:
                    self._said = b""
                    return True
            elif self._running[0].poll() is not None:  # a process that it started holds the pipe
                break
        return False

    def _ended(self, deadline: float, early: bool = False) -> None:
        """Wait for the end of the program, and raise Crashed unless it succeeded."""
        try:
            code = self._running[0].wait(max(0.0, left(deadline)))
        except subprocess.TimeoutExpired:
            raise self._late() from None
        finally:
            _stop(self._running)
        if code or early:
            raise Crashed(f"{self.what} {ending(code)}{' before it printed done' if early else ''}{tail(self._said)}")


def members(role: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of a request: a call's arguments by name, in the role's order, then the keywords.

    Arrays stay unchanged. Integers, and sequences of them, become int64. `padding` is always (2, 2), with -1 for
    "same". Other texts become their bytes.
    """
    values = dict(zip(ROLES[role].parameters, arguments)) | dict(named)
    return {name: _array(name, value) for name, value in values.items()}


def _array(name: str, value: Any) -> np.ndarray:
    if name == "padding":
        value = np.full((2, 2), -1) if isinstance(value, str) else oracle.sides(value)
    if isinstance(value, str):
        value = np.frombuffer(value.encode(), np.uint8)
    array = np.asarray(value)
    return array if isinstance(value, np.ndarray) or array.dtype.kind == "f" else array.astype(np.int64)


def _stop(running: list[subprocess.Popen]) -> None:
    """Stop a program and the processes that it started, and close its pipes."""
    while running:
        process = running.pop()
        kill_group(process.pid)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def _leave(running: list[subprocess.Popen], folders: list[str]) -> None:
    _stop(running)
    while folders:
        shutil.rmtree(folders.pop(), ignore_errors=True)


def program(command: str | Sequence[str], keep: bool = False, timeout: float = TIMEOUT) -> Program:
    """Make a program in any language checkable like a function: `Kit(conv2d=program("./mine"))`.

    Parameters
    ----------
    command : the program with its arguments, as one text that is split like in a shell, or as a list
    keep : start the program once and give it one case after another, for programs that start slowly. By default it is
        started for each case.
    timeout : most seconds per answer

    Raises
    ------
    InputError : there is no such program
    """
    return Program(command, keep, timeout)
