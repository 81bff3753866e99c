"""Lesson 10: XNOR-Net++'s scale, its gradients, the best scale of a filter."""

import numpy as np
from hypothesis import strategies as st

from xnor_ref.check.basics.exercise import Exercise, Lesson, mistake
from xnor_ref.check.basics.strategies import NOT_ZERO, NUMBERS, array, f64

Z = f64([[[[4, -2], [0, 2]], [[1, 1], [-3, 5]]]])
FACTORS = f64([0.5, 2]), f64([1, 3]), f64([1, 10])


def gamma(alpha, beta, gamma, how="product", axes="oyx"):
    a, b, g = alpha[:, None, None], beta[:, None], gamma
    made = {
        "product": lambda: a * b * g,
        "sum": lambda: a + b + g,
        "no alpha": lambda: np.broadcast_to(b * g, (len(alpha), len(beta), len(gamma))),
        "no gamma": lambda: np.broadcast_to(a * b, (len(alpha), len(beta), len(gamma))),
        "no beta": lambda: np.broadcast_to(a * g, (len(alpha), len(beta), len(gamma))),
    }[how]()
    return np.einsum(f"oyx->{axes}", made)


def gradients(D, Z, alpha, beta, gamma, of="DZ", others=True, images="sum", factor=False):
    E = {"DZ": D * Z, "D": D, "Z": Z}[of]
    E = {"sum": E.sum(axis=0), "mean": E.mean(axis=0), "first": E[0]}[images]
    a, b, g = (alpha, beta, gamma) if others else map(np.ones_like, (alpha, beta, gamma))
    found = np.einsum("oyx,y,x->o", E, b, g), np.einsum("oyx,o,x->y", E, a, g), np.einsum("oyx,o,y->x", E, a, b)
    return tuple(d * f for d, f in zip(found, (alpha, beta, gamma))) if factor else found


def best(real, Z, how="least squares", axes=(0, 2, 3)):
    r, z = real, Z
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "least squares": lambda: (r * z).sum(axis=axes) / (z * z).sum(axis=axes),
            "ratio of sizes": lambda: np.abs(r).sum(axis=axes) / np.abs(z).sum(axis=axes),
            "mean of ratios": lambda: (r / z).mean(axis=axes),
            "ratio of means": lambda: r.mean(axis=axes) / z.mean(axis=axes),
            "turned": lambda: (r * z).sum(axis=axes) / (r * r).sum(axis=axes),
            "no divisor": lambda: (r * z).mean(axis=axes),
        }[how]()
    return np.full(real.shape[1], found) if axes is None else found


@st.composite
def factors(draw):
    return tuple(draw(array((draw(st.integers(1, 3)),), NUMBERS, np.float64)) for _ in range(3))


@st.composite
def products(draw):
    n, o, h, w = (draw(st.integers(1, 2)) for _ in range(4))
    shapes = (n, o, h, w), (n, o, h, w), (o,), (h,), (w,)
    return tuple(draw(array(shape, NUMBERS, np.float64)) for shape in shapes)


@st.composite
def outputs(draw):
    n, o, h, w = (draw(st.integers(1, 2)) for _ in range(4))
    return draw(array((n, o, h, w), NUMBERS, np.float64)), draw(array((n, o, h, w), NOT_ZERO, np.float64))


LESSON = Lesson(
    10,
    "XNOR-Net++: scales that are learned",
    "10-learned-scales.md",
    (
        Exercise(
            "my_gamma",
            """The whole scale of the form o-h-w from its factors, M(17), without loops.

    alpha : float64 (O,); beta : float64 (H,); gamma : float64 (W,)

    Returns numbers (O, H, W).""",
            ("alpha", "beta", "gamma"),
            gamma,
            (
                mistake("beta belongs to the rows and gamma to the columns: the axes are (O, H, W).", axes="oxy"),
                mistake("The filters come first: the axes are (O, H, W).", axes="yxo"),
                mistake("The factors are multiplied, not added.", how="sum"),
                mistake("alpha is missing.", how="no alpha"),
                mistake("beta is missing.", how="no beta"),
                mistake("gamma is missing.", how="no gamma"),
            ),
            FACTORS,
            factors(),
            tolerance=1e-9,
        ),
        Exercise(
            "my_gradients",
            """The gradients of the three factors of Gamma, M(18).

    D, Z : float64 (N, O, H, W), the gradient of the output, and the integers that Gamma scales
    alpha : float64 (O,); beta : float64 (H,); gamma : float64 (W,)

    Returns three arrays: those of alpha (O,), beta (H,) and gamma (W,).""",
            ("D", "Z", "alpha", "beta", "gamma"),
            gradients,
            (
                mistake("Z is missing: each scale multiplies a Z, so its gradient is D times Z.", of="D"),
                mistake("D is missing, the gradient from above.", of="Z"),
                mistake("The other two factors are missing in each gradient.", others=False),
                mistake("Gradients of several images are added up, not averaged.", images="mean"),
                mistake("Only the first image counts. Add up all of them.", images="first"),
                mistake(
                    "Each gradient has its own factor in it. The derivative of a product leaves that one out.",
                    factor=True,
                ),
            ),
            (f64([[[[1, 0], [0, 1]], [[1, 2], [0, 0]]]]), Z, *FACTORS),
            products(),
            tolerance=1e-9,
        ),
        Exercise(
            "my_best",
            """The scale of each filter that brings Z nearest to the real convolution, by least squares.

    real : float64 (N, O, H, W), the real convolution
    Z : float64 (N, O, H, W), the binary one; no zeros

    Returns numbers (O,), without the condition that they are positive.""",
            ("real", "Z"),
            best,
            (
                mistake("One scale serves all filters. Each has its own.", axes=None),
                mistake("Images share the scale of a filter: sum over them, too.", axes=(2, 3)),
                mistake(
                    "A ratio of sizes ignores whether real and Z have the same sign. Set the derivative to 0.",
                    how="ratio of sizes",
                ),
                mistake(
                    "A mean of ratios gives small Z too much weight. Set the derivative of the error to 0.",
                    how="mean of ratios",
                ),
                mistake(
                    "A ratio of means is not the least-squares scale. Set the derivative of the error to 0.",
                    how="ratio of means",
                ),
                mistake("That scales the real one to fit Z. The divisor is the sum of Z squared.", how="turned"),
                mistake("The divisor is missing: the sum of Z squared.", how="no divisor"),
            ),
            (f64([[[[3, -1]], [[2, 1]]]]), f64([[[[4, -2]], [[1, 5]]]])),
            outputs(),
            tolerance=1e-9,
        ),
    ),
)
