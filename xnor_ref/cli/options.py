"""Options that several commands share, and options made from the fields of `TrainConfig`."""

import dataclasses
import json
import os
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

import click

from xnor_ref.cli.text import show
from xnor_ref.errors import InputError, ModelFileError, OutputError
from xnor_ref.kernels.basics.threads import set_threads
from xnor_ref.training.settings import plugins
from xnor_ref.training.settings.config import DATA_DIR_VARIABLE, FIELDS, check_values, choices_of
from xnor_ref.training.settings.config import default_data_dir as default_data_dir

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
quiet_option = click.option("--quiet", is_flag=True, help="No progress, only the result.")


def _load_plugin(context: click.Context, parameter: click.Parameter, path: str | None) -> str | None:
    if path is not None and not context.resilient_parsing:  # a shell that completes must run nothing
        plugins.load(path)
    return path


def plugin_option(**how: Any) -> Callable:
    """--plugin, run before any other option is looked at, since its rules are among their choices."""
    help = FIELDS["plugin"].metadata["help"]
    return click.option("--plugin", metavar="FILE.py", is_eager=True, callback=_load_plugin, help=help, **how)


def field_options(*names: str) -> Callable:
    """Decorator: an option for each named field; an option that is not given is None."""

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
    # Ranges are the config's to check: click's own let NaN and infinity through.
    types: dict[str, tuple[Any, str]] = {
        "int": (int, "N"),
        "float": (float, "NUMBER"),
        "text": (str, "PATH"),
        "integers": (str, "N,N,..."),
        "numbers": (str, "X,X,..."),
    }
    return click.option(flag, type=types[kind][0], metavar=types[kind][1], help=help)


def said(values: dict[str, Any]) -> dict[str, Any]:
    """The config fields that were given on the command line."""
    given = {name: value for name, value in values.items() if value is not None and value != ()}
    if "model_options" in given:
        given["model_options"] = dict(map(_pair, given["model_options"]))
    for name, value in given.items():
        if FIELDS[name].metadata["kind"] in ("integers", "numbers"):
            given[name] = _listed(name, value)
    return given


def use_threads(threads: int | None) -> None:
    """Compute on the threads of --threads."""
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
        what = "integers with commas between them, such as 30,60" if whole else "numbers, such as 0.1,0.01"
        raise InputError(f"--{name.replace('_', '-')} must be {what}; got {text!r}") from None


def model_target(output: str, force: bool) -> Path:
    """The model file to write; --force replaces a model file, not whatever else a slip of the hand may name."""
    return target_of(output, force, _is_model, "a packed model file")


def _is_model(path: Path) -> bool:
    from xnor_ref.packed import load_packed

    try:
        load_packed(path)
    except ModelFileError:
        return False
    return True


def target_of(output: str, force: bool, is_such: Callable[[Path], bool], what: str) -> Path:
    """The file to write; --force replaces one that is such a file."""
    target = Path(output)
    if target.is_dir():
        raise InputError(f"-o {output} is a folder; name a file in it")
    if target.exists():
        if not force:
            raise InputError(f"-o {output} is there already; add --force to overwrite it")
        if not is_such(target):
            raise InputError(f"-o {target} is not {what}, so --force does not overwrite it")
    return target


def check_results(json_file: str | None, plot: str | None, keys: tuple[str, ...], model: Path | None = None) -> None:
    """Refuse, before any work, files of --json and --plot that cannot be written or would replace something else.

    What is there already is replaced only if it is empty or such a result itself: a JSON object with all `keys`, a
    picture that was drawn here. `model` is the file that -o names.
    """
    from xnor_ref.charts.files import MARKS

    paths = {"-o": model, "--json": json_file, "--plot": plot}
    named = {option: Path(path) for option, path in paths.items() if path is not None and path != "-"}
    if len({path.resolve() for path in named.values()}) < len(named):
        raise InputError(f"{', '.join(named)}: each needs a file of its own")
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
            raise InputError(f"{option} {path} is there already and not of this command; name another file")


def _is_result(text: bytes, keys: tuple[str, ...]) -> bool:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.keys() >= set(keys)


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    show(json.dumps(value, indent=2))


def answer(result: Any, as_json: bool, text: Callable[[Any], str]) -> None:
    """Print a result, as JSON or as the `text` of it."""
    if as_json:
        print_json(result)
    else:
        show(text(result))


def write_json(result: Any, json_file: str | None) -> bool:
    """Write a result where --json says, if it does; whether that is stdout, where it takes the place of text."""
    if json_file == "-":
        print_json(result)
    elif json_file is not None:
        from xnor_ref.storage import write_atomically

        write_atomically(json_file, json.dumps(result, indent=2).encode() + b"\n")
    return json_file == "-"


def score_lines(result: dict[str, Any]) -> list[str]:
    """The scores of the networks of a result, the sizes of their files, and how far the two agree, where it says so.

    A difference that changes no answer is pointed out.
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
        lines.append(f"note: the logits differ by up to {result['max_logit_difference']:g}, though no answer does")
    return lines


def size_text(count: int) -> str:
    """'1.2 MB'; decimal units."""
    return scaled(count, ("B", "kB", "MB", "GB"))


def scaled(count: int, units: Sequence[str]) -> str:
    """'1.2 k': a count in the first of `units`, each 1000 times the one before, in which it is below 1000."""
    value, power = float(count), 0
    while value >= 1000 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.1f} {units[power]}" if power else f"{value:.0f} {units[0]}".rstrip()


def table(rows: Sequence[tuple[str, ...]], right: Container[int] = ()) -> str:
    """Rows of texts in columns of equal width; columns in `right` are set right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
