"""Lesson 7: flips, weights that never decide, the paper's gradient rule."""

import numpy as np
from hypothesis import strategies as st

from xnor_ref.check.basics.exercise import Exercise, Lesson, mistake
from xnor_ref.check.basics.strategies import NUMBERS, SIGNS, array, f32, f64
from xnor_ref.check.lessons.signs import EIGHT, sign


def flips(before, after, share=True, by="sign", zero=1.0):
    changed = before != after if by == "value" else sign(before, zero) != sign(after, zero)
    return changed.mean() if share else int(changed.sum())


def twice(signs, within, closed=True, anywhere=False, count="weights", least=2):
    flipped = signs[1:] != signs[:-1]
    found = 0
    for column in flipped.T:
        at = np.flatnonzero(column)
        if anywhere:
            near = len(at) >= least
        elif least == 1:
            near = len(at) >= 1
        else:
            near = (np.diff(at) <= within).sum() if closed else (np.diff(at) < within).sum()
        found += near if count == "pairs" else bool(near)
    return int(found)


def paper(W, G, one_nth="diagonal", mask="second", alpha="filter"):
    n = W.shape[1]
    a = np.abs(W).mean(axis=None if alpha == "layer" else 1, keepdims=True)
    a = {"one": 1.0}.get(alpha, a)
    inside = np.abs(W) <= 1
    first = {"diagonal": 1 / n, "none": 0.0, "whole": 1.0, "sum": 0.0}[one_nth]
    if one_nth == "sum":
        return sign(W) * (G * sign(W)).sum(axis=1, keepdims=True) / n + a * inside * G
    if mask == "both":
        return (first + a) * inside * G
    return (first + (a * inside if mask == "second" else a)) * G


@st.composite
def steps(draw):
    shape = draw(st.tuples(st.integers(1, 8)))
    return draw(array(shape)), draw(array(shape))


@st.composite
def histories(draw):
    shape = draw(st.integers(2, 8)), draw(st.integers(1, 4))
    return draw(array(shape, SIGNS)), draw(st.integers(1, 4))


@st.composite
def gradients(draw):
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    return draw(array(shape, NUMBERS, np.float64)), draw(array(shape, NUMBERS, np.float64))


LESSON = Lesson(
    7,
    "Training: what moves, what flips, what dies",
    "07-training.md",
    (
        Exercise(
            "my_flips",
            """The share of binary weights that flip in a step.

    before, after : float32, latent weights before and after it, any shape

    Returns a number from 0 to 1.""",
            ("before", "after"),
            flips,
            (
                mistake("You count latent weights that changed. A weight flips only if its sign changes.", by="value"),
                mistake("You return a count. The share divides by the number of weights.", share=False),
                mistake("A weight that goes from 0.5 to 0 has not flipped: sign(0) = +1.", zero=0),
                mistake("Is the sign of 0 negative in your function? M(1) has +1.", zero=-1),
            ),
            (EIGHT, -EIGHT),
            steps(),
            tolerance=1e-9,
        ),
        Exercise(
            "my_twice",
            """How many weights flip twice within a few steps: they lie near 0 and do not decide.

    signs : float32 (T, n), the signs of n weights after each of T steps
    within : the largest number of steps from one flip to the next

    Returns an int: the number of weights with two flips at most `within` steps apart.""",
            ("signs", "within"),
            twice,
            (
                mistake(
                    "Flips that are far apart count in your function. Look at the distance of two flips.", anywhere=True
                ),
                mistake("Two flips exactly `within` steps apart count, too.", closed=False),
                mistake("You count pairs of flips. A weight counts once.", count="pairs"),
                mistake("One flip is not enough.", least=1),
            ),
            (f32([[1, 1], [-1, 1], [1, -1], [1, -1]]), 1),
            histories(),
        ),
        Exercise(
            "my_paper",
            """The paper's rule for the gradient of the latent weights, M(15).

    W : float64 (O, n), the latent weights of O filters
    G : float64 (O, n), the gradient of alpha sign(W)

    Returns the gradient of W (O, n).""",
            ("W", "G"),
            paper,
            (
                mistake("The term 1/n is missing. Without it the rule is the plain estimator, `ste`.", one_nth="none"),
                mistake("The first term is 1/n, with n the number of weights of a filter.", one_nth="whole"),
                mistake("That is M(14), the rule `corrected`. The paper keeps the diagonal alone.", one_nth="sum"),
                mistake("The mask belongs to the second term alone.", mask="both"),
                mistake("The mask is missing: the second term is 0 where abs(W) > 1.", mask="none"),
                mistake("Each filter has its own alpha.", alpha="layer"),
                mistake("alpha is missing in the second term.", alpha="one"),
            ),
            (EIGHT.astype(np.float64).round(1)[None], f64([[1, 0, 0, 0, 0, 0, 0, 0]])),
            gradients(),
            tolerance=1e-9,
        ),
    ),
)
