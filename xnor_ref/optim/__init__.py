"""Optimisers and learning rate schedules."""

from xnor_ref.optim.adamax import AdaMax as AdaMax
from xnor_ref.optim.adamax import ShiftAdaMax as ShiftAdaMax
from xnor_ref.optim.optimizers import SGD as SGD
from xnor_ref.optim.optimizers import Adam as Adam
from xnor_ref.optim.optimizers import Optimizer as Optimizer
from xnor_ref.optim.schedules import KINDS as KINDS
from xnor_ref.optim.schedules import make_schedule as make_schedule

OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "sgd": SGD, "adamax": AdaMax, "shift-adamax": ShiftAdaMax}
