"""Lesson 12: an interval, the number of seeds, a verdict."""

import math
import statistics

import numpy as np
from hypothesis import strategies as st

from xnor_ref.check.basics.exercise import Exercise, Lesson, mistake
from xnor_ref.check.basics.strategies import f64, one_of
from xnor_ref.experiments.verdict import quantile

NORMAL = statistics.NormalDist()


def interval(a, b, divisor=1, t="welch", order=1, error="means", level=0.975, root=True):
    parts = [float(np.var(v, ddof=divisor)) / (len(v) if error == "means" else 1) for v in (a, b)]
    total = sum(parts)
    degrees = {
        "welch": lambda: total**2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (a, b))),
        "pooled": lambda: len(a) + len(b) - 2,
        "least": lambda: min(len(a), len(b)) - 1,
        "normal": lambda: 1e6,
    }[t]()
    middle = order * (float(np.mean(b)) - float(np.mean(a)))
    reach = quantile(level, degrees) * (math.sqrt(total) if root else total)
    return middle - reach, middle + reach


def seeds(sd, difference, two=True, sides=2, power=0.9, up=True, squared=True):
    z = NORMAL.inv_cdf(1 - 0.05 / sides) + (NORMAL.inv_cdf(power) if power else 0)
    ratio = z * sd / difference
    count = (2 if two else 1) * (ratio**2 if squared else ratio)
    return math.ceil(count) if up else math.floor(count)


def verdict(low, high, margin, how="both"):
    middle = (low + high) / 2
    apart = low > 0 or high < 0
    if how == "zero":
        return "different" if apart else "same"
    if how == "no third":
        return "different" if apart and abs(middle) > margin else "same"
    if how == "margin of the middle":
        return "different" if apart and abs(middle) > margin else "same" if abs(middle) < margin else "not settled"
    if apart and (abs(middle) > margin or how == "no margin"):
        return "different"
    return "same" if -margin < low and high < margin else "not settled"


@st.composite
def runs(draw):
    def one():
        values = draw(st.lists(st.integers(60, 80), min_size=2, max_size=5))
        values[0] += len(set(values)) == 1  # they vary
        return np.array(values, np.float64)

    return one(), one()


@st.composite
def intervals(draw):
    low = draw(one_of(0.5, -1.0, -0.5, 1.0, 2.0, -3.0, -4.0, 0.2))
    return low, low + draw(one_of(0.5, 1.0, 2.0, 4.0)) * 1.01, draw(one_of(1.5, 1.0))


LESSON = Lesson(
    12,
    "Experiments: what a table of accuracies can tell",
    "12-experiments.md",
    (
        Exercise(
            "my_interval",
            """The interval of 95 % of a difference of means, by Welch's rule.

    a, b : float64, two or more runs each, which vary

    Returns two numbers, the ends of the interval of mean(b) - mean(a). With va and vb the variances (divisor n - 1)
    over the numbers of runs, the degrees of freedom are (va + vb)^2 / (va^2 / (na - 1) + vb^2 / (nb - 1)).""",
            ("a", "b"),
            interval,
            (
                mistake("The difference is mean(b) - mean(a). Yours is the opposite.", order=-1),
                mistake("Your variances have the divisor n. With few runs, n - 1 matters.", divisor=0),
                mistake("1.96 is for many runs. With few, Student's t reaches further.", t="normal"),
                mistake("na + nb - 2 degrees of freedom assume equal variances. Welch's rule does not.", t="pooled"),
                mistake("The variance of a mean is that of one run divided by the number of runs.", error="runs"),
                mistake(
                    "quantile(0.95, ...) leaves out 5 % on each side. An interval of 95 % leaves out 2.5 %.", level=0.95
                ),
                mistake("The standard error is the root of the summed variances.", root=False),
            ),
            (f64([70, 72, 71, 71]), f64([73, 72, 75, 72])),
            runs(),
            tolerance=1e-4,
        ),
        Exercise(
            "my_seeds",
            """How many seeds of each method find a difference nine times of ten, by the normal approximation.

    sd : the standard deviation of one run, of both methods
    difference : the true difference of the methods

    Returns an int, rounded up: 2 (z + z')^2 sd^2 / difference^2, with z for a two-sided test at 5 %, and z' for a
    power of 90 %. statistics.NormalDist().inv_cdf gives quantiles.""",
            ("sd", "difference"),
            seeds,
            (
                mistake("The factor 2 is missing: both means vary.", two=False),
                mistake("A two-sided test at 5 % leaves out 2.5 % on each side.", sides=1),
                mistake("The power is missing. With z alone, the difference is found every second time.", power=0),
                mistake("Round up: a part of a seed is a whole one.", up=False),
                mistake("The ratio of spread and difference counts squared.", squared=False),
                mistake("Your power is 80 %, not 90 %.", power=0.8),
            ),
            (1.0, 1.0),
            st.tuples(one_of(1.0, 0.5, 2.0, 0.7), one_of(1.0, 0.5, 2.0, 3.0)),
        ),
        Exercise(
            "my_verdict",
            """What an interval says of two methods, with a margin that was stated before.

    low, high : the ends of the interval of their difference; the difference itself is in the middle
    margin : a difference up to this does not matter

    Returns "different" if the interval leaves out 0 and the difference is beyond the margin, "same" if the interval
    lies within the margin, else "not settled".""",
            ("low", "high", "margin"),
            verdict,
            (
                mistake("An interval that contains 0 does not show that methods are the same.", how="zero"),
                mistake("There is a third answer: a wide interval settles nothing.", how="no third"),
                mistake(
                    "The whole interval must lie within the margin, not its middle alone.", how="margin of the middle"
                ),
                mistake("A difference can be sure and too small to matter.", how="no margin"),
            ),
            (0.5, 2.5, 1.0),
            intervals(),
        ),
    ),
    imports=("import statistics", "", "from xnor_ref.experiments.verdict import quantile"),
)
