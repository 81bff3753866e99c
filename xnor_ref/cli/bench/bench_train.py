"""`bench train`: training steps of ours and of torch."""

from typing import Any

import click

from xnor_ref.cli import options
from xnor_ref.cli.bench import bench_options, bench_text
from xnor_ref.cli.bench.bench_options import Measurement
from xnor_ref.cli.group import Command
from xnor_ref.cli.text import show


@click.command(cls=Command, examples=("bench train", "bench train vgg-small --backward fp32 --profile --no-compile"))
@click.argument("names", metavar="[NETWORK]...", nargs=-1)
@click.option("--method", default="xnor", show_default=True, metavar="METHOD", help="A method of `train`.")
@click.option(
    "--optimizer", type=click.Choice(["sgd", "adam"]), default="sgd", show_default=True, help="Used by both sides."
)
@click.option("--batch", type=int, metavar="N", help="Images per step [64; alexnet 128].")
@click.option("--size", type=int, default=64, show_default=True, metavar="N", help="Height and width in pixels.")
@click.option("--classes", type=int, default=200, show_default=True, metavar="N", help="Classes.")
@click.option("--threads", type=int, metavar="N", help="Threads of each contender [all processors].")
@click.option(
    "--backward",
    default="fp32,int8",
    show_default=True,
    metavar="NAME,...",
    help="Arithmetic of our binary layers' gradients. reference: single layers, nothing fused.",
)
@click.option(
    "--input-scale", metavar="NAME,...", help="off, plain or both: without K, with K [off]. Ignored if METHOD has no K."
)
@click.option("--weight-scale", metavar="NAME,...", default="alpha", help="Rules for alpha, side by side [alpha].")
@click.option("--jpegs", is_flag=True, help="Decode our images from JPEGs, as training on ImageNet does.")
@options.plugin_option(expose_value=True)
@click.option("--baselines", metavar="NAME,...|none", help="torch, torch-bf16 [both].")
@click.option("--compile/--no-compile", "compiled", default=True, help="Try torch.compile too, about 30 s each [yes].")
@click.option("--cold", is_flag=True, help="Also measure the start of a process with no kernel compiled.")
@click.option(
    "--profile", "profiled", is_flag=True, help="Show the time of a step by part, and each GEMM against its roof."
)
@bench_options.measuring()
def train(
    names: tuple[str, ...],
    method: str,
    optimizer: str,
    batch: int | None,
    size: int,
    classes: int,
    threads: int | None,
    backward: str,
    input_scale: str | None,
    weight_scale: str,
    baselines: str | None,
    compiled: bool,
    measurement: Measurement,
    **more: Any,
) -> None:
    """Measure training steps of whole networks: forward, backward and update.

    NETWORK is a name that `train --model` takes; the default is vgg-small, resnet18, nin and alexnet. torch trains the
    same network in full precision. Its best setting counts: eager or torch.compile, both layouts, batches of 64 and
    128, two settings of its allocator. Ours and torch take turns, each in its own process.
    """
    from xnor_ref.bench import networks, plots
    from xnor_ref.bench.peers.baselines import parse_baselines, parse_names
    from xnor_ref.bench.training import train as training
    from xnor_ref.binary import WEIGHT_SCALES
    from xnor_ref.kernels.basics.threads import get_threads

    threads = get_threads() if threads is None else threads
    measurement.prepare(threads)
    quick, to_stdout = measurement.quick, measurement.json_file == "-"
    sides = parse_names("backward", backward, training.BACKWARDS)
    scales = training.parse_scales(method, input_scale)
    compared = parse_baselines(baselines, () if quick else tuple(training.PRECISIONS), training.PRECISIONS)
    tasks = [
        training.Task(
            name, size, classes, method, optimizer, training.batch_of(name, quick) if batch is None else batch, threads
        )
        for name in names or networks.NETWORKS[: 1 if quick else None]
    ]
    measurement.describe_machine()
    measured = []
    with measurement.progress as progress:
        for task in tasks:
            measured.append(
                training.measure_training(
                    task,
                    compared,
                    training.QUICK if quick else training.FULL,
                    backwards=sides,
                    input_scales=scales,
                    weight_scales=parse_names("weight scale", weight_scale, tuple(WEIGHT_SCALES)),
                    compiled=compiled and not quick,
                    say=lambda text: progress.progress(text, 0, 1),
                    **more,
                )
            )
            if not to_stdout:  # print now: the next network takes minutes
                progress.clear()
                if not measured[1:]:
                    batches = " and ".join(str(size) for size in sorted({task.batch for task in tasks}))
                    show(bench_text.machine(measurement.machine, threads, batches))
                show(f"\n{bench_text.training(measured[-1])}")
    measurement.finish({"threads": threads, "networks": measured}, None)
    if measurement.plot is not None:
        speeds = {
            f"{one['network']}: {entry['name']}": entry["images_per_second"]
            for one in measured
            for entry in one["contenders"]
        }
        title = f"training, {size}x{size} pixels, {optimizer}"
        plots.plot_bars(measurement.plot, speeds, "images/s", title, measurement.caption(tasks[0].batch))
