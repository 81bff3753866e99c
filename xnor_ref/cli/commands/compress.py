"""`compress`: write a model file whose binary layers are stored along trees of their output channels."""

from pathlib import Path
from typing import Any

import click

from xnor_ref.cli import options
from xnor_ref.cli.group import Command
from xnor_ref.cli.text import show
from xnor_ref.errors import EquivalenceError, InputError

_UNITS = ("", "k", "M", "G", "T")


@click.command(
    cls=Command,
    examples=(
        "compress runs/shapes-shapes-net-xnor-0/model.safetensors",
        "compress runs/shapes-shapes-net-xnor-0 -o small.safetensors --report --json costs.json",
    ),
)
@click.argument("model", metavar="MODEL|RUN")
@click.option("-o", "--output", metavar="FILE", help="The model file to write.")
@click.option("--force", is_flag=True, help="Overwrite FILE if it is a model file.")
@click.option("--report", is_flag=True, help="Print a table of costs by layer [only without -o].")
@click.option("--json", "json_file", metavar="FILE", help="Write the report as JSON. - prints it instead of text.")
@click.option(
    "--plot", metavar="FILE", help="Write a chart of a layer's tree: .svg, or .png or .pdf, which need matplotlib."
)
@click.option("--layer", metavar="NAME", help="The layer to draw [the one with the most channels].")
@click.option("--tree", type=click.Choice(["mst", "star"]), default="mst", show_default=True, help="Kind of tree.")
@click.option("--complement", is_flag=True, help="A channel may also be computed from another channel's negative.")
@click.option(
    "--store",
    type=click.Choice(["auto", "tree"]),
    default="auto",
    show_default=True,
    help="Which layers to store along trees. auto: those that get smaller; tree: all that have a tree.",
)
@click.option("--measure", is_flag=True, help="Time every layer on this machine, directly and along its tree.")
@options.field_options("threads")
def command(model: str, output: str | None, force: bool, report: bool, json_file: str | None, **values: Any) -> None:
    """Store a network's binary layers along trees of their output channels.

    The method is MST-compression. Filters that differ in few weights can be computed from each other, along a minimum
    spanning tree over the output channels. The new file gives the same answers, bit for bit. Layers that would not
    become smaller stay as bits. The report gives each layer's cost in operations and bits, and says which stayed.
    """
    from xnor_ref.packed import compressing

    if force and output is None:
        raise InputError("--force needs -o, the file to overwrite")
    if values["layer"] is not None and values["plot"] is None:
        raise InputError("--layer needs --plot: it names the layer to draw")
    options.use_threads(values["threads"])
    path = Path(model)
    path = path / "model.safetensors" if path.is_dir() else path
    target = None if output is None else options.model_target(output, force)
    options.check_results(json_file, values["plot"], ("model", "layers", "total"), target)
    metadata, tensors, network = compressing.read(path)
    made = compressing.compress(
        metadata, tensors, network, kind=values["tree"], complement=values["complement"], store=values["store"]
    )
    result = _result(path, made.layers)
    if values["measure"]:
        for row, layer in zip(result["layers"], made.layers, strict=True):
            row["measured"] = _measured(layer)
    if values["plot"]:
        _plot(values["plot"], values["layer"], made.layers)
    if target is not None:
        result["output"] = _write(target, made, metadata, tensors)
    if options.write_json(result, json_file):
        return
    parts = [_table(result)] if report or target is None else []
    if any(row.get("measured") for row in result["layers"]):
        parts.append(_times(result["layers"]))
    if "output" in result:
        parts.append(_written(result))
    show("\n\n".join(parts))


def _write(target: Path, made: Any, metadata: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """Save the new network, read it back, and compare its answers with those of the old one."""
    import numpy as np

    from xnor_ref.packed import PackedNetwork, load_packed

    before, after = PackedNetwork(metadata, tensors), PackedNetwork(made.metadata, made.tensors)
    channels, height, width = before.input_shape
    images = np.random.default_rng(0).integers(0, 256, (4, height, width, channels), np.uint8)
    known = before.logits(images)
    if np.array_equal(after.logits(images), known):
        after.save(target)
        if np.array_equal(load_packed(target).logits(images), known):
            return {"file": str(target), "bytes": target.stat().st_size, "images_compared": len(images)}
    raise EquivalenceError(f"{target}: its answers differ from those of the original network")


def _plot(file: str, name: str | None, layers: Any) -> None:
    from xnor_ref.compress.plot import plot_tree

    trees = {layer.node.name: layer.tree for layer in layers}
    if name is None:
        name = max(layers, key=lambda layer: len(layer.rows)).node.name
    if name not in trees:
        raise InputError(f"--layer {name!r} is not a binary layer; choose one of {', '.join(trees)}")
    if trees[name] is None:
        raise InputError(f"--layer {name} has one output channel, so it has no tree")
    plot_tree(trees[name], file, name)


def _measured(layer: Any) -> dict[str, Any] | None:
    """Time a layer on one image (a linear layer on 64 samples), with the current number of threads."""
    from xnor_ref.compress.measure import layer_times
    from xnor_ref.kernels.basics.geometry import Window
    from xnor_ref.kernels.basics.threads import get_threads

    if layer.tree is None:
        return None
    given = layer.node.step.arguments
    words = given["words"] if "window" in given else given["words"][:, None, None]
    channels, *size = layer.input_shape
    how = given.get("window", Window((1, 1))), given.get("pad_value", 0)
    return layer_times(words, channels, layer.tree, tuple(size) or (1, 64), *how) | {"threads": get_threads()}


# --- what is shown ---------------------------------------------------------------------------------------------


def _result(path: Path, layers: Any) -> dict[str, Any]:
    from xnor_ref.compress import costs
    from xnor_ref.compress.codec import other_codings

    rows = []
    for layer in layers:
        tree = layer.tree
        rows.append(
            {
                "name": layer.node.name,
                "op": layer.node.op,
                "out_channels": len(layer.rows),
                "n_bits": layer.n_bits,
                "costs": layer.costs.to_dict(),
                "star_ratio": layer.star_ratio,
                "random_ratio": layer.random_ratio,
                "mean_distance": tree.mean_fraction if tree else None,
                "words_touched": costs.touched_words(layer.rows, tree) if tree else None,
                "parent": tree.parent.tolist() if tree else None,
                "negated": tree.negated.astype(int).tolist() if tree else None,
                "distance": tree.distance.tolist() if tree else None,
                "stored": layer.stored,
                "note": layer.note,
                "bytes": {
                    "bits": layer.packed_bytes,
                    "tree": None if layer.coded is None else len(layer.coded),
                    **({key: n for key, n in other_codings(layer.rows, tree).items() if key != "bits"} if tree else {}),
                },
            }
        )
    total = costs.total(layer.costs for layer in layers).to_dict()
    return {"model": str(path), "bytes": path.stat().st_size, "layers": rows, "total": total}


def _table(result: dict[str, Any]) -> str:
    head = ("layer", "channels", "weights", "mean d/n", "depth", "XNORs", "along", "rho", "star", "random", "bytes", "")
    rows: list[tuple[str, ...]] = [head]
    for row in result["layers"]:
        costs, sizes = row["costs"], row["bytes"]
        mean = "-" if row["mean_distance"] is None else f"{row['mean_distance']:.3f}"
        shape = f"{row['out_channels']}", f"{row['n_bits']:,}", mean, f"{costs['depth']}"
        xnors = (options.scaled(costs[key], _UNITS) for key in ("direct_xnors", "tree_xnors"))
        ratios = (f"{ratio:.3f}" for ratio in (costs["ratio"], row["star_ratio"], row["random_ratio"]))
        note = f"of {sizes['bits']:,}" if row["stored"] == "tree" else f"as bits: {row['note']}"
        rows.append((row["name"], *shape, *xnors, *ratios, f"{sizes[row['stored']]:,}", note))
    total = result["total"]
    lines = [
        f"{result['model']}, {options.size_text(result['bytes'])}",
        "",
        options.table(rows, right=tuple(range(1, 11))),
        "",
        f"XNORs an image: {total['direct_xnors']:,} directly; {total['tree_xnors']:,} and {total['tree_adds']:,} "
        f"additions along the trees: rho {total['ratio']:.3f}, {1 / total['ratio']:.2f} times fewer",
        "(column 'random' is the rho of random filters of the same shapes, without any training)",
        f"weights: {total['direct_bits']:,} bits; {total['wired_bits']:,} with positions wired, "
        f"{total['positions_bits']:,} with positions as numbers, {total['entropy_bits']:,.0f} by an ideal coder",
        f"results of parents read again: {total['reads']:,}, {total['read_bits'] / 8:,.0f} bytes; deepest tree "
        f"{total['depth']} levels",
    ]
    return "\n".join(lines)


def _times(layers: list[dict[str, Any]]) -> str:
    measured = [row for row in layers if row.get("measured")]
    names = list(measured[0]["measured"]["seconds"])
    direct = list(measured[0]["measured"]["crossover"])
    rows = [("layer", *names, *(f"crossover, {name.removeprefix('direct ')}" for name in direct))]
    for row in measured:
        times, cross = row["measured"]["seconds"], row["measured"]["crossover"]
        cells = (f"{times[name] * 1e6:.0f} us" for name in names)
        rows.append((row["name"], *cells, *(_crossover(cross[name]) for name in direct)))
    threads = measured[0]["measured"]["threads"]
    return (
        f"times of one image on {threads} thread{'s' if threads > 1 else ''}, packed signs to integers; crossover: "
        f"the mean d/n below which a tree is faster\n\n{options.table(rows, right=range(1, 99))}"
    )


def _crossover(value: float) -> str:
    return "never" if value == 0 else "always" if value == 0.5 else f"{value:.3f}"


def _written(result: dict[str, Any]) -> str:
    output = result["output"]
    held = sum(row["stored"] == "tree" for row in result["layers"])
    lines = [
        f"{output['file']}: {options.size_text(output['bytes'])}, from {options.size_text(result['bytes'])}; "
        f"{held} of {len(result['layers'])} binary layers stored along trees",
        f"read back and compared on {output['images_compared']} images: the same answers, bit for bit",
    ]
    if not held:
        lines.append("no layer got smaller along its tree: the weights are stored as before")
    return "\n".join(lines)
