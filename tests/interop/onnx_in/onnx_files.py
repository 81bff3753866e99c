"""ONNX files made by hand, so that tests of the reader need no other package and can say anything."""

import numpy as np

TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}
QONNX = "qonnx.custom_op.general"


def varint(value):
    value, found = value % 2**64, b""
    while value > 127:
        value, found = value >> 7, found + bytes([value & 127 | 128])
    return found + bytes([value])


def field(number, value):
    """An integer, text, or the bytes of a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name, array):
    array = np.asarray(array)
    dims = b"".join(field(1, size) for size in array.shape)
    return dims + field(2, TYPES[array.dtype.name]) + field(8, name) + field(9, array.tobytes())


def attribute(name, value):
    named = field(1, name)
    if isinstance(value, float):
        return named + varint(2 << 3 | 5) + np.float32(value).tobytes() + field(20, 1)
    if isinstance(value, int):
        return named + field(3, value) + field(20, 2)
    if isinstance(value, str):
        return named + field(4, value) + field(20, 3)
    if isinstance(value, np.ndarray):
        return named + field(5, tensor("", value)) + field(20, 4)
    return named + b"".join(field(8, entry) for entry in value) + field(20, 7)


def value_info(name, kind, shape):
    dims = b"".join(field(1, field(1, size) if isinstance(size, int) else field(2, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, TYPES[kind]) + field(2, dims)))


class File:
    """A model in the making: `add` appends a node and gives the name of its result; arrays become constants."""

    def __init__(self, shape, kind="float32", opset=13, **metadata):
        self.input, self.kind, self.shape, self.opset, self.metadata = "x", kind, shape, opset, metadata
        self.nodes, self.constants, self.count = [], {}, 0

    def constant(self, array):
        array = np.asarray(array)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def add(self, op, *inputs, domain="", name=None, outputs=None, **attributes):
        self.count += 1
        name = f"n{self.count}" if name is None else name
        outputs = [f"v{self.count}"] if outputs is None else outputs
        names = [given if isinstance(given, str) else self.constant(given) for given in inputs]
        content = b"".join(field(1, given) for given in names) + b"".join(field(2, given) for given in outputs)
        content += field(3, name) + field(4, op) + (field(7, domain) if domain else b"")
        self.nodes.append(content + b"".join(field(5, attribute(*pair)) for pair in attributes.items()))
        return outputs[0]

    def graph(self, *outputs):
        content = b"".join(field(1, node) for node in self.nodes) + field(2, "g")
        content += b"".join(field(5, tensor(name, array)) for name, array in self.constants.items())
        content += field(11, value_info(self.input, self.kind, self.shape))
        return content + b"".join(field(12, value_info(name, "float32", ("N", "C"))) for name in outputs)

    def bytes(self, *outputs):
        domains = field(8, field(1, "") + field(2, self.opset)) + field(8, field(1, QONNX) + field(2, 1))
        metadata = b"".join(field(14, field(1, key) + field(2, text)) for key, text in self.metadata.items())
        return field(1, 8) + field(2, "tests") + field(7, self.graph(*outputs)) + domains + metadata

    def save(self, path, *outputs):
        path.write_bytes(self.bytes(*outputs))
        return path


def binary_network(shape=(3, 16, 16), classes=4, domain="", softmax=False):
    """A file with a stem, a binary layer and four logits; signs are BipolarQuant where a domain is given."""
    rng, file = np.random.default_rng(0), File(("N", *shape))
    x = file.add("Conv", "x", rng.standard_normal((8, shape[0], 3, 3)).astype(np.float32), name="stem", pads=[1] * 4)
    norm = rng.uniform(0.5, 2, 8), rng.normal(0, 1, 8), rng.normal(0, 1, 8), rng.uniform(1, 9, 8)
    x = file.add("BatchNormalization", x, *(np.asarray(part, np.float32) for part in norm), name="bn")
    if domain:
        x = file.add("BipolarQuant", x, np.float32(1), domain=domain, name="act")
    else:
        x = file.add("Where", file.add("GreaterOrEqual", x, np.float32(0)), np.float32(1), np.float32(-1), name="act")
    weight = np.where(rng.standard_normal((classes, 8, 3, 3)) < 0, -0.25, 0.25).astype(np.float32)
    x = file.add("Conv", x, weight, name="conv", pads=[1] * 4)
    x = file.add("GlobalAveragePool", x, name="pool")
    flat = file.add("Flatten", x, outputs=["flat" if softmax else "logits"])
    if softmax:
        file.add("Softmax", flat, outputs=["logits"])
    return file
