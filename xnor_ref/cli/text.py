"""Text for a terminal: names that anyone may have made are escaped, a closed stderr is quiet."""

import os
import shlex
import sys


def program() -> str:
    """How this program was called, for messages that can be pasted."""
    folder, name = os.path.split(sys.argv[0])
    if name == "__main__.py" and os.path.basename(folder) == "xnor_ref":
        return "python -m xnor_ref"
    return f"python {shlex.quote(sys.argv[0])}" if name == "cli.py" else "xnor-ref"


def plugin_flag(plugin: str | None) -> str:
    """What a printed command needs besides, where a plugin's rules are part of a run; begins with a space."""
    return f" --plugin {shlex.quote(plugin)}" if plugin else ""


def show(text: str) -> None:
    """A result on stdout."""
    print(printable(text), flush=True)


def say(text: str) -> None:
    """A line on stderr; quiet where stderr is closed."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def printable(text: str) -> str:
    """`text` with what is not printable escaped: names come from files and folders that anyone may have made."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
