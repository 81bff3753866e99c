"""The command line: it parses, calls, prints and sets the exit code. Each command has one file."""

import errno
import os
import re
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from xnor_ref.cli.text import plugin_flag
from xnor_ref.cli.text import printable as printable
from xnor_ref.cli.text import program as program
from xnor_ref.cli.text import say as say
from xnor_ref.errors import InputError, OutputError, XnorRefError

_WRITE_ERRORS = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A user's error prints one line on stderr."""
    with warnings.catch_warnings(), _any_letter():
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
        previous = None
        try:
            previous = _handle_sigterm()
            return _run(sys.argv[1:] if arguments is None else list(arguments))
        except KeyboardInterrupt as interrupt:
            return _interrupted(interrupt)
        finally:
            if previous is not None:
                signal.signal(signal.SIGTERM, previous)


@contextmanager
def _any_letter() -> Iterator[None]:
    """Escape letters that stdout or stderr cannot encode. Names of files and classes may hold any letter."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            stream.reconfigure(errors=errors)


def _check_environment() -> None:
    """Raise InputError for environment variables that no command can work with."""
    threads = os.environ.get("NUMBA_NUM_THREADS", "1")
    if re.fullmatch(r"\+?0+|-\d+", threads.strip()):  # Numba itself warns if it is not a number
        raise InputError(f"NUMBA_NUM_THREADS in the environment must be at least 1, got {threads}")


def _run(arguments: list[str]) -> int:
    import click
    from click.shell_completion import shell_complete

    from xnor_ref.cli.completion import VARIABLE
    from xnor_ref.cli.group import cli

    try:
        _check_environment()
        if instruction := os.environ.get(VARIABLE):
            return shell_complete(cli, {}, "xnor-ref", VARIABLE, instruction)
        with cli.make_context(program(), arguments) as context:
            cli.invoke(context)
        if sys.stdout is not None:  # None where the caller closed it
            sys.stdout.flush()
        return 0
    except click.exceptions.Exit as exit:
        return exit.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # The reader closed the pipe. Without this, Python would fail again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + getattr(signal, "SIGPIPE", 13)
    except XnorRefError as error:
        say(f"error: {error}".replace("python cli.py", program()))  # messages about data sets name commands
        return error.exit_code
    except MemoryError:
        say("error: out of memory; use a smaller --batch-size, network or image size")
        return 1
    except OSError as error:  # from the operating system
        return _refused(error)
    except Exception:
        traceback.print_exc()
        say("error: this is a bug in xnor_ref; please report it with the lines above")
        return 1


def _refused(error: OSError) -> int:
    """Print what the operating system refused, and return the exit code."""
    if error.errno in _WRITE_ERRORS:
        say(f"error: cannot write {error.filename or 'a file'}: {error.strerror}")
        return OutputError.exit_code
    try:
        os.getcwd()
    except OSError:
        say("error: the current folder no longer exists; change to another folder")
        return InputError.exit_code
    say(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}")
    return InputError.exit_code if error.errno == errno.ENAMETOOLONG else 1


def _handle_sigterm():
    """Make SIGTERM raise as Ctrl-C does, so that files are saved. Return the old handler, or None if impossible."""
    from xnor_ref.training.fitting.interrupt import Interrupted

    def terminate(number, _frame):
        raise Interrupted(number)

    try:
        return signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not in the main thread
        return None


def _interrupted(interrupt: KeyboardInterrupt) -> int:
    run = getattr(interrupt, "run", None)
    text = str(interrupt) or "stopped"
    if run is not None:
        text += f"; resume with: {program()} train --resume {shlex.quote(str(run))}"
        text += plugin_flag(getattr(interrupt, "plugin", None))
    say(text)
    return 128 + getattr(interrupt, "signal_number", signal.SIGINT)
