"""Python functions in a worker process. A crash ends only this process, and the next call starts a new one.

Two processes are forked. The first loads the functions once, forks the second whenever there is none, and reports how
it ended. The second computes. So a crash costs only a fork, and a library that loads slowly is loaded once. Changes
that a library makes to its process, such as flush-to-zero, stay there.
"""

import ctypes
import faulthandler
import json
import os
import signal
import struct
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

import numpy as np
from numpy.lib.array_utils import byte_bounds

from xnor_ref.conformance.basics.roles import Crashed
from xnor_ref.conformance.foreign.calls import SAID, TIMEOUT, Elsewhere, Pipe, ending, kill_group, left, tail, wait
from xnor_ref.errors import InputError

Functions = Mapping[str, Callable[..., Any]]
_LINE = 64  # bytes, the largest alignment that is kept
_M_PERTURB, _FILL = -6, 0xA5  # glibc's mallopt: memory is filled when allocated and when freed


class Failed(Exception):
    """A function in a worker raised an exception. The message holds it."""


class Worker(Elsewhere):
    """Functions by role, computed in a separate process.

    Parameters
    ----------
    load : makes the functions, in the worker process
    what : their name in messages
    timeout : most seconds per answer, and for `load`
    """

    def __init__(self, load: Callable[[], Functions], what: str, timeout: float = TIMEOUT):
        super().__init__(what, timeout)
        if not hasattr(os, "fork"):
            raise InputError(f"{what}: this system cannot fork, so functions cannot be isolated; use a program instead")
        self._load = load
        self._alive: list[_Process] = []  # at most one
        weakref.finalize(self, _stop, self._alive)

    @property
    def roles(self) -> list[str]:
        """The roles that have functions. Raises InputError if loading fails."""
        return self._process().roles

    def loaded(self) -> "Worker":
        """Load the functions and return this worker. Raises InputError if loading fails."""
        self._process()
        return self

    def for_role(self, role: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> np.ndarray:
            request = packed([role, arguments, named])
            answer = self._once(packed([role, arguments, named], placed=False), lambda: self._ask(request))
            for argument, changed in zip(arguments, answer["changed"]):
                if changed is not None:
                    argument[...] = changed
            return answer["result"]

        return call

    def close(self) -> None:
        _stop(self._alive)

    def _process(self) -> "_Process":
        if not self._alive:
            self._alive.append(_Process(self._load))
            try:
                self._alive[0].roles = self._first_answer()
            except BaseException:
                self.close()
                raise
        return self._alive[0]

    def _first_answer(self) -> list[str]:
        try:
            answer = self._alive[0].answer(time.monotonic() + self.timeout)
        except Crashed as crash:
            raise InputError(f"{self.what} {crash} while it was loaded") from None
        if answer is None:
            raise InputError(f"{self.what} could not be loaded within {self.timeout:g} s")
        if "error" in answer:
            raise InputError(answer["error"])
        return answer["roles"]

    def _ask(self, request: bytes) -> dict[str, Any]:
        process = self._process()
        process.send(request)
        try:
            answer = process.answer(time.monotonic() + self.timeout)
        except Crashed as crash:
            if process.gone:
                self.close()
            raise Crashed(f"{self.what} {crash}") from None
        if answer is None:
            self.close()
            raise self._late()
        if "error" in answer:
            raise Failed(answer["error"])
        return answer


class _Process:
    """The two processes, seen from the caller."""

    roles: list[str]

    def __init__(self, load: Callable[[], Functions]):
        requests, self._to = os.pipe()
        answers, answering = os.pipe()
        endings, ended = os.pipe()
        self._said, caller = tempfile.TemporaryFile(), os.getpid()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of threads, of which a fork copies only one
            sys.stdout.flush(), sys.stderr.flush()
            self.pid = os.fork()
        if self.pid == 0:
            said, others = self._said.fileno(), (self._to, answers, endings)
            _serve_for_ever(load, caller, requests, answering, ended, said, others)
        for descriptor in (requests, answering, ended):
            os.close(descriptor)
        self._answers, self._endings, self._heard_until = Pipe(answers), Pipe(endings), 0

    @property
    def gone(self) -> bool:
        """Whether no process is left that could start the second process again."""
        return self._endings.ended

    def send(self, request: bytes) -> None:
        if wait([self._endings], 0):
            self._endings.read()  # it died after its answer, not because of a request
        with suppress(BrokenPipeError):  # it has ended, which `answer` detects
            _write(self._to, request)

    def answer(self, deadline: float) -> dict[str, Any] | None:
        """Return its answer, or None on a timeout. Raises Crashed, which says how it ended."""
        data = b""
        while left(deadline) > 0:
            ready = wait([self._answers, self._endings], left(deadline))
            if self._answers in ready and (piece := self._answers.read()):
                data += piece
                if len(data) >= 8 and len(data) >= 8 + struct.unpack("<Q", data[:8])[0]:
                    return unpacked(data[8:])
            elif self._endings in ready:  # after all data was read
                status = self._endings.read()[:4] or os.waitpid(self.pid, 0)[1].to_bytes(4, "little")
                code = os.waitstatus_to_exitcode(int.from_bytes(status, "little"))
                raise Crashed(f"{ending(code)}{tail(self._heard())}")
        return None

    def _heard(self) -> bytes:
        """Return its last output since the previous crash."""
        file = self._said.fileno()
        end = os.lseek(file, 0, os.SEEK_CUR)  # the processes share the file position
        begin, self._heard_until = max(self._heard_until, end - 8 * SAID), end
        return os.pread(file, end - begin, begin)

    def stop(self) -> None:
        kill_group(self.pid)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        os.close(self._to)
        self._answers.close()
        self._endings.close()
        self._said.close()


def _stop(alive: list[_Process]) -> None:
    while alive:
        alive.pop().stop()


def _serve_for_ever(
    load: Callable[[], Functions],
    caller: int,
    requests: int,
    answers: int,
    endings: int,
    said: int,
    others: tuple[int, ...],
) -> NoReturn:
    """Run the first process and, in its loop, the second."""
    code = 1
    try:
        os.setsid()
        faulthandler.disable()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for descriptor in others:
            os.close(descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(said, 1), os.dup2(said, 2)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, errors="replace", closefd=False) for number in (1, 2))
        with suppress(OSError, AttributeError):  # not glibc
            ctypes.CDLL(None).mallopt(_M_PERTURB, _FILL)
        try:
            functions = load()
        except InputError as error:
            _write(answers, packed({"error": str(error)}))
            os._exit(0)
        _write(answers, packed({"roles": list(functions)}))
        while os.getppid() == caller:
            pid = os.fork()
            if pid == 0:
                while True:
                    _write(answers, _computed(functions, _read(requests)))
            status = os.waitpid(pid, 0)[1]
            os.write(endings, status.to_bytes(4, "little"))
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:
        with suppress(BaseException):
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        with suppress(BaseException):
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(code & 255)


def _computed(functions: Functions, request: bytes) -> bytes:
    """Compute one call. Arguments and result are freed before the answer, so that heap damage shows at once."""
    role, arguments, named = unpacked(request)
    before = [argument.tobytes() if isinstance(argument, np.ndarray) else b"" for argument in arguments]
    try:
        result = np.asarray(functions[role](*arguments, **named))
        if result.dtype.kind not in "biuf":
            raise TypeError(f"the result is {result.dtype}, but must hold numbers")
        changed = [a if kept and a.tobytes() != kept else None for a, kept in zip(arguments, before)]
        return packed({"result": result, "changed": changed})
    except Exception as error:
        return packed({"error": f"{type(error).__name__}: {error}"})


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(struct.pack("<Q", len(data)) + data)
    while view:
        view = view[os.write(descriptor, view) :]


def _read(descriptor: int) -> bytes:
    """Read a message. Raises SystemExit if the caller has ended."""

    def exactly(count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = os.read(descriptor, count - len(data))
            if not piece:
                raise SystemExit
            data += piece
        return bytes(data)

    return exactly(struct.unpack("<Q", exactly(8))[0])


def packed(value: Any, placed: bool = True) -> bytes:
    """Pack numbers, texts, arrays, and sequences and dicts of these.

    Arrays keep their strides, alignment and byte order.

    With `placed` False, alignment is left out, so that equal arrays give equal bytes.
    """
    memory: list[bytes] = []

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            low, high = byte_bounds(value) if value.size else (value.ctypes.data,) * 2
            memory.append(ctypes.string_at(low, high - low))
            place = value.ctypes.data - low, low % _LINE if placed else 0, high - low
            return {"array": [value.dtype.str, value.shape, value.strides, *place, value.flags.writeable]}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            return {"dict": {key: plain(item) for key, item in value.items()}}
        return value.item() if isinstance(value, np.generic) else value

    head = json.dumps(plain(value)).encode()
    return struct.pack("<Q", len(head)) + head + b"".join(memory)


def unpacked(data: bytes) -> Any:
    """Unpack the result of `packed`. Lists become tuples."""
    begin = 8 + struct.unpack("<Q", data[:8])[0]

    def made(value: Any) -> Any:
        nonlocal begin
        if isinstance(value, list):
            return tuple(made(item) for item in value)
        if not isinstance(value, dict):
            return value
        if "dict" in value:
            return {key: made(item) for key, item in value["dict"].items()}
        dtype, shape, strides, first, phase, size, writeable = value["array"]
        memory = np.zeros(size + 2 * _LINE, np.uint8)
        start = (phase - memory.ctypes.data) % _LINE
        memory[start : start + size] = np.frombuffer(data, np.uint8, size, begin)
        begin += size
        array = np.ndarray(shape, dtype, memory, start + first, strides)
        array.flags.writeable = writeable
        return array

    return made(json.loads(data[8:begin]))


def isolated(functions: Functions, timeout: float = TIMEOUT) -> Worker:
    """Run Python functions by role in a worker process."""
    names = {getattr(function, "__name__", type(function).__name__) for function in functions.values()}
    return Worker(lambda: functions, " and ".join(sorted(names)), timeout)
