"""Lesson 5: operations with gradients of their own."""

import numpy as np
from hypothesis import strategies as st

from xnor_ref.check.basics.exercise import Exercise, Lesson, call_operation, mistake
from xnor_ref.check.basics.strategies import NOT_ZERO, array
from xnor_ref.check.lessons.signs import EIGHT


def relu(x, dy, slope="open", forward="relu", of_dy=False):
    y = {"relu": np.maximum(x, 0), "abs": np.abs(x), "x": x}[forward]
    mask = (x >= 0) if slope == "closed" else np.ones_like(x) if slope == "none" else (dy if of_dy else x) > 0
    return y, dy * mask if slope != "bare" else mask * 1.0


def scale(W, dy, divided=True, by="sign", masked=False, value="mean"):
    n = W.size
    s = {"sign": np.where(W >= 0, 1.0, -1.0), "one": np.ones_like(W), "W": W}[by]
    dx = dy * s / (n if divided else 1)
    y = {"mean": np.abs(W).mean(), "signed": W.mean(), "sum": np.abs(W).sum()}[value]
    return y, dx * (np.abs(W) <= 1) if masked else dx


def bireal(x, dy, factor=2.0, cut=True, of="abs", plain=False):
    size = np.abs(x) if of == "abs" else x
    slope = (size <= 1) * 1.0 if plain else factor - factor * size
    return dy * (np.where(np.abs(x) <= 1, slope, 0) if cut else slope)


@st.composite
def pairs(draw, values=None, scalar=False):
    shape = draw(st.tuples(st.integers(1, 8)))
    x = draw(array(shape, values, np.float64)) if values else draw(array(shape, dtype=np.float64))
    return x, draw(array(() if scalar else shape, NOT_ZERO, np.float64))


OPERATION = """

    Returns the value, and a function from dy, the gradient of the value, to that of """
LESSON = Lesson(
    5,
    "Gradients by a machine, in a hundred lines",
    "05-autodiff.md",
    (
        Exercise(
            "my_relu",
            """max(x, 0) as an operation for a tape.

    x : float64, any shape"""
            + OPERATION
            + """x. The derivative at 0 is 0.""",
            ("x",),
            relu,
            (
                mistake("What is the derivative at exactly 0? Here it is 0.", slope="closed"),
                mistake(
                    "The gradient passes everywhere. Where x is negative, the value does not depend on x.", slope="none"
                ),
                mistake("You return the derivative alone. The chain rule multiplies it by dy.", slope="bare"),
                mistake("The mask must depend on x, not on dy.", of_dy=True),
                mistake("The value is not max(x, 0): what becomes of negative numbers?", forward="abs"),
                mistake("The value is x itself: negative numbers must become 0.", forward="x"),
            ),
            (EIGHT.astype(np.float64).round(1), np.ones(8)),
            pairs(),
            call=call_operation,
            tolerance=1e-9,
        ),
        Exercise(
            "my_scale",
            """alpha as an operation: the mean of abs(W), with its true derivative.

    W : float64, any shape, no zeros"""
            + OPERATION
            + """W.""",
            ("W",),
            scale,
            (
                mistake("The 1/n is missing. alpha is a mean: each weight moves it by one n-th.", divided=False),
                mistake("The sign is missing. A negative weight that grows makes abs(W) smaller.", by="one"),
                mistake("The derivative of abs(W) is sign(W), not W.", by="W"),
                mistake(
                    "This is no estimator: abs(W) has a derivative everywhere but at 0. Leave the mask out.",
                    masked=True,
                ),
                mistake("The absolute values are missing in the value.", value="signed"),
                mistake("The value is a mean, not a sum.", value="sum"),
            ),
            (np.array([0.7, -0.1, -2, 0.2, 0.3, -0.5, 1, -1]), np.float64(1.0)),
            pairs(NOT_ZERO, scalar=True),
            call=call_operation,
            tolerance=1e-9,
        ),
        Exercise(
            "my_bireal",
            """Bi-Real Net's gradient of sign: its derivative is 2 - 2 abs(x) inside [-1, 1], and 0 outside.

    x : float64, any shape
    dy : float64, the same shape, the gradient of sign(x)

    Returns dx, the same shape.""",
            ("x", "dy"),
            bireal,
            (
                mistake("Outside [-1, 1] your derivative is negative. It should be 0 there.", cut=False),
                mistake("The factor 2 is missing: the derivative at 0 is 2.", factor=1.0),
                mistake("The derivative must be the same on both sides of 0: abs(x).", of="x"),
                mistake(
                    "That is the plain straight-through estimator. Here the derivative falls with abs(x).", plain=True
                ),
            ),
            (EIGHT.astype(np.float64).round(1), np.ones(8)),
            pairs(),
            tolerance=1e-9,
        ),
    ),
)
