"""What the networks of an experiment cost along the trees of their filters: numbers, a table and a chart.

Filters made at random already need about 2.1 times fewer XNORs along their trees. So the reduction is shown beside that
of random filters of the same shapes; only the part beyond it is due to training.
"""

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xnor_ref.charts.chart import Chart, Figure, Line, Mark
from xnor_ref.charts.files import save
from xnor_ref.compress import costs
from xnor_ref.packed import compressing

PLOT = "frontier.svg"
WITHIN = 0.01  # of top-1: a reduction that costs no more counts as free
_MEANS = ("ratio", "random_ratio", "wired_bits", "entropy_bits", "direct_bits", "tree_xnors", "direct_xnors")


def figures(model: Path) -> dict[str, Any]:
    """Return a packed network's costs along minimum spanning trees: sums of `compress.costs.Costs` over its layers.

    Further keys: random_ratio, the ratio of random filters of the same shapes; tree_bytes and packed_bytes, the weights
    of binary layers as `compress` would write them, and as bits; layers, the ratio, mean distance d/n and depth of
    each. Raises ModelFileError if there is no valid model file, InputError if it has no binary layers.
    """
    made = compressing.compress(*compressing.read(model))
    total = costs.total(layer.costs for layer in made.layers)
    random = sum(layer.random_ratio * layer.costs.direct_xnors for layer in made.layers)
    smaller = [layer.coded for layer in made.layers if layer.stored == "tree" and layer.coded is not None]
    kept = sum(layer.packed_bytes for layer in made.layers if layer.stored == "bits")
    return {
        **total.to_dict(),
        "random_ratio": random / total.direct_xnors,
        "tree_bytes": sum(len(coded) for coded in smaller) + kept,
        "packed_bytes": sum(layer.packed_bytes for layer in made.layers),
        "layers": {
            layer.node.name: {
                "ratio": layer.costs.ratio,
                "mean_distance": layer.tree.mean_fraction if layer.tree else None,
                "depth": layer.costs.depth,
            }
            for layer in made.layers
        },
    }


def mean(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over the runs of a row, and the largest depth."""
    found = [run["compression"] for run in runs]
    means = {key: statistics.fmean(one[key] for one in found) for key in (*_MEANS, "tree_bytes", "packed_bytes")}
    top1 = statistics.fmean(run["top1"] for run in runs)
    halves = [statistics.fmean(half) for half in zip(*(run["halves"] for run in runs))]
    return {**means, "depth": max(one["depth"] for one in found), "top1": top1, "halves": halves}


def lines(results: Mapping[str, Any], heading: str) -> list[str]:
    """Return the table as Markdown, with a sentence on the best row."""
    rows = [
        {
            "row": row["label"],
            "XNORs": f"{of['tree_xnors'] / 1e6:,.1f} M of {of['direct_xnors'] / 1e6:,.1f} M",
            "times fewer": f"{1 / of['ratio']:.2f}",
            "random filters": f"{1 / of['random_ratio']:.2f}",
            "depth": f"{of['depth']}",
            "bits, wired": f"{of['wired_bits'] / of['direct_bits']:.3f}",
            "bits, ideal coder": f"{of['entropy_bits'] / of['direct_bits']:.3f}",
            "kB in a file": f"{of['tree_bytes'] / 1000:,.1f} of {of['packed_bytes'] / 1000:,.1f}",
            "top-1": f"{100 * of['top1']:.1f}",
        }
        for row, of in _rows(results)
    ]
    return [
        f"{heading} Along the trees",
        "",
        *table(list(rows[0]), [list(row.values()) for row in rows]),
        "",
        "XNORs of one image in the binary layers, along minimum spanning trees and directly; random filters: the same "
        "factor for random filters of the same shapes, so this much is not due to training; bits: of the weights, for "
        "one bit a weight; see docs/compression.md.",
        "",
        _best(results),
    ]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def _best(results: Mapping[str, Any]) -> str:
    rows = list(_rows(results))
    if not rows or rows[0][0]["name"] != rows[0][0]["base"]:
        return "The row without a pull is not finished, so there is nothing to compare with."
    base = rows[0][1]
    free = [(row, of) for row, of in rows[1:] if of["halves"][0] >= base["halves"][0] - WITHIN]
    if not free:
        return (
            f"No other row is finished that lies within {100 * WITHIN:g} point of the first one on half of the images."
        )
    row, of = min(free, key=lambda pair: pair[1]["ratio"])
    return (
        f"The fewest XNORs within {100 * WITHIN:g} point of the first row: {row['label']}, {1 / of['ratio']:.2f} times "
        f"fewer ({base['ratio'] / of['ratio']:.2f} times fewer than the first row, "
        f"{of['random_ratio'] / of['ratio']:.2f} times fewer than random filters), top-1 "
        f"{100 * (of['halves'][1] - base['halves'][1]):+.1f} points. The row was chosen on one half of the validation "
        "images and is scored on the other."
    )


def _rows(results: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the rows that have finished runs, with their means."""
    for row in results["rows"]:
        if row["runs"]:
            yield row, mean(row["runs"])


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Plot top-1 against the reduction of XNORs and against the bits of weights. Raises OutputError."""
    rows = list(_rows(results))
    left: list[Mark] = []
    right: list[Mark] = []
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row, of in rows:
        pulled = row["settings"].get("mst_lambda", 0)
        kinds.setdefault(row["settings"].get("mst_pull", "tree") if pulled else "not pulled", []).append(of)
    for number, (kind, points) in enumerate(kinds.items()):
        points.sort(key=lambda of: -of["ratio"])
        top1 = [100 * of["top1"] for of in points]
        wired, coded = ([of[key] / of["direct_bits"] for of in points] for key in ("wired_bits", "entropy_bits"))
        left.append(Line([1 / of["ratio"] for of in points], top1, kind, number, dots=True))
        right.append(Line(coded, top1, f"{kind}, ideal coder", number, dots=True))
        right.append(Line(wired, top1, f"{kind}, wired", number, "2,3", dots=True))
    free, scores = 1 / rows[0][1]["random_ratio"], [100 * of["top1"] for _, of in rows]
    reach = min(scores) - 1, max(scores) + 1
    left.append(Line((free, free), reach, "random filters", -1, "5,4"))
    right.append(Line((1 / free, 1 / free), reach, "random filters, wired", -1, "5,4"))
    size = 560, 420
    charts = [
        Chart(results["title"], left, "times fewer XNORs", "top-1, %", y_range=reach, size=size),
        Chart("bits of weights", right, "bits for one of a weight", "top-1, %", y_range=reach, size=size),
    ]
    save(Figure(charts, 2), path)
