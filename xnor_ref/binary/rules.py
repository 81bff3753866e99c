"""What a rule is, and the registry that knows it by name; the room's page adds a rule to one."""

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
