"""docs/model-format.md is true and complete: a reader written from it alone gets the same answers."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.packed import independent_reader, packed_samples
from tests.packed.packed_samples import Sample
from xnor_ref.kernels.basics.layout import pack_bits
from xnor_ref.packed.ops import OPS, compact_bits

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "model-format.md").read_text(encoding="utf-8")


def agree(sample, path, n=6):
    network = sample.network()
    network.save(path)
    pixels = sample.pixels(n)
    ours, theirs = network.logits(pixels), independent_reader.logits(path, pixels)
    assert np.abs(ours - theirs).max() <= 1e-4
    assert np.array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))


@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_every_op(tmp_path, pad_value):
    agree(packed_samples.every_op(pad_value, seed=pad_value + 5), tmp_path / "model")


def test_every_op_of_version_3(tmp_path):
    agree(packed_samples.version_3(), tmp_path / "model")


@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_every_op_of_version_4(tmp_path, pad_value):
    agree(packed_samples.version_4(pad_value), tmp_path / "model")


@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_all_geometry_of_version_5(tmp_path, pad_value):
    agree(packed_samples.version_5(pad_value), tmp_path / "model")


def test_results_that_are_joined(tmp_path):
    agree(packed_samples.version_6(), tmp_path / "model")


@pytest.mark.parametrize("channels", [1, 63, 64, 65, 129])
@pytest.mark.parametrize("scale", ["off", "plain", "valid"])
def test_channel_counts_around_the_word(tmp_path, channels, scale):
    sample = Sample(shape=(2, 7, 6), classes=4, seed=channels)
    sample.conv2d(2, channels)
    sample.binary_conv2d(channels, 4, (3, 2), (2, 1), (1, 0), 0, scale, threshold=scale == "off")
    sample.node("global_avg_pool")
    agree(sample, tmp_path / "model")


def test_reader_notices_an_altered_file(tmp_path):
    path = tmp_path / "model"
    packed_samples.tiny().network().save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="altered"):
        independent_reader.read(path)


def test_hand_worked_example():
    """The eight weights and inputs of the document."""
    weight = np.float32([[0.7, -0.1, -2, 0, 0.3, -0.5, 1, -1]])
    x = np.float32([[1, 1, -1, -1, 1, -1, -1, -1]])
    assert compact_bits(weight).tolist() == [[0x59]] == pack_bits(weight).tolist()
    assert compact_bits(x).tolist() == [[0x13]]
    assert 8 - 2 * (0x59 ^ 0x13).bit_count() == 2 == int(np.where(weight >= 0, 1, -1)[0] @ x[0])
    for text in ("`0x59`", "`0x13`", "0x4a", "8 − 2·3 = 2"):
        assert text in DOCUMENT


def test_bit_order_of_a_convolution():
    """Bit (kh*KW + kw)*C + c: one weight of +1 at a time."""
    for o, c, kh, kw in np.ndindex(2, 3, 2, 2):
        weight = -np.ones((2, 3, 2, 2), np.float32)
        weight[o, c, kh, kw] = 0.0  # sign(0) = +1
        words = compact_bits(weight)
        assert words[o, 0] == 1 << ((kh * 2 + kw) * 3 + c) and words[1 - o, 0] == 0


def test_document_names_every_op_and_limit():
    for op in OPS:
        assert f"`{op}`" in DOCUMENT
    makers = packed_samples.SAMPLES
    samples = [make() for make in makers]
    for node in (node for sample in samples for node in sample.metadata["graph"]):
        for key in node:
            assert f"`{key}`" in DOCUMENT, key
    for name in (name for sample in samples for name in sample.tensors):
        assert re.search(rf"`{name.rpartition('.')[2]}`", DOCUMENT)
    for limit in ("10,000 nodes", "1,000,000 classes", "4096 input channels", "16,384 pixels", "2 GiB", "16 MiB"):
        assert limit in DOCUMENT


def test_reader_shares_no_code():
    source = Path(independent_reader.__file__).read_text(encoding="utf-8")
    assert "xnor_ref." not in source and "import xnor_ref" not in source
