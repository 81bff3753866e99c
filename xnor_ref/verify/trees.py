"""Properties of layers along trees of their output channels: minimum trees, exact execution, exact files."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from xnor_ref.compress.tree import KINDS, filter_rows
from xnor_ref.compress.visits import FORMS
from xnor_ref.conformance.basics import oracle
from xnor_ref.kernels.ops.sign_sums import compact_bits
from xnor_ref.packed import PackedNetwork, compressing, load_packed, trees
from xnor_ref.packed.file import examine
from xnor_ref.verify import cases
from xnor_ref.verify.kernels import Implementation, check_equal
from xnor_ref.verify.runner import Property


@dataclass(frozen=True)
class Filters:
    """Recipe of latent weights (O, *shape): filters around a common one, each sign turned with probability p."""

    channels: int
    shape: tuple[int, ...]
    p: float
    plus: bool  # the common filter is +1 throughout, so that sums can become extreme
    opposite: bool  # every third filter is turned in all signs
    seed: int

    def array(self) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        weight = np.ones(self.shape, np.float32) if self.plus else rng.choice(np.array([1, -1], np.float32), self.shape)
        weight = weight * np.where(rng.random((self.channels, *self.shape)) < self.p, np.float32(-1), np.float32(1))
        if self.opposite:
            weight[::3] *= -1
        return weight * rng.random(weight.shape, np.float32)  # zeros of both signs may come out; the sign of 0 is +1


def filters(shape: tuple[int, ...], most: int = 2**31) -> st.SearchStrategy[Filters]:
    """From two to `most` filters, from equal ones to ones without relation."""
    distance = st.sampled_from((0.0, 0.02, 0.2, 0.5))
    channels = st.sampled_from(tuple(min(most, max(2, count)) for count in cases.OUT_CHANNELS))
    flags = st.booleans(), st.booleans()
    return st.builds(Filters, channels, st.just(shape), distance, *flags, st.integers(0, 2**32 - 1))


def spanning_weight(distance: np.ndarray) -> int:
    """The weight of a minimum spanning tree: edges by rising distance, those that join two parts (Kruskal 1956)."""
    part = np.arange(len(distance))
    first, second = np.triu_indices(len(distance), 1)
    total = 0
    for edge in np.argsort(distance[first, second], kind="stable"):
        a, b = part[first[edge]], part[second[edge]]
        if a != b:
            part[part == b] = a
            total += int(distance[first[edge], second[edge]])
    return total


@dataclass(frozen=True)
class Along:
    """A layer to compute along a tree."""

    conv: cases.Conv  # its weight gives the shape of the filters
    weight: Filters
    kind: str
    complement: bool
    form: str
    backend: str


@st.composite
def layers(draw, even: bool = False) -> Along:
    """Convolutions of every geometry; those on one pixel are matrix products as well."""
    conv = draw(cases.convs(grouped=False, even=even))
    backend = draw(st.sampled_from(("numba", "numba", "reference") if cases.JIT else ("reference",)))
    return Along(
        conv,
        draw(filters(conv.weight.shape[1:], 9 if backend == "reference" else 2**31)),  # it visits one weight at a time
        draw(st.sampled_from(KINDS)),
        draw(st.booleans()),
        draw(st.sampled_from(FORMS)),
        backend,
    )


def along_is_exact(implementation: Implementation, case: Along) -> None:
    conv, weight = case.conv, case.weight.array()
    x = np.require(conv.x.array(), np.float32, ["C", "A"])
    tree = implementation.build_tree(filter_rows(weight), weight[0].size, case.kind, case.complement)
    how = case.form, case.backend, conv.threads
    window = conv.window
    place = window.stride, window.padding, conv.pad_value, *how
    got = implementation.tree_conv2d(x, weight, tree, *place, dilation=window.dilation)
    check_equal(got, oracle.sign_convolution(x, weight, **conv.geometry), f"tree_conv2d, {case.form}")
    rows = weight.reshape(len(weight), -1)
    flat = np.resize(x, (3, rows.shape[1]))
    got = implementation.tree_linear(flat, rows, tree, *how)
    check_equal(got, (oracle.signs(flat) @ oracle.signs(rows).T).astype(np.int64), f"tree_linear, {case.form}")


def tree_is_minimum(implementation: Implementation, case: tuple[Filters, bool]) -> None:
    """Its weight is that of Kruskal's tree, which shares no code with Prim's."""
    weight, complement = case[0].array(), case[1]
    signs = oracle.signs(weight.reshape(len(weight), -1))
    n_bits = signs.shape[1]
    between = ((n_bits - signs @ signs.T) / 2).astype(np.int64)
    if complement:
        between = np.minimum(between, n_bits - between)
    tree = implementation.build_tree(filter_rows(weight), n_bits, "mst", complement)
    found = between[np.arange(len(signs)), tree.parent][tree.parent >= 0]
    assert len(found) == len(signs) - 1, f"build: {len(found)} edges between {len(signs)} filters"
    least = spanning_weight(between)
    assert found.sum() == tree.total_distance == least, (
        f"build: distances add up to {found.sum()}, the tree says {tree.total_distance}; the least is {least}"
    )


def stream_is_the_layer(implementation: Implementation, case: tuple[Filters, str, bool]) -> None:
    """What is decoded is what was encoded: the filters, the parents and which of them are negated."""
    recipe, kind, complement = case
    weight = recipe.array()
    rows, n_bits = filter_rows(weight), weight[0].size
    tree = implementation.build_tree(rows, n_bits, kind, complement)
    found, again = implementation.decode(implementation.encode(rows, tree), len(rows), n_bits)
    check_equal(found, rows, "codec.decode", np.uint64)
    check_equal(again.parent, tree.parent, "codec.decode, parents")
    check_equal(again.negated, tree.negated, "codec.decode, negated", np.bool_)


def file_is_the_network(implementation: Implementation, case: tuple[Along, str]) -> None:
    """A network whose layer is held along a tree, written and read again, gives the logits of the direct layer."""
    layer, input_scale = case
    conv, weight = layer.conv, layer.weight.array()
    metadata, tensors = _network(conv, weight, input_scale)
    before = PackedNetwork(metadata, tensors)
    kind = layer.kind if layer.kind in ("mst", "star") else "mst"
    made = compressing.compress(
        metadata, tensors, examine(metadata, tensors), kind=kind, complement=layer.complement, store="tree"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        PackedNetwork(made.metadata, made.tensors).save(path)
        after = load_packed(path)
    images = np.require(np.clip(conv.x.array(), -1e3, 1e3), np.float32, ["C", "A"])
    want = before.logits(images, 1, "reference")
    check_equal(after.logits(images, conv.threads), want, "the file's network", np.float32)
    with trees.execution("tree"):
        got = after.logits(images, conv.threads, layer.backend)
    check_equal(got, want, "the file's network along its tree", np.float32)


def _network(conv: cases.Conv, weight: np.ndarray, input_scale: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Description and tensors of a network of one binary convolution and the mean of its maps."""
    channels, height, width = conv.x.shape[1:]
    given = {"channels": channels, "height": height, "width": width, "mean": [0.5] * channels, "std": [0.5] * channels}
    layer = {
        "in_channels": channels,
        "kernel_size": list(weight.shape[2:]),
        "stride": list(conv.window.stride),
        "padding": list(conv.window.before),
        "pad_value": conv.pad_value,
        "input_scale": input_scale,
    }
    metadata = {
        "format": "xnor_ref packed network",
        "version": 1,
        "input": given,
        "classes": [f"class {o}" for o in range(len(weight))],
        "graph": [
            {"op": "binary_conv2d", "name": "layer", "inputs": [-1], **layer},
            {"op": "global_avg_pool", "name": "mean", "inputs": [0]},
        ],
        "producer": {"verify": "trees"},
        "training": {},
        "data_sha256": None,
    }
    return metadata, {"layer.bits": compact_bits(weight), "layer.alpha": np.abs(weight).mean(axis=(1, 2, 3))}


some_filters = st.tuples(st.sampled_from(cases.CHANNELS), st.integers(1, 3)).flatmap(lambda shape: filters(shape))
PROPERTIES: tuple[Property, ...] = (
    Property("layers along trees equal a float64 convolution of signs", layers(), along_is_exact, share=0.5),
    Property(
        "minimum spanning trees weigh as much as Kruskal's",
        st.tuples(some_filters, st.booleans()),
        tree_is_minimum,
        share=0.5,
    ),
    Property(
        "filters written along a tree are read again",
        st.tuples(some_filters, st.sampled_from(("mst", "star")), st.booleans()),
        stream_is_the_layer,
        share=0.5,
    ),
    Property(
        "a file with a layer along a tree gives the logits of the direct layer",
        st.tuples(layers(even=True), st.sampled_from(("off", "plain", "valid"))),
        file_is_the_network,
        share=0.2,
    ),
)
