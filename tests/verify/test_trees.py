"""The properties of trees hold, and faults planted in a small NumPy version of trees are each caught by them."""

from dataclasses import replace

import numpy as np
import pytest

from xnor_ref import verify
from xnor_ref.compress import codec, tree
from xnor_ref.conformance.basics import oracle
from xnor_ref.packed import compressing
from xnor_ref.verify import kernels, trees
from xnor_ref.verify.runner import run_property

PROPERTIES = {prop.check.__name__: prop for prop in trees.PROPERTIES}
SEED = 6091


class Planted:
    """The functions under test, after their definition; one fault may be switched on."""

    def __init__(self, fault=None):
        self.fault = fault

    def build_tree(self, rows, n_bits, kind="mst", complement=False):
        if self.fault == "a star taken for the minimum" and kind == "mst":
            kind = "star"
        made = tree.build(rows, n_bits, kind, complement)
        if self.fault == "distances of negated edges left as they are":
            differ = np.bitwise_count(rows ^ rows[made.parent]).sum(axis=1, dtype=np.int32)
            made = replace(made, distance=np.where(made.parent < 0, 0, differ).astype(np.int32))
        return made

    def tree_conv2d(self, x, weight, made, stride, padding, pad_value, form, backend, threads, dilation=(1, 1)):
        if self.fault == "padding 0 taken for -1" and pad_value == 0:
            pad_value = -1
        signs = oracle.signs(weight)
        z = None
        for j in sorted(range(len(signs))) if self.fault == "children before their parents" else made.order:
            i, sign = made.parent[j], -1 if made.negated[j] else 1
            if self.fault == "negation forgotten":
                sign = 1
            followed = 0 if i < 0 else signs[i] * (-1 if made.negated[j] else 1)
            part = np.where(signs[j] != followed, signs[j], 0)  # the weights that differ; of a root all
            if self.fault == "last difference left out" and i >= 0 and part.any():
                part.reshape(-1)[np.flatnonzero(part)[-1]] = 0
            sums = oracle.convolve(oracle.signs(x), part[None], stride, padding, float(pad_value), dilation)[:, 0]
            if z is None:
                z = np.zeros((len(x), len(signs), *sums.shape[1:]), np.int64)
            z[:, j] = sums if i < 0 else z[:, i] * sign + (1 if self.fault == "sums counted once" else 2) * sums
        if self.fault == "sums of 8 bits":
            z = z.astype(np.int8)
        return z.astype(np.int32)

    def tree_linear(self, x, weight, made, form, backend, threads):
        images, kernels_ = x[:, :, None, None], weight[:, :, None, None]
        return self.tree_conv2d(images, kernels_, made, (1, 1), (0, 0), 0, form, backend, threads)[:, :, 0, 0]

    def encode(self, rows, made):
        if self.fault == "signs of edges not written":
            made = replace(made, negated=np.zeros_like(made.negated))
        return codec.encode(rows, made)

    def decode(self, stream, channels, n_bits):
        rows, made = codec.decode(stream, channels, n_bits)
        if self.fault == "the last filter left at its parent":
            last = made.order[-1]
            rows[last] = rows[made.parent[last]]
        return rows, made

    def implementation(self):
        names = (name for name in vars(Planted) if name in kernels.Implementation.__dataclass_fields__)
        return replace(kernels.Implementation(), **{name: getattr(self, name) for name in names})


CAUGHT_BY = {
    "along_is_exact": (
        "sums counted once",
        "negation forgotten",
        "children before their parents",
        "last difference left out",
        "padding 0 taken for -1",
        "sums of 8 bits",
    ),
    "tree_is_minimum": ("a star taken for the minimum", "distances of negated edges left as they are"),
    "stream_is_the_layer": ("signs of edges not written", "the last filter left at its parent"),
}


@pytest.mark.parametrize("prop", trees.PROPERTIES, ids=lambda prop: prop.check.__name__)
def test_property_holds(prop):
    result = run_property(prop, kernels.Implementation(), verify.DEFAULT_EXAMPLES, SEED)
    assert result.passed, f"{result.failure}\nsmallest example: {result.example}"


@pytest.mark.parametrize(("check", "fault"), [(check, fault) for check in CAUGHT_BY for fault in CAUGHT_BY[check]])
def test_fault_is_caught(check, fault):
    implementation = Planted(fault).implementation()
    result = run_property(PROPERTIES[check], implementation, verify.DEFAULT_EXAMPLES, SEED, shrink=False)
    assert not result.passed, f"{fault}: passed {result.examples} examples"


@pytest.mark.parametrize("check", CAUGHT_BY)
def test_without_a_fault_the_small_version_passes(check):
    result = run_property(PROPERTIES[check], Planted().implementation(), 30, SEED)
    assert result.passed, f"{result.failure}\nsmallest example: {result.example}"


def test_a_file_of_another_layer_is_caught(monkeypatch):
    """Two filters change places on their way into the file."""
    encode = codec.encode
    monkeypatch.setattr(
        compressing.codec, "encode", lambda rows, made: encode(rows[::-1].copy(), tree.build(rows[::-1], made.n_bits))
    )
    prop = PROPERTIES["file_is_the_network"]
    assert not run_property(prop, kernels.Implementation(), verify.DEFAULT_EXAMPLES, SEED, shrink=False).passed
