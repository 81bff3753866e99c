"""Small packed networks with random numbers in them, for the tests of the file and the runtime."""

import numpy as np

from xnor_ref.packed.ops import compact_bits
from xnor_ref.packed.thresholds import fold_threshold


class Sample:
    """Collects nodes; each method appends one and gives its position."""

    def __init__(self, shape=(3, 9, 8), classes=5, seed=0):
        self.rng = np.random.default_rng(seed)
        self.tensors = {}
        self.metadata = {
            "format": "xnor_ref packed network",
            "version": 1,
            "input": {
                "channels": shape[0],
                "height": shape[1],
                "width": shape[2],
                "mean": [0.4, 0.5, 0.6, 0.3][: shape[0]],
                "std": [0.2, 0.25, 0.3, 0.22][: shape[0]],
            },
            "classes": [f"class {i}" for i in range(classes)],
            "graph": [],
            "producer": {"test": "1"},
            "training": {"epochs": 3},
            "data_sha256": "0" * 64,
        }

    def node(self, op, inputs=None, tensors=None, **attributes):
        index = len(self.metadata["graph"])
        name = f"n{index}.{op}"
        inputs = [index - 1] if inputs is None else inputs
        self.metadata["graph"].append({"op": op, "name": name, "inputs": inputs, **attributes})
        self.tensors |= {f"{name}.{field}": array for field, array in (tensors or {}).items()}
        return index

    def normal(self, *shape):
        return self.rng.normal(size=shape).astype(np.float32)

    def conv2d(self, c, o, k=3, stride=1, padding=1, groups=1, bias=True, inputs=None, **more):
        tensors = {"weight": self.normal(o, c // groups, k, k)}
        if bias:
            tensors["bias"] = self.normal(o)
        padding = padding if isinstance(padding, list) else [padding] * 2
        attributes = {"stride": [stride] * 2, "padding": padding, "groups": groups} | more
        return self.node("conv2d", inputs, tensors, **attributes)

    def linear(self, i, o, bias=True, inputs=None):
        tensors = {"weight": self.normal(o, i) / np.float32(np.sqrt(i))}
        if bias:
            tensors["bias"] = self.normal(o)
        return self.node("linear", inputs, tensors)

    def affine(self, c, inputs=None):
        return self.node("affine", inputs, {"scale": self.normal(c), "shift": self.normal(c)})

    def _binary_tensors(self, weight, features, alpha, threshold):
        tensors = {"bits": compact_bits(weight)}
        if alpha:
            tensors["alpha"] = np.abs(self.normal(len(weight)))
        if threshold:
            found, flip = fold_threshold(self.normal(features), self.normal(features))
            tensors |= {"threshold": found, "flip": flip.astype(np.uint8)}
        return tensors

    def binary_conv2d(
        self,
        c,
        o,
        k=(3, 3),
        stride=(1, 1),
        padding=(1, 1),
        pad_value=0,
        scale="plain",
        alpha=True,
        threshold=False,
        **geometry,
    ):
        tensors = self._binary_tensors(self.normal(o, c // geometry.get("groups", 1), *k), c, alpha, threshold)
        return self.node(
            "binary_conv2d",
            None,
            tensors,
            in_channels=c,
            kernel_size=list(k),
            stride=list(stride),
            padding=list(padding),
            pad_value=pad_value,
            input_scale=scale,
            **geometry,
        )

    def binary_linear(self, i, o, scale="plain", alpha=True, threshold=False):
        tensors = self._binary_tensors(self.normal(o, i), i, alpha, threshold)
        return self.node("binary_linear", None, tensors, in_features=i, input_scale=scale)

    def sign_weight_conv2d(self, c, o, k=(3, 3), stride=(1, 1), padding=(1, 1), alpha=True, **geometry):
        tensors = self._binary_tensors(self.normal(o, c // geometry.get("groups", 1), *k), c, alpha, False)
        return self.node(
            "sign_weight_conv2d",
            None,
            tensors,
            in_channels=c,
            kernel_size=list(k),
            stride=list(stride),
            padding=list(padding),
            **geometry,
        )

    def sign_weight_linear(self, i, o, alpha=True):
        tensors = self._binary_tensors(self.normal(o, i), i, alpha, False)
        return self.node("sign_weight_linear", None, tensors, in_features=i)

    def _planes(self, weight, planes):
        return np.stack(
            [compact_bits(self.rng.permutation(weight.ravel()).reshape(weight.shape)) for _ in range(planes)]
        )

    def kbit_conv2d(
        self, c, o, k=(3, 3), stride=(1, 1), padding=(1, 1), pad_value=0, scale="plain", bits=(2, 2), **geometry
    ):
        weight = self.normal(o, c // geometry.get("groups", 1), *k)
        return self.node(
            "kbit_conv2d",
            None,
            {"bits": self._planes(weight, bits[1]), "alpha": np.abs(self.normal(o)) / 2 ** sum(bits)},
            in_channels=c,
            kernel_size=list(k),
            stride=list(stride),
            padding=list(padding),
            pad_value=pad_value,
            input_scale=scale,
            input_bits=bits[0],
            weight_bits=bits[1],
            **geometry,
        )

    def kbit_linear(self, i, o, scale="plain", bits=(2, 2)):
        tensors = {"bits": self._planes(self.normal(o, i), bits[1]), "alpha": np.abs(self.normal(o)) / 2 ** sum(bits)}
        return self.node(
            "kbit_linear", None, tensors, in_features=i, input_scale=scale, input_bits=bits[0], weight_bits=bits[1]
        )

    def scale(self, **factors):
        return self.node("scale", tensors={name: self.normal(*shape) for name, shape in factors.items()})

    def pool(self, op, kernel, stride, padding):
        return self.node(op, kernel=[kernel] * 2, stride=[stride] * 2, padding=[padding] * 2)

    def activation(self, op, channels):
        return self.node(op, tensors={"slope": self.normal(channels)} if op == "prelu" else None)

    def network(self):
        from xnor_ref.packed import PackedNetwork

        return PackedNetwork(self.metadata, self.tensors)

    def pixels(self, n=4):
        shape = self.metadata["input"]
        return self.rng.integers(0, 256, (n, shape["height"], shape["width"], shape["channels"]), dtype=np.uint8)


def tiny():
    """A few hundred bytes with every kind of tensor."""
    sample = Sample(shape=(1, 3, 3), classes=2)
    sample.binary_conv2d(1, 2, threshold=True, scale="off")
    sample.node("flatten")
    sample.linear(18, 2, bias=False)
    return sample


def every_op(pad_value=0, seed=0):
    """Every operation, attribute and optional tensor."""
    sample = Sample(seed=seed)
    stem = sample.conv2d(3, 6, groups=3)
    sample.affine(6)
    sample.node("prelu", tensors={"slope": sample.normal(6)})
    sample.binary_conv2d(6, 70, (3, 2), (1, 1), (1, 1), pad_value, "valid")
    sample.node("prelu", tensors={"slope": np.float32([0.1])})
    sample.node("max_pool", kernel=[2, 2], stride=[2, 2], padding=[1, 0])
    sample.affine(70)
    split = sample.binary_conv2d(70, 64, (1, 1), (1, 1), (0, 0), pad_value, "plain", alpha=False)
    sample.binary_conv2d(64, 64, (3, 3), (1, 1), (1, 1), pad_value, "off", threshold=True)
    sample.node("add", [split, split + 1])
    sample.node("avg_pool", kernel=[3, 3], stride=[2, 1], padding=[1, 1])
    sample.node("relu")
    pooled = sample.node("global_avg_pool")
    sample.affine(64)
    sample.binary_linear(64, 65)
    sample.binary_linear(65, 10, "off", threshold=True)
    short = sample.linear(64, 10, inputs=[pooled])
    sample.node("add", [short - 1, short])
    sample.node("hardtanh", [short + 1])
    stem = sample.conv2d(6, 2, k=2, stride=2, padding=0, bias=False, inputs=[stem])
    sample.node("flatten")
    last = sample.linear(32, 10, bias=False)
    sample.node("add", [stem - 1, last])
    sample.linear(10, 5)
    return sample


def version_3(seed=0):
    """Every operation that came with version 3."""
    sample = Sample(seed=seed)
    sample.metadata["version"] = 3
    sample.sign_weight_conv2d(3, 66, (3, 2), (2, 1), (1, 1))
    sample.scale(channel=(66,), row=(5,), column=(9,))
    sample.affine(66)
    sample.node("sign")
    sample.sign_weight_conv2d(66, 70, (1, 1), (1, 1), (0, 0), alpha=False)
    sample.scale(channel=(70,), plane=(5, 9))
    sample.binary_conv2d(70, 8, alpha=False, scale="off")
    sample.scale(map=(8, 5, 9))
    sample.node("flatten")
    sample.sign_weight_linear(360, 65)
    sample.scale(channel=(65,))
    sample.sign_weight_linear(65, 5, alpha=False)
    return sample


def version_4(pad_value=0, seed=0):
    """Every operation that came with version 4."""
    sample = Sample(seed=seed)
    sample.metadata["version"] = 4
    sample.kbit_conv2d(3, 66, (3, 2), (2, 1), (1, 1), pad_value, "valid", (2, 3))
    sample.affine(66)
    sample.kbit_conv2d(66, 7, (3, 3), (1, 1), (1, 1), pad_value, "off", (1, 8))
    sample.node("flatten")
    sample.kbit_linear(7 * 5 * 9, 65, bits=(4, 1))
    sample.kbit_linear(65, 5, "off", (8, 2))
    return sample


def version_5(pad_value=0, seed=0):
    """All geometry that came with version 5, in every operation that has it."""
    sample = Sample(shape=(4, 15, 14), seed=seed)
    sample.metadata["version"] = 5
    sample.conv2d(4, 6, padding=[[0, 1], [2, 1]], dilation=[2, 1], groups=2)
    sample.affine(6)
    sample.node("max_pool", kernel=[3, 3], stride=[1, 1], padding=[[0, 2], [1, 0]])
    sample.binary_conv2d(6, 70, (3, 2), (1, 1), ([2, 0], [0, 1]), pad_value, "valid", groups=2, dilation=[1, 3])
    sample.sign_weight_conv2d(70, 66, (2, 3), padding=([1, 2], [0, 2]), dilation=[2, 2], groups=2)
    sample.binary_conv2d(66, 66, (3, 3), (1, 1), (0, 2), pad_value, "off", threshold=True, groups=66)
    sample.binary_conv2d(66, 12, (3, 3), (2, 1), ([0, 2], [1, 0]), pad_value, "off", threshold=True, dilation=[2, 1])
    sample.kbit_conv2d(12, 10, (3, 3), (1, 1), ([2, 0], [0, 1]), pad_value, groups=2, dilation=[1, 2])
    sample.kbit_conv2d(10, 10, pad_value=pad_value, input_levels="ternary")
    sample.node("avg_pool", kernel=[2, 3], stride=[2, 2], padding=[[0, 1], [0, 1]], count_include_pad=0)
    sample.node("global_avg_pool")
    sample.linear(10, 5)
    return sample


def version_6(seed=0):
    """Results that are joined, of images and of flat values; the reader of one takes signs."""
    sample = Sample(seed=seed)
    sample.metadata["version"] = 6
    stem = sample.conv2d(3, 5)
    pool = sample.node("max_pool", kernel=[2, 2], stride=[1, 1], padding=[[0, 1], [0, 1]])
    both = sample.node("concat", [stem, pool, stem, -1])
    sample.affine(18)
    sample.binary_conv2d(18, 7, scale="plain")
    sample.node("concat", [both, both + 2])
    sample.affine(25)
    sample.binary_conv2d(25, 6, scale="off")
    mean = sample.node("global_avg_pool")
    sample.node("max_pool", [mean - 1], kernel=[9, 8], stride=[9, 8], padding=[0, 0])
    flat = sample.node("flatten")
    sample.node("concat", [flat, mean, mean])
    sample.linear(18, 5)
    return sample


SAMPLES = every_op, version_3, version_4, version_5, version_6
