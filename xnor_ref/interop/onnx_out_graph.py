"""An ONNX graph in the making: nodes, constants, and the model that they become."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import xnor_ref
from xnor_ref.errors import InputError

OPSET = 11  # the first that shifts bits; every other operation that is written here is at most as old
QONNX_OPSET = 13  # what qonnx's own transformations write
IR_VERSIONS = {OPSET: 6, QONNX_OPSET: 7}  # of the file, as they came with the opsets
QONNX_DOMAIN = "qonnx.custom_op.general"
MAX_BYTES = 2**31 - 2**20  # of a file, which protocol buffers limit to 2 GiB
FEW = 12  # integers, so few that all nodes may share them
FLOAT, UINT8, INT32 = 1, 2, 6  # the numbers that ONNX has for these types


def onnx_module() -> Any:
    """The package onnx. Raises InputError with the command that installs it, where it is missing."""
    try:
        import onnx
    except ImportError as error:
        raise InputError(f"ONNX needs the package onnx ({error}): pip install 'xnor_ref[onnx]'") from None
    return onnx


class Graph:
    """Nodes and constants, for `batch` images at once; "N" stands for any number."""

    def __init__(self, batch: int | str, opset: int) -> None:
        self._onnx, self.batch, self.opset = onnx_module(), batch, opset
        self.nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._known: list[Any] = []  # values whose shape is said
        self._taken: dict[str, int] = {}

    def free(self, name: str) -> str:
        """A name that no node has: this one, numbered where it was taken before."""
        count = self._taken[name] = self._taken.get(name, 0) + 1
        return name if count == 1 else f"{name}{count}"

    def node(self, op: str, *inputs: str, name: str, domain: str = "", **attributes: Any) -> str:
        """Append an operation with one result, which has the name of the node, and give that."""
        self.nodes.append(self._onnx.helper.make_node(op, inputs, [name], name, domain=domain, **attributes))
        return name

    def constant(self, name: str, values: NDArray | Sequence[int] | float) -> str:
        """A constant, and its name; a few numbers are called by what they are. Lists become int64, a number float32."""
        dtype = values.dtype if isinstance(values, np.ndarray) else np.int64 if np.ndim(values) else np.float32
        array = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<")).reshape(np.shape(values))
        if array.size == 1 or (array.size <= FEW and array.dtype.kind in "iu"):
            shape, numbers = "x".join(map(str, array.shape)), "_".join(map(str, array.ravel().tolist()))
            name = "/".join(filter(None, ("constant", array.dtype.name, shape, numbers)))
        if name not in self._constants:
            kind = self._onnx.helper.np_dtype_to_tensor_dtype(array.dtype.newbyteorder("="))
            tensor = self._onnx.helper.make_tensor(name, kind, array.shape, array.tobytes(), raw=True)
            self._constants[name] = tensor
        return name

    def rename_last(self, name: str) -> str:
        """Give the node that was appended last, and its result, another name."""
        self.nodes[-1].name = self.nodes[-1].output[0] = name
        return name

    def value(self, name: str, kind: int, shape: Sequence[int | str]) -> Any:
        """A value with its type and shape, as inputs and outputs need it."""
        return self._onnx.helper.make_tensor_value_info(name, kind, shape)

    def say_shape(self, name: str, shape: Sequence[int | str]) -> None:
        """The shape of a float value, for readers that cannot infer it."""
        self._known.append(self.value(name, FLOAT, shape))

    def model(self, image: Any, logits: Any, metadata: dict[str, str], text: str) -> Any:
        """The whole model, checked. Raises InputError where ONNX's own check refuses it."""
        helper = self._onnx.helper
        constants = list(self._constants.values())
        graph = helper.make_graph(self.nodes, "xnor_ref", [image], [logits], constants, value_info=self._known)
        domains = {"": self.opset} | {node.domain: 1 for node in self.nodes if node.domain}
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in domains.items()],
            ir_version=IR_VERSIONS[self.opset],
            producer_name="xnor_ref",
            producer_version=xnor_ref.__version__,
            doc_string=text,
        )
        helper.set_model_props(model, metadata)
        size = model.ByteSize()
        if size > MAX_BYTES:
            raise InputError(f"an ONNX file must be smaller than 2 GiB, but this network would need {size:,} bytes")
        self._onnx.checker.check_model(model, full_check=True)
        return model
