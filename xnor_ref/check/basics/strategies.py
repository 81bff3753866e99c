"""Strategies that draw arrays. What is simplest comes first, since Hypothesis shrinks towards it."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

NUMBERS = (1.0, -1.0, 0.5, -0.5, 0.0, -0.0, 2.0, -2.0, 0.25, -3.0, 1.5, -1.25)
POSITIVE = (1.0, 0.5, 2.0, 0.25, 3.0, 1.5, 4.0)
NOT_ZERO = tuple(number for number in NUMBERS if number)
SIGNS = (1.0, -1.0)


def f32(values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def f64(values: Any) -> np.ndarray:
    return np.array(values, np.float64)


@st.composite
def array(draw: Any, shape: tuple[int, ...], values: tuple[float, ...] = NUMBERS, dtype: Any = np.float32) -> Any:
    """An array of this shape, of these values."""
    count = int(np.prod(shape))
    index = draw(st.lists(st.integers(0, len(values) - 1), min_size=count, max_size=count))
    return np.array([values[i] for i in index], dtype).reshape(shape)


@st.composite
def seeded(draw: Any, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    """An array of normal numbers, drawn as one seed: of those that may be large, or must differ."""
    return np.random.default_rng(draw(st.integers(0, 2**16))).standard_normal(shape).astype(dtype)


def one_of(*values: Any) -> st.SearchStrategy[Any]:
    """One of some values; the simplest is first."""
    return st.sampled_from(values)
