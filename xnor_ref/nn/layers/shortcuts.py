"""The shortcut without parameters in residual networks for small images."""

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff import Tensor, apply
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.geometry import Pair
from xnor_ref.nn import functional
from xnor_ref.nn.layers.real_layers import pair, positive
from xnor_ref.nn.module import Module


class IdentityShortcut(Module):
    """Every stride-th pixel, with zeros in the new channels: (N, C, H, W) -> (N, O, OH, OW).

    Option A of He et al. 2016, section 3.3. O must be a multiple of C. Channel c becomes channel c O/C. Which channels
    are zero makes no difference, since the layers on both sides draw the weights of all channels alike.
    """

    padding = (0, 0)

    def __init__(self, in_channels: int, out_channels: int, stride: int | Pair = 1):
        self.in_channels = positive(in_channels, "in_channels", "IdentityShortcut")
        self.out_channels = positive(out_channels, "out_channels", "IdentityShortcut")
        self.stride = pair(stride, "stride", "IdentityShortcut")
        if out_channels % in_channels:
            raise InputError(
                f"IdentityShortcut: out_channels (={out_channels}) must be a multiple of in_channels (={in_channels})"
            )

    def forward(self, x: Tensor) -> Tensor:
        functional.require_images(x, self.in_channels, "IdentityShortcut")
        step = self.out_channels // self.in_channels
        rows, columns = (slice(None, None, stride) for stride in self.stride)
        kept = x.data[:, :, rows, columns]
        data = np.zeros((len(kept), self.out_channels, *kept.shape[2:]), np.float32)
        data[:, ::step] = kept

        def backward(dy):
            dx = np.zeros(x.shape, np.float32)
            dx[:, :, rows, columns] = dy[:, ::step]
            return (dx,)

        return apply("identity_shortcut", data, (x,), backward)

    def weight(self) -> NDArray[np.float32]:
        """Return the weight (O, 1, 1, 1) of the 1x1 convolution with C groups that computes the same."""
        weight = np.zeros((self.out_channels, 1, 1, 1), np.float32)
        weight[:: self.out_channels // self.in_channels] = 1
        return weight

    def describe(self) -> str:
        return f"{self.in_channels} -> {self.out_channels}, stride {self.stride}"
