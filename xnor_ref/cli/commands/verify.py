"""`verify`: the exactness checks, on the user's machine."""

import itertools
import time
from typing import Any

import click

from xnor_ref.cli import options
from xnor_ref.cli.group import Command
from xnor_ref.errors import EquivalenceError

_SHOWN = ("name", "examples", "passed", "failure", "example")


@click.command(cls=Command, examples=("verify", "verify --examples 20 --seed 1"))
@click.option(
    "--examples",
    type=click.IntRange(1, 1_000_000),
    default=100,
    show_default=True,
    help="Cases to try for each property; expensive properties try fewer.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Try the same cases again [new ones each time].")
@options.field_options("threads")
@options.json_option
def command(examples: int, seed: int | None, threads: int | None, as_json: bool) -> None:
    """Run the exactness checks on this machine.

    Random and extreme inputs go through every implementation of the binary kernels and are compared, bit for bit, with
    an independent computation. The first case that differs is made as small as it can be, printed, and the exit code
    is 6.
    """
    from xnor_ref import verify
    from xnor_ref.cli.progress import Progress
    from xnor_ref.training.storing import environment

    options.use_threads(threads)
    ends = [time.monotonic()]

    def ended(line: str) -> None:
        if not line.startswith(" "):  # further lines of a property that failed are indented
            ends.append(time.monotonic())
            progress.progress("checking", len(ends) - 1, len(verify.PROPERTIES))

    with Progress(quiet=as_json) as progress:
        progress.progress("checking", 0, len(verify.PROPERTIES))
        results = verify.run(examples=examples, seed=seed, report=ended)
    seconds = [end - start for start, end in itertools.pairwise(ends)]
    failed = [result for result in results if not result.passed]
    options.answer(_json(results, seconds, environment.describe()), as_json, _text)
    if failed:
        first = failed[0]
        raise EquivalenceError(
            f"{len(failed)} of {len(results)} properties do not hold on this machine; {first.name}: {first.failure}; "
            f"smallest example: {first.example}"
        )


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
