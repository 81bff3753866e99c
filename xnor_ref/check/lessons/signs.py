"""Lesson 1: signs, the straight-through estimator, one step of training."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from xnor_ref.check.basics.exercise import Exercise, Lesson, mistake
from xnor_ref.check.basics.strategies import array, f32, one_of

EIGHT = f32([0.7, -0.1, -2, 0, 0.3, -0.5, 1, -1])
SLOPES: dict[str, Callable[..., Any]] = {
    "closed": lambda x: np.abs(x) <= 1,
    "open": lambda x: np.abs(x) < 1,
    "upper": lambda x: x <= 1,
    "none": np.ones_like,
    "printed": lambda x: x * (np.abs(x) <= 1),
    "zero": np.zeros_like,
}


def sign(x, zero=1.0, minus=-1.0, turned=False):
    s = np.where(x > 0, 1.0, minus)
    s = np.where(x == 0, np.where(np.signbit(x), minus, 1.0) if zero == "sign bit" else zero, s)
    return -s if turned else s


def ste(x, dy, slope="closed", of="x", dropped=False, clipped=False):
    dx = SLOPES[slope](dy if of == "dy" else x) * (1.0 if dropped else dy)
    return np.clip(dx, -1, 1) if clipped else dx


def step(w, g, rate, mask="closed", clamp=True, first=False, up=False):
    mask, g = SLOPES[mask](w), (-g if up else g)
    if first:
        return np.clip(w, -1, 1) - rate * mask * g
    after = w - rate * mask * g
    return np.clip(after, -1, 1) if clamp else after


SHAPES = st.one_of(st.tuples(st.integers(1, 9)), st.tuples(st.integers(1, 3), st.integers(1, 4)), st.just(()))


@st.composite
def steps(draw):
    shape = draw(st.tuples(st.integers(1, 8)))
    return draw(array(shape)), draw(array(shape)), draw(one_of(0.5, 0.1, 1.0))


LESSON = Lesson(
    1,
    "Signs, latent weights, and a gradient that is not one",
    "01-signs.md",
    (
        Exercise(
            "my_sign",
            """The sign of each number.

    x : float32, any shape

    Returns an array of the same shape: +1.0 where x >= 0, else -1.0.""",
            ("x",),
            sign,
            (
                mistake("What is the sign of 0 in your function? A third value cannot be stored in one bit.", zero=0),
                mistake("What is the sign of 0 in your function? M(1) counts zero as positive.", zero=-1),
                mistake(
                    "You read the sign bit, which -0.0 has too. Zero is positive, however it is written.",
                    zero="sign bit",
                ),
                mistake("Your values are 0 and 1: those are bits. A sign is +1 or -1.", minus=0.0),
                mistake("Every sign is the opposite of what it should be.", turned=True),
            ),
            (EIGHT,),
            SHAPES.flatmap(lambda shape: st.tuples(array(shape))),
        ),
        Exercise(
            "my_ste",
            """The straight-through estimator: the gradient of x, if dy is that of sign(x).

    x : float32, any shape
    dy : float32, the same shape

    Returns dx, the same shape, by M(2).""",
            ("x", "dy"),
            ste,
            (
                mistake(
                    "The gradient passes everywhere. What does M(2) say about numbers far from zero?", slope="none"
                ),
                mistake("Look at x = 1 and x = -1. Do the ends of the interval belong to it?", slope="open"),
                mistake("The interval has two ends. What happens below -1?", slope="upper"),
                mistake("The mask must depend on x, the number whose sign was taken, not on dy.", of="dy"),
                mistake(
                    "You return the mask alone. The chain rule multiplies it by the gradient from above.", dropped=True
                ),
                mistake("You clip the gradient. The estimator clips nothing: it passes dy or stops it.", clipped=True),
                mistake(
                    "You multiply by x. The paper prints that factor; it is a misprint (see M(2)).", slope="printed"
                ),
                mistake(
                    "The true derivative of sign is 0, and nothing is learned by it. What stands for it?", slope="zero"
                ),
            ),
            (EIGHT, np.ones(8, np.float32)),
            role="ste",
            limits={"batch": 2, "channels": (1, 2, 8)},
        ),
        Exercise(
            "my_step",
            """One step of gradient descent on latent weights, then a clamp to [-1, 1].

    w : float32 (n,), latent weights
    g : float32 (n,), the gradient of their signs
    rate : a number, the learning rate

    Returns the new latent weights (n,). The gradient of w is g, masked by M(2).""",
            ("w", "g", "rate"),
            step,
            (
                mistake("A weight outside [-1, 1] moved by its gradient. The estimator gives it none.", mask="none"),
                mistake("A weight left the interval [-1, 1]. Clamp after the step.", clamp=False),
                mistake("Clamp last. After your step a weight can lie outside [-1, 1] again.", first=True),
                mistake("Your step goes uphill: it makes the loss larger.", up=True),
                mistake("Look at weights of exactly 1 and -1: does M(2) stop their gradient?", mask="open"),
            ),
            (EIGHT, np.ones(8, np.float32), 0.5),
            steps(),
            tolerance=1e-6,
        ),
    ),
)
