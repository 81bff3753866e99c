"""BatchNorm and sign folded to one comparison: exact for every finite float32."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xnor_ref.errors import InputError
from xnor_ref.packed.thresholds import fold_threshold

MAX = np.finfo(np.float32).max
TINY = np.float32(1e-45)  # the smallest subnormal
NORMAL = np.finfo(np.float32).tiny

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
nasty = st.sampled_from([0.0, -0.0, 1.0, -1.0, *(float(s * v) for v in (TINY, NORMAL, MAX, 3 * TINY) for s in (1, -1))])
values = st.one_of(floats, nasty, st.floats(-3, 3, width=32))


def bit_of_batch_norm(x, scale, shift):
    """The definition: one rounded product, one rounded sum, sign(0) = +1."""
    with np.errstate(all="ignore"):
        return (x * scale).astype(np.float32) + shift >= 0


def bit_of_threshold(x, threshold, flip):
    return np.where(flip, x <= threshold, x >= threshold)


def neighbours(x, count=3):
    """x and the finite float32 values around it."""
    found = [x]
    for direction in (-np.inf, np.inf):
        value = x
        for _ in range(count):
            with np.errstate(all="ignore"):  # past the largest it is infinite
                value = np.nextafter(value, np.float32(direction))
            found.append(value)
    return [value for value in found if np.isfinite(value)]


def assert_exact(scale, shift, extra=()):
    """Every channel is right on both sides of its threshold and at points all over the line."""
    scale, shift = np.atleast_1d(np.float32(scale)), np.atleast_1d(np.float32(shift))
    threshold, flip = fold_threshold(scale, shift)
    assert threshold.dtype == np.float32 and flip.dtype == np.bool_ and not np.isnan(threshold).any()
    common = [0.0, -0.0, 1.0, -1.0, MAX, -MAX, TINY, -TINY, NORMAL, -NORMAL, *extra]
    for channel in range(len(scale)):
        points = [np.float32(value) for value in common]
        if np.isfinite(threshold[channel]):
            points += neighbours(threshold[channel])
        if scale[channel] != 0:
            with np.errstate(all="ignore"):
                guess = np.float32(-shift[channel] / scale[channel])
            points += neighbours(guess)
        x = np.array(points, np.float32)
        expected = bit_of_batch_norm(x, scale[channel], shift[channel])
        got = bit_of_threshold(x, threshold[channel], flip[channel])
        wrong = x[expected != got]
        assert wrong.size == 0, (scale[channel], shift[channel], threshold[channel], flip[channel], wrong)


@settings(max_examples=300, deadline=None)
@given(values, values, st.lists(floats, max_size=20))
@example(1.0, -0.1, [])
@example(float(MAX), float(MAX), [])  # the product overflows
@example(-float(MAX), -float(MAX), [])
@example(float(TINY), float(TINY), [])  # the product vanishes
@example(float(TINY), -float(TINY), [])
@example(-float(TINY), 0.0, [])
@example(0.0, -0.0, [])
@example(1e-30, 1e30, [])  # the algebraic threshold is out of range
def test_exact_for_any_scale_and_shift(scale, shift, points):
    assert_exact(scale, shift, points)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 63, 64, 65]), st.floats(-40, 30))
def test_exact_for_many_channels_at_once(seed, channels, exponent):
    rng = np.random.default_rng(seed)
    scale = (rng.normal(size=channels) * 10.0 ** rng.uniform(-3, 3, channels)).astype(np.float32)
    with np.errstate(over="ignore"):
        shift = np.clip(rng.normal(size=channels) * 10.0**exponent, -MAX, MAX).astype(np.float32)
    assert_exact(scale, shift, rng.normal(size=20))


def test_channels_do_not_influence_each_other():
    rng = np.random.default_rng(1)
    scale, shift = rng.normal(size=(2, 40)).astype(np.float32)
    scale[:3] = 0
    threshold, flip = fold_threshold(scale, shift)
    for channel in range(40):
        one, one_flip = fold_threshold(scale[channel : channel + 1], shift[channel : channel + 1])
        assert one[0] == threshold[channel] and one_flip[0] == flip[channel]


def test_algebraic_threshold_would_be_wrong():
    """What the bisection is for: -shift/scale, rounded, decides some x the other way."""
    rng = np.random.default_rng(2)
    scale, shift = rng.uniform(0.1, 2, (2, 1000)).astype(np.float32)
    naive = -shift / scale
    x = np.stack([np.nextafter(naive, np.float32(d)) for d in (-np.inf, np.inf)] + [naive])
    assert (bit_of_batch_norm(x, scale, shift) != (x >= naive)).any()
    threshold, _ = fold_threshold(scale, shift)
    assert (bit_of_batch_norm(x, scale, shift) == (x >= threshold)).all()


@pytest.mark.parametrize(
    ("scale", "shift", "threshold", "flip"),
    [
        (1, 0, 0, False),
        (1, -0.0, 0, False),
        (-1, 0, 0, True),
        (2, -3, 1.5, False),
        (-2, -3, -1.5, True),
        (0, 1, -np.inf, False),
        (0, -1, np.inf, False),
        (0, 0, -np.inf, False),
        (0, -0.0, -np.inf, False),
        (-0.0, -1, np.inf, False),
        (-0.0, 0.0, -np.inf, False),
        (1e-38, 4, -np.inf, False),  # no finite x reaches the other side
        (-1e-38, 10, -np.inf, False),
        (1e-39, -10, np.inf, False),
        (-1e-39, -10, np.inf, False),
        (1, -MAX, MAX, False),
        (1, MAX, -np.inf, False),
    ],
)
def test_worked_out_by_hand(scale, shift, threshold, flip):
    got, got_flip = fold_threshold(np.float32([scale]), np.float32([shift]))
    assert got[0] == np.float32(threshold) and got_flip[0] == flip
    assert not (got[0] == 0 and np.signbit(got[0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_non_finite(bad):
    for scale, shift in (([bad], [0.0]), ([1.0], [bad])):
        with pytest.raises(InputError, match="finite"):
            fold_threshold(np.float32(scale), np.float32(shift))


def test_refuses_shapes_and_types():
    one = np.ones(3, np.float32)
    for scale, shift in ((one, one[:2]), (one.astype(np.float64), one), (one[None], one[None])):
        with pytest.raises(InputError, match="float32"):
            fold_threshold(scale, shift)
