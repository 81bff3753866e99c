"""The definition of an experiment: a question, the rows that answer it, and a paper's results on ImageNet."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xnor_ref.experiments.verdict import Claim

XNOR_NET = "Rastegari et al. 2016"
XNOR_NET_PP = "Bulat and Tzimiropoulos 2019"


@dataclass(frozen=True)
class Paper:
    """Top-1 and top-5 accuracy on ImageNet, in percent, and the table that prints them."""

    top1: float
    top5: float | None
    source: str


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    name: str  # also part of a folder's name
    label: str
    settings: Mapping[str, Any]  # fields of `TrainConfig`
    paper: Paper | None = None
    base: str | None = None  # the row that this one is compared with; by default the experiment's first
    arm: str | None = None  # rows of one arm differ in their learning rate; a control compares arms
    length: int = 1  # factor on the number of epochs


@dataclass(frozen=True)
class Experiment:
    """A table or figure."""

    name: str
    title: str
    question: str
    rows: tuple[Row, ...]
    model: str | None = "alexnet"  # for budget "full", unless rows set their own
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # shared by all rows, by budget
    notes: tuple[str, ...] = ()  # what a reader must know for a comparison with the paper
    approximation: bool = False  # whether to compare each trained network's scales with the real convolution
    claims: tuple[Claim, ...] = ()  # about arms, if this is a control
    compression: bool = False  # whether to count each trained network's costs along its trees

    @property
    def own_models(self) -> bool:
        """Whether rows set their networks, so that the user cannot choose one."""
        return any("model" in row.settings for row in self.rows)
