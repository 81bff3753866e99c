"""Lesson 6: the gradient of a whole layer, that of BatchNorm, the order of a block."""

import numpy as np
from hypothesis import strategies as st

from xnor_ref.check.basics.exercise import Exercise, Lesson, mistake
from xnor_ref.check.basics.strategies import NUMBERS, array, f64, seeded
from xnor_ref.check.lessons.signs import sign
from xnor_ref.conformance.basics import oracle

EPSILON = 1e-5


def backward(
    x, w, dy, one_nth=True, through_alpha=True, over="filter", mask_w=True, mask_x=True, real=False, scaled=True,
    alpha_in_dx=True, signs_of_x=True,
):  # fmt: skip
    n = w.shape[1]
    signs, alpha = sign(w), np.abs(w).mean(axis=1, keepdims=True)
    inside_w = np.abs(w) <= 1 if mask_w else 1.0
    binary = w if real else alpha * signs if alpha_in_dx else signs
    dx = dy @ binary * (np.abs(x) <= 1 if mask_x else 1.0)
    g = dy.T @ (sign(x) if signs_of_x else x)
    total = (g * signs).sum(axis=1 if over == "filter" else 0 if over == "input" else None, keepdims=True)
    first = signs * total / (n if one_nth else 1)
    return dx, first * through_alpha + (alpha if scaled else 1.0) * inside_w * g


def batchnorm(x, dy, mean=True, variance=True, unbiased=False, divided=True):
    m = len(x)
    s = 1 / np.sqrt(x.var(axis=0, ddof=int(unbiased)) + EPSILON)
    normal = (x - x.mean(axis=0)) * s
    inner = (
        dy - mean * dy.mean(axis=0) - variance * normal * (dy * normal).mean(axis=0) * (m / (m - 1) if unbiased else 1)
    )
    return inner * (s if divided else 1)


def block(x, w, order="bacp", unbiased=False, over=(0, 2, 3), average=False):
    for step in order:
        if step == "b":
            s = np.sqrt(x.var(axis=over, keepdims=True, ddof=int(unbiased)) + EPSILON)
            x = (x - x.mean(axis=over, keepdims=True)) / s
        elif step == "a":
            x = sign(x)
        elif step == "r":
            x = np.maximum(x, 0)
        elif step == "c":
            x = oracle.convolve(x, sign(w), (1, 1), (0, 0), 0.0)
        else:
            n, c, h, width = x.shape
            x = x[:, :, : h // 2 * 2, : width // 2 * 2]
            parts = x.reshape(n, c, h // 2, 2, width // 2, 2)
            x = parts.mean(axis=(3, 5)) if average else parts.max(axis=(3, 5))
    return x


@st.composite
def layers(draw):
    n, i, o = draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    return tuple(draw(array(shape, NUMBERS, np.float64)) for shape in ((n, i), (o, i), (n, o)))


@st.composite
def batches(draw):
    shape = draw(st.integers(3, 6)), draw(st.integers(1, 2))
    return draw(seeded(shape, np.float64)) + 0.5, draw(seeded(shape, np.float64))


@st.composite
def images(draw):
    c, o = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    x = draw(seeded((draw(st.integers(1, 2)), c, 6, 6), np.float64)) + 0.7
    return x, draw(seeded((o, c, 3, 3), np.float64))


W = f64([[0.7, -0.1, -2, 0, 0.3, -0.5, 1, -1]])
X = f64([[1, 1, -1, -1, 1, -1, -1, -1]])
LESSON = Lesson(
    6,
    "A whole XNOR-Net in 150 lines",
    "06-a-network.md",
    (
        Exercise(
            "my_backward",
            """The gradients of a binary linear layer without K: y = alpha * (sign(x) @ sign(w).T).

    x : float64 (N, I), its input
    w : float64 (O, I), latent weights; alpha (O,) is the mean of abs(w) of each row
    dy : float64 (N, O), the gradient of its output

    Returns dx (N, I) by M(12) and dw (O, I) by M(14); n is I.""",
            ("x", "w", "dy"),
            backward,
            (
                mistake(
                    "The 1/n is missing in the first term of M(14): alpha is a mean over n weights.", one_nth=False
                ),
                mistake(
                    "alpha depends on every weight of its filter. Which term of M(14) comes from that?",
                    through_alpha=False,
                ),
                mistake(
                    "The sum in M(14) is over the weights of one filter. Yours is over another axis.", over="input"
                ),
                mistake("The sum in M(14) is over the weights of one filter, not of all filters.", over="all"),
                mistake("The estimator's mask is missing in dw: latent weights outside [-1, 1].", mask_w=False),
                mistake("The estimator's mask is missing in dx: inputs outside [-1, 1].", mask_x=False),
                mistake("dx uses the latent weights. The forward pass used alpha sign(w).", real=True),
                mistake("dx lacks alpha.", alpha_in_dx=False),
                mistake("The second term of dw lacks alpha.", scaled=False),
                mistake("dw needs the signs of x: they are what the weights met.", signs_of_x=False),
            ),
            (X, W, f64([[1]])),
            layers(),
            tolerance=1e-9,
        ),
        Exercise(
            "my_batchnorm",
            """The gradient of BatchNorm in training: y = (x - mean) / sqrt(var + 1e-5), each column on its own.

    x : float64 (N, C); mean and var are those of the N rows, var with the divisor N
    dy : float64 (N, C), the gradient of y

    Returns dx (N, C).""",
            ("x", "dy"),
            batchnorm,
            (
                mistake("Mean and variance depend on x, too. Two terms are missing.", mean=False, variance=False),
                mistake("The variance depends on x: one term is missing.", variance=False),
                mistake("The mean depends on x: one term is missing.", mean=False),
                mistake("Your variance has the divisor N - 1. In training, BatchNorm divides by N.", unbiased=True),
                mistake("The division by the standard deviation is missing.", divided=False),
            ),
            (f64([[1.2], [0.3], [-0.6], [0.6]]), f64([[1], [0], [0], [0]])),
            batches(),
            tolerance=1e-7,
        ),
        Exercise(
            "my_block",
            """A block in the order B-A-C-P, forwards.

    x : float64 (N, C, H, W)
    w : float64 (O, C, 3, 3), latent weights

    BatchNorm with the statistics of the batch (divisor N H W, 1e-5 added to the variance, no scale or shift), sign,
    convolution with sign(w) without padding, stride 1, then the maximum of windows of 2 x 2, stride 2.

    Returns numbers (N, O, (H - 2) // 2, (W - 2) // 2).""",
            ("x", "w"),
            block,
            (
                mistake("Your order is C-B-A-P. Here BatchNorm and sign come before the convolution.", order="cbap"),
                mistake(
                    "BatchNorm is missing, or comes after the sign: x is shifted, and its signs are mostly +.",
                    order="acp",
                ),
                mistake("BatchNorm comes after the sign. The sign then sees the values before it.", order="abcp"),
                mistake("The sign is missing between BatchNorm and the convolution.", order="bcp"),
                mistake("A ReLU before the sign makes every sign +.", order="bracp"),
                mistake(
                    "You pool before the convolution: the maximum of four signs is nearly always +1.", order="bapc"
                ),
                mistake("BatchNorm takes one mean for each channel, over all images and pixels.", over=(2, 3)),
                mistake("The pooling takes the maximum of a window, not its mean.", average=True),
            ),
            (
                np.random.default_rng(0).standard_normal((2, 1, 6, 6)) + 0.7,
                np.random.default_rng(1).standard_normal((2, 1, 3, 3)),
            ),
            images(),
            tolerance=1e-9,
        ),
    ),
)
