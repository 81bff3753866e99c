"""What a rule is: one choice of the papers' mathematics, defined once, and the registry that knows it by name.

A rule is an object. It holds its readable NumPy forward and gradient side by side, its equation and its source. Layers
take it by name or as an object. The lists of the command line, of error messages and of the documents come from its
registry:

>>> from xnor_ref.binary import WEIGHT_SCALES, WeightScale
>>> @WEIGHT_SCALES.register
... class Half(WeightScale):
...     name, equation, source = "half", "alpha = 1/2", "made up for this example"
...     def alpha(self, weight, bits=1):
...         return np.full(len(weight), 0.5)
>>> "half" in WEIGHT_SCALES, WEIGHT_SCALES["half"].alpha(np.ones((2, 3), np.float32)).tolist()
(True, [0.5, 0.5])
>>> WEIGHT_SCALES.remove("half")

`compiled` names what the compiled kernels compute in place of a rule's methods. A subclass that overrides one of these
methods has no compiled form until it names one itself, so no fast path can ignore the override.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class Rule:
    """Base of all rules.

    Attributes
    ----------
    name : what the registry and the command line call it
    equation : in one line
    source : paper and equation
    compiled : what the compiled kernels know it by; None where they do not, and NumPy computes
    computes : the methods that `compiled` stands for
    """

    name = ""
    equation = ""
    source = ""
    compiled: Any = None
    computes: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        if "compiled" not in vars(cls) and not set(cls.computes).isdisjoint(vars(cls)):
            cls.compiled = None

    @property
    def mode(self) -> Any:
        """`compiled`, unless a method that it stands for was replaced on this object."""
        return self.compiled if set(self.computes).isdisjoint(vars(self)) else None

    def __str__(self) -> str:
        return self.name

    def __deepcopy__(self, memo: dict) -> "Rule":
        return self  # a copy of a layer keeps its rule

    def __reduce__(self) -> Any:
        """A registered rule is pickled by its name, so that another process finds its own."""
        for registry in _registries.values():
            if registry.get(self.name) is self:
                return _registered, (registry.option, self.name)
        return super().__reduce__()


R = TypeVar("R", bound=Rule)
_registries: dict[str, "Registry"] = {}


def _registered(option: str, name: str) -> Rule:
    return _registries[option][name]


class Registry(Mapping[str, R]):
    """Rules of one kind by name. `option` is the setting of a layer that names one, for error messages."""

    def __init__(self, option: str, kind: type[R], *rules: R):
        self.option, self.kind = option, kind
        self._rules = {rule.name: rule for rule in rules}
        _registries[option] = self

    def register(self, rule: Any) -> Any:
        """Add a rule, or one object of a class of rules; returns what it was given, so it can be a decorator.

        Raises InputError for something that is no rule of this kind, has no name, or a name that is taken.
        """
        made = rule() if isinstance(rule, type) else rule
        if not isinstance(made, self.kind):
            raise InputError(f"register: a {self.option} must be a {self.kind.__name__}, got {rule!r}")
        if not made.name or self._rules.get(made.name, made) is not made:
            raise InputError(f"register: the {self.option} {made.name!r} needs a name that is not taken yet")
        self._rules[made.name] = made
        return rule

    def remove(self, name: str) -> None:
        """Forget a rule that was registered."""
        del self._rules[name]

    def find(self, rule: "str | R", caller: str = "") -> R:
        """The rule itself, or the one of this name. Raises InputError with the names that there are."""
        if isinstance(rule, self.kind):
            return rule
        if not isinstance(rule, str) or rule not in self._rules:
            before = f"{caller}: " if caller else ""
            raise InputError(f"{before}{self.option} must be one of {', '.join(self)}, got {rule!r}")
        return self._rules[rule]

    def __getitem__(self, name: str) -> R:
        return self._rules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._rules))

    def __len__(self) -> int:
        return len(self._rules)

    def __contains__(self, name: object) -> bool:
        return name in self._rules
