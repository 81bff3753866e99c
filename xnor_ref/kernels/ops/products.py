"""Products with XNOR-Net++'s Gamma and their gradient, in NumPy on all threads.

Chunks follow from shapes alone, so results do not depend on the number of threads.
"""

import numpy as np
from numpy.typing import NDArray

from xnor_ref.kernels.basics.threads import parallel_chunks

PRODUCTS = 1 << 17  # elements of a chunk of `scaled`
SUMS_TOGETHER = 1 << 13, 8  # sums of a chunk of `product_sums`, and rows of it that are added in float32


def scaled(x: NDArray, gamma: NDArray) -> NDArray:
    """x (N, P) times gamma (1, P)."""
    y = np.empty_like(x)
    chunk = max(1, PRODUCTS // gamma.size)
    parallel_chunks(lambda a, b: np.multiply(x[a:b], gamma, out=y[a:b]), len(x), chunk)
    return y


def product_sums(dy: NDArray, x: NDArray) -> NDArray[np.float64]:
    """Sums (P,) over N of dy * x, both (N, P): a few rows in their own precision, these sums in float64."""
    sums = np.zeros(x.shape[1])
    chunk, few = SUMS_TOGETHER

    def add_up(start, stop):
        for row in range(0, len(x), few):
            block = slice(row, row + few), slice(start, stop)
            sums[start:stop] += np.einsum("np,np->p", dy[block], x[block])

    parallel_chunks(add_up, sums.size, chunk)
    return sums
