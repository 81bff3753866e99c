"""The baselines that our kernels are compared with: the same layer in NumPy, torch, onnxruntime and naive loops.

Each baseline is prepared once for a layer and checked on signs, as the room's page explains, then only run. Optional
libraries are imported when they are needed.
"""

import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from xnor_ref.bench.measuring.layers import F32, Conv, Layer, Linear, signs
from xnor_ref.bench.measuring.process import Unavailable
from xnor_ref.errors import EquivalenceError, InputError
from xnor_ref.kernels.ops import binary_ops

_PACKAGES = {"torch": ("torch",), "onnxruntime": ("onnxruntime", "onnx")}
EXTRA = "pip install 'xnor_ref[bench]'"


@dataclass(frozen=True)
class Prepared:
    """A baseline ready to run on one input."""

    run: Callable[[], Any]
    result: Callable[[Any], NDArray] = np.asarray  # turns the result of `run` into (N, O, OH, OW) or (N, O)
    step: float = 1.0  # results are rounded to multiples of it


@dataclass(frozen=True)
class Baseline:
    """One way to compute a layer: `prepare(layer, x, weight, threads)` raises Unavailable if it cannot."""

    name: str
    what: str
    prepare: Callable[[Layer, F32, F32, int], Prepared]
    layout: str = "NCHW"  # of input and output; ours uses the same
    any_window: bool = False  # whether it supports dilation, groups and uneven padding


def prepared(baseline: Baseline, layer: Layer, x: F32, weight: F32, threads: int) -> Prepared:
    """Prepare the baseline for real x and weight, after a check on their signs.

    Raises Unavailable, EquivalenceError.
    """
    check(baseline, layer, x, weight, threads)
    return baseline.prepare(layer, x, weight, threads)


def check(baseline: Baseline, layer: Layer, x: F32, weight: F32, threads: int) -> None:
    """Raise EquivalenceError if the baseline's result for signs differs from ours, Unavailable if it has none."""
    if isinstance(layer, Conv) and not (layer.usual or baseline.any_window):
        raise Unavailable("measured only without dilation, groups and uneven padding")
    trial = baseline.prepare(layer, signs(x), signs(weight), threads)
    got = trial.result(trial.run())
    wanted = np.rint(integers(layer, x, weight) / trial.step) * trial.step
    if got.shape != wanted.shape or not np.array_equal(got, wanted):
        raise EquivalenceError(
            f"bench: {baseline.name} and our kernel give different results for {layer.name} on signs, so its time "
            "means nothing"
        )


def integers(layer: Layer, x: F32, weight: F32) -> NDArray[np.int32]:
    """Return the convolution or product of the signs, computed by our own checked functions."""
    if isinstance(layer, Linear):
        return binary_ops.binary_linear(x, weight)
    return binary_ops.binary_conv2d(x, weight, **layer.geometry)


# --- NumPy -----------------------------------------------------------------------------------------------------


def _numpy(layer: Layer, x: F32, weight: F32, threads: int) -> Prepared:
    """im2col and one sgemm per image, into reused buffers; for a linear layer one sgemm."""
    if isinstance(layer, Linear):
        product = np.empty((len(x), len(weight)), np.float32)
        return Prepared(lambda: np.matmul(x, weight.T, out=product))
    n, channels, size, _ = x.shape
    p, k, side = layer.padding, layer.kernel, layer.out_size
    padded = np.zeros((channels, size + 2 * p, size + 2 * p), np.float32)
    windows = sliding_window_view(padded, (k, k), (1, 2))[:, :: layer.stride, :: layer.stride]
    columns = np.empty((channels, k, k, side, side), np.float32)
    out = np.empty((n, len(weight), side, side), np.float32)
    matrix, flat = weight.reshape(len(weight), -1), columns.reshape(-1, side * side)

    def run() -> F32:
        for image, result in zip(x, out):
            padded[:, p : p + size, p : p + size] = image
            np.copyto(columns, windows.transpose(0, 3, 4, 1, 2))
            np.matmul(matrix, flat, out=result.reshape(len(weight), -1))
        return out

    return Prepared(run)


# --- torch -----------------------------------------------------------------------------------------------------


def import_torch(threads: int | None = None) -> Any:
    """Import torch and set its threads to `threads`; None leaves them as they are. Raises Unavailable."""
    require("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of torch's own imports
        try:
            import torch
        except (ImportError, OSError) as error:
            raise Unavailable(f"torch cannot be imported: {_first_line(error)}") from None
    if threads is not None:
        torch.set_num_threads(threads)
    return torch


def _torch_float(form: str, layer: Layer, x: F32, weight: F32, threads: int) -> Prepared:
    torch = import_torch(threads)
    if isinstance(layer, Linear) and form == "channels_last":
        raise Unavailable("a linear layer has no layout")
    memory = getattr(torch, form)
    images, filters = (torch.from_numpy(array).contiguous(memory_format=memory) for array in (x, weight))
    functional = torch.nn.functional

    def run() -> Any:
        with torch.inference_mode():
            if isinstance(layer, Linear):
                return functional.linear(images, filters)
            return functional.conv2d(images, filters, None, layer.stride, layer.padding)

    return Prepared(run)


def _torch_int8(layer: Layer, x: F32, weight: F32, threads: int) -> Prepared:
    """oneDNN's int8 convolution as torch's quantiser calls it: uint8 in (zero point 128), float32 out."""
    torch = import_torch(threads)
    if isinstance(layer, Linear):
        raise Unavailable("only convolutions are measured")
    stride, padding, dilation = ([value] * 2 for value in (layer.stride, layer.padding, 1))
    scale, zero = torch.ones(len(weight)), torch.zeros(len(weight), dtype=torch.int64)
    filters = torch.from_numpy(_int8(weight))
    images = torch.from_numpy(_uint8(x)).contiguous(memory_format=torch.channels_last)
    try:
        shape = list(x.shape)
        packed = torch.ops.onednn.qconv_prepack(filters, scale, 1.0, 128, stride, padding, dilation, 1, shape)

        def run() -> Any:
            with torch.inference_mode():
                return torch.ops.onednn.qconv_pointwise(
                    *(images, 1.0, 128, packed, scale, zero, None, stride, padding, dilation, 1),
                    *(1.0, 0, torch.float32, "none", [], ""),
                )

        run()
    except (AttributeError, RuntimeError, TypeError) as error:
        raise Unavailable(f"torch {torch.__version__} has no int8 convolution here: {_first_line(error)}") from None
    return Prepared(run)


def _int8(x: F32) -> NDArray[np.int8]:
    return np.clip(np.rint(x), -127, 127).astype(np.int8)


def _uint8(x: F32) -> NDArray[np.uint8]:
    """Round to uint8 with zero point 128."""
    return (np.clip(np.rint(x), -128, 127) + 128).astype(np.uint8)


# --- onnxruntime -----------------------------------------------------------------------------------------------


def _onnx_float(layer: Layer, x: F32, weight: F32, threads: int) -> Prepared:
    from_numpy, node = onnx_tools()
    how = {"transB": 1} if isinstance(layer, Linear) else _conv_attributes(layer)
    nodes = [node("Gemm" if isinstance(layer, Linear) else "Conv", ["x", "w"], ["y"], **how)]
    return Prepared(onnx_session(nodes, [from_numpy(weight, "w")], {"x": x}, np.float32, threads), lambda y: y[0])


def _onnx_int8(layer: Layer, x: F32, weight: F32, threads: int) -> Prepared:
    """QLinearConv, uint8 in and out; for a linear layer MatMulInteger, whose sums are int32."""
    from_numpy, node = onnx_tools()
    if isinstance(layer, Linear):
        nodes = [node("MatMulInteger", ["x", "w", "x_zero"], ["y"])]
        constants = [from_numpy(np.ascontiguousarray(_int8(weight).T), "w"), from_numpy(np.uint8(128), "x_zero")]
        return Prepared(onnx_session(nodes, constants, {"x": _uint8(x)}, np.int32, threads), lambda y: y[0])
    step = np.float32(2.0 ** np.ceil(np.log2(layer.n_bits / 127)))  # so that no sum of signs is clipped
    n = len(weight)
    values = {
        **{"x_scale": np.float32(1), "x_zero": np.uint8(128), "w": _int8(weight)},
        **{"w_scale": np.ones(n, np.float32), "w_zero": np.zeros(n, np.int8)},
        **{"y_scale": step, "y_zero": np.uint8(128)},
    }
    nodes = [node("QLinearConv", ["x", *values], ["y"], **_conv_attributes(layer))]
    constants = [from_numpy(np.asarray(value), name) for name, value in values.items()]
    run = onnx_session(nodes, constants, {"x": _uint8(x)}, np.uint8, threads)
    return Prepared(run, lambda results: (results[0].astype(np.float32) - 128) * step, float(step))


def onnx_tools() -> tuple[Any, Any]:
    """Return onnx's functions that make constants and nodes. Raises Unavailable."""
    require("onnx")
    require("onnxruntime")
    from onnx import helper, numpy_helper

    return (lambda array, name: numpy_helper.from_array(np.asarray(array), name)), helper.make_node


def _conv_attributes(layer: Conv) -> dict[str, list[int]]:
    return {"pads": [layer.padding] * 4, "strides": [layer.stride] * 2}


def onnx_session(
    nodes: list[Any], constants: list[Any], inputs: dict[str, NDArray], out_type: type, threads: int
) -> Callable[[], list[NDArray]]:
    """Return a function that runs a small ONNX model on `inputs` and returns its output "y", in a list."""
    from onnx import helper

    def value(name: str, dtype: Any, shape: Any) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    graph = helper.make_graph(
        nodes,
        "bench",
        [value(name, array.dtype, array.shape) for name, array in inputs.items()],
        [value("y", out_type, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx_run(model.SerializeToString(), inputs, threads)


def onnx_run(data: bytes, inputs: dict[str, NDArray], threads: int) -> Callable[[], list[NDArray]]:
    """Return a function that runs an ONNX model on `inputs` and returns its outputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.force_spinning_stop", "1"
    )  # between runs, since spinning threads slow others down
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)


# --- loops and our other rungs, from packed bits to integers --------------------------------------------------


def _float_loops(layer: Layer, x: F32, weight: F32, threads: int) -> Prepared:
    from xnor_ref.bench.peers import naive

    layer, out = _conv_output(layer, x, np.float32)
    return Prepared(lambda: naive.float_loops(x, weight, *_steps(layer), out), lambda _: out)


def _naive_bits(by_words: bool, layer: Layer, x: F32, weight: F32, threads: int) -> Prepared:
    from xnor_ref.bench.peers import naive

    layer, out = _conv_output(layer, x, np.int32)
    bits, filters = binary_ops.sign_pack(x), binary_ops.pack_weight(weight)
    shape = layer.channels, *_steps(layer)
    return Prepared(lambda: naive.packed_loops(by_words, bits, filters, *shape, out), lambda _: out)


def _rung(backend: str, layer: Layer, x: F32, weight: F32, threads: int) -> Prepared:
    if isinstance(layer, Linear):
        rows, matrix = binary_ops.sign_pack_rows(x), binary_ops.pack_weight_rows(weight)
        return Prepared(lambda: binary_ops.gemm_bits(rows, matrix, layer.inputs, backend, threads))
    bits, filters = binary_ops.sign_pack(x), binary_ops.pack_weight(weight)
    shape = layer.channels, layer.window, 0
    return Prepared(lambda: binary_ops.conv2d_bits(bits, filters, *shape, backend, threads, layer.groups))


def _conv_output(layer: Layer, x: F32, dtype: type) -> tuple[Conv, NDArray]:
    if isinstance(layer, Linear):
        raise Unavailable("naive loops support convolutions only")
    return layer, np.empty((len(x), layer.out_channels, layer.out_size, layer.out_size), dtype)


def _steps(layer: Conv) -> tuple[tuple[int, int], tuple[int, int]]:
    return (layer.stride, layer.stride), (layer.padding, layer.padding)


# --- by name ---------------------------------------------------------------------------------------------------

_BARE = "no packing, no scales"
BASELINES: dict[str, tuple[Baseline, ...]] = {
    "numpy": (Baseline("NumPy", "im2col and sgemm in NumPy, float32", _numpy),),
    "torch": (
        Baseline(
            "torch NCHW", "torch conv2d or linear, float32, contiguous", partial(_torch_float, "contiguous_format")
        ),
        Baseline("torch NHWC", "torch conv2d, float32, channels_last", partial(_torch_float, "channels_last"), "NHWC"),
    ),
    "torch-int8": (
        Baseline("torch int8", "oneDNN's int8 convolution in torch, uint8 in, float32 out", _torch_int8, "NHWC"),
    ),
    "onnxruntime": (Baseline("ORT fp32", "onnxruntime Conv or Gemm, float32", _onnx_float),),
    "onnxruntime-int8": (
        Baseline("ORT int8", "onnxruntime QLinearConv, uint8 in and out (MatMulInteger, int32 out)", _onnx_int8),
    ),
    "float-loops": (Baseline("float loops", "naive loops over float32 NCHW, compiled by Numba", _float_loops),),
    "bit-loops": (
        Baseline("bit loops", f"naive loops over packed bits, one by one; {_BARE}", partial(_naive_bits, False)),
    ),
    "word-loops": (
        Baseline("word loops", f"naive loops over packed 64-bit words; {_BARE}", partial(_naive_bits, True)),
    ),
    "reference": (
        Baseline("reference", "our NumPy rung, packed bits to int32", partial(_rung, "reference"), any_window=True),
    ),
    "numba": (
        Baseline("numba", "our plain Numba rung, packed bits to int32", partial(_rung, "numba"), any_window=True),
    ),
}
USUAL = ("torch", "onnxruntime", "onnxruntime-int8", "torch-int8", "numpy")


def parse_baselines(
    text: str | None, default: tuple[str, ...] = USUAL, known: Iterable[str] = tuple(BASELINES)
) -> tuple[str, ...]:
    """Return some names of `known`, parsed from 'numpy,torch'; None means `default`, 'none' means none.

    Raises InputError, also if a library is not installed.
    """
    if text is None or text.strip() == "none":
        return default if text is None else ()
    names = parse_names("baseline", text, known)
    for name in names:
        try:
            for package in _PACKAGES.get(name.partition("-")[0], ()):
                require(package)
        except Unavailable as reason:
            raise InputError(f"bench: baseline {name}: {reason}") from None
    return names


def parse_names(what: str, text: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return some names of `known`, each once, parsed from 'fp32,int8'. Raises InputError."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InputError(f"bench: there is no {what} {', '.join(unknown) or text!r}; there are {', '.join(known)}")
    return names


def require(package: str) -> None:
    """Raise Unavailable if `package` is not installed."""
    if sys.modules.get(package) is None and find_spec(package) is None:
        raise Unavailable(f"{package} is not installed ({EXTRA})")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
