"""What `bench` measures and compares: layers, their sizes, the paper's formulas, naive loops and baselines."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import JIT_DISABLED
from xnor_ref.bench import figure4
from xnor_ref.bench.measuring import layers
from xnor_ref.bench.measuring.layers import Conv, Linear
from xnor_ref.bench.peers import baselines, naive
from xnor_ref.errors import EquivalenceError, InputError
from xnor_ref.kernels.basics import memory
from xnor_ref.kernels.ops import binary_ops

ODD = (
    Conv(3, 5, 1, 2),
    Conv(5, 7, 2, 3),
    Conv(65, 6, 3, 70, 2),
    Conv(1, 4, 5, 1, 3),
    Linear(130, 7, 3),
)
FAR = Conv(6, 9, 3, 8, 2, 2), Conv(64, 5, 3, 8, groups=4), Conv(3, 6, 3, 5, uneven=True)
OPTIONAL = ("torch", "torch-int8", "onnxruntime", "onnxruntime-int8")


def test_the_papers_layer_has_the_papers_number_of_operations():
    layer = layers.PAPER
    assert layer.macs(1) == 256 * 9 * 256 * 196 == 115_605_504
    assert (layer.padding, layer.out_size, layer.n_bits, layer.name) == (1, 14, 2304, "256@14x14 3x3 -> 256")
    assert Conv(64, 56, 3, 128, 2).out_size == 28 and Conv(64, 56, 3, 128, 2).name == "64@56x56 3x3/2 -> 128"
    assert Conv(256, 14, 20, 256).out_size == 15
    usual, *far = (layer for layer in layers.layer_set("geometry") if layer.channels == 256)
    assert usual == layers.PAPER and {layer.out_size for layer in far} == {14}
    assert [layer.macs(1) * layer.groups for layer in far] == [usual.macs(1)] * 4
    assert far[0].name == "256@14x14 3x3 -> 256, dilation 2" and far[1].name.endswith(", 4 groups")
    assert Linear(9216, 4096).macs(3) == 3 * 9216 * 4096 and Linear(8, 4, 5).macs(3) == 5 * 8 * 4


@pytest.mark.parametrize("name", layers.LAYER_SETS)
def test_every_set_fits_the_public_kernels(name):
    for layer in layers.layer_set(name):
        layers.check_size(layer, 1)
        assert layer.macs(2) % layer.n_bits == 0 and layer.name


def test_layers_of_ones_own():
    assert layers.parse_layer("96,27,5,256") == Conv(96, 27, 5, 256)
    assert layers.parse_layer("64, 56, 3, 128, 2") == Conv(64, 56, 3, 128, 2)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "a layer is C,H,K,O"),
        ("256,14,3", "a layer is C,H,K,O"),
        ("256,14,3,256,1,1", "a layer is C,H,K,O"),
        ("256,14,3,x", "got '256,14,3,x'"),
        ("256,14,3,1e3", "a layer is C,H,K,O"),
        ("0,14,3,256", "C must be from 1"),
        ("256,14,-3,256", "K must be from 1"),
        ("256,14,3,70000", "O must be from 1 to 65536, got 70000"),
        ("256,14,3,256,0", "STRIDE must be from 1"),
    ],
)
def test_a_malformed_layer_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        layers.parse_layer(text)


def test_what_does_not_fit_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "physical_memory", lambda: 10**6)
    with pytest.raises(InputError, match=r"GiB of memory.*256@14x14 3x3 -> 256, batch 2"):
        layers.check_size(layers.PAPER, 2)
    with pytest.raises(InputError, match="batch 100 of 64x64 pixels"):
        layers.check_batch(100, 64)
    with pytest.raises(InputError, match="batch must be at least 1, got 0"):
        layers.check_batch(0)
    with pytest.raises(InputError, match="there is no layer set 'vgg'; there are paper, alexnet"):
        layers.layer_set("vgg")


# --- the paper's figure 4 ----------------------------------------------------------------------------------------


def test_the_papers_theory():
    assert round(figure4.theory(256, 3), 2) == 62.27  # the paper's fixed point
    channels = {1: 7.89, 2: 14.05, 3: 18.99, 8: 33.88, 64: 57.60, 1024: 63.56}
    filters = {1: 51.20, 2: 60.24, 5: 63.37, 11: 63.87, 20: 63.96}
    assert {c: round(figure4.theory(c, 3), 2) for c in channels} == channels
    assert {k: round(figure4.theory(256, k), 2) for k in filters} == filters
    assert [round(figure4.theory_with_scales(256, 3, o), 1) for o in (256, 64, 1)] == [60.6, 56.0, 7.6]


def test_memory_of_the_papers_networks():
    rows = {row["network"]: row for row in figure4.memory()}
    parameters = {"VGG-19": 143_667_240, "ResNet-18": 11_689_512, "AlexNet": 62_378_344}
    assert {name: row["parameters"] for name, row in rows.items()} == parameters
    assert all(row["double"] == 64 * row["bits"] and row["float32"] == 32 * row["bits"] for row in rows.values())
    assert round(rows["AlexNet"]["double"] / 2**20, 1) == 475.9
    assert round(rows["AlexNet"]["first_and_last_real"] / 2**20, 1) == 22.7  # conv1 and fc8 in float32


# --- naive loops and baselines -----------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    st.builds(
        Conv, st.sampled_from((1, 3, 63, 64, 65)), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3),
        st.integers(1, 3),
    ),
    st.integers(1, 2),
    st.integers(0, 99),
)  # fmt: skip
def test_the_naive_loops_are_right(layer, batch, seed):
    x, weight = layers.random_data(layer, batch, seed)
    wanted = baselines.integers(layer, x, weight)
    stride, padding = (layer.stride,) * 2, (layer.padding,) * 2
    out = np.empty(wanted.shape, np.float32)
    naive.float_loops(layers.signs(x), layers.signs(weight), stride, padding, out)
    assert np.array_equal(out, wanted)
    bits, filters = binary_ops.sign_pack(x), binary_ops.pack_weight(weight)
    for by_words in (False, True):
        counts = np.full(wanted.shape, -7, np.int32)
        naive.packed_loops(by_words, bits, filters, layer.channels, stride, padding, counts)
        assert np.array_equal(counts, wanted)


@pytest.mark.parametrize("layer", FAR, ids=lambda layer: layer.name)
def test_what_is_not_usual_is_compared_with_those_that_know_it(layer):
    x, weight = layers.random_data(layer, 2)
    for (baseline,) in (baselines.BASELINES[name] for name in ("reference", "numba")):
        baselines.check(baseline, layer, x, weight, 1)
    with pytest.raises(baselines.Unavailable, match="without dilation"):
        baselines.check(baselines.BASELINES["numpy"][0], layer, x, weight, 1)


@pytest.mark.parametrize("group", [group for group in baselines.BASELINES if group not in OPTIONAL])
@pytest.mark.parametrize("layer", ODD, ids=lambda layer: layer.name)
def test_baselines_give_our_integers(group, layer):
    require_equal(group, layer)


@pytest.mark.parametrize("group", OPTIONAL)
def test_optional_baselines_give_our_integers(group):
    pytest.importorskip("torch" if "torch" in group else "onnxruntime")
    pytest.importorskip("numpy" if "torch" in group else "onnx")
    for layer in ODD:
        require_equal(group, layer)


def require_equal(group, layer):
    if JIT_DISABLED and group == "numba":
        pytest.skip("the plain rung is compiled code")
    x, weight = layers.random_data(layer, 2)
    for baseline in baselines.BASELINES[group]:
        try:
            ready = baselines.prepared(baseline, layer, x, weight, 1)
        except baselines.Unavailable as reason:
            assert isinstance(layer, Linear), reason
            continue
        result = ready.result(ready.run())
        assert result.shape == baselines.integers(layer, x, weight).shape and np.isfinite(result).all()


def test_a_baseline_that_computes_something_else_is_refused():
    right = baselines.BASELINES["numpy"][0]

    def off_by_one(*arguments):
        ready = right.prepare(*arguments)
        return dataclasses.replace(ready, result=lambda y: ready.result(y) + np.float32(1))

    wrong = dataclasses.replace(right, prepare=off_by_one, name="wrong")
    layer = Conv(3, 5, 3, 2)
    x, weight = layers.random_data(layer, 1)
    baselines.check(right, layer, x, weight, 1)
    with pytest.raises(EquivalenceError, match=r"wrong and our kernel give different results for 3@5x5 3x3 -> 2 on"):
        baselines.check(wrong, layer, x, weight, 1)


def test_float_baselines_convolve_real_numbers_too():
    layer = Conv(4, 6, 3, 5, 2)
    x, weight = layers.random_data(layer, 2)
    ready = baselines.prepared(baselines.BASELINES["numpy"][0], layer, x, weight, 1)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    wanted = np.zeros((2, 5, 3, 3))
    for oy, ox in np.ndindex(3, 3):
        window = padded[:, None, :, 2 * oy : 2 * oy + 3, 2 * ox : 2 * ox + 3]
        wanted[:, :, oy, ox] = (window * weight).sum((2, 3, 4))
    assert np.allclose(ready.result(ready.run()), wanted, atol=1e-4)


def test_choosing_baselines(monkeypatch):
    assert baselines.parse_baselines(None, ("numpy",)) == ("numpy",)
    assert baselines.parse_baselines("none") == ()
    assert baselines.parse_baselines("numpy, numba,numpy") == ("numpy", "numba")
    with pytest.raises(InputError, match="there is no baseline 'nump'; there are numpy, torch"):
        baselines.parse_baselines("nump,numba")
    with pytest.raises(InputError, match="there is no baseline ','"):
        baselines.parse_baselines(",")
    without(monkeypatch, "torch", "onnx")
    for name, package in (("torch", "torch"), ("torch-int8", "torch"), ("onnxruntime-int8", "onnx")):
        with pytest.raises(InputError, match=f"baseline {name}: {package}.* is not installed .pip install"):
            baselines.parse_baselines(name)


def without(monkeypatch, *packages):
    """As if none of `packages` were installed."""

    def require(package):
        if package in packages:
            raise baselines.Unavailable(f"{package} is not installed ({baselines.EXTRA})")

    monkeypatch.setattr(baselines, "require", require)


def test_the_step_of_int8_results_clips_no_sum():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    layer = Conv(128, 3, 3, 4)  # 1152 bits: sums of equal signs reach the bound
    ones = np.ones(layer.input_shape(1), np.float32), np.ones(layer.weight_shape, np.float32)
    (baseline,) = baselines.BASELINES["onnxruntime-int8"]
    baselines.check(baseline, layer, *ones, 1)
    ready = baseline.prepare(layer, *ones, 1)
    assert ready.step == 2 ** math.ceil(math.log2(1152 / 127)) == 16
    assert ready.result(ready.run()).max() == 1152
