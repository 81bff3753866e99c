"""What the commands of `bench` share: options, and what they do before and after they measure."""

import json
from collections.abc import Callable
from typing import Any

import click

from xnor_ref.cli import options
from xnor_ref.cli.progress import Progress
from xnor_ref.cli.text import say
from xnor_ref.storage import write_atomically

threads_option = click.option(
    "--threads", type=int, default=1, show_default=True, metavar="N", help="Threads of each contender."
)
batch_option = click.option(
    "--batch", type=int, default=1, show_default=True, metavar="N", help="Images computed together."
)
quick_option = click.option(
    "--quick", is_flag=True, help="A rough look within seconds: fewer and shorter rounds, less to measure."
)
json_option = click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="Write the result as JSON to FILE; without FILE, print it in place of the table.",
)
plot_option = click.option("--plot", metavar="FILE", help="Draw a chart: .png, .svg or .pdf. Needs matplotlib.")
baselines_option = click.option(
    "--baselines",
    metavar="NAME,...|none",
    help="What to compare with: numpy, torch, torch-int8, onnxruntime, onnxruntime-int8, float-loops, bit-loops, "
    "word-loops, reference, numba.",
)


def pace_of(quick: bool) -> Any:
    """How long to measure single layers and packed networks."""
    from xnor_ref.bench.measuring import timing

    return timing.QUICK if quick else timing.FULL


def quick_names(text: str | None, quick: bool, default: tuple[str, ...]) -> tuple[str, ...]:
    """The baselines asked for; a quick run does not load large libraries unless they are named."""
    from xnor_ref.bench.peers.baselines import parse_baselines

    return parse_baselines(text, ("numpy",) if quick else default)


def prepared(threads: int, json_file: str | None, plot: str | None = None) -> tuple[Progress, Any]:
    """Refuse what cannot end well before minutes are spent on it; gives the progress bar, and a watch on others."""
    from xnor_ref.bench import plots
    from xnor_ref.bench.measuring import roof, timing
    from xnor_ref.kernels.basics.threads import available_threads, check_threads

    roof.require_compiler()
    if check_threads(threads, "bench") > available_threads():
        say(f"warning: {threads} threads share {available_threads()} processors")
    options.check_results(json_file, plot, ("machine",))
    if plot is not None:
        plots.check_plot(plot)
    return Progress(quiet=json_file == "-"), timing.Bystanders()


def machine(pace: Any) -> dict[str, Any]:
    """What is measured on; warnings are said."""
    from xnor_ref.bench.measuring import machine

    about = machine.describe(pace)
    for warning in about["warnings"]:
        say(f"warning: {warning}")
    return about


def finish(
    result: dict[str, Any], text: Callable[[dict[str, Any]], str] | None, json_file: str | None, others: Any
) -> None:
    """Print or write the result; without `text` it has been printed, unless as JSON."""
    warning = others.warning()
    if warning:
        say(f"warning: {warning}")
        result["machine"]["warnings"].append(warning)
    if json_file == "-":
        options.print_json(result)
        return
    if json_file is not None:
        write_atomically(json_file, json.dumps(result, indent=2).encode() + b"\n")
    if text is not None:
        click.echo(text(result))
