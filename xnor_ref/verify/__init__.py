"""Exactness checks, for users' machines and for the project's tests."""

from collections.abc import Callable

from xnor_ref.verify import kernels, trees
from xnor_ref.verify.gradients import GradientReport as GradientReport
from xnor_ref.verify.gradients import check_gradients as check_gradients
from xnor_ref.verify.runner import DEFAULT_EXAMPLES as DEFAULT_EXAMPLES
from xnor_ref.verify.runner import Property as Property
from xnor_ref.verify.runner import Result as Result
from xnor_ref.verify.runner import run_all

PROPERTIES: tuple[Property, ...] = (*kernels.PROPERTIES, *trees.PROPERTIES)


def run(
    examples: int = DEFAULT_EXAMPLES, seed: int | None = None, report: Callable[[str], None] = lambda line: None
) -> list[Result]:
    """Test every property of this installation.

    Parameters
    ----------
    examples : cases for each property; the main one gets twice as many, slow ones a tenth, each at least 5
    seed : the same seed tries the same cases; by default they are new each time
    report : called with lines of text: one for each finished property, and two more for a failed one

    Returns
    -------
    list of Result
        `name`, `examples` (tried), `passed`, `failure` and `example` (the smallest failing case, or None).
    """
    return run_all(PROPERTIES, kernels.Implementation(), examples, seed, report)
