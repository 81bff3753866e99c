"""`bench scale`: training on small and large data sets."""

import click

from xnor_ref.cli.bench import bench_options, bench_text
from xnor_ref.cli.bench.bench_options import Measurement
from xnor_ref.cli.group import Command
from xnor_ref.errors import InputError


@click.command(cls=Command, examples=("bench scale", "bench scale resnet18 --images 1000,10000"))
@click.argument("name", metavar="[NETWORK]", default="vgg-small")
@click.option("--images", metavar="N,...", help="Sizes of the data sets [10000,100000].")
@click.option("--epochs", type=int, metavar="N", help="Epochs on the smallest data set [5].")
@click.option("--batch", type=int, default=64, show_default=True, metavar="N", help="Images per step.")
@click.option("--threads", type=int, metavar="N", help="Threads of every process [all processors].")
@bench_options.measuring(plots=False)
def scale(
    name: str, images: str | None, epochs: int | None, batch: int, threads: int | None, measurement: Measurement
) -> None:
    """Measure training on data sets of different sizes: speed, in turns, and memory after each epoch.

    NETWORK is a name that `train --model` takes, here for 64x64 pixels. The images are random, in a temporary file.
    """
    from xnor_ref.bench.training import scale as measuring
    from xnor_ref.bench.training import train as training
    from xnor_ref.kernels.basics.threads import get_threads

    threads = get_threads() if threads is None else threads
    quick = measurement.quick
    try:
        usual = measuring.QUICK_COUNTS if quick else measuring.COUNTS
        counts = tuple(int(part) for part in images.split(",")) if images else usual
    except ValueError:
        raise InputError(f"bench: --images must be integers, such as 1000,10000; got {images!r}") from None
    measurement.prepare(threads)
    measurement.describe_machine()
    with measurement.progress as progress:
        measured = measuring.measure_scale(
            training.Task(name, batch=batch, threads=threads),
            counts,
            training.QUICK if quick else training.FULL,
            (2 if quick else measuring.EPOCHS) if epochs is None else epochs,
            say=lambda text: progress.progress(text, 0, 1),
        )
    measurement.finish({"threads": threads, **measured}, bench_text.scale)
