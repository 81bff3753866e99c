"""AP2, the power of two nearest to a number. Multiplying by it is a shift."""

import numpy as np

from xnor_ref.binary.rules import F32

_UP = np.int32(0x4AFB0C)  # brings mantissas above sqrt(2) over the next power of two
_EXPONENT = np.int32(-0x800000)  # bits of sign and exponent


def ap2(x: F32) -> F32:
    """AP2(x) = sign(x) 2^round(log2|x|) of float32 x, and 0 at 0 (Hubara et al. 2016, section 1.4).

    It is exact: it rounds up from |x| > sqrt(2) times a power of two. Subnormal numbers become 0 or 2^-126.

    >>> ap2(np.float32([0, 1, 1.41, 1.42, -3, 0.17]))
    array([ 0.   ,  1.   ,  1.   ,  2.   , -4.   ,  0.125], dtype=float32)
    """
    bits = np.asarray(x, np.float32).view(np.int32)
    return ((bits + _UP) & _EXPONENT).view(np.float32)
