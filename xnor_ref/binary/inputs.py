"""Input scales: the rules for K, the factor of each output of an XNOR-Net layer.

K is the mean over an output's window of A, the mean of |X| over the channels (Rastegari et al. 2016, section 3.2).
"""

import numpy as np
from numpy.typing import NDArray

from xnor_ref.binary.rules import F32, Registry, Rule
from xnor_ref.binary.sign import sign
from xnor_ref.kernels.basics.geometry import Window, spatial
from xnor_ref.kernels.basics.modes import KMode
from xnor_ref.kernels.ops import binary_ops, float_ops


class InputScale(Rule):
    """K as a function of the input.

    A rule of your own defines `of_images` and `of_rows`. To support `k_grad`, it also defines the two gradients. In a
    layer with groups, `of_images` gets the channels of one group at a time. A model file knows only the rules of this
    module, so a network with another rule cannot be frozen.
    """

    computes = ("of_images", "of_rows")
    scales = True  # False: there is no K

    def of_images(self, x: F32, window: Window) -> NDArray | None:
        """Return K (N, 1, OH, OW) of images (N, C, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} has no of_images")

    def of_rows(self, x: F32) -> NDArray | None:
        """Return K (N, 1) of the inputs (N, I) of a fully connected layer."""
        raise NotImplementedError(f"{type(self).__name__} has no of_rows")

    def images_gradient(self, dk: F32, x: F32, window: Window) -> F32:
        """Return the part of dC/dX that flows through K, from dC/dK (N, 1, OH, OW)."""
        raise NotImplementedError(f"{type(self).__name__} has no images_gradient")

    def rows_gradient(self, dk: F32, x: F32) -> F32:
        """Return the part of dC/dX that flows through K, from dC/dK (N, 1)."""
        raise NotImplementedError(f"{type(self).__name__} has no rows_gradient")

    @property
    def for_rows(self) -> "InputScale":
        """The rule that gives the same K in a fully connected layer."""
        return self


class NoInputScale(InputScale):
    """No K."""

    name = "off"
    equation = "K = 1"
    source = "the authors' released code"
    compiled = KMode.OFF
    scales = False

    def of_images(self, x: F32, window: Window) -> None:
        return None

    def of_rows(self, x: F32) -> None:
        return None


class Plain(InputScale):
    """K as the mean over all taps of a window. Taps outside the image count as zeros."""

    name = "plain"
    equation = "K = A (*) k, k = 1/(KH KW)"
    source = "Rastegari et al. 2016, eq. 11"
    compiled = _taps = KMode.PLAIN

    def of_images(self, x: F32, window: Window) -> F32:
        return binary_ops.input_scale_map(x, window, self._taps)

    def of_rows(self, x: F32) -> F32:
        return binary_ops.input_scale_rows(x)

    def images_gradient(self, dk: F32, x: F32, window: Window) -> F32:
        box = np.ones((1, 1, *window.kernel), np.float32)
        share = self._share(dk, x, box, window)
        da = float_ops.conv2d_input_gradient(share, box, spatial(x), window)
        return sign(x) * (da / np.float32(x.shape[1]))

    def rows_gradient(self, dk: F32, x: F32) -> F32:
        return sign(x) * (dk / np.float32(x.shape[1]))

    def _share(self, dk: F32, x: F32, box: F32, window: Window) -> F32:
        """Return the gradient that each tap of a window receives."""
        return dk / np.float32(box.size)


class Valid(Plain):
    """K as the mean over the taps inside the image."""

    name = "valid"
    equation = "K = (A (*) 1) / (number of taps inside)"
    source = "as `plain`, without the zeros of the padding"
    compiled = _taps = KMode.VALID

    @property
    def for_rows(self) -> InputScale:
        return PLAIN

    def _share(self, dk: F32, x: F32, box: F32, window: Window) -> F32:
        inside = float_ops.conv2d(np.ones((1, 1, *spatial(x)), np.float32), box, None, window)
        shares: F32 = np.divide(dk, np.maximum(inside, 1), dtype=np.float32)
        return shares


PLAIN, NO_K = Plain(), NoInputScale()
INPUT_SCALES = Registry("input_scale", InputScale, NO_K, PLAIN, Valid())
