"""Rule, and Registry, which finds rules by name. The room's page shows how to add a rule."""

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
    name : name in the registry and on the command line
    equation : the rule as one line of mathematics
    source : paper and equation
    compiled : the rule's name in compiled kernels; None if they lack it and NumPy computes
    computes : the methods that the compiled code replaces
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
        """`compiled`, or None if a method that it replaces was overridden on this object."""
        return self.compiled if set(self.computes).isdisjoint(vars(self)) else None

    def __str__(self) -> str:
        return self.name

    def __deepcopy__(self, memo: dict) -> "Rule":
        return self  # a copy of a layer keeps its rule

    def __reduce__(self) -> Any:
        """Pickle a registered rule by name, so that another process uses its own object."""
        for registry in _registries.values():
            if registry.get(self.name) is self:
                return _registered, (registry.option, self.name)
        return super().__reduce__()


R = TypeVar("R", bound=Rule)
_registries: dict[str, "Registry"] = {}


def _registered(option: str, name: str) -> Rule:
    return _registries[option][name]


class Registry(Mapping[str, R]):
    """Rules of one kind by name. `option` is the layer setting that names one; error messages use it."""

    def __init__(self, option: str, kind: type[R], *rules: R):
        self.option, self.kind = option, kind
        self._rules = {rule.name: rule for rule in rules}
        _registries[option] = self

    def register(self, rule: Any) -> Any:
        """Add a rule, or one object of a class of rules. Return the argument, so that this can be a decorator.

        Raises InputError if it is not a rule of this kind, has no name, or has a name that is taken.
        """
        made = rule() if isinstance(rule, type) else rule
        if not isinstance(made, self.kind):
            raise InputError(f"register: a {self.option} must be a {self.kind.__name__}, got {rule!r}")
        if not made.name or self._rules.get(made.name, made) is not made:
            raise InputError(f"register: the {self.option} {made.name!r} needs a name that is not taken yet")
        self._rules[made.name] = made
        return rule

    def remove(self, name: str) -> None:
        """Remove a registered rule."""
        del self._rules[name]

    def find(self, rule: "str | R", caller: str = "") -> R:
        """Return a rule given as an object or by name. Raises InputError, which lists the names."""
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
