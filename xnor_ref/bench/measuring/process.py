"""Python in a separate process: for measurements from outside, and settings needed before anything is imported."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from xnor_ref.errors import InputError, XnorRefError
from xnor_ref.kernels.compiling.ahead import interpreter

TIMEOUT = 600  # seconds


class Unavailable(Exception):
    """A baseline cannot be measured here; the message says why."""


def run_python(code: str, *arguments: str, environment: dict[str, str] | None = None) -> Any:
    """Run `code` in a new interpreter and return the JSON value on the last line that it prints.

    Raises InputError with the process's own message if it fails with exit code 2, else XnorRefError.
    """
    command, full = interpreter(code, *arguments), {**os.environ, **(environment or {})}
    try:
        run = subprocess.run(command, env=full, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise XnorRefError(f"bench: the measuring process took longer than {TIMEOUT} s") from None
    lines = run.stdout.strip().splitlines()
    if run.returncode or not lines:
        raise _error(run.returncode, run.stderr)
    return json.loads(lines[-1])


def _error(code: int | None, words: str) -> XnorRefError:
    kind = InputError if code == InputError.exit_code else XnorRefError
    return kind(words.strip() or f"bench: the measuring process ended with exit code {code}")


class Worker:
    """A new interpreter that waits for questions and uses no processor while it waits.

    `code` calls `serve`. Use it in a `with` statement, or call `close`.
    """

    def __init__(self, code: str, environment: dict[str, str] | None = None):
        self._words = tempfile.TemporaryFile("w+", errors="replace")  # its stderr; a pipe could fill up
        pipe = subprocess.PIPE
        full = {**os.environ, **(environment or {})}
        self._process = subprocess.Popen(
            interpreter(code), env=full, text=True, stdin=pipe, stdout=pipe, stderr=self._words
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, what: str, **arguments: Any) -> Any:
        """Return the answer, a JSON value.

        Raises Unavailable or InputError if the worker does, and XnorRefError if there is no answer.
        """
        assert self._process.stdin and self._process.stdout
        clock = threading.Timer(TIMEOUT, self._process.kill)
        clock.start()
        try:
            self._process.stdin.write(json.dumps({"what": what, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            clock.cancel()
        if not line:
            code = self._process.wait()
            self._words.seek(0)
            raise _error(code, self._words.read())
        answer = json.loads(line)
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"])
        if "error" in answer:
            raise _error(answer["code"], answer["error"])
        return answer["value"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._words.close()


def serve(answers: dict[str, Callable[..., Any]]) -> None:
    """Answer the questions of a `Worker` until it closes; `answers` holds a function for each question."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not be read as an answer
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = {"value": answers[question.pop("what")](**question)}
        except Unavailable as reason:
            answer = {"unavailable": str(reason)}
        except XnorRefError as error:
            answer = {"error": str(error), "code": error.exit_code}
        print(json.dumps(answer), file=channel, flush=True)
