"""`bench`: measure kernels and networks, against the machine's roof and other libraries."""

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from xnor_ref.cli.bench import bench_options, bench_text
from xnor_ref.cli.bench.bench_distributed import distributed
from xnor_ref.cli.bench.bench_options import Measurement
from xnor_ref.cli.bench.bench_scale import scale
from xnor_ref.cli.bench.bench_train import train
from xnor_ref.cli.group import Command, hint
from xnor_ref.cli.text import say
from xnor_ref.errors import InputError

EXAMPLES = (
    "bench",
    "bench alexnet --threads 2 --batch 8",
    "bench --layer 256,14,3,256 --baselines numpy",
    "bench network resnet18 --size 64",
    "bench train resnet18 --optimizer adam",
    "bench figure4",
    "bench ladder",
    "bench startup",
)


class Bench(click.Group):
    """A group of commands. The default is `layers`, or `network` if `--model` is given."""

    examples = EXAMPLES

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from xnor_ref.bench.measuring.layers import LAYER_SETS

        first = args[0] if args else ""
        if first not in ("-h", "--help", *self.commands) and (first or not ctx.resilient_parsing):
            if first and not first.startswith("-") and first not in LAYER_SETS and not ctx.resilient_parsing:
                known = hint(first, (*LAYER_SETS, *self.commands))
                raise click.UsageError(f"bench has no {first!r}. {known}", ctx)
            model = any(arg == "--model" or arg.startswith("--model=") for arg in args)
            args = ["network" if model else "layers", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        layers = self.commands["layers"]
        if incomplete.startswith("-"):
            return layers.shell_complete(ctx, incomplete)
        return super().shell_complete(ctx, incomplete) + layers.params[0].shell_complete(ctx, incomplete)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of their definition

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        Command.format_epilog(self, ctx, formatter)  # type: ignore[arg-type]


@click.group(cls=Bench)
def command() -> None:
    """Measure speed on this machine. Every ratio names its baseline, measured in the same run.

    Without a command, `bench` runs `layers paper`. `bench SET` and `bench --layer ...` mean `bench layers ...`;
    `bench --model FILE` means `bench network --model FILE`.

    torch and onnxruntime are baselines if they are installed (pip install 'xnor_ref[bench]'). --plot to .png or .pdf
    needs matplotlib, which the same extra installs.
    """


# --- commands --------------------------------------------------------------------------------------------------


@command.command(cls=Command, examples=("bench layers paper", "bench layers resnet18 gemm --threads 2"))
@click.argument("sets", metavar="[SET]...", nargs=-1)
@click.option(
    "--layer", "own", multiple=True, metavar="C,H,K,O[,STRIDE]", help="A convolution of your own; repeatable."
)
@bench_options.batch_option
@bench_options.threads_option
@bench_options.baselines_option
@bench_options.measuring()
def layers(
    sets: tuple[str, ...],
    own: tuple[str, ...],
    batch: int,
    threads: int,
    baselines: str | None,
    measurement: Measurement,
) -> None:
    """Measure single layers against the roof and the baselines.

    SET is paper (the default: the paper's 256@14x14 and six more), alexnet, resnet18, gemm, or geometry (dilation,
    groups and uneven padding). --layer takes the input channels, height and width, kernel size, output channels and,
    if not 1, the stride of a convolution. Its padding is half the kernel.
    """
    from xnor_ref.bench import plots
    from xnor_ref.bench.compare import measure_layers
    from xnor_ref.bench.measuring.layers import check_batch, layer_set, parse_layer
    from xnor_ref.bench.peers.baselines import USUAL

    measurement.prepare(threads)
    chosen = [layer for name in sets or (() if own else ("paper",)) for layer in layer_set(name)]
    chosen += [parse_layer(text) for text in own]
    if measurement.quick:
        chosen = chosen[:1]
    check_batch(batch)
    names = measurement.baselines(baselines, USUAL)
    measurement.describe_machine()
    results = measure_layers(chosen, batch, threads, names, measurement.pace)
    rows = measurement.collect("measuring", results, len(chosen))
    measurement.finish({"batch": batch, "threads": threads, "layers": rows}, bench_text.layers)
    if measurement.plot is not None:
        plots.plot_layers(measurement.plot, rows, measurement.caption(batch))


@command.command(cls=Command, examples=("bench depthwise", "bench depthwise --batch 16 --threads 2"))
@bench_options.batch_option
@bench_options.threads_option
@bench_options.measuring(plots=False)
def depthwise(batch: int, threads: int, measurement: Measurement) -> None:
    """Measure real-valued depthwise and grouped convolutions against the roofs of float32 and of memory."""
    from xnor_ref.bench import depthwise as layers
    from xnor_ref.bench.measuring.layers import check_batch

    measurement.prepare(threads)
    check_batch(batch, 56)
    measurement.describe_machine()
    rows = measurement.collect(
        "measuring", layers.measure_depthwise(batch, threads, measurement.pace), len(layers.LAYERS)
    )
    measurement.finish({"batch": batch, "threads": threads, "layers": rows}, bench_text.depthwise)


@command.command(cls=Command, examples=("bench network", "bench network alexnet --size 224 --threads 2 --batch 64"))
@click.argument("names", metavar="[NETWORK]...", nargs=-1)
@click.option("--model", metavar="FILE", help="A packed model file, instead of a network with random weights.")
@click.option("--size", type=int, default=64, show_default=True, metavar="N", help="Height and width in pixels.")
@click.option("--classes", type=int, default=1000, show_default=True, metavar="N", help="Classes.")
@click.option("--compile/--no-compile", "compiled", default=True, help="Try torch.compile too, about 30 s each [yes].")
@bench_options.batch_option
@bench_options.threads_option
@bench_options.measuring()
def network(
    names: tuple[str, ...], model: str | None, batch: int, threads: int, measurement: Measurement, **how: Any
) -> None:
    """Measure whole networks, from an image array to logits.

    NETWORK is a name that `train --model` takes, with random weights; the default is vgg-small, resnet18, nin and
    alexnet. The baselines are the same network in full precision in onnxruntime and in torch, in each of torch's ways
    to run it. --model measures your own packed file, with the time of each layer.
    """
    from xnor_ref.bench import networks, plots

    measurement.prepare(threads)
    pace, quick = measurement.pace, measurement.quick
    if model is not None:
        ctx, unsaid = click.get_current_context(), (None, click.core.ParameterSource.DEFAULT)
        given = ["names"] if names else []
        given += [name for name in ("size", "classes", "compiled") if ctx.get_parameter_source(name) not in unsaid]
        given = ["compile" if name == "compiled" else name for name in given]
        if given:
            raise InputError(
                f"bench: --model gives the network, so {', '.join(given)} would have no effect; leave it out"
            )
        measurement.describe_machine()
        result = networks.measure_file(model, batch, threads, pace)
        measurement.finish(result, bench_text.model)
        times = {stage["name"]: 1e6 * stage["seconds"] for stage in result["layers"]}
        unit, title = "microseconds", f"{Path(model).name}, time of each layer"
    else:
        chosen = names or networks.NETWORKS[: 1 if quick else None]
        networks.check_names(chosen)
        measurement.describe_machine()
        how |= {"batch": batch, "threads": threads, "pace": pace, "others": not quick}
        results = (networks.measure_network(name, **how) for name in chosen)
        measured = measurement.collect("measuring", results, len(chosen))
        measurement.finish({"batch": batch, "threads": threads, "networks": measured}, bench_text.networks)
        times = {
            f"{one['network']}: {entry}": 1e3 * seconds
            for one in measured
            for entry, seconds in [*one["ours"].items(), *((e["baseline"], e["seconds"]) for e in one["baselines"])]
        }
        unit, title = "ms a batch", f"{how['size']}x{how['size']} pixels, images to logits"
    if measurement.plot is not None:
        plots.plot_bars(measurement.plot, times, unit, title, measurement.caption(batch))


@command.command(cls=Command, examples=("bench figure4", "bench figure4 --plot figure4.png"))
@bench_options.threads_option
@bench_options.baselines_option
@bench_options.measuring()
def figure4(threads: int, baselines: str | None, measurement: Measurement) -> None:
    """Measure the paper's Figure 4: memory, and speed-up by channels and filter size, theory beside measurement."""
    from xnor_ref.bench import figure4 as figure
    from xnor_ref.bench import plots

    measurement.prepare(threads)
    names = measurement.baselines(baselines, ("numpy", "torch"))
    measurement.describe_machine()
    total = sum(map(len, figure.points(measurement.pace)))
    points = measurement.collect("measuring", figure.measure_figure4(names, measurement.pace, threads), total)
    memory = figure.memory()
    measurement.finish({"threads": threads, "points": points, "memory": memory}, bench_text.figure4)
    if measurement.plot is not None:
        plots.plot_figure4(measurement.plot, points, memory, measurement.caption())


@command.command(cls=Command, examples=("bench startup",))
@click.option("--model", metavar="FILE", help="A packed model file [a ResNet-18 with random weights].")
@bench_options.measuring(plots=False)
def startup(model: str | None, measurement: Measurement) -> None:
    """Measure the time from the start of a process to its first answer, with and without cached kernels."""
    from xnor_ref.bench.startup import measure_startup
    from xnor_ref.packed import load_packed

    measurement.prepare(threads=1)
    if model is not None:
        load_packed(model)
    measurement.describe_machine()
    with measurement.progress as progress:
        progress.progress("starting processes", 0, 1)
        measured = measure_startup(model, measurement.pace)
    measurement.finish(measured, bench_text.startup)


@command.command(cls=Command, examples=("bench ladder", "bench ladder --layer 64,56,3,64"))
@click.option(
    "--layer", "own", metavar="C,H,K,O[,STRIDE]", help="A convolution to measure [256,14,3,256, the paper's]."
)
@click.option(
    "--cpu", metavar="NAME", help="Limit us and torch to the instructions of haswell (AVX2) or skylake-avx512."
)
@bench_options.baselines_option
@bench_options.measuring()
def ladder(own: str | None, cpu: str | None, baselines: str | None, measurement: Measurement) -> None:
    """Measure one layer in each implementation, from naive loops to explicit vector code."""
    from xnor_ref.bench import ladder as rungs
    from xnor_ref.bench import plots
    from xnor_ref.bench.measuring.layers import PAPER, parse_layer

    measurement.prepare(threads=1)
    layer = PAPER if own is None else parse_layer(own)
    if cpu is not None:
        rungs.emulation(cpu)  # rejects an unknown name
    names = measurement.baselines(baselines, rungs.FLOATS)
    with measurement.progress as progress:
        progress.progress("measuring", 0, 1)
        result = rungs.measure_ladder(layer, names, measurement.pace, cpu)
    measurement.machine = result["machine"]  # as described by the process that measured
    for warning in result["machine"]["warnings"]:
        say(f"warning: {warning}")
    measurement.finish(result, bench_text.ladder)
    if measurement.plot is not None:
        rates = {rung["rung"]: result["macs"] / rung["seconds"] / 1e9 for rung in result["rungs"]}
        title = f"{result['layer']}, rung by rung"
        plots.plot_bars(measurement.plot, rates, "G binary MAC/s", title, measurement.caption())


command.add_command(train)
command.add_command(scale)
command.add_command(distributed)
