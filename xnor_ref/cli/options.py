"""Options shared by several commands, and options made from the fields of `TrainConfig`."""

import dataclasses
import json
import os
import textwrap
from collections.abc import Callable, Container, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click

from xnor_ref.cli.help import WIDTH
from xnor_ref.cli.text import show
from xnor_ref.errors import InputError, ModelFileError, OutputError
from xnor_ref.kernels.basics.threads import set_threads
from xnor_ref.training.settings import plugins
from xnor_ref.training.settings.config import DATA_DIR_VARIABLE, FIELDS, check_values, choices_of
from xnor_ref.training.settings.config import default_data_dir as default_data_dir

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
quiet_option = click.option("--quiet", is_flag=True, help="Print only the result, no progress.")


def _load_plugin(context: click.Context, parameter: click.Parameter, path: str | None) -> str | None:
    if path is not None and not context.resilient_parsing:  # shell completion must not run a plugin
        plugins.load(path)
    return path


def plugin_option(**how: Any) -> Callable:
    """Add --plugin. It is run before other options are parsed, because its rules are among their choices."""
    help = FIELDS["plugin"].metadata["help"]
    return click.option("--plugin", metavar="FILE.py", is_eager=True, callback=_load_plugin, help=help, **how)


def field_options(*names: str) -> Callable:
    """Decorator: add an option for each named field. An option not given is None."""

    def decorate(function: Callable) -> Callable:
        for name in reversed(names):
            function = _option(FIELDS[name])(function)
        return function

    return decorate


def _option(field: dataclasses.Field) -> Callable:
    flag, kind, help = "--" + field.name.replace("_", "-"), field.metadata["kind"], field.metadata["help"]
    if field.name == "data_dir":
        return click.option(flag, metavar="FOLDER", help=f"{help} [{DATA_DIR_VARIABLE} in the environment, or data]")
    if field.name == "plugin":
        return plugin_option()
    if kind == "bool":
        return click.option(f"{flag}/--no-{flag[2:]}", default=None, help=help)
    if kind == "table":
        return click.option("--model-option", field.name, metavar="KEY=VALUE", multiple=True, help=help)
    if kind in ("choice", "int-choice"):
        choices = "|".join(map(str, choices_of(field)))
        return click.option(flag, type=int if kind == "int-choice" else str, metavar=f"[{choices}]", help=help)
    # The config checks ranges: click's ranges accept NaN and infinity.
    types: dict[str, tuple[Any, str]] = {
        "int": (int, "N"),
        "float": (float, "NUMBER"),
        "text": (str, "PATH"),
        "integers": (str, "N,N,..."),
        "numbers": (str, "X,X,..."),
    }
    return click.option(flag, type=types[kind][0], metavar=types[kind][1], help=help)


def said(values: dict[str, Any]) -> dict[str, Any]:
    """Return the config fields given on the command line."""
    given = {name: value for name, value in values.items() if value is not None and value != ()}
    if "model_options" in given:
        given["model_options"] = dict(map(_pair, given["model_options"]))
    for name, value in given.items():
        if FIELDS[name].metadata["kind"] in ("integers", "numbers"):
            given[name] = _listed(name, value)
    return given


def use_threads(threads: int | None) -> None:
    """Use the number of threads given by --threads."""
    check_values({"threads": threads}, "--threads")
    set_threads(threads)


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"--model-option must be KEY=VALUE, got {text!r}")
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        parsed = value
    return key.strip().replace("-", "_"), value if isinstance(parsed, (list, dict)) else parsed


def _listed(name: str, text: str) -> list[int] | list[float]:
    whole = FIELDS[name].metadata["kind"] == "integers"
    try:
        return [int(part) for part in text.split(",")] if whole else [float(part) for part in text.split(",")]
    except ValueError:
        what = "integers such as 30,60" if whole else "numbers such as 0.1,0.01"
        raise InputError(f"--{name.replace('_', '-')} must be {what}; got {text!r}") from None


def model_target(output: str, force: bool) -> Path:
    """Return the model file to write. --force replaces only a model file, so a wrong name destroys nothing else."""
    return target_of(output, force, _is_model, "a packed model file")


def _is_model(path: Path) -> bool:
    from xnor_ref.packed import load_packed

    try:
        load_packed(path)
    except ModelFileError:
        return False
    return True


def names_a_network(path: Path) -> bool:
    """Whether a path names a network rather than an image."""
    if path.is_dir() or path.suffix == ".safetensors":
        return True
    try:
        with open(path, "rb") as file:
            return file.read(9)[8:] == b"{"  # how a safetensors file goes on after the length of its header
    except OSError:
        return False


def target_of(output: str, force: bool, is_such: Callable[[Path], bool], what: str) -> Path:
    """Return the file to write. --force replaces only a file for which `is_such` holds."""
    target = Path(output)
    if target.is_dir():
        raise InputError(f"-o {output} is a folder; name a file in it")
    if target.exists():
        if not force:
            raise InputError(f"-o {output} exists already; add --force to overwrite it")
        if not is_such(target):
            raise InputError(f"-o {target} is not {what}, so --force does not overwrite it")
    return target


def check_results(json_file: str | None, plot: str | None, keys: tuple[str, ...], model: Path | None = None) -> None:
    """Check, before any work, that the files of --json and --plot can be written and replace nothing else.

    An existing file is replaced only if it is empty or such a result: a JSON object with all `keys`, or a picture drawn
    here. `model` is the file of -o.
    """
    from xnor_ref.charts.files import MARKS

    paths = {"-o": model, "--json": json_file, "--plot": plot}
    named = {option: Path(path) for option, path in paths.items() if path is not None and path != "-"}
    if len({path.resolve() for path in named.values()}) < len(named):
        raise InputError(f"{', '.join(named)} name the same file; give each its own")
    for option, path in named.items():
        folder = path.parent
        if path.exists() and not path.is_file():
            raise OutputError(f"{option} {path} exists and is not a regular file")
        if not folder.is_dir():
            raise OutputError(f"{option} {path}: the folder {folder} does not exist")
        if not os.access(folder, os.W_OK):
            raise OutputError(f"{option} {path}: no permission to write into the folder {folder}")
        before = b"" if option == "-o" or not path.exists() else path.read_bytes()
        if before and not (any(mark in before for mark in MARKS) if option == "--plot" else _is_result(before, keys)):
            raise InputError(f"{option} {path} exists and was not written by this command; name another file")


def _is_result(text: bytes, keys: tuple[str, ...]) -> bool:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.keys() >= set(keys)


def print_json(value: Any) -> None:
    """Print one JSON object on stdout."""
    show(json.dumps(value, indent=2))


def answer(result: Any, as_json: bool, text: Callable[[Any], str]) -> None:
    """Print a result, as JSON or as text made by `text`."""
    if as_json:
        print_json(result)
    else:
        show(text(result))


def write_json(result: Any, json_file: str | None) -> bool:
    """Write a result to the file of --json, if given. Return whether that is stdout, so that no text is printed."""
    if json_file == "-":
        print_json(result)
    elif json_file is not None:
        from xnor_ref.storage import write_atomically

        write_atomically(json_file, json.dumps(result, indent=2).encode() + b"\n")
    return json_file == "-"


def score_lines(result: dict[str, Any]) -> list[str]:
    """Return lines with the scores of a result's networks, their files' sizes, and how far the two agree.

    Logits that differ without changing an answer get a note.
    """
    sizes = "packed_bytes" in result
    rows = [("", "top-1", "top-5", "loss", *(["file"] if sizes else []))]
    for key in ("float", "packed"):
        if key in result:
            scores, size = result[key], [size_text(result[f"{key}_bytes"])] if sizes else []
            figures = (f"{scores['top1']:.2%}", f"{scores['top5']:.2%}", f"{scores['loss']:.4f}")
            rows.append((f"{key} network", *figures, *size))
    lines = [table(rows, right=(1, 2, 3, 4))]
    if "disagreements" not in result:
        return lines
    lines += [
        "",
        f"images on which the two disagree: {result['disagreements']} of {result['images']:,}; largest difference of "
        f"a logit: {result['max_logit_difference']:g}",
    ]
    if result["max_logit_difference"] and not result["disagreements"]:
        lines.append(f"note: the logits differ by up to {result['max_logit_difference']:g}, but all answers agree")
    return lines


def size_text(count: int) -> str:
    """Return a number of bytes in decimal units, such as '1.2 MB'."""
    return scaled(count, ("B", "kB", "MB", "GB"))


def scaled(count: int, units: Sequence[str]) -> str:
    """Return a count such as '1.2 k', in the first of `units` that makes it less than 1000. Units grow by 1000."""
    value, power = float(count), 0
    while value >= 1000 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.1f} {units[power]}" if power else f"{value:.0f} {units[0]}".rstrip()


def table(rows: Sequence[tuple[str, ...]], right: Container[int] = ()) -> str:
    """Rows of texts in columns of equal width; columns in `right` are set right.

    A table of more than 80 columns wraps its widest texts. If that is not enough, its columns are shown in parts below
    each other, each with the first column.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    texts = [i for i in range(len(widths)) if i not in right and i > 0] or [0]
    while _width(widths) > WIDTH and max(widths[i] for i in texts) > _NARROWEST:
        widest = max(texts, key=widths.__getitem__)
        widths[widest] = max(_NARROWEST, widths[widest] - (_width(widths) - WIDTH))
    parts, part = [], [0]
    for column in range(1, len(widths)):
        if len(part) > 1 and _width([widths[i] for i in (*part, column)]) > WIDTH:
            parts.append(part)
            part = [0]
        part.append(column)
    return "\n\n".join("\n".join(_lines(rows, columns, widths, right)) for columns in (*parts, part))


_NARROWEST = 24  # columns that a wrapped text keeps


def _width(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _lines(rows: Sequence[tuple[str, ...]], columns: list[int], widths: list[int], right: Container[int]) -> list[str]:
    """The lines of some columns of a table."""
    lines = []
    for row in rows:
        cells = [
            textwrap.wrap(row[i], widths[i], break_long_words=False, break_on_hyphens=False)
            if len(row[i]) > widths[i]
            else [row[i]]
            for i in columns
        ]
        for texts in zip_longest(*cells, fillvalue=""):
            line = [t.rjust(widths[i]) if i in right else t.ljust(widths[i]) for i, t in zip(columns, texts)]
            lines.append("  ".join(line).rstrip())
    return lines
