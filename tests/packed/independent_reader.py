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
    if description["format"] != "xnor_ref packed network" or description["version"] not in (1, 2, 3, 4, 5, 6):
        raise ValueError("not a packed network of version 1 to 6")
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


class Coder:
    """The arithmetic decoder of layers along trees."""

    def __init__(self, stream):
        self.bytes = iter(stream.tolist())
        self.code, self.range = int.from_bytes([next(self.bytes) for _ in range(4)], "big"), 2**32

    def narrow(self, start, size):
        self.code, self.range = self.code - start, size
        while self.range < 2**24:
            self.code, self.range = 256 * self.code + next(self.bytes), 256 * self.range

    def one_of(self, k):
        step = self.range // k
        value = min(self.code // step, k - 1)
        self.narrow(value * step, step if value < k - 1 else self.range - value * step)
        return value

    def differs(self, ones, left):
        same = self.range * (left - ones) // left
        differs = self.code >= same
        self.narrow(same if differs else 0, self.range - same if differs else same)
        return differs


def rows_along_tree(stream, channels, n):
    """Signs +1 and -1, (channels, n)."""
    coder = Coder(stream)
    parent = [coder.one_of(channels) for _ in range(channels)]
    factor = np.ones((channels, n))  # from the parent's signs to one's own
    for o in range(channels):
        if parent[o] != o and coder.one_of(2):
            factor[o] = -1
        ones = coder.one_of(n + 1)
        for i in range(n):
            left = n - i
            if ones and (ones == left or coder.differs(ones, left)):
                factor[o, i] *= -1
                ones -= 1
    if coder.code or list(coder.bytes) or sum(parent[o] == o for o in range(channels)) != 1:
        raise ValueError("not a layer along a tree")

    def row(o):
        return factor[o] * (-1 if parent[o] == o else row(parent[o]))

    return np.stack([row(o) for o in range(channels)])


def windows(x, node, kernel, border):
    """(N, C, H, W) to (N, C, OH, OW, KH, KW)."""
    pads = [(side, side) if isinstance(side, int) else side for side in node.get("padding", [0, 0])]
    (sy, sx), (dy, dx) = node.get("stride", [1, 1]), node.get("dilation", [1, 1])
    extent = dy * (kernel[0] - 1) + 1, dx * (kernel[1] - 1) + 1
    x = np.pad(x, ((0, 0), (0, 0), *pads), constant_values=border)
    return np.lib.stride_tricks.sliding_window_view(x, extent, (2, 3))[:, :, ::sy, ::sx, ::dy, ::dx]


def convolve(x, weight, node, border=0.0):
    """Group by group."""
    view, size, groups = windows(x, node, weight.shape[2:], border), weight.shape[1], node.get("groups", 1)
    parts = [view[:, g * size : (g + 1) * size] for g in range(groups)]
    sums = (np.einsum("nchwij,ocij->nohw", v, w, optimize=True) for v, w in zip(parts, np.split(weight, groups)))
    return np.concatenate(list(sums), axis=1)


def per_channel(values, x):
    return values.reshape(-1, *(1,) * (x.ndim - 2))


def images(node, x):
    """x as images, and channels and taps of a filter."""
    x4 = x if x.ndim == 4 else x[:, :, None, None]
    return x4, x4.shape[1] // node.get("groups", 1), node.get("kernel_size", [1, 1])


def binary(node, t, x):
    x4, channels, kernel = images(node, x)
    taps = kernel[0] * kernel[1]
    if "tree" in t:
        rows = rows_along_tree(t["tree"], node["out_channels"], channels * taps)
    else:
        rows = signs(t["bits"], channels * taps)
    weight = rows.reshape(-1, *kernel, channels).transpose(0, 3, 1, 2)
    positive = x4 >= 0
    if "threshold" in t:
        threshold = per_channel(t["threshold"], x4)
        positive = np.where(per_channel(t["flip"], x4) == 1, x4 <= threshold, x4 >= threshold)
    y = convolve(np.where(positive, 1.0, -1.0), weight, node, node.get("pad_value", 0)).astype(np.float32)
    return scaled(node, t, x, x4, y)


def scaled(node, t, x, x4, y):
    """y times alpha and K."""
    kernel = node.get("kernel_size", [1, 1])
    if "alpha" in t:
        y = y * per_channel(t["alpha"], y)
    if node["input_scale"] != "off":
        of_groups = np.abs(x4.astype(np.float64)).reshape(len(x4), node.get("groups", 1), -1, *x4.shape[2:])
        mean = of_groups.mean(axis=2)
        total = windows(mean, node, kernel, 0).sum(axis=(4, 5))
        inside = windows(np.ones_like(mean), node, kernel, 0).sum(axis=(4, 5))
        taps = np.maximum(inside, 1) if node["input_scale"] == "valid" else kernel[0] * kernel[1]
        k = (total / taps).astype(np.float32)
        y = y * np.repeat(k, y.shape[1] // k.shape[1], axis=1)
    return y if x.ndim == 4 else y[:, :, 0, 0]


def kbit(node, t, x):
    x4, channels, kernel = images(node, x)
    top = 2 ** node["input_bits"] - 1
    rows = sum(2**p * signs(plane, channels * kernel[0] * kernel[1]) for p, plane in enumerate(t["bits"]))
    weight = rows.reshape(-1, *kernel, channels).transpose(0, 3, 1, 2)
    m = 2 * np.floor(np.clip(x4, -1, 1) * np.float32(top / 2)).astype(np.float64) + 1
    m = np.where(x4 >= 0, 1.0, -1.0) if top == 1 else m
    if node.get("input_levels", "even") == "ternary":
        m, top = np.sign(x4) * (np.abs(x4) > 0.5), 1
    return scaled(node, t, x, x4, convolve(m, weight, node, top * node.get("pad_value", 0)).astype(np.float32))


def sign_weight(node, t, x):
    x4, channels, kernel = images(node, x)
    rows = signs(t["bits"], channels * kernel[0] * kernel[1]).astype(np.float32)
    view = windows(x4, node, kernel, 0)
    y = np.zeros((len(x4), len(rows), *view.shape[2:4]), np.float32)
    group = np.arange(len(rows)) * node.get("groups", 1) // len(rows)  # of each filter
    for bit, sign in enumerate(rows.T):
        tap, c = divmod(bit, channels)
        y += view[..., tap // kernel[1], tap % kernel[1]][:, group * channels + c] * per_channel(sign, y)
    y = y * per_channel(t["alpha"], y) if "alpha" in t else y
    return y if x.ndim == 4 else y[:, :, 0, 0]


def scale(node, t, x):
    channel = per_channel(t.get("channel", np.float32([1])), x)
    if x.ndim == 2:
        return x * channel
    if "row" in t:
        return x * (channel * t["row"][:, None] * t["column"])
    return x * (t["map"] if "map" in t else channel * t["plane"])


def conv2d(node, t, x):
    y = convolve(x, t["weight"], node)
    return y + per_channel(t["bias"], y) if "bias" in t else y


def pool(node, x, border):
    return windows(x, node, node["kernel"], border)


def taps(node, x):
    """How many of each window count in a mean."""
    return pool(node, np.ones_like(x), node.get("count_include_pad", 1)).sum(axis=(4, 5))


OPS = {
    "conv2d": conv2d,
    "linear": lambda node, t, x: x @ t["weight"].T + t.get("bias", np.float32(0)),
    "affine": lambda node, t, x: x * per_channel(t["scale"], x) + per_channel(t["shift"], x),
    "relu": lambda node, t, x: np.maximum(x, 0),
    "prelu": lambda node, t, x: np.where(x >= 0, x, per_channel(t["slope"], x) * x),
    "hardtanh": lambda node, t, x: np.clip(x, -1, 1),
    "max_pool": lambda node, t, x: pool(node, x, -np.inf).max(axis=(4, 5)),
    "avg_pool": lambda node, t, x: pool(node, x, 0).sum(axis=(4, 5)) / taps(node, x),
    "global_avg_pool": lambda node, t, x: x.mean(axis=(2, 3), dtype=np.float64).astype(np.float32),
    "flatten": lambda node, t, x: x.reshape(len(x), -1),
    "add": lambda node, t, x, y: x + y,
    "binary_conv2d": binary,
    "binary_linear": binary,
    "sign": lambda node, t, x: np.where(x >= 0, 1, -1),
    "scale": scale,
    "sign_weight_conv2d": sign_weight,
    "sign_weight_linear": sign_weight,
    "kbit_conv2d": kbit,
    "kbit_linear": kbit,
    "concat": lambda node, t, *x: np.concatenate(x, axis=1),
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
