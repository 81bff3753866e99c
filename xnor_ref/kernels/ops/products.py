"""Products with XNOR-Net++'s Gamma and their gradients, in NumPy on all threads.

Chunks depend only on shapes, so results do not depend on the number of threads.
"""

import numpy as np
from numpy.typing import NDArray

from xnor_ref.kernels.basics.threads import parallel_chunks

PRODUCTS = 1 << 17  # elements per chunk of `scaled`
SUMS_TOGETHER = 1 << 13, 8  # sums per chunk of `product_sums`, and rows added in the arrays' own precision


def scaled(x: NDArray, gamma: NDArray) -> NDArray:
    """Return x (N, P) times gamma (1, P)."""
    y = np.empty_like(x)
    chunk = max(1, PRODUCTS // gamma.size)
    parallel_chunks(lambda a, b: np.multiply(x[a:b], gamma, out=y[a:b]), len(x), chunk)
    return y


def product_sums(dy: NDArray, x: NDArray) -> NDArray[np.float64]:
    """Return the sums (P,) over N of dy * x, both (N, P).

    A few rows are added in their own dtype, their sums in float64.
    """
    sums = np.zeros(x.shape[1])
    chunk, few = SUMS_TOGETHER

    def add_up(start, stop):
        for row in range(0, len(x), few):
            block = slice(row, row + few), slice(start, stop)
            sums[start:stop] += np.einsum("np,np->p", dy[block], x[block])

    parallel_chunks(add_up, sums.size, chunk)
    return sums
