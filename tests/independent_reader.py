"""A reader of packed model files in NumPy alone, written from docs/model-format.md; no code of the project is used.

Run it by hand as `python independent_reader.py FILE` to see the graph of a file.
"""

import hashlib
import json
import sys

import numpy as np

DTYPES = {"F32": "<f4", "U64": "<u8", "U8": "u1"}


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def read(path):
    with open(path, "rb") as file:
        content = file.read()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    description = json.loads(header.pop("__metadata__")["xnor_ref"])
    if (description["format"], description["version"]) != ("xnor_ref packed network", 1):
        raise ValueError("not a packed network of version 1")
    tensors, listed, blobs = {}, [], []
    for name in sorted(header):
        entry = header[name]
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
        listed.append([name, tensors[name].dtype.name, entry["shape"]])
        blobs.append(data[begin:end])
    digest = description.pop("digest")
    if digest != hashlib.sha256(canonical({"metadata": description, "tensors": listed}) + b"".join(blobs)).hexdigest():
        raise ValueError("altered")
    return description, tensors


def signs(words, n):
    """Words (rows, ceil(n/64)) to +1 and -1 (rows, n)."""
    bits = words[:, np.arange(n) // 64] >> (np.arange(n) % 64).astype(np.uint64) & np.uint64(1)
    return np.where(bits == 1, 1.0, -1.0)


def windows(x, kernel, stride, padding, border):
    """(N, C, H, W) to (N, C, OH, OW, KH, KW)."""
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2), constant_values=border)
    return np.lib.stride_tricks.sliding_window_view(x, kernel, (2, 3))[:, :, :: stride[0], :: stride[1]]


def convolve(x, weight, stride, padding, border=0.0):
    return np.einsum("nchwij,ocij->nohw", windows(x, weight.shape[2:], stride, padding, border), weight, optimize=True)


def per_channel(values, x):
    return values.reshape(-1, *(1,) * (x.ndim - 2))


def binary(node, t, x):
    x4 = x if x.ndim == 4 else x[:, :, None, None]
    kernel = node.get("kernel_size", [1, 1])
    stride, padding = node.get("stride", [1, 1]), node.get("padding", [0, 0])
    channels, taps = x4.shape[1], kernel[0] * kernel[1]
    weight = signs(t["bits"], channels * taps).reshape(-1, *kernel, channels).transpose(0, 3, 1, 2)
    positive = x4 >= 0
    if "threshold" in t:
        threshold = per_channel(t["threshold"], x4)
        positive = np.where(per_channel(t["flip"], x4) == 1, x4 <= threshold, x4 >= threshold)
    y = convolve(np.where(positive, 1.0, -1.0), weight, stride, padding, node.get("pad_value", 0)).astype(np.float32)
    if "alpha" in t:
        y = y * per_channel(t["alpha"], y)
    if node["input_scale"] != "off":
        mean = np.abs(x4.astype(np.float64)).mean(axis=1, keepdims=True)
        total = windows(mean, kernel, stride, padding, 0).sum(axis=(4, 5))
        inside = windows(np.ones_like(mean), kernel, stride, padding, 0).sum(axis=(4, 5))
        y = y * (total / (np.maximum(inside, 1) if node["input_scale"] == "valid" else taps)).astype(np.float32)
    return y if x.ndim == 4 else y[:, :, 0, 0]


def conv2d(node, t, x):
    size = t["weight"].shape[1]
    parts = np.split(t["weight"], node["groups"])
    y = [convolve(x[:, g * size : (g + 1) * size], w, node["stride"], node["padding"]) for g, w in enumerate(parts)]
    y = np.concatenate(y, axis=1)
    return y + per_channel(t["bias"], y) if "bias" in t else y


def pool(node, x, border):
    return windows(x, node["kernel"], node["stride"], node["padding"], border)


OPS = {
    "conv2d": conv2d,
    "linear": lambda node, t, x: x @ t["weight"].T + t.get("bias", np.float32(0)),
    "affine": lambda node, t, x: x * per_channel(t["scale"], x) + per_channel(t["shift"], x),
    "relu": lambda node, t, x: np.maximum(x, 0),
    "prelu": lambda node, t, x: np.where(x >= 0, x, per_channel(t["slope"], x) * x),
    "hardtanh": lambda node, t, x: np.clip(x, -1, 1),
    "max_pool": lambda node, t, x: pool(node, x, -np.inf).max(axis=(4, 5)),
    "avg_pool": lambda node, t, x: pool(node, x, 0).mean(axis=(4, 5)),
    "global_avg_pool": lambda node, t, x: x.mean(axis=(2, 3), dtype=np.float64).astype(np.float32),
    "flatten": lambda node, t, x: x.reshape(len(x), -1),
    "add": lambda node, t, x, y: x + y,
    "binary_conv2d": binary,
    "binary_linear": binary,
}


def logits(path, pixels):
    """uint8 (N, H, W, C) to float32 (N, classes)."""
    description, tensors = read(path)
    mean, std = (np.array(description["input"][key]) for key in ("mean", "std"))
    results = [((pixels / 255 - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)]  # the image is results[-1 + 1]
    for node in description["graph"]:
        own = {key.rpartition(".")[2]: t for key, t in tensors.items() if key.rpartition(".")[0] == node["name"]}
        y = OPS[node["op"]](node, own, *(results[index + 1] for index in node["inputs"]))
        results.append(np.ascontiguousarray(y, np.float32))
    return results[-1]


if __name__ == "__main__":
    for each in read(sys.argv[1])[0]["graph"]:
        print(each)
