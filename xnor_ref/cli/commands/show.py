"""`show`: what a run did, how a network answers one photo, how runs differ; as one page each."""

from pathlib import Path
from typing import Any

import click

from xnor_ref.cli import options
from xnor_ref.cli.group import Command
from xnor_ref.cli.text import program
from xnor_ref.errors import InputError, ModelFileError, OutputError

_OF_DATA = ("data_dir", "archive", "limit_val")


@click.command(
    cls=Command,
    examples=(
        "show runs/shapes-shapes-net-xnor-0",
        "show runs/shapes-shapes-net-xnor-0 runs/shapes-shapes-net-xnor-0/sample.png",
        "show runs/quick-try runs/shapes-shapes-net-xnor-0 -o both.html",
        "show runs/shapes-shapes-net-xnor-0 --figures runs/shapes-shapes-net-xnor-0/figures",
        "show runs/shapes-shapes-net-xnor-0 --explorer",
    ),
)
@click.argument("paths", metavar="[RUN|MODEL] [PHOTO|RUN]...", nargs=-1, required=True)
@click.option(
    "-o", "--output", metavar="FILE.html", help="The page to write [report.html in the run's folder; else here]."
)
@click.option(
    "--figures", metavar="FOLDER", help="Also write each chart of a run, or of several, as a file into FOLDER."
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(("svg", "png", "pdf")),
    help="Of --figures [svg]; png and pdf need matplotlib.",
)
@click.option("--explorer", is_flag=True, help="The page runs the packed network itself, on its reader's photos.")
@options.field_options(*_OF_DATA, "threads")
@options.plugin_option(expose_value=False)
@options.quiet_option
@options.json_option
def command(
    paths: tuple[str, ...],
    output: str | None,
    figures: str | None,
    kind: str | None,
    explorer: bool,
    threads: int | None,
    quiet: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Show a run, a photo's way through a network, or how runs differ, as one page.

    RUN alone: how training went, which classes are confused, the filters, what each layer costs, how to repeat it.
    MODEL alone: its filters and costs. RUN or MODEL with a PHOTO: the photo's way through the packed network, layer by
    layer; a PHOTO alone takes the most accurate network that comes with the project. Several RUNs: their curves and the
    settings that differ. RUN or MODEL with --explorer: the network, to be tried and taken apart down to its bits. A
    page needs a browser and nothing else.
    """
    from xnor_ref import box

    first, *others = map(Path, paths)
    if not first.exists():
        raise ModelFileError(f"{first}: there is no such run, model or photo")
    if not (others or explorer) and not options.names_a_network(first):
        first, others = box.best(), [first]
    kinds = {path.is_dir() for path in others}
    _check(first, others, kinds, figures, kind, explorer)
    said = options.said(values)
    if said and (others or explorer or not first.is_dir()):
        raise InputError(f"--{'/--'.join(key.replace('_', '-') for key in said)}: needs one RUN alone")

    from xnor_ref.charts.files import check_plot
    from xnor_ref.cli.progress import Progress
    from xnor_ref.explorer.writing import explorer_page
    from xnor_ref.show import compare, page, photo, report

    if figures is not None:
        check_plot(f"x.{kind or 'svg'}", "--figures")
    target = Path(output) if output is not None else _usual(first, others, kinds, explorer)
    page.check_target(target)
    options.use_threads(threads)
    charts: dict[str, Any] = {}
    with Progress(quiet) as progress:
        if kinds == {True}:
            content, charts = compare.compare_page([first, *others])
        elif others:
            content = photo.photo_page(_network(first), str(first), others[0])
        elif explorer:
            content = explorer_page(_model(first))
        elif first.is_dir():
            content, charts = report.run_page(first, said, program(), progress)
        else:
            content = report.model_page(first)
    page.save(target, content)
    files = _write_figures(charts, Path(figures), kind or "svg") if figures is not None else []
    result = {"page": str(target), "figures": [str(file) for file in files]}
    options.answer(result, as_json, _text)


def _check(
    first: Path, others: list[Path], kinds: set[bool], figures: str | None, kind: str | None, explorer: bool
) -> None:
    """Raise InputError for arguments that do not go together."""
    if explorer and (others or figures is not None):
        raise InputError("--explorer takes one RUN or MODEL and no --figures; photos are opened in its page")
    if len(kinds) == 2 or (len(others) > 1 and kinds == {False}):
        raise InputError("show takes one RUN or MODEL, one with one PHOTO, or several RUNs")
    if kinds == {True} and not first.is_dir():
        raise InputError(f"{first} is no run folder: only runs are compared")
    if figures is not None and (kinds == {False} or not first.is_dir()):
        raise InputError("--figures needs RUNs: the other pages have no charts")
    if kind is not None and figures is None:
        raise InputError(f"--format {kind} needs --figures FOLDER")


def _usual(first: Path, others: list[Path], kinds: set[bool], explorer: bool) -> Path:
    """Where a page goes if nothing is said: that of a run into its folder, others into the current one."""
    if kinds == {True}:
        return Path("comparison.html")
    if others:
        return Path(f"{others[0].stem}-explained.html")
    if explorer:
        return first / "explorer.html" if first.is_dir() else Path(f"{first.stem}-explorer.html")
    return first / "report.html" if first.is_dir() else Path(f"{first.stem}.html")


def _network(path: Path) -> Any:
    from xnor_ref.packed import load_packed

    return load_packed(_model(path))


def _model(path: Path) -> Path:
    """The model file of a run, or a model file itself."""
    return path / "model.safetensors" if path.is_dir() else path


def _write_figures(charts: dict[str, Any], folder: Path, kind: str) -> list[Path]:
    from xnor_ref.charts.files import save

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error
    written = []
    for name, chart in charts.items():
        written.append(folder / f"{''.join(c if c.isalnum() or c in '-.' else '_' for c in name)}.{kind}")
        save(chart, written[-1])
    return written


def _text(result: dict[str, Any]) -> str:
    figures = result["figures"]
    more = f"\nfigures: {len(figures)} files in {Path(figures[0]).parent}" if figures else ""
    return f"written: {result['page']}; open it in a browser{more}"
