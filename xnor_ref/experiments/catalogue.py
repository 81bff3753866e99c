"""All experiments by name."""

from xnor_ref.errors import InputError
from xnor_ref.experiments.controls import CONTROLS
from xnor_ref.experiments.definition import Experiment
from xnor_ref.experiments.papers import PAPERS
from xnor_ref.training.settings.config import did_you_mean

EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in (*PAPERS, *CONTROLS)}
GROUPS: dict[str, tuple[Experiment, ...]] = {"controls": CONTROLS}


def find(name: str) -> Experiment:
    """Return the experiment of this name. Raises InputError."""
    if name not in EXPERIMENTS:
        known = [*EXPERIMENTS, *GROUPS]
        raise InputError(f"there is no experiment {name!r}{did_you_mean(name, known)} (there are: {', '.join(known)})")
    return EXPERIMENTS[name]


def find_all(name: str) -> tuple[Experiment, ...]:
    """Return the experiments of the group of this name, or the one experiment. Raises InputError."""
    return GROUPS.get(name) or (find(name),)
