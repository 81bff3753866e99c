"""The cost of a network, as text."""

from typing import Any

from xnor_ref.cli.options import size_text, table

_COLUMNS = {
    "parameters": "parameters",
    "bits": "binary",
    "macs": "MACs",
    "xnor_macs": "as XNOR",
    "word_ops": "word ops",
    "additions": "as additions",
    "float_bytes": "float32 bytes",
    "packed_bytes": "packed bytes",
}


def summary_text(result: dict[str, Any]) -> str:
    """Return a table of the layers and a list of totals. Columns of zeros are left out."""
    total = result["total"]
    keys = [key for key in _COLUMNS if total[key]]
    rows = [("layer", "kind", "output", *(_COLUMNS[key] for key in keys))]
    for row in result["layers"]:
        shape = "x".join(map(str, row["output_shape"]))
        rows.append((row["name"], row["kind"], shape, *(f"{row[key]:,}" for key in keys)))
    rows.append(("total", "", "", *(f"{total[key]:,}" for key in keys)))
    c, h, w = result["input"]
    title = f"{result['network']} ({result['method']}), {c} channels, {h}x{w} pixels, {result['classes']:,} classes"
    return "\n".join([title, "", table(rows, right=tuple(range(3, 3 + len(keys)))), "", table(_sums(result))])


def _sums(result: dict[str, Any]) -> list[tuple[str, str]]:
    total = result["total"]
    whole, packed, bits = total["float_bytes"], total["packed_bytes"], result["all_binary_bytes"]
    operations = f"{total['macs'] / 1e6:,.1f} M MACs"
    if total["word_ops"]:
        left = total["macs"] - total["xnor_macs"]
        operations += (
            f": {left / 1e6:,.1f} M stay, the others become {total['word_ops'] / 1e6:,.1f} M XNORs and popcounts of "
            "64-bit words"
        )
    elif total["additions"]:
        left = total["macs"] - total["additions"]
        operations += f": {left / 1e6:,.1f} M stay, the others become additions"
    lines = [
        ("parameters", f"{total['parameters']:,}; {_parts(total)}"),
        ("operations", operations),
        ("float32", _bytes(whole)),
        ("packed", f"{_bytes(packed)}, {whole / packed:.1f} times smaller; a model file adds a description"),
        (
            "all binary",
            f"{_bytes(bits)}, as in Figure 4(a): one bit per parameter, 1/64 of double precision, "
            f"{_bytes(result['double_bytes'])}",
        ),
    ]
    if total["norm_channels"]:
        three, four = ((f"{way['parameters']:,}", f"({way['bytes'] / 2**20:,.2f} MiB)") for way in result["otherwise"])
        with_three = f"{three[0]} with 3 numbers per channel of BatchNorm and no biases {three[1]}"
        lines.insert(1, ("others count", f"{with_three}, or {four[0]} with 4 and all biases {four[1]}"))
    return lines


def _parts(total: dict[str, int]) -> str:
    """Return what counts as parameters."""
    norms = f", {total['norms']:,} gammas and betas of {total['norm_channels']:,} channels of BatchNorm"
    bits = f"{total['bits']:,} bits of binary weights"
    return f"{bits}{norms if total['norm_channels'] else ''}, {total['biases']:,} biases"


def _bytes(count: int) -> str:
    """Return a size in decimal and binary units. Papers use both."""
    return f"{size_text(count)} ({count / 2**20:,.2f} MiB)"
