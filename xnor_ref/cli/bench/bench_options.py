"""Options that the commands of `bench` share, and their steps before and after measuring."""

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
batch_option = click.option("--batch", type=int, default=1, show_default=True, metavar="N", help="Images per batch.")
_RESULTS = (
    click.option("--quick", is_flag=True, help="Rough results within seconds: fewer cases, fewer and shorter rounds."),
    click.option(
        "--json",
        "json_file",
        is_flag=False,
        flag_value="-",
        metavar="[FILE]",
        help="Write the result as JSON to FILE; without FILE, print it instead of the table.",
    ),
    click.option("--plot", metavar="FILE", help="Write a chart: .svg, or .png or .pdf, which need matplotlib."),
)
baselines_option = click.option(
    "--baselines",
    metavar="NAME,...|none",
    help="Baselines: numpy, torch, torch-int8, onnxruntime, onnxruntime-int8, float-loops, bit-loops, "
    "word-loops, reference, numba.",
)


def measuring(*, plots: bool = True) -> Callable:
    """Decorator: add --quick, --json and, with `plots`, --plot. The command gets them as one `Measurement`."""

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def command(quick: bool, json_file: str | None, plot: str | None = None, **values: Any) -> None:
            function(measurement=Measurement(quick, json_file, plot), **values)

        for option in reversed(_RESULTS if plots else _RESULTS[:2]):
            command = option(command)
        return command

    return decorate


class Measurement:
    """The steps of a `bench` command before, during and after measuring. `plot` is the chart's file, or None."""

    def __init__(self, quick: bool, json_file: str | None, plot: str | None) -> None:
        from xnor_ref.bench.measuring import timing

        self.quick, self.json_file, self.plot = quick, json_file, plot
        self.pace = timing.QUICK if quick else timing.FULL  # for single layers and packed networks
        self.progress = Progress(quiet=json_file == "-")

    def prepare(self, threads: int) -> None:
        """Check files and options before minutes are spent measuring, and start to watch for other busy processes."""
        from xnor_ref.bench.measuring import roof, timing
        from xnor_ref.kernels.basics.threads import available_threads, check_threads

        roof.require_compiler()
        if check_threads(threads, "bench") > available_threads():
            say(f"warning: {threads} threads run on {available_threads()} processors")
        options.check_results(self.json_file, self.plot, ("machine",))
        if self.plot is not None:
            check_plot(self.plot)
        self.threads, self._bystanders = threads, timing.Bystanders()

    def baselines(self, text: str | None, default: tuple[str, ...]) -> tuple[str, ...]:
        """Return the baselines to measure. A quick run skips large libraries unless they are named."""
        from xnor_ref.bench.peers.baselines import parse_baselines

        return parse_baselines(text, ("numpy",) if self.quick else default)

    def describe_machine(self) -> None:
        """Describe the machine, and print warnings about it."""
        from xnor_ref.bench.measuring import machine

        self.machine = machine.describe(self.pace)
        for warning in self.machine["warnings"]:
            say(f"warning: {warning}")

    def collect(self, what: str, results: Iterable[dict[str, Any]], total: int = 1) -> list[dict[str, Any]]:
        """Return all results, with a progress bar meanwhile."""
        found: list[dict[str, Any]] = []
        with self.progress:
            self.progress.progress(what, 0, total)
            for result in results:
                found.append(result)
                self.progress.progress(what, len(found), total)
        return found

    def finish(self, result: dict[str, Any], text: Callable[[dict[str, Any]], str] | None) -> None:
        """Print or write the result. If `text` is None, the tables are already printed, and only JSON is left."""
        result = {"machine": self.machine, **result}
        warning = self._bystanders.warning()
        if warning:
            say(f"warning: {warning}")
            self.machine["warnings"].append(warning)
        if not options.write_json(result, self.json_file) and text is not None:
            show(text(result))

    def caption(self, batch: int = 1) -> str:
        """Return the caption of a chart, one line."""
        return bench_text.caption(self.machine, self.threads, batch)
