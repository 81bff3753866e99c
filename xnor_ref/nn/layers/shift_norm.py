"""BinaryNet's shift-based batch normalisation, with factors that are powers of two (Hubara et al. 2016, algorithm 3).

With c = x - mean in each channel, and AP2 for the nearest power of two (`binary.ap2`):

    var = mean(c AP2(c)),    inv = AP2(1/sqrt(var + eps)),    y = AP2(gamma) c inv + beta

Gradients pass straight through AP2, as in the authors' code. They are those of batch normalisation with `inv` instead
of 1/sqrt(var + eps) and AP2(gamma) instead of gamma.
"""

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff import Tensor, apply
from xnor_ref.binary import ap2
from xnor_ref.nn import shards
from xnor_ref.nn.functional import batch_norm_gradient
from xnor_ref.nn.layers.real_layers import BatchNorm

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def shift_batch_norm(x: Tensor, layer: BatchNorm) -> Tensor:
    """Normalise each channel of x (N, C[, H, W]) as above; `layer.move` learns of the moments."""
    images, gamma, beta, eps = np.ascontiguousarray(x.data), layer.weight, layer.bias, layer.eps
    axes, shape = (0, *range(2, x.ndim)), (1, -1, *(1,) * (x.ndim - 2))
    shard = shards.current()
    norms = shard.of_norms
    mean = norms.sums(images.mean(axis=axes, dtype=np.float64)) / norms.count
    centred = images - mean.astype(np.float32).reshape(shape)
    var = norms.sums(np.multiply(centred, ap2(centred), dtype=np.float64).mean(axis=axes)) / norms.count
    shard.moved(layer, mean, var, images.size // layer.channels)
    inv = inverse_root(var, eps)
    factor = ap2(gamma.data)
    data = centred * (factor * inv).reshape(shape) + beta.data.reshape(shape)

    def backward(dy):
        as_if = 1 / np.square(inv, dtype=np.float64) - eps  # the variance whose 1/sqrt(var + eps) is inv
        return batch_norm_gradient(dy, images, factor, mean, as_if, eps)

    return apply("shift_batch_norm", data, (x, gamma, beta), backward)


def inverse_root(var: NDArray, eps: float) -> F32:
    """Return AP2(1/sqrt(var + eps)) in float32."""
    return ap2((1 / np.sqrt(var.astype(np.float64) + eps)).astype(np.float32))


class _ShiftBatchNorm(BatchNorm):
    """Shift-based batch normalisation per channel. The running variance is the `var` above, with powers of two."""

    normalize = staticmethod(shift_batch_norm)
    fuses_alone = False

    def inference_affine(self) -> tuple[F32, F32]:
        """(scale, shift), float32 (C,): AP2(gamma) inv, a power of two, and beta - mean * scale, rounded once."""
        scale = ap2(self.weight.data) * inverse_root(self.running_var, self.eps)
        shift = self.bias.data - self.running_mean * scale.astype(np.float64)
        return scale, shift.astype(np.float32)


class ShiftBatchNorm1d(_ShiftBatchNorm):
    """Shift-based BatchNorm of (N, C)."""

    ndim = 2


class ShiftBatchNorm2d(_ShiftBatchNorm):
    """Shift-based BatchNorm of (N, C, H, W)."""

    ndim = 4
