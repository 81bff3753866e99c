"""BatchNorm followed by sign, folded exactly into one comparison per channel.

In inference BatchNorm is y = x*scale + shift per channel, and the binary layer after it uses only sign(y). Because of
float32 rounding, the algebraic threshold -shift/scale is off by a few units in the last place for some channels, which
would flip bits. But x -> fl(fl(x*scale) + shift) is monotone, since rounding is, so the sign changes at exactly one
float32 number. Bisection over the ordered float32 numbers finds it.
"""

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError

F32 = NDArray[np.float32]

_MAX_KEY = int(np.float32(np.finfo(np.float32).max).view(np.int32))


def _floats(keys: NDArray[np.int64]) -> F32:
    """Return finite float32 values by rank: key 0 is 0.0, key k the k-th value above it, key -k its negative."""
    magnitude = np.abs(keys).astype(np.int32).view(np.float32)
    return np.where(keys < 0, -magnitude, magnitude)


def fold_threshold(scale: F32, shift: F32) -> tuple[F32, NDArray[np.bool_]]:
    """Find thresholds that give sign(x*scale + shift) exactly, for every finite float32 x.

    The product is rounded to float32, then the sum. sign(0) = sign(-0.0) = +1. The bit of x (1 for +1) is
    `x >= threshold`, or `x <= threshold` where `flip`.

    Parameters
    ----------
    scale, shift : float32 (C,), finite

    Returns
    -------
    threshold : float32 (C,)
        -inf, with flip False, where the sign is +1 for every x; +inf, with flip False, where it is -1 for every x.
    flip : bool (C,)
        True where scale < 0 and the sign depends on x.

    Raises
    ------
    InputError
        A shape or dtype is wrong, or a value is not finite.

    Examples
    --------
    >>> threshold, flip = fold_threshold(np.float32([2, -2, 0]), np.float32([-3, -3, -1]))
    >>> threshold.tolist(), flip.tolist()
    ([1.5, -1.5, inf], [False, True, False])
    """
    if scale.ndim != 1 or scale.shape != shift.shape or scale.dtype != np.float32 or shift.dtype != np.float32:
        raise InputError(
            f"fold_threshold: scale is {scale.dtype} {scale.shape}, shift is {shift.dtype} {shift.shape}; "
            "both must be float32 (C,)"
        )
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise InputError("fold_threshold: scale and shift must be finite")

    # x*scale = (-x)*(-scale) bit for bit, so a falling line is a rising line read backwards. A product, finite
    # or overflowed, plus a finite shift is never NaN.
    rising = np.abs(scale)
    low = np.full(scale.shape, -_MAX_KEY - 1, np.int64)  # the sign is -1 here (a sentinel below all floats)
    high = np.full(scale.shape, _MAX_KEY + 1, np.int64)  # and +1 here
    with np.errstate(over="ignore", under="ignore"):
        while (high - low > 1).any():
            middle = (low + high) // 2
            positive = _floats(np.clip(middle, -_MAX_KEY, _MAX_KEY)) * rising + shift >= 0
            open_ = high - low > 1
            high = np.where(open_ & positive, middle, high)
            low = np.where(open_ & ~positive, middle, low)

    always, never = high == -_MAX_KEY, high == _MAX_KEY + 1
    flip = (scale < 0) & ~always & ~never
    first = _floats(np.clip(high, -_MAX_KEY, _MAX_KEY))
    threshold = np.where(flip, 0 - first, first)  # 0 - 0.0 is 0.0; plain negation would store -0.0
    threshold[always] = -np.inf
    threshold[never] = np.inf
    return threshold, flip
