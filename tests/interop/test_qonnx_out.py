"""Networks as QONNX files: the same logits in qonnx's own executor, and the data types that its compilers need."""

import warnings
from importlib.util import find_spec

import numpy as np
import pytest

from tests.interop.test_onnx_out import SAMPLES, built, random_networks
from xnor_ref import interop
from xnor_ref.errors import InputError
from xnor_ref.interop.onnx_check import OnnxFile, compare, random_pixels
from xnor_ref.interop.onnx_out import onnx_bytes
from xnor_ref.interop.onnx_out_graph import onnx_module

needs_qonnx = pytest.mark.skipif(find_spec("qonnx") is None, reason="needs the extra qonnx")
pytestmark = [pytest.mark.interop, needs_qonnx, pytest.mark.filterwarnings("ignore")]  # of qonnx and what it imports


def assert_agree(packed, images=4):
    content = onnx_bytes(packed, qonnx=True, normalised=True, batch=2)
    found = compare(OnnxFile(content, "net", packed), random_pixels(packed, images))
    assert (found.wrong, found.reason) == ((), "") and found.near <= 1 and found.difference < 1e-5, found
    assert found.labels_equal >= images - found.near
    return content


@pytest.mark.parametrize("name", SAMPLES)
def test_every_operation(name):
    assert_agree(SAMPLES[name]().network())


def test_random_networks():
    for seed, packed in random_networks(20):
        content = onnx_bytes(packed, qonnx=True, normalised=True, batch=2)
        found = compare(OnnxFile(content, "net", packed), random_pixels(packed, 2))
        assert not found.wrong and found.near <= 1, (seed, found)


def test_levels_of_k_bits_on_their_limits():
    """Where a value lies exactly between two levels, both take the same one."""
    packed = SAMPLES["k bits"]().network()
    content = onnx_bytes(packed, qonnx=True, normalised=True, batch=1)
    file = OnnxFile(content, "net", packed)
    c, h, w = packed.input_shape
    steps = np.resize(np.float32([-2, -1, -2 / 3, 0, -0.0, 2 / 3, 1, 2, 1e-45, -1e-45]), (1, c, h, w))
    name = packed.layers[0].name
    found = file.ask(steps, [f"{name}/levels"])[f"{name}/levels"]
    assert np.array_equal(found, packed.trace(steps)[name]["levels"])


@pytest.mark.parametrize("options, wanted", [
    ({"method": "bnn"}, {"BIPOLAR"}),
    ({"method": "xnor++"}, {"BIPOLAR"}),
    ({"method": "xnor", "input_bits": 2, "input_levels": "ternary", "pad_value": 1}, {"INT2", "BIPOLAR"}),
    ({"method": "xnor", "input_bits": 2, "weight_bits": 3}, {"INT2", "INT4"}),
])  # fmt: skip
def test_data_types_are_found(options, wanted, tmp_path):
    """BIPOLAR and INTn where values are quantised, and integers where such are multiplied.

    Even levels of inputs are odd integers, which no Quant node gives: what follows from them is FLOAT32 to qonnx.
    """
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_datatypes import InferDataTypes
    from qonnx.transformation.infer_shapes import InferShapes

    interop.to_qonnx(built(**options), tmp_path / "net.onnx")
    model = ModelWrapper(str(tmp_path / "net.onnx")).transform(InferShapes()).transform(InferDataTypes())
    quantisers = [node for node in model.graph.node if node.op_type in ("BipolarQuant", "Quant")]
    assert quantisers and {node.domain for node in quantisers} == {"qonnx.custom_op.general"}
    types = {model.get_tensor_datatype(node.output[0]).name for node in quantisers}
    assert types == wanted
    products = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul")]
    integers = {model.get_tensor_datatype(node.output[0]).name for node in products} - {"FLOAT32"}
    assert integers == ({"INT32"} if "INT4" not in wanted else set())


def test_transformations_of_qonnx_keep_the_logits():
    """Those with which compilers begin."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.batchnorm_to_affine import BatchNormToAffine
    from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
    from qonnx.transformation.lower_convs_to_matmul import LowerConvsToMatMul
    from qonnx.util.cleanup import cleanup_model

    packed = built("xnor++")
    model = onnx_module().load_model_from_string(onnx_bytes(packed, qonnx=True, normalised=True, batch=1))
    clean = cleanup_model(ModelWrapper(model))
    pixels = random_pixels(packed, 1)
    for transformation in (BatchNormToAffine, LowerConvsToMatMul, ConvertToChannelsLastAndClean):
        content = clean.transform(transformation()).model.SerializeToString()
        found = OnnxFile(content, "net", packed).run(pixels)
        logits = found[next(iter(found))]
        np.testing.assert_allclose(logits, packed.logits(pixels), rtol=1e-4, atol=1e-4)


def test_brevitas_reads_the_same_nodes():
    """Inputs and attributes as the specification of QONNX has them."""
    content = onnx_bytes(SAMPLES["k bits"]().network(), qonnx=True, normalised=True, batch=1)
    model = onnx_module().load_model_from_string(content)
    constants = {tensor.name: onnx_module().numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quants = [node for node in model.graph.node if node.op_type == "Quant"]
    assert quants
    for node in quants:
        scale, zero, bits = (constants[name] for name in node.input[1:])
        assert (scale, zero, scale.dtype) == (1, 0, np.float32) and bits in range(2, 10) and bits.ndim == 0
        how = {entry.name: entry.s.decode() if entry.s else entry.i for entry in node.attribute}
        assert how in ({"signed": 1, "narrow": 1, "rounding_mode": "ROUND"},
                       {"signed": 1, "narrow": 0, "rounding_mode": "FLOOR"})  # fmt: skip
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", 13), ("qonnx.custom_op.general", 1)}


def test_a_file_for_any_number_of_images_cannot_be_run():
    packed = built("bnn")
    file = OnnxFile(onnx_bytes(packed, qonnx=True, normalised=True), "net", packed)
    with warnings.catch_warnings(), pytest.raises(InputError, match="write it with batch=1"):
        compare(file, random_pixels(packed, 1))
