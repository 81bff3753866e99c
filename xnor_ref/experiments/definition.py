"""What an experiment is: a question, the rows that answer it, and what a paper found on ImageNet."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xnor_ref.experiments.verdict import Claim

XNOR_NET = "Rastegari et al. 2016"
XNOR_NET_PP = "Bulat and Tzimiropoulos 2019"


@dataclass(frozen=True)
class Paper:
    """Top-1 and top-5 accuracy on ImageNet, in percent, and where they are printed."""

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
    length: int = 1  # how many times the epochs it trains


@dataclass(frozen=True)
class Experiment:
    """A table or figure."""

    name: str
    title: str
    question: str
    rows: tuple[Row, ...]
    model: str | None = "alexnet"  # of budget "full", unless rows name their own
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # that all rows share, by budget
    notes: tuple[str, ...] = ()  # what a reader has to know to compare with the paper
    approximation: bool = False  # whether the scales of each trained network are compared with the real convolution
    claims: tuple[Claim, ...] = ()  # about arms, where this is a control
    compression: bool = False  # whether the costs of each trained network along its trees are counted

    @property
    def own_models(self) -> bool:
        """Whether rows name their networks, so that no other can be chosen."""
        return any("model" in row.settings for row in self.rows)
