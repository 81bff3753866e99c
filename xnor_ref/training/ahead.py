"""The kernels of a training step, in the order of use, so that two processes can compile them.

See `kernels.compiling.ahead`. A list that is too short or too long only costs time. A test compares it with the kernels
that steps use.
"""

from typing import Any

from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.compiling import ahead
from xnor_ref.nn.methods import METHODS, options_of

# Kernels for: binary inputs, their K, real inputs, gradients in bytes, in floats, in floats after binary inputs.
_BITS, _K, _REALS, _BYTES, _FLOATS, _BACK = "bits", "K", "reals", "bytes", "floats", "back"
_RPRELU = "rprelu"

_STEP = (
    ("datasets.batch_kernel:gather", ""),
    ("kernels.vectors.simd:_fill_panels", ""),
    ("kernels.vectors.nhwc:from_planes", ""),
    ("kernels.training.gradient_layout:fill_real_panels", ""),
    ("kernels.vectors.simd:_convolve", ""),
    ("kernels.training.batch_norm:partial_moments", ""),
    ("kernels.training.pooling:pool_winners", ""),
    ("kernels.training.winograd:_transform_filters", _REALS),
    ("kernels.training.winograd:_convolve", _REALS),
    ("kernels.training.gradient_layout:pack_filters", _BITS),
    ("kernels.vectors.signs:pack_pixels", _BITS),
    ("kernels.readable.plain:box_means", _K),
    ("kernels.training.activations:rprelu_rows", _RPRELU),
    ("kernels.vectors.nhwc:affine", ""),
    ("kernels.vectors.nhwc:global_mean", ""),
    ("kernels.training.batch_norm:partial_gradients", ""),
    ("kernels.training.activations:rprelu_gradient_rows", _RPRELU),
    ("kernels.training.batch_norm:apply_gradients", ""),
    ("kernels.training.gradient_layout:expand_bits", _BYTES),
    ("kernels.training.gradient_layout:largest", _BYTES),
    ("kernels.training.gradient_layout:quantize", _BYTES),
    ("kernels.training.gradients:_sum_over_pixels", _BYTES),
    ("kernels.training.winograd:_transform_input", _FLOATS),
    ("kernels.training.winograd:_transform_gradient", _FLOATS),
    ("kernels.training.winograd:_add_products", _FLOATS),
    ("kernels.training.winograd:_transform_sums", _FLOATS),
    ("kernels.training.gradient_layout:finish", ""),
    ("kernels.training.gradient_layout:fill_sign_panels", _BYTES),
    ("kernels.training.gradients:_convolve_bytes", _BYTES),
    ("kernels.training.winograd:_transform_filters", _BACK),
    ("kernels.training.winograd:_convolve", _BACK),
    ("kernels.training.pooling:pool_gradient", ""),
    ("kernels.training.gradient_layout:pack_gradient", ""),  # for the real first layer, like the next ones
    ("kernels.training.gradients:_sum_over_pixels", _FLOATS),
    ("optim._kernels:adam", "adam"),
)

_AFTER = (  # kernels of the evaluation, largest first
    "xnor_ref.kernels.readable.float_plain:im2col",
    "xnor_ref.kernels.vectors.nhwc:look_up",
    "xnor_ref.kernels.vectors.nhwc:max_pool",
    "xnor_ref.kernels.readable.plain:channel_means",
)


def kernels_of(method: str, options: dict[str, Any], optimizer: str, in_bytes: bool) -> list[str]:
    """Return the names of the kernels, "module:name"; none if the fused path is not taken.

    `options` are the method's. `in_bytes` says whether gradients of binary convolutions are multiplied in bytes.
    """
    if not has_vectors():
        return []
    kinds = {"", optimizer}
    if METHODS[method].on_bits:
        kinds |= {_BITS} | ({_BYTES} if in_bytes else {_FLOATS, _BACK})
        settings = options_of(method, options)
        kinds |= {_K} if settings.input_scale.scales else set()
        kinds |= {_RPRELU} if settings.react or settings.rprelu else set()
    else:
        kinds |= {_REALS, _FLOATS}
    return [f"xnor_ref.{name}" for name, kind in _STEP if kind in kinds]


def compile_ahead(method: str, options: dict[str, Any], optimizer: str, in_bytes: bool) -> bool:
    """Let another process compile the kernels of the steps. Return whether there were any. See `kernels_of`."""
    names = kernels_of(method, options, optimizer, in_bytes)
    return bool(names) and ahead.start(names, _AFTER)
