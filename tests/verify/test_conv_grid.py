"""Binary convolutions over a grid of geometries, exact in every backend: what engines for such networks must compute.

Filters, strides, dilations, groups, both paddings and all their values, and channels around the borders of words, on
small images. Every case is computed by the float64 definition, which knows neither words nor windows.
"""

import itertools

import numpy as np
import pytest

from tests.conftest import JIT_DISABLED
from xnor_ref import binary_conv2d
from xnor_ref.conformance.basics import oracle
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.verify.cases import BACKENDS

FILTERS = (1, 1), (2, 2), (3, 3), (5, 5), (2, 3), (4, 1)
STRIDES = (1, 1), (2, 2), (3, 3), (1, 2)
DILATIONS = (1, 1), (2, 2), (3, 2)
PADDINGS = ("valid", 0), ("same", 0), ("same", 1), ("same", -1)
CHANNELS = (  # in, out, groups
    (1, 3, 1), (3, 9, 1), (31, 2, 1), (32, 64, 1), (33, 5, 1), (64, 65, 1), (128, 7, 1), (130, 33, 1),
    (64, 8, 2), (64, 128, 2), (66, 10, 2), (128, 32, 4), (12, 16, 4), (256, 20, 4), (3, 3, 3), (33, 66, 33),
    (64, 64, 64),
)  # fmt: skip
EACH = 4  # of these for every other combination


def cases():
    turn = itertools.cycle(CHANNELS)
    for kernel, stride, dilation, padding in itertools.product(FILTERS, STRIDES, DILATIONS, PADDINGS):
        for channels in itertools.islice(turn, EACH):
            yield kernel, stride, dilation, *padding, *channels


def same(size, kernel, stride, dilation):
    """TensorFlow's rule along an axis: as many windows as steps of the stride begin in the image."""
    total = (-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size
    return (max(total, 0) // 2, max(total, 0) - max(total, 0) // 2)


def test_the_grid_is_large():
    assert len(set(cases())) >= 1122


@pytest.mark.parametrize("kernel", FILTERS, ids=str)
def test_every_backend_is_exact(kernel):
    rng = np.random.default_rng(kernel)
    mine = [case for case in cases() if case[0] == kernel]
    for number, case in enumerate(mine[:: 30 if JIT_DISABLED else 1]):
        _, stride, dilation, padding, pad_value, channels, outputs, groups = case
        size = [max(2, d * (k - 1) + 1) + number % 3 for k, d in zip(kernel, dilation)]
        x = rng.standard_normal((2, channels, *size), np.float32)
        weight = rng.standard_normal((outputs, channels // groups, *kernel), np.float32)
        geometry = {"stride": stride, "pad_value": pad_value, "dilation": dilation, "groups": groups}
        pads = [same(*axis) if padding == "same" else (0, 0) for axis in zip(size, kernel, stride, dilation)]
        want = oracle.sign_convolution(x, weight, padding=pads, **geometry)
        for backend in sorted(set(BACKENDS)):
            got = binary_conv2d(x, weight, padding=padding, backend=backend, **geometry)
            assert np.array_equal(got, want), (backend, size, case)


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_is_the_rule_of_tensorflow(size, kernel, stride, dilation):
    window = Window.of(kernel, stride, "same", dilation, (size, 2 * size))
    assert window.padding == (same(size, kernel, stride, dilation), same(2 * size, kernel, stride, dilation))
    assert window.count((size, 2 * size)) == (-(-size // stride), -(-2 * size // stride))
    first, last = window.padding[0]
    assert 0 <= last - first <= 1  # the pixel that is left over goes below


def test_groups_are_layers_side_by_side():
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 6, 5, 4), np.float32), rng.standard_normal((9, 2, 3, 3), np.float32)
    parts = zip(np.split(x, 3, axis=1), np.split(weight, 3))
    alone = [binary_conv2d(np.ascontiguousarray(part), filters, padding=1) for part, filters in parts]
    assert np.array_equal(binary_conv2d(x, weight, padding=1, groups=3), np.concatenate(alone, axis=1))
