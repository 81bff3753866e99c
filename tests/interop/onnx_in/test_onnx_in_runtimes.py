"""What comes in answers as the file's own runtime does: onnxruntime, or qonnx's executor."""

import io
import re
import warnings
import zipfile

import numpy as np
import pytest

from tests.interop.onnx_in.onnx_networks import Drawn
from tests.interop.onnx_in.test_onnx_in_files import BREVITAS, KINDS
from xnor_ref import freeze
from xnor_ref.errors import InputError
from xnor_ref.interop import build
from xnor_ref.interop.onnx_in.reading import read

pytestmark = pytest.mark.interop
SEEDS = [*range(15), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(15, 45))]
MAY_BE_REFUSED = "ceil_mode|larger than the image|only values that are clipped|quantiser of 1 levels|more than half"


class Standard:
    """A file in onnxruntime."""

    custom = False

    def __init__(self):
        self.package = pytest.importorskip("onnxruntime")

    def size_of(self, file, value):
        y = self.run(file.bytes(value), np.zeros(file.shape, np.float32), value)
        if min(y.shape) < 1:
            raise ValueError("nothing is left")
        return y.shape[1:]

    def run(self, content, images, output):
        options = self.package.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        options.graph_optimization_level = self.package.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = self.package.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return session.run([output], {"x": images})[0]


class Custom:
    """A file in qonnx's executor."""

    custom = True

    def __init__(self):
        self.onnx = pytest.importorskip("onnx")
        pytest.importorskip("qonnx")

    def model(self, content):
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.transformation.infer_shapes import InferShapes

        model = self.onnx.load_model_from_string(content)
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")  # which `File` does not know
        return ModelWrapper(model).transform(InferShapes())

    def size_of(self, file, value):
        size = self.model(file.bytes(value)).get_tensor_shape(value)
        if min(size) < 1:
            raise ValueError("nothing is left")
        return size[1:]

    def run(self, content, images, output):
        from qonnx.core.onnx_exec import execute_onnx

        model = self.model(content)
        return execute_onnx(model, {model.graph.input[0].name: images})[output]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("runtime", [Standard, Custom])
def test_networks_drawn_at_random(runtime, seed, tmp_path):
    runtime = runtime()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            drawn = Drawn(seed, runtime.custom, runtime.size_of)
            output = drawn.draw()
            content = drawn.file.bytes(output)
            images = np.random.default_rng(seed).standard_normal((2, *drawn.file.shape[1:])).astype(np.float32)
            step = drawn.file.shape[0]
            wanted = np.concatenate([runtime.run(content, images[i : i + step], output) for i in range(0, 2, step)])
        except Exception as error:
            pytest.skip(f"the runtime refuses it: {str(error)[:80]}")
    (tmp_path / "net.onnx").write_bytes(content)
    try:
        packed = freeze(build.network(read(tmp_path / "net.onnx").description))
    except InputError as error:
        assert re.search(MAY_BE_REFUSED, str(error)), error
        pytest.skip(f"refused: {error}")
    found = packed.logits(np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if drawn.last else images)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("name", KINDS)
def test_networks_of_brevitas_answer_as_the_executor_says(name, tmp_path):
    runtime = Custom()
    with zipfile.ZipFile(BREVITAS) as archive:
        content = archive.read(f"{name}.onnx")
        images = np.load(io.BytesIO(archive.read(f"{name}.npz")))["images"]
    (tmp_path / "net.onnx").write_bytes(content)
    packed = freeze(build.network(read(tmp_path / "net.onnx").description))
    output = runtime.onnx.load_model_from_string(content).graph.output[0].name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = np.concatenate([runtime.run(content, images[i : i + 1], output) for i in range(len(images))])
    np.testing.assert_allclose(packed.logits(images), wanted, rtol=1e-4, atol=1e-5)
