"""`Kit`: an implementation, its limits, and the conventions demanded of it. `run` tests its properties."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from xnor_ref import steady
from xnor_ref.conformance.basics.arrays import Case
from xnor_ref.conformance.basics.conventions import NAMES, VALUES, Conventions, Output
from xnor_ref.conformance.basics.definitions import SUMMATIONS
from xnor_ref.conformance.basics.report import Failure, Observed, Report, Result
from xnor_ref.conformance.basics.restrictions import Restrictions
from xnor_ref.conformance.basics.roles import ROLES, Crashed, Layer, bind
from xnor_ref.conformance.foreign.worker import Failed, isolated
from xnor_ref.conformance.trying import showing
from xnor_ref.conformance.trying.diagnose import diagnose
from xnor_ref.conformance.trying.subject import Subject
from xnor_ref.errors import InputError

DEFAULT_EXAMPLES = 100
ROUNDED = ("alpha", "scale_map", "ste")  # roles with rounded results at any scale
SHARED = {  # conventions that all roles of an implementation should share
    "sign_of_zero": ("conv2d", "linear", "pack", "layer"),
    "subnormals": ("conv2d", "linear", "pack", "layer"),
    "weight_sign_of_zero": ("conv2d", "linear", "binarize"),
    "weight_subnormals": ("conv2d", "linear", "binarize"),
}
UNEXPLAINED = "None of the known conventions explains it."
ADAPTER = (
    "It fails on the simplest case. First check the adapter: the order of arguments, layouts and dtypes, "
    "and whether the function that it calls takes signs itself."
)


class Kit:
    """Functions under test by role, their restrictions, and the conventions demanded of them.

    Parameters
    ----------
    conv2d, linear, ... : functions of the roles in `basics/roles.py`, or objects with `for_role`; each is optional
    output : scaling of results: `exact`, `scaled("alpha")`, ...; detected by default
    isolate : run plain Python functions in a separate process, which is restarted after a crash
    settings : fields of `Restrictions` and of `Conventions`; a convention that is given is demanded

    Raises
    ------
    InputError : no role is given, a setting is unknown, or a convention has no such value
    """

    def __init__(self, *, output: Output | None = None, isolate: bool = False, **settings: Any) -> None:
        given = {name: settings.pop(name) for name in list(settings) if name in ROLES}
        given = {name: function for name, function in given.items() if function is not None}
        if not given:
            raise InputError(f"Kit: no function to test; give at least one of {', '.join(ROLES)}")
        self.layer: Layer | None = None
        if "layer" in given:
            made = given["layer"]
            self.layer = made.for_role("layer") if hasattr(made, "for_role") else made
            if not isinstance(self.layer, Layer):
                raise InputError("Kit: layer must be Layer(function, weight, ...), because the kit needs its weight")
        self.functions: dict[str, Callable] = {role: bind(role, function) for role, function in given.items()}
        if isolate:
            plain = {role: f for role, f in self.functions.items() if not hasattr(given[role], "for_role")}
            worker = isolated(plain)
            self.functions |= {role: worker.for_role(role) for role in plain}
        self.demands = {name: settings.pop(name) for name in list(settings) if name in NAMES}
        if output is not None:
            self.demands["scale"] = output.scale
        for name, value in self.demands.items():
            if value not in VALUES[name]:
                raise InputError(f"Kit: {name} must be one of {', '.join(map(repr, VALUES[name]))}, got {value!r}")
        for name in ("sign_of_zero", "subnormals"):
            if name in self.demands:
                self.demands.setdefault(f"weight_{name}", self.demands[name])
        unknown = set(settings) - set(Restrictions.__dataclass_fields__)
        if unknown:
            known = ", ".join([*ROLES, *Restrictions.__dataclass_fields__, *NAMES])
            raise InputError(
                f"Kit: {', '.join(sorted(unknown))}: not a role, restriction or convention; known: {known}"
            )
        self.restrictions = Restrictions(**settings)

    def run(
        self,
        examples: int = DEFAULT_EXAMPLES,
        seed: int | None = None,
        *,
        roles: Iterable[str] | None = None,
        names: Iterable[str] | None = None,
        shrink: bool = True,
        until_failure: bool = False,
        progress: Callable[[Result], None] = lambda result: None,
    ) -> Report:
        """Test every property of every role that was given.

        Parameters
        ----------
        examples : number of cases for each role's main property; other properties try fewer
        seed : the same seed tries the same cases; by default they are new each time
        roles : roles to test; by default all that were given
        names : names of the properties to test; by default all
        shrink : whether to replace a failing case by the smallest one that can be found
        until_failure : whether to stop at the first failing property
        progress : called with each `Result` when it is available
        """
        from xnor_ref.conformance.trying import cases, properties, running

        chosen = [role for role in ROLES if role in self.functions and (roles is None or role in roles)]
        cases.check_not_empty(self.restrictions)
        subject = Subject({role: self.functions[role] for role in self.functions}, self.layer)
        subject.mode.look("before the run")
        told: dict[str, dict[str, Any]] = {}
        seen: dict[str, Conventions] = {}
        results: list[Result] = []
        try:
            with running.no_traces():
                for role in chosen:
                    seen[role], told[role] = self._observe(subject, role)
                for prop in self._properties(subject, chosen):
                    if names is not None and prop.name not in names:
                        continue
                    start = time.perf_counter()
                    suspects = subject.unexplained.pop(prop.role, []) if prop.check is properties.is_as_defined else []
                    outcome = running.try_property(prop, subject, examples, seed, shrink, suspects)
                    failure = None
                    if outcome.error is not None:
                        failure = self._failure(subject, prop, outcome, seen[prop.role], shrink)
                    seconds = time.perf_counter() - start
                    results.append(Result(prop.role, prop.name, outcome.examples, failure, seconds))
                    progress(results[-1])
                    if failure and until_failure:
                        break
        finally:
            steady.restore(subject.mode.foreign)
        results += self._disagreements(told)
        for role in chosen:
            if subject.by[role].scale != "none" or role in ROUNDED:
                told[role]["summation"] = SUMMATIONS[subject.summation.get(role, 0)]
            if role == "pack" and subject.by[role].tail == "any":
                told[role]["tail"] = "any"
        missing = tuple(role for role in ROLES if role not in chosen)
        return Report(tuple(results), Observed(told), missing, tuple(subject.mode.notes), seed)

    def property_names(self) -> list[tuple[str, str]]:
        """Return the role and name of each property that `run` tests."""
        subject = Subject(self.functions, self.layer)
        subject.by = dict.fromkeys(self.functions, Conventions())
        return [(prop.role, prop.name) for prop in self._properties(subject, list(self.functions))]

    def _properties(self, subject: Subject, roles: list[str]) -> Iterable[Any]:
        from xnor_ref.conformance.trying import properties

        return properties.properties(subject, self.restrictions, roles)

    def _observe(self, subject: Subject, role: str) -> tuple[Conventions, dict[str, Any]]:
        """Return the conventions that seem to hold, and set the subject's conventions for the comparison."""
        names = ROLES[role].conventions
        demands = {name: value for name, value in self.demands.items() if name in (*names, "summation")}
        start = Conventions(**demands)
        subject.by[role] = start
        if set(names) <= set(demands):
            return start, {}
        seen, told = diagnose(subject, role, self.restrictions, start)
        by = seen.but(**demands)
        if isinstance(by.pad_value, dict):
            by = by.but(pad_value="as asked")
        subject.by[role] = by
        if any(getattr(seen, name) != value for name, value in demands.items()):
            subject.rivals[role] = []
        return seen, {name: told.get(name) for name in names}

    def _failure(self, subject: Subject, prop: Any, outcome: Any, seen: Conventions, shrink: bool) -> Failure:
        from xnor_ref.conformance.trying.properties import Broken

        case, error = outcome.case, outcome.error
        kind = "crash" if isinstance(error, Crashed) else "fault" if isinstance(error, Broken) else "error"

        def fails(changed: Case) -> bool:
            nonlocal error
            try:
                prop.check(subject, changed)
            except Exception as found:
                if type(found) is type(error):
                    error = found
                    return True
            return False

        if kind != "crash" and shrink and not outcome.flaky:
            case = showing.simpler(case, self.restrictions, fails)
        by = subject.by[prop.role]
        diagnosis, hint = UNEXPLAINED, ""
        if kind == "fault" and seen != by and _holds(prop, subject, case, seen):
            differing = [n for n in ROLES[prop.role].conventions if getattr(seen, n) != getattr(by, n)]
            kind = "fault" if isinstance(seen.pad_value, dict) else "demand"
            diagnosis = "; ".join(_difference(name, getattr(by, name), getattr(seen, name)) for name in differing)
        elif kind == "crash":
            diagnosis = ""
        if kind != "crash" and diagnosis == UNEXPLAINED and showing.is_simplest(case, self.restrictions):
            hint = ADAPTER
        message = str(error)
        if kind == "error":
            what = message if isinstance(error, Failed) else f"{type(error).__name__}: {message}"
            message = f"{prop.role} raised {what}"
        elif kind == "crash":
            message = f"{prop.role}: {message}"
        if outcome.flaky:
            message += " (not in every call: it depends on what was called before)"
        arguments = case.arguments()
        want = None if "same again" in prop.name else subject.want(case, by, arguments).value
        return Failure(
            prop.role,
            prop.name,
            kind,
            message,
            case,
            diagnosis,
            hint,
            showing.numbers(case),
            showing.snippet(case, want),
            showing.drawing(case),
        )

    def _disagreements(self, told: dict[str, dict[str, Any]]) -> list[Result]:
        """Return a result for each convention on which the roles of this implementation differ."""
        results = []
        for name, roles in SHARED.items():
            found = {role: told[role][name] for role in roles if told.get(role, {}).get(name) is not None}
            if len(set(found.values())) > 1:
                title = f"roles agree on {name}"
                said = ", ".join(f"{role} {value}" for role, value in found.items())
                message = f"{name} differs: {said}"
                failure = Failure(", ".join(found), title, "fault", message, None, "", "", "", "", "")
                results.append(Result(failure.role, title, 0, failure, 0.0))
        return results


def _holds(prop: Any, subject: Subject, case: Case, seen: Conventions) -> bool:
    """Whether the case would pass under the detected conventions."""
    by = subject.by[prop.role]
    subject.by[prop.role] = seen
    try:
        prop.check(subject, case)
        return True
    except Exception:
        return False
    finally:
        subject.by[prop.role] = by


def _difference(name: str, wanted: Any, found: Any) -> str:
    if isinstance(found, dict):
        wrong = ", ".join(f"{asked} is padded with {at}" for asked, at in found.items() if asked != at)
        right = ", ".join(str(asked) for asked, at in found.items() if asked == at)
        return f"Padding: {wrong}" + (f"; {right} as asked" if right else "")
    return f"{name} is {found!r}, but {wanted!r} is demanded"
