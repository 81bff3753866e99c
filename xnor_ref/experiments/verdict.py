"""Judges a claim from runs with several seeds: intervals, equivalence, a verdict.

Each arm is compared at its best learning rate. The first seed chooses it, and the numbers come from the other seeds, so
the choice does not bias them.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MARGIN = 1.5  # points of top-1: smaller differences count as the same


@dataclass(frozen=True)
class Claim:
    """A claim: one arm is better than another by more than `MARGIN` points of top-1, or both are the same.

    Parameters
    ----------
    text : the paper's claim
    base, other : names of arms; the difference is `other` minus `base`
    sign : +1 if `other` is claimed to be better, -1 worse, 0 the same
    paper : the paper's difference in points; None if it prints none
    """

    text: str
    base: str
    other: str
    sign: int
    paper: float | None = None


def quantile(p: float, degrees: float) -> float:
    """Return the p-quantile of Student's t distribution, 0.5 <= p < 1.

    With t = sqrt(degrees) tan(u) its density is proportional to cos(u)^(degrees - 1) in u.

    >>> round(quantile(0.975, 2), 2), round(quantile(0.975, 10), 3), round(quantile(0.95, 1e6), 3)
    (4.3, 2.228, 1.645)
    """
    end = (
        math.pi / 2 if degrees < 4 else math.atan(100 / math.sqrt(degrees))
    )  # the probability beyond t = 100 is less than 1e-7
    u = np.linspace(0, end, 10_001)
    density = np.cos(u) ** (degrees - 1)
    area = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(u))])
    return math.sqrt(degrees) * math.tan(float(np.interp(p - 0.5, area / (2 * area[-1]), u)))


def difference(base: Sequence[float], other: Sequence[float], level: float) -> tuple[float, float, float]:
    """Return (mean of `other` minus mean of `base`, lower and upper end of its interval), by Welch's t.

    Each side needs at least two seeds. `level` is the interval's coverage, such as 0.95.
    """
    parts = [statistics.variance(values) / len(values) for values in (base, other)]
    found, error = statistics.fmean(other) - statistics.fmean(base), math.sqrt(sum(parts))
    if error == 0:
        return found, found, found
    degrees = sum(parts) ** 2 / sum(part**2 / (len(v) - 1) for part, v in zip(parts, (base, other)))
    reach = quantile((1 + level) / 2, degrees) * error
    return found, found - reach, found + reach


def judge(claim: Claim, base: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """The verdict on a claim, from top-1 of both arms in points: its difference, 95 % interval, and why.

    "the same" is shown where the 90 % interval lies within the margin: two one-sided tests at 5 % (Schuirmann 1987).
    "different" is shown where the 95 % interval leaves out 0 and the difference is beyond the margin.
    """
    found, low, high = difference(base, other, 0.95)
    _, inner_low, inner_high = difference(base, other, 0.9)
    same = -MARGIN < inner_low and inner_high < MARGIN
    better, worse = low > 0 and found > MARGIN, high < 0 and found < -MARGIN
    if claim.sign == 0:
        holds, fails = same, better or worse
    else:
        holds, fails = (better, same or worse) if claim.sign > 0 else (worse, same or better)
    why = f"the same within {MARGIN:g} points" if same else "better" if better else "worse" if worse else "not settled"
    verdict = "reproduced" if holds else "not reproduced" if fails else "undecided"
    return {"difference": found, "low": low, "high": high, "verdict": verdict, "why": why}


def best_rates(rows: Sequence[Mapping[str, Any]], first: int) -> dict[str, str]:
    """For each arm the name of the row with the highest top-1 of the seed `first`; arms that lack one are left out.

    `rows` have "arm", "name" and "runs", as in the results of an experiment. Runs that failed count as lost.
    """
    arms: dict[str, dict[str, float | None]] = {}
    for row in rows:
        tops = [run["top1"] for run in row["runs"] if run["seed"] == first]
        failed = any(name.endswith(f"-seed{first}") for name in row.get("failures", ()))
        arms.setdefault(row["arm"], {})[row["name"]] = tops[0] if tops else -1.0 if failed else None
    return {
        arm: max(tops, key=lambda name: tops[name] or 0.0) for arm, tops in arms.items() if None not in tops.values()
    }


def judged(rows: Sequence[Mapping[str, Any]], claims: Sequence[Claim], first: int) -> dict[str, Any]:
    """What `report` shows of a control: {"arms": one for each arm, "claims": one for each claim that can be judged}."""
    best = best_rates(rows, first)
    by_name = {row["name"]: row for row in rows}
    arms, tops = [], {}
    for arm, name in best.items():
        tops[arm] = [100 * run["top1"] for run in by_name[name]["runs"] if run["seed"] != first]
        arms.append({"arm": arm, "row": name, "top1": tops[arm]})
    found = []
    for claim in claims:
        if min(len(tops.get(arm, ())) for arm in (claim.base, claim.other)) >= 2:
            found.append({**vars(claim), **judge(claim, tops[claim.base], tops[claim.other])})
    return {"arms": arms, "claims": found}
