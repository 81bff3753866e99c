"""What the commands of `bench` share: options, and what they do before and after they measure."""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import click

from xnor_ref.charts.files import check_plot
from xnor_ref.cli import options
from xnor_ref.cli.bench import bench_text
from xnor_ref.cli.progress import Progress
from xnor_ref.cli.text import say, show

threads_option = click.option(
    "--threads", type=int, default=1, show_default=True, metavar="N", help="Threads of each contender."
)
batch_option = click.option(
    "--batch", type=int, default=1, show_default=True, metavar="N", help="Images computed together."
)
_RESULTS = (
    click.option(
        "--quick", is_flag=True, help="A rough look within seconds: fewer and shorter rounds, less to measure."
    ),
    click.option(
        "--json",
        "json_file",
        is_flag=False,
        flag_value="-",
        metavar="[FILE]",
        help="Write the result as JSON to FILE; without FILE, print it in place of the table.",
    ),
    click.option("--plot", metavar="FILE", help="Draw a chart: .svg; or .png or .pdf, which need matplotlib."),
)
baselines_option = click.option(
    "--baselines",
    metavar="NAME,...|none",
    help="What to compare with: numpy, torch, torch-int8, onnxruntime, onnxruntime-int8, float-loops, bit-loops, "
    "word-loops, reference, numba.",
)


def measuring(*, plots: bool = True) -> Callable:
    """Decorator: --quick, --json and, with `plots`, --plot, which the command gets as one `Measurement`."""

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def command(quick: bool, json_file: str | None, plot: str | None = None, **values: Any) -> None:
            function(measurement=Measurement(quick, json_file, plot), **values)

        for option in reversed(_RESULTS if plots else _RESULTS[:2]):
            command = option(command)
        return command

    return decorate


class Measurement:
    """What a command of `bench` does before, while and after it measures; `plot` is the file to draw, or None."""

    def __init__(self, quick: bool, json_file: str | None, plot: str | None) -> None:
        from xnor_ref.bench.measuring import timing

        self.quick, self.json_file, self.plot = quick, json_file, plot
        self.pace = timing.QUICK if quick else timing.FULL  # of single layers and packed networks
        self.progress = Progress(quiet=json_file == "-")

    def prepare(self, threads: int) -> None:
        """Refuse what cannot end well before minutes are spent on it; from here on, other processes are watched."""
        from xnor_ref.bench.measuring import roof, timing
        from xnor_ref.kernels.basics.threads import available_threads, check_threads

        roof.require_compiler()
        if check_threads(threads, "bench") > available_threads():
            say(f"warning: {threads} threads share {available_threads()} processors")
        options.check_results(self.json_file, self.plot, ("machine",))
        if self.plot is not None:
            check_plot(self.plot)
        self.threads, self._bystanders = threads, timing.Bystanders()

    def baselines(self, text: str | None, default: tuple[str, ...]) -> tuple[str, ...]:
        """The baselines asked for; a quick run does not load large libraries unless they are named."""
        from xnor_ref.bench.peers.baselines import parse_baselines

        return parse_baselines(text, ("numpy",) if self.quick else default)

    def describe_machine(self) -> None:
        """Find out what is measured on; warnings are said."""
        from xnor_ref.bench.measuring import machine

        self.machine = machine.describe(self.pace)
        for warning in self.machine["warnings"]:
            say(f"warning: {warning}")

    def collect(self, what: str, results: Iterable[dict[str, Any]], total: int = 1) -> list[dict[str, Any]]:
        """All results, with a bar of progress until the last is there."""
        found: list[dict[str, Any]] = []
        with self.progress:
            self.progress.progress(what, 0, total)
            for result in results:
                found.append(result)
                self.progress.progress(what, len(found), total)
        return found

    def finish(self, result: dict[str, Any], text: Callable[[dict[str, Any]], str] | None) -> None:
        """Print or write the result; without `text` it has been printed, unless as JSON."""
        result = {"machine": self.machine, **result}
        warning = self._bystanders.warning()
        if warning:
            say(f"warning: {warning}")
            self.machine["warnings"].append(warning)
        if not options.write_json(result, self.json_file) and text is not None:
            show(text(result))

    def caption(self, batch: int = 1) -> str:
        """One line for a plot."""
        return bench_text.caption(self.machine, self.threads, batch)
