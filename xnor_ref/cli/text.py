"""Printing to a terminal. Names from files are escaped, and a closed stderr is ignored."""

import os
import shlex
import sys


def program() -> str:
    """Return how this program was called, so that printed commands can be pasted."""
    folder, name = os.path.split(sys.argv[0])
    if name == "__main__.py" and os.path.basename(folder) == "xnor_ref":
        return "python -m xnor_ref"
    return f"python {shlex.quote(sys.argv[0])}" if name == "cli.py" else "xnor-ref"


def plugin_flag(plugin: str | None) -> str:
    """Return the --plugin option that a printed command needs, with a leading space, or ""."""
    return f" --plugin {shlex.quote(plugin)}" if plugin else ""


def show(text: str) -> None:
    """Print a result on stdout."""
    print(printable(text), flush=True)


def say(text: str) -> None:
    """Print a line on stderr, or nothing if stderr is closed."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def printable(text: str) -> str:
    """Escape the unprintable characters of `text`. Names in it may come from untrusted files."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
