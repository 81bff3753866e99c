"""`bench distributed`: training on several ranks."""

import click

from xnor_ref.cli.bench import bench_options, bench_text
from xnor_ref.cli.bench.bench_options import Measurement
from xnor_ref.cli.group import Command
from xnor_ref.errors import InputError


@click.command(cls=Command, examples=("bench distributed --quick --no-hosts", "bench distributed alexnet --ranks 1,2"))
@click.argument("name", metavar="[NETWORK]", default="vgg-small")
@click.option("--ranks", metavar="N,...", help="Ranks on this machine [1,2,4; 1,2 with --quick].")
@click.option("--images", type=int, default=32, show_default=True, metavar="N", help="Images of a step per rank.")
@click.option("--size", type=int, default=64, show_default=True, metavar="N", help="Pixels a side.")
@click.option("--method", default="xnor", show_default=True, metavar="NAME", help="A method of train.")
@click.option("--compress-gradients", metavar="[sign]", help="As in train.")
@click.option("--hosts/--no-hosts", default=True, help="Also two hosts in network namespaces. Needs root on Linux.")
@click.option(
    "--rate", default="1gbit", show_default=True, metavar="RATE", help="Bandwidth between them, as tc has it."
)
@click.option("--delay", metavar="TIME", help="Delay between them, where tc can (netem), such as 100us.")
@bench_options.measuring(plots=False)
def distributed(
    name: str,
    ranks: str | None,
    images: int,
    size: int,
    method: str,
    compress_gradients: str | None,
    hosts: bool,
    rate: str,
    delay: str | None,
    measurement: Measurement,
) -> None:
    """Measure data-parallel training on 1, 2 and 4 ranks, and on two hosts; compute it for many machines.

    NETWORK is a name that `train --model` takes. The images are random. The table for ImageNet is computed by a cost
    model, not measured; the page docs/distributed.md has the model.
    """
    from xnor_ref.bench.training import distributed as measuring

    try:
        counts = tuple(int(part) for part in ranks.split(",")) if ranks else (1, 2) if measurement.quick else (1, 2, 4)
    except ValueError:
        raise InputError(f"bench: --ranks must be integers, such as 1,2; got {ranks!r}") from None
    if compress_gradients not in (None, "sign"):
        raise InputError(f"--compress-gradients must be sign; got {compress_gradients!r}")
    measurement.prepare(1)
    measuring.mpirun()
    measurement.prepare(1)
    measurement.describe_machine()
    with measurement.progress as progress:
        measured = measuring.measure_distributed(
            name,
            size=size,
            classes=200,
            method=method,
            images=images,
            steps=2 if measurement.quick else 10,
            ranks=counts,
            hosts=hosts,
            rate=rate,
            delay=delay,
            compress=compress_gradients,
            imagenet_images=4 if measurement.quick else 32,
            say=lambda text: progress.progress(text, 0, 1),
        )
    measurement.finish(measured, bench_text.distributed)
