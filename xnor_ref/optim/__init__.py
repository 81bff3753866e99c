"""Optimisers and learning rate schedules.

>>> from xnor_ref import autodiff, optim
>>> w = autodiff.Tensor([4.0], requires_grad=True)
>>> sgd = optim.SGD([w], lr=0.25)
>>> for _ in range(3):
...     sgd.zero_grad()
...     (w * w).sum().backward()
...     sgd.step()
...     print(w.item())
2.0
1.0
0.5
"""

from xnor_ref.optim.adamax import AdaMax as AdaMax
from xnor_ref.optim.adamax import ShiftAdaMax as ShiftAdaMax
from xnor_ref.optim.optimizers import SGD as SGD
from xnor_ref.optim.optimizers import Adam as Adam
from xnor_ref.optim.optimizers import Optimizer as Optimizer
from xnor_ref.optim.schedules import KINDS as KINDS
from xnor_ref.optim.schedules import make_schedule as make_schedule

OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "sgd": SGD, "adamax": AdaMax, "shift-adamax": ShiftAdaMax}
