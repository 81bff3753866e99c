"""`verify`: check exactness, of this project on the user's machine or of another implementation."""

import itertools
import time
from typing import Any

import click

from xnor_ref.cli import kit_options, options
from xnor_ref.cli.group import Command
from xnor_ref.cli.onnx_text import verify_onnx
from xnor_ref.errors import EquivalenceError, InputError

_SHOWN = ("name", "examples", "passed", "failure", "example")


@click.command(
    cls=Command,
    examples=(
        "verify",
        "verify --examples 20 --seed 1",
        "verify --implementation mine.py --channels 32x --kernels 1,3 --pad 0",
        "verify --program ./mine --pad-value 0",
        "verify --export-vectors golden",
        "verify --onnx net.onnx --model model.safetensors",
    ),
)
@click.argument("images", metavar="[IMAGE]...", nargs=-1)
@click.option(
    "--examples",
    type=click.IntRange(1, 1_000_000),
    help="Cases to try for each property; slow properties try fewer.  [default: 100; with --onnx 1000 images]",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Seed of the cases [a new one each time].")
@kit_options.kit_options
@click.option("--export-vectors", metavar="FOLDER", help="Write cases with their results into a new folder.")
@click.option("--check-vectors", metavar="FOLDER", help="Check the answers stored beside such cases.")
@click.option("--onnx", metavar="FILE", help="Compare an ONNX file written by `export` with its model.")
@click.option("--model", metavar="MODEL|RUN", help="With --onnx: the packed network.")
@click.option("--junit", metavar="FILE", help="Also write the results as JUnit XML.")
@options.field_options("threads")
@options.json_option
def command(
    images: tuple[str, ...],
    examples: int | None,
    seed: int | None,
    export_vectors: str | None,
    check_vectors: str | None,
    onnx: str | None,
    model: str | None,
    junit: str | None,
    threads: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Run the exactness checks on this machine, or on another implementation of binary layers.

    Random and extreme inputs go through every implementation of the binary kernels. The results are compared, bit for
    bit, with an independent computation. If one differs, the case is reduced to the smallest one found and printed, and
    the exit code is 6. --implementation, --program or --library checks another implementation instead of this one.

    With --onnx, a file runs in onnxruntime, or in qonnx. Labels must be equal, and logits may differ by 1e-4 of the
    largest, unless rounding flips the sign of a value at a threshold. Without an IMAGE, pixels are random.
    """
    from xnor_ref.cli import kit_text

    if junit is not None:
        kit_text.check_junit(junit)
    roles = kit_options.roles(given)
    functions, settings = kit_options.functions(given, roles), kit_options.settings(given)
    job = _job(functions, roles, settings, export_vectors, check_vectors, onnx, threads)
    if (onnx is None) != (model is None) or (images and onnx is None) or (onnx and junit):
        raise click.UsageError(
            "--onnx FILE and --model MODEL need each other; an IMAGE needs both; --junit cannot be combined with them"
        )
    if job == "onnx":
        options.use_threads(threads)
        verify_onnx(str(onnx), str(model), images, examples, seed or 0, as_json)
        return
    examples = examples or 100
    if job == "export":
        _export(str(export_vectors), seed or 0, {"roles": tuple(roles)} if roles else {}, settings, as_json)
        return
    if job == "own":
        found, failed = _own(examples, seed, threads, as_json)
        options.answer(found, as_json, _text)
    else:
        report = _check(functions, settings, check_vectors, examples, seed, as_json)
        found, failed = kit_text.as_json(report), kit_text.told(report)
        options.answer(found, as_json, lambda _: str(report))
    if junit is not None:
        kit_text.write_junit(junit, found)
    if failed:
        where = " on this machine" if job == "own" else ""
        raise EquivalenceError(
            f"{len(failed)} of {len(found['properties'])} properties do not hold{where}; {failed[0]}"
        )


def _job(
    functions: dict[str, Any],
    roles: dict[str, str],
    settings: dict[str, Any],
    export: str | None,
    check: str | None,
    onnx: str | None,
    threads: int | None,
) -> str:
    """Return which of the five jobs of `verify` the options ask for. Raises InputError for options that clash."""
    asked = {"export": export, "check": check, "kit": functions or None, "onnx": onnx}
    chosen = [name for name, value in asked.items() if value is not None]
    if len(chosen) > 1:
        raise InputError(
            "--export-vectors, --check-vectors, --onnx and a function to check exclude each other; give one of them"
        )
    if chosen in ([], ["onnx"]) and (settings or roles):
        raise InputError(
            f"{', '.join([*settings, *roles])} needs an implementation to check (--implementation, --program or "
            "--library), or a folder to write cases to (--export-vectors)"
        )
    if chosen not in ([], ["onnx"]) and threads is not None:
        raise InputError("--threads applies only to the checks of this project")
    return chosen[0] if chosen else "own"


def _export(folder: str, seed: int, roles: dict[str, Any], settings: dict[str, Any], as_json: bool) -> None:
    """Write golden vectors for these roles, or for all."""
    from xnor_ref.conformance import export_golden

    counts = export_golden(folder, seed=seed, **roles, **settings)

    def text(found: dict[str, Any]) -> str:
        rows = [("role", "cases"), *((role, str(count)) for role, count in found["cases"].items())]
        return (
            f"{options.table(rows, right=(1,))}\n\nwritten to {folder}; docs/conformance-kit.md says how to add answers"
        )

    options.answer({"folder": folder, "seed": seed, "cases": counts}, as_json, text)


def _check(
    functions: dict[str, Any],
    settings: dict[str, Any],
    vectors: str | None,
    examples: int,
    seed: int | None,
    as_json: bool,
) -> Any:
    """Return the kit's report on another implementation, or on answers to golden vectors."""
    from xnor_ref.cli.progress import Progress
    from xnor_ref.conformance import Kit, check_golden

    if vectors is not None:
        return check_golden(vectors, **settings)
    try:
        kit = Kit(**functions, **settings)
        total, ended = len(kit.property_names()), itertools.count(1)
        with Progress(quiet=as_json) as progress:
            progress.progress("checking", 0, total)
            return kit.run(
                examples, seed, progress=lambda result: progress.progress("checking", min(next(ended), total), total)
            )
    finally:
        for function in functions.values():
            function.close()


def _own(examples: int, seed: int | None, threads: int | None, as_json: bool) -> tuple[dict[str, Any], list[str]]:
    """Run the checks of this project. Return the result to print, and what failed."""
    from xnor_ref import verify
    from xnor_ref.cli.progress import Progress
    from xnor_ref.training.storing import environment

    options.use_threads(threads)
    ends = [time.monotonic()]

    def ended(line: str) -> None:
        if not line.startswith(" "):  # lines with details of a failed property are indented
            ends.append(time.monotonic())
            progress.progress("checking", len(ends) - 1, len(verify.PROPERTIES))

    with Progress(quiet=as_json) as progress:
        progress.progress("checking", 0, len(verify.PROPERTIES))
        results = verify.run(examples=examples, seed=seed, report=ended)
    seconds = [end - start for start, end in itertools.pairwise(ends)]
    failed = [f"{one.name}: {one.failure}; smallest example: {one.example}" for one in results if not one.passed]
    return _json(results, seconds, environment.describe()), failed


def _json(results: list[Any], seconds: list[float], environment: dict[str, Any]) -> dict[str, Any]:
    return {
        "passed": all(result.passed for result in results),
        "examples": sum(result.examples for result in results),
        "seconds": round(sum(seconds), 3),
        "properties": [
            {**{key: getattr(result, key) for key in _SHOWN}, "seconds": round(spent, 3)}
            for result, spent in zip(results, seconds)
        ],
        "environment": environment,
    }


def _text(found: dict[str, Any]) -> str:
    rows = [("property", "examples", "seconds", "")]
    for one in found["properties"]:
        holds = "holds" if one["passed"] else "FAILS"
        rows.append((one["name"], f"{one['examples']:,}", f"{one['seconds']:.1f}", holds))
    rows.append(("total", f"{found['examples']:,}", f"{found['seconds']:.1f}", ""))
    about = found["environment"]
    versions = ", ".join(f"{key} {about[key]}" for key in ("xnor_ref", "python", "numpy", "numba", "blas"))
    return f"{options.table(rows, right=(1, 2))}\n\n{about['cpu']}, {about['threads']} threads; {versions}"
