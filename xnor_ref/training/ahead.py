"""The kernels that a training step needs, in the order in which it needs them, so that two processors can compile them.

See `kernels.ahead`. A list that is too short or too long costs time and nothing else; a test compares it with what
steps really take.
"""

from xnor_ref.kernels import ahead
from xnor_ref.kernels.checks import has_vectors
from xnor_ref.nn import backend
from xnor_ref.nn.methods import METHODS, options_of
from xnor_ref.training.config import TrainConfig

# What for: binary inputs, their K, real ones, gradients in bytes, in floats, and in floats behind binary inputs.
_BITS, _K, _REALS, _BYTES, _FLOATS, _BACK = "bits", "K", "reals", "bytes", "floats", "back"

_STEP = (
    ("datasets.batch_kernel:gather", ""),
    ("kernels.simd:_fill_panels", ""),
    ("kernels.nhwc:from_planes", ""),
    ("kernels.nhwc:copy_inside", ""),
    ("kernels.gradient_layout:fill_real_panels", ""),
    ("kernels.simd:_convolve", ""),
    ("kernels.nhwc_norm:partial_moments", ""),
    ("kernels.nhwc_pool:pool_winners", ""),
    ("kernels.winograd:_transform_filters", _REALS),
    ("kernels.winograd:_convolve", _REALS),
    ("kernels.gradient_layout:pack_filters", _BITS),
    ("kernels.signs:pack_pixels", _BITS),
    ("kernels.plain:box_means", _K),
    ("kernels.nhwc_norm:affine", ""),
    ("kernels.nhwc:global_mean", ""),
    ("kernels.nhwc_norm:partial_gradients", ""),
    ("kernels.nhwc_norm:apply_gradients", ""),
    ("kernels.gradient_layout:expand_bits", _BYTES),
    ("kernels.gradient_layout:largest", _BYTES),
    ("kernels.gradient_layout:quantize", _BYTES),
    ("kernels.gradients:_sum_over_pixels", _BYTES),
    ("kernels.winograd:_transform_input", _FLOATS),
    ("kernels.winograd:_transform_gradient", _FLOATS),
    ("kernels.winograd:_add_products", _FLOATS),
    ("kernels.winograd:_transform_sums", _FLOATS),
    ("kernels.gradient_layout:finish", ""),
    ("kernels.gradient_layout:fill_sign_panels", _BYTES),
    ("kernels.gradients:_convolve_bytes", _BYTES),
    ("kernels.winograd:_transform_filters", _BACK),
    ("kernels.winograd:_convolve", _BACK),
    ("kernels.nhwc_pool:pool_gradient", ""),
    ("kernels.gradient_layout:pack_gradient", ""),  # of the real first layer, as what follows
    ("kernels.gradients:_sum_over_pixels", _FLOATS),
    ("optim._kernels:adam", "adam"),
)

_AFTER = tuple(
    f"xnor_ref.kernels.{name}"
    for name in (
        "float_plain:im2col",
        "nhwc:look_up",
        "nhwc:max_pool",
        "nhwc:affine",
        "float_plain:affine",
        "float_plain:max_pool",
        "plain:channel_means",
        "float_plain:scale_output",
    )
)  # what the evaluation needs, the largest first


def kernels_of(config: TrainConfig) -> list[str]:
    """Names of the kernels, "module:name"; none where the fused layers are not taken."""
    if not has_vectors():
        return []
    method = METHODS[config.method]
    kinds = {"", config.optimizer}
    if method.on_bits:
        in_bytes = config.has_gradients_of_signs and backend.in_bytes(config.backward)
        kinds |= {_BITS} | ({_BYTES} if in_bytes else {_FLOATS, _BACK})
        kinds |= {_K} if options_of(config.method, config.options_of("method")).input_scale != "off" else set()
    else:
        kinds |= {_REALS, _FLOATS}
    return [f"xnor_ref.{name}" for name, kind in _STEP if kind in kinds]


def compile_ahead(config: TrainConfig) -> bool:
    """Have another process compile what the steps of a run need; whether there was anything to do."""
    names = kernels_of(config)
    return bool(names) and ahead.start(names, _AFTER)
