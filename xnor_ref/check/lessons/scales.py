"""Lesson 4: alpha, K, and what signs forget."""

import numpy as np
from hypothesis import strategies as st

from xnor_ref.check.basics.exercise import Exercise, Lesson, mistake
from xnor_ref.check.basics.strategies import NOT_ZERO, array, f64
from xnor_ref.check.lessons.signs import EIGHT
from xnor_ref.conformance.basics import oracle

OVER = {"filter": (1, 2, 3), "channel": (0, 2, 3), "taps": (2, 3), "layer": None}


def alpha(weight, over="filter", of="abs"):
    w = weight.astype(np.float64)
    taken = {
        "abs": lambda: np.abs(w).mean(axis=OVER[over]),
        "signed": lambda: w.mean(axis=OVER[over]),
        "abs of mean": lambda: np.abs(w.mean(axis=OVER[over])),
        "sum": lambda: np.abs(w).sum(axis=OVER[over]),
        "root": lambda: np.sqrt((w**2).mean(axis=OVER[over])),
        "largest": lambda: np.abs(w).max(axis=OVER[over]),
    }[of]()
    return np.full(len(w), taken) if over == "layer" else taken


def scale_map(x, kernel, stride, padding, of="abs", channels="mean", divisor="plain", axes=(0, 1), rank=4):
    a = x.astype(np.float64)
    a = {"abs": np.abs(a), "x": a, "sign": np.ones_like(a)}[of]
    a = a.mean(axis=1, keepdims=True) if channels == "mean" else a.sum(axis=1, keepdims=True)
    if channels == "x mean":
        a = np.abs(x.astype(np.float64).mean(axis=1, keepdims=True))
    stride, padding = [stride[i] for i in axes], [padding[i] for i in axes]
    box = np.ones((1, 1, *kernel))
    total = oracle.convolve(a, box, stride, padding, 0.0)
    taps = oracle.convolve(np.ones_like(a), box, stride, padding, 0.0)
    k = {"plain": total / box.size, "valid": total / np.maximum(taps, 1), "none": total}[divisor]
    return k if rank == 4 else k[:, 0]


def error(W, squared=False, absolute=False, scale="mean"):
    w = W.astype(np.float64)
    size = (w**2).sum()
    a = {"mean": np.abs(w).mean(), "root": np.sqrt((w**2).mean()), "one": 1.0}[scale]
    left = ((w - a * np.where(w >= 0, 1, -1)) ** 2).sum()
    if absolute:
        return left if squared else np.sqrt(left)
    return left / size if squared else np.sqrt(left / size)


@st.composite
def filters(draw):
    n = draw(st.integers(1, 8))
    return (draw(array((n,), NOT_ZERO, np.float64)),)


SMALL = {"channels": (1, 2, 3), "out_channels": (1, 2, 3), "batch": 2, "largest_image": 4, "largest_dot": 75}
LESSON = Lesson(
    4,
    "What a sign forgets: the scales α and K",
    "04-scales.md",
    (
        Exercise(
            "my_alpha",
            """The scale of each filter, M(4).

    weight : float32 (O, C, KH, KW)

    Returns numbers (O,): the mean of abs(W) of each filter.""",
            ("weight",),
            alpha,
            (
                mistake(
                    "The mean is taken over the wrong axes: you have one number for each channel, not filter.",
                    over="channel",
                ),
                mistake("The mean is taken over the taps alone. A filter has channels, too.", over="taps"),
                mistake("All filters share one scale. Each filter has its own.", over="layer"),
                mistake("The absolute values are missing: positive and negative weights cancel.", of="signed"),
                mistake("Absolute values come before the mean, not after it.", of="abs of mean"),
                mistake("You return the sum. M(4) divides by n, the number of weights of a filter.", of="sum"),
                mistake(
                    "You return the root of the mean square. Least squares leads to another mean: derive M(4).",
                    of="root",
                ),
                mistake("You return the largest absolute value, not the mean.", of="largest"),
            ),
            (EIGHT.reshape(1, 2, 2, 2),),
            role="alpha",
            limits=SMALL,
            tolerance=1e-5,
        ),
        Exercise(
            "my_scale_map",
            """K, the scale of each window of the input, M(7).

    x : float32 (N, C, H, W)
    kernel, stride, padding : pairs of ints, (vertical, horizontal)

    Returns numbers (N, 1, OH, OW). Pixels of the padding count as zeros in the mean.""",
            ("x", "kernel", "stride", "padding"),
            scale_map,
            (
                mistake("The absolute values are missing: M(7) averages abs(x).", of="x"),
                mistake("You sum over the channels. A is their mean.", channels="sum"),
                mistake("K's divisor is missing: a mean over the window divides by KH KW.", divisor="none"),
                mistake(
                    "K's divisor counts only pixels inside the image. That is M(9). M(7) counts all KH KW.",
                    divisor="valid",
                ),
                mistake("Vertical and horizontal are exchanged, in stride or padding.", axes=(1, 0)),
                mistake("K is one map for each image, and keeps the axis of the channels, of length 1.", rank=3),
            ),
            (EIGHT.reshape(1, 1, 2, 4), (2, 2), (1, 1), (0, 0)),
            role="scale_map",
            limits=SMALL,
            tolerance=1e-5,
        ),
        Exercise(
            "my_error",
            """The smallest relative error of a binary filter: the norm of W - alpha B over the norm of W, by M(5).

    W : float64 (n,), not all 0

    Returns a number from 0 to 1.""",
            ("W",),
            error,
            (
                mistake("That is the square of the relative error. Take the root.", squared=True),
                mistake("That is the error itself. Relative means: divided by the norm of W.", absolute=True),
                mistake(
                    "That is the squared error of M(5). Divide by the squared norm of W, and take the root.",
                    squared=True,
                    absolute=True,
                ),
                mistake("Your alpha is not the best one. M(4) says which is.", scale="root"),
                mistake("Where is alpha? With B alone the error is not the smallest.", scale="one"),
            ),
            (f64([0.7, -0.1, -2, 0.2, 0.3, -0.5, 1, -1]),),
            filters(),
            tolerance=1e-6,
        ),
    ),
)
