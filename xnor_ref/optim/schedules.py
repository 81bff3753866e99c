"""Learning rates as pure functions of the step. A resumed run therefore needs no state of the schedule."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from xnor_ref.errors import InputError, check_integer
from xnor_ref.optim._checks import number

KINDS = ("constant", "step", "cosine", "linear", "polynomial")


def make_schedule(
    kind: str,
    base_lr: float,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    milestones: Sequence[int] | None = None,
    gamma: float = 0.1,
    lr_factors: Sequence[float] | None = None,
    power: float = 4.0,
    final_lr: float = 0.0,
) -> Callable[[int], float]:
    """Return a function lr(step) for step = 0 ... total_steps.

    With p = (step - warmup_steps) / (total_steps - warmup_steps), the share of training that is done:

    | kind | lr |
    |---|---|
    | constant | base_lr |
    | step | base_lr * gamma^(number of milestones <= step), or times the last such milestone's factor |
    | cosine | final_lr + (base_lr - final_lr) * (1 + cos(pi p)) / 2 (Loshchilov and Hutter 2017, eq. 5) |
    | linear | final_lr + (base_lr - final_lr) * (1 - p) |
    | polynomial | final_lr + (base_lr - final_lr) * (1 - p)^power (power 4: XNOR-Net paper, GoogLeNet variant) |

    During warm-up, for step < warmup_steps, lr = base_lr * (step + 1) / (warmup_steps + 1) (linear, Goyal et al. 2017,
    2.2). After total_steps, lr keeps its last value.

    Parameters
    ----------
    kind : one of KINDS
    base_lr, final_lr : float
        0 < base_lr, 0 <= final_lr <= base_lr. `final_lr` is reached at total_steps, one step after the last.
    total_steps, warmup_steps : 0 <= warmup_steps <= total_steps
    milestones : ascending steps at which kind "step" multiplies by `gamma`; by default 1/2 and 3/4 of total_steps
        (He et al. 2016, 4.2)
    lr_factors : above 0, one for each of `milestones`, instead of powers of `gamma`
    gamma, power : above 0

    Raises
    ------
    InputError : an unknown kind, or a number out of range

    >>> lr = make_schedule("linear", 1.0, 4)
    >>> [lr(step) for step in range(5)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    caller = "make_schedule"
    if kind not in KINDS:
        raise InputError(f"{caller}: kind must be one of {', '.join(KINDS)}; got {kind!r}")
    base = number(caller, "base_lr", base_lr, 0, above=True)
    final = number(caller, "final_lr", final_lr, 0)
    if final > base:
        raise InputError(f"{caller}: final_lr (={final:g}) must not be above base_lr (={base:g})")
    total = check_integer(f"{caller}: total_steps", total_steps, 1)
    warmup = check_integer(f"{caller}: warmup_steps", warmup_steps, 0)
    if warmup > total:
        raise InputError(f"{caller}: warmup_steps (={warmup}) must not be above total_steps (={total})")
    gamma = number(caller, "gamma", gamma, 0, above=True)
    power = 1.0 if kind == "linear" else number(caller, "power", power, 0, above=True)
    if milestones is None:
        milestones = (-(-total // 2), -(-3 * total // 4))  # rounded up, so that none is 0
    else:
        milestones = tuple(check_integer(f"{caller}: milestones", milestone, 0) for milestone in milestones)
        if any(b <= a for a, b in pairwise(milestones)):
            raise InputError(f"{caller}: milestones must ascend, got {milestones}")
    if lr_factors is None:
        factors = [gamma**count for count in range(len(milestones) + 1)]
    else:
        factors = [1.0, *(number(caller, "lr_factors", factor, 0, above=True) for factor in lr_factors)]
        if len(factors) != len(milestones) + 1:
            raise InputError(f"{caller}: lr_factors (={lr_factors}) must be as many as milestones (={milestones})")

    def schedule(step: int) -> float:
        step = check_integer("schedule: step", step, 0)
        if step < warmup:
            return base * (step + 1) / (warmup + 1)
        if kind == "constant":
            return base
        if kind == "step":
            return base * factors[sum(milestone <= step for milestone in milestones)]
        left = max(0.0, (total - step) / max(1, total - warmup))  # 1 - p
        if kind == "cosine":
            return final + (base - final) * (1 - math.cos(math.pi * left)) / 2
        return final + (base - final) * left**power

    return schedule
