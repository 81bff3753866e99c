"""Planned networks: the bits of the step-by-step road, for drawn networks, any batch, any number of threads."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.packed import packed_samples
from tests.packed.packed_samples import Sample
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.packed import plan
from xnor_ref.packed.plan import Blueprint

pytestmark = pytest.mark.skipif(not has_vectors(), reason="plans need Numba's compiler and a processor with vectors")


@st.composite
def networks(draw) -> Sample:
    """A chain of up to eight layers of any kind, and a classifier."""
    channels, height, width = draw(st.sampled_from((1, 3))), draw(st.integers(5, 9)), draw(st.integers(5, 9))
    sample = Sample((channels, height, width), seed=draw(st.integers(0, 99)))

    def binary(k, scale, threshold):
        groups = draw(st.sampled_from([g for g in (1, 1, 2, 3, channels) if channels % g == 0]))
        outputs = draw(st.sampled_from((5, 16, 33, 64, 70)))
        outputs += -outputs % groups
        pads = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(2))
        window = Window(
            (k, k), (draw(st.integers(1, 2)),) * 2, pads, (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
        )
        size = window.count((height, width))
        if min(size) < 1:
            return channels, height, width
        sample.metadata["version"] = max(sample.metadata["version"], 5)
        padding = [list(side) for side in pads]
        sample.binary_conv2d(
            channels, outputs, (k, k), window.stride, padding, draw(st.sampled_from((0, 1, -1))), scale,
            draw(st.booleans()), threshold, groups=groups, dilation=list(window.dilation),
        )  # fmt: skip
        return outputs, *size

    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(("binary", "binary", "bits", "conv", "affine", "act", "pool", "add", "join")))
        if kind == "binary":
            channels, height, width = binary(draw(st.integers(1, 3)), draw(st.sampled_from(("plain", "valid"))), False)
        elif kind == "bits":
            for _ in range(2):
                channels, height, width = binary(draw(st.integers(1, 3)), "off", draw(st.booleans()))
                if draw(st.booleans()) and min(height, width) > 1:
                    sample.pool("max_pool", 2, 2, draw(st.integers(0, 1)))
                    padding = sample.metadata["graph"][-1]["padding"][0]
                    height, width = ((size + 2 * padding - 2) // 2 + 1 for size in (height, width))
        elif kind == "conv" and min(height, width) >= 2:
            groups = channels if draw(st.booleans()) and channels < 9 else 1
            outputs = groups * draw(st.integers(1, 9))
            sample.conv2d(channels, outputs, 2, 1, 1, groups, draw(st.booleans()))
            channels, height, width = outputs, height + 1, width + 1
        elif kind == "affine":
            sample.affine(channels)
        elif kind == "act":
            sample.activation(draw(st.sampled_from(("relu", "prelu", "hardtanh"))), channels)
        elif kind == "pool" and min(height, width) >= 3:
            sample.pool(draw(st.sampled_from(("max_pool", "avg_pool"))), 3, 2, 1)
            height, width = ((size - 1) // 2 + 1 for size in (height, width))
        elif kind == "add" and sample.metadata["graph"]:
            sample.node("add", [len(sample.metadata["graph"]) - 1] * 2)
        elif kind == "join" and sample.metadata["graph"] and channels < 100:
            sample.metadata["version"] = 6
            sample.node("concat", [len(sample.metadata["graph"]) - 1] * 2)
            channels *= 2
    if draw(st.booleans()):
        sample.node("global_avg_pool", [len(sample.metadata["graph"]) - 1])
        features = channels
    else:
        sample.node("flatten", [len(sample.metadata["graph"]) - 1])
        features = channels * height * width
    if draw(st.booleans()):
        sample.affine(features)
    if draw(st.booleans()):
        sample.linear(features, 5)
    else:
        sample.binary_linear(features, 5, scale=draw(st.sampled_from(("plain", "off"))))
    return sample


@settings(max_examples=80)
@given(networks(), st.integers(1, 6), st.integers(1, 3))
def test_plans_repeat_the_bits_of_the_steps(sample, n, threads):
    network, images = sample.network(), sample.pixels(n)
    want = network.logits(images, backend="numba")
    assert np.isfinite(want).all()
    for _ in range(2):  # what a run leaves in the buffers must not show in the next
        assert np.array_equal(network.logits(images, threads, "simd"), want)


@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_all_geometry_is_planned(pad_value):
    sample = packed_samples.version_5(pad_value)
    network, images = sample.network(), sample.pixels(5)
    operations = [op for _, op, _ in network.profile(images)]
    assert "binary_conv2d+sign" in operations and "conv2d+affine" in operations
    assert np.array_equal(network.logits(images, backend="simd"), network.logits(images, backend="reference"))


def test_layers_without_k_go_from_bits_to_bits():
    sample = Sample((3, 8, 8))
    sample.conv2d(3, 40)
    sample.binary_conv2d(40, 70, scale="off", threshold=True)
    sample.pool("max_pool", 2, 2, 0)
    sample.binary_conv2d(70, 64, scale="off", threshold=True)
    sample.binary_conv2d(64, 33, scale="off", threshold=True)
    sample.node("global_avg_pool")
    sample.linear(33, 5)
    network = sample.network()
    operations = [op for _, op, _ in network.profile(sample.pixels(1))]
    assert operations[2:5] == ["binary_conv2d+sign+max_pool", "binary_conv2d+sign", "binary_conv2d"]
    images = sample.pixels(4)
    assert np.array_equal(network.logits(images), network.logits(images, backend="reference"))


@pytest.mark.parametrize(("scale", "stride"), [("plain", (2, 2)), ("valid", (1, 3)), ("off", (4, 1))])
def test_pixels_that_no_window_meets_are_not_packed(scale, stride):
    sample = Sample((3, 9, 8))
    sample.conv2d(3, 40)
    sample.binary_conv2d(40, 33, (1, 1), stride, (0, 0), scale=scale)
    sample.node("global_avg_pool")
    sample.linear(33, 5)
    network = sample.network()
    images = sample.pixels(3)
    assert np.array_equal(network.logits(images), network.logits(images, backend="reference"))


@pytest.mark.parametrize("seed", range(5))
def test_relu_between_layers_is_part_of_the_thresholds(seed):
    """Thresholds of both signs and directions, so that bits are also 1 or 0 whatever the integer is."""
    sample = Sample((3, 8, 8), seed=seed)
    sample.conv2d(3, 40)
    sample.binary_conv2d(40, 70, scale="off", threshold=True)
    sample.activation("relu", 70)
    sample.pool("max_pool", 2, 2, 0)
    sample.binary_conv2d(70, 64, scale="off", threshold=True)
    sample.activation("relu", 64)
    sample.binary_conv2d(64, 33, scale="off", threshold=True)
    sample.activation("relu", 33)
    sample.node("global_avg_pool")
    sample.linear(33, 5)
    network = sample.network()
    operations = [op for _, op, _ in network.profile(sample.pixels(1))]
    assert operations[2:4] == ["binary_conv2d+relu+sign+max_pool", "binary_conv2d+relu+sign"]
    images = sample.pixels(4)
    assert np.array_equal(network.logits(images), network.logits(images, backend="reference"))


def test_batch_norm_and_relu_are_part_of_the_layers():
    sample = Sample((3, 8, 8))
    sample.conv2d(3, 16)
    sample.affine(16)
    sample.activation("relu", 16)
    sample.affine(16)
    sample.binary_conv2d(16, 8)
    sample.affine(8)
    sample.activation("relu", 8)
    sample.node("global_avg_pool")
    sample.linear(8, 5)
    operations = [op for _, op, _ in sample.network().profile(sample.pixels(1))]
    fused = ["conv2d+affine+relu", "affine+binary_conv2d", "affine+relu"]
    assert operations == ["normalise", *fused, "global_avg_pool", "linear"]


def test_a_network_serves_many_threads_at_once():
    sample = packed_samples.every_op()
    network, images = sample.network(), sample.pixels(16)
    want = network.logits(images)
    wrong: list[int] = []

    def serve(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(500):
            start = int(rng.integers(0, 13))
            n = int(rng.integers(1, 4))
            got = network.logits(images[start : start + n], int(rng.integers(1, 3)))
            if not np.array_equal(got, want[start : start + n]):
                wrong.append(seed)

    threads = [threading.Thread(target=serve, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_profile_names_every_stage(monkeypatch):
    sample = packed_samples.every_op()
    network = sample.network()
    rows = network.profile(sample.pixels(2), threads=1)
    assert rows[0][:2] == ("image", "normalise") and all(seconds > 0 for _, _, seconds in rows)
    assert {name for name, _, _ in rows[1:]} <= {node["name"] for node in sample.metadata["graph"]}
    assert [row[:2] for row in network.profile(sample.pixels(9))] == [row[:2] for row in rows]  # in three pieces


@pytest.mark.soak
def test_a_border_too_large_to_plan_for_is_left_to_the_other_rungs():
    sample = Sample((1, 2, 2))
    sample.binary_conv2d(1, 70, (120, 120), (1, 1), (119, 119))
    sample.node("global_avg_pool")
    sample.linear(70, 5)
    network, images = sample.network(), sample.pixels(1)
    with pytest.raises(InputError, match=r"padding .119, 119. gives too many cases of clipped windows to plan"):
        Blueprint(network._network)
    assert np.array_equal(network.logits(images), network.logits(images, backend="reference"))
    with pytest.raises(InputError, match="nothing is planned"):
        network.profile(images)


def test_buffers_are_shared_by_values_that_do_not_live_at_the_same_time(monkeypatch):
    sample = Sample((3, 16, 16))
    sample.conv2d(3, 64)
    for _ in range(6):
        sample.affine(64)
        sample.activation("hardtanh", 64)
    sample.node("global_avg_pool")
    sample.linear(64, 5)
    network, taken, take = sample.network(), [], plan._take
    monkeypatch.setattr(plan, "_take", lambda free, size: taken.append(take(free, size)) or taken[-1])
    made = plan.Plan(Blueprint(network._network), 1)
    assert len(taken) > 12 and len({id(buffer) for buffer in taken}) == 2
    images = sample.pixels(1)
    out = np.empty((1, 5), np.float32)
    made.run(images, out, 1)
    assert np.array_equal(out, network.logits(images, backend="numba"))
