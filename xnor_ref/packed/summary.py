"""The cost of a network by layer, before training: parameters, bits, operations, bytes.

A multiply-accumulate (MAC) is one tap of one output. If weights and inputs are binary, MACs become XNOR and popcount on
words of 64 channels. If only the weights are binary, MACs become additions and subtractions. Figure 4(a) of Rastegari
et al. 2016 compares double precision with one bit for every parameter. A packed file really holds bits for binary
weights and float32 for the rest.
"""

import math
from typing import Any

from xnor_ref import nn
from xnor_ref.kernels.basics.layout import n_words
from xnor_ref.models import Network
from xnor_ref.nn.layers.binary_layers import BinaryLayer
from xnor_ref.nn.layers.real_layers import BatchNorm
from xnor_ref.packed.freeze import freeze
from xnor_ref.packed.shapes import Shape, output_shape

COUNTS = (
    "parameters", "biases", "norm_channels", "norms", "latent", "bits", "macs", "xnor_macs", "word_ops", "additions",
    "float_bytes", "packed_bytes",
)  # fmt: skip


def summarise(network: Network) -> dict[str, Any]:
    """Return the costs of a network of `models.build`, for one image.

    Returns
    -------
    dict of JSON values
        "network", "method", "input" (C, H, W), "classes".
        "layers": a dict for each layer that has parameters or changes the shape, with "name", "kind", "output_shape"
        and these counts. "parameters" are all parameters. Of these, "biases" are added to outputs, "norms" are the
        gammas and betas of the "norm_channels" of BatchNorm (running statistics are not parameters), and "latent" ones
        become "bits", `weight_bits` each. "macs" are all multiply-accumulates. Of these, "xnor_macs" are computed by
        "word_ops" XNORs and popcounts of 64-bit words, and "additions" by additions alone. "float_bytes" is the size of
        the parameters in float32, "packed_bytes" their size in a model file. "total": the sums. "double_bytes" and
        "all_binary_bytes": every parameter as 8 bytes, and as one bit. "otherwise": parameters and bytes as other
        authors count, with three or four "numbers" per channel of BatchNorm, with or without "biases". There a bit
        takes 1/8 byte and every other number 4 bytes.
    """
    config = network.config
    shape = config["in_channels"], config["image_size"], config["image_size"]
    frozen = freeze(network, mean=0.5, std=0.5)
    packed = {row["name"]: row["bytes"] for row in frozen.summary()}
    rows: list[dict[str, Any]] = []
    _walk(network, "", shape, rows)
    for row in rows:
        row["packed_bytes"] = sum(packed.get(name, 0) for name in (row["name"], f"{row['name']}.bias"))
    total = {key: sum(row[key] for row in rows) for key in COUNTS}
    return {
        "network": config["name"],
        "method": config["method"],
        "input": list(shape),
        "classes": config["num_classes"],
        "layers": rows,
        "total": total,
        "double_bytes": 8 * total["parameters"],
        "all_binary_bytes": -(-total["parameters"] // 8),
        "otherwise": [_counted(total, *way) for way in ((3, False), (4, True))],
    }


def _counted(total: dict[str, int], numbers: int, biases: bool) -> dict[str, Any]:
    count = total["parameters"] - total["norms"] + numbers * total["norm_channels"]
    count -= 0 if biases else total["biases"]
    nbytes = -(-total["bits"] // 8) + 4 * (count - total["latent"])
    return {"numbers": numbers, "biases": biases, "parameters": count, "bytes": nbytes}


def _walk(module: nn.Module, name: str, shape: Shape, rows: list[dict[str, Any]]) -> Shape:
    """Append the rows of a module and its children. Return its output shape for one image of `shape`."""
    prefix = f"{name}." if name else ""
    if isinstance(module, nn.Sequential):
        for child, layer in module.children():
            shape = _walk(layer, prefix + child, shape, rows)
        return shape
    if isinstance(module, nn.Residual):
        result = _walk(module.body, f"{prefix}body", shape, rows)
        if module.shortcut is not None:
            _walk(module.shortcut, f"{prefix}shortcut", shape, rows)
        return result
    result = output_shape(module, shape)
    row = {"name": name, "kind": type(module).__name__, "output_shape": list(result), **_counts(module, result)}
    if row["parameters"] or row["norm_channels"] or result != shape:
        rows.append(row)
    return result


def _counts(module: nn.Module, result: Shape) -> dict[str, int]:
    own = list(module.parameters())
    parameters = sum(parameter.size for parameter in own)
    latent = sum(parameter.size for parameter in own if parameter.latent)
    norm = isinstance(module, BatchNorm)
    bias = None if norm else getattr(module, "bias", None)
    weight = getattr(module, "weight", None)
    macs = 0
    if isinstance(weight, nn.Parameter) and weight.ndim > 1:
        macs = math.prod(weight.shape[1:]) * math.prod(result)
    weight_bits, input_bits = (getattr(module, f"{side}_bits", 1) for side in ("weight", "input"))
    words = 0
    if isinstance(module, nn.BinaryConv2d):
        words = math.prod(module.kernel_size) * n_words(module.in_channels // module.groups)
    elif isinstance(module, nn.BinaryLinear):
        words = n_words(module.in_features)
    return {
        "parameters": parameters,
        "biases": bias.size if isinstance(bias, nn.Parameter) else 0,
        "norm_channels": module.channels if isinstance(module, BatchNorm) else 0,
        "norms": parameters if norm else 0,
        "latent": latent,
        "bits": weight_bits * latent,
        "macs": macs,
        "xnor_macs": macs if words else 0,
        "word_ops": words * math.prod(result) * weight_bits * input_bits,
        "additions": macs if isinstance(module, BinaryLayer) and not words else 0,
        "float_bytes": 4 * parameters,
    }
