"""`show`: what a run did, how a network answers one photo, how runs differ; as one page each."""

from pathlib import Path
from typing import Any

import click

from xnor_ref.cli import options
from xnor_ref.cli.group import Command
from xnor_ref.errors import InputError, OutputError


@click.command(
    cls=Command,
    examples=(
        "show runs/shapes-shapes-net-xnor-0",
        "show runs/shapes-shapes-net-xnor-0 runs/shapes-shapes-net-xnor-0/sample.png",
        "show runs/quick-try runs/shapes-shapes-net-xnor-0 -o both.html",
    ),
)
@click.argument("paths", metavar="RUN|MODEL [PHOTO|RUN...]", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE.html", help="The page to write [report.html, in a run's own folder].")
@options.field_options("threads")
@options.quiet_option
@options.json_option
def command(paths: tuple[str, ...], output: str | None, quiet: bool, as_json: bool, **values: Any) -> None:
    """Show what a run did, on one page that needs no network.

    RUN alone: how training went, which classes are confused, the filters, what each layer costs, and how to repeat it.
    RUN or MODEL with a PHOTO: its way through the packed network, layer by layer. Several RUNs: their differences.
    """
    options.use_threads(values["threads"])
    first, *others = map(Path, paths)
    runs = all(path.is_dir() for path in others)
    if others and runs and not first.is_dir():
        raise InputError(f"{first} is no run folder: only runs are compared")
    if len(others) > 1 and not runs:
        raise InputError("one PHOTO at a time; or several RUNs to compare")
    from xnor_ref.show.report import run_page
    from xnor_ref.storage import write_atomically

    target = _target(output, first / "report.html")
    write_atomically(target, run_page(first))
    options.answer({"page": str(target)}, as_json, lambda result: f"written: {result['page']}")


def _target(output: str | None, usual: Path) -> Path:
    """The page to write, which may replace nothing but a page of this command."""
    from xnor_ref.show.page import MARK

    target = Path(output) if output is not None else usual
    if target.is_dir() or not target.parent.is_dir():
        raise OutputError(f"-o {target}: not a file in a folder that is there")
    if target.exists() and MARK not in target.read_bytes()[:2000]:
        raise InputError(f"-o {target} is there already and not a page of this command; name another file")
    return target
