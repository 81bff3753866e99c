"""Golden vectors: files of cases and expected results, for programs that Python cannot call; and checks of answers.

Each case is a request as in `foreign/programs.py`, plus the expected result. The answer is a file next to it. So
answers can be computed elsewhere and checked later.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from xnor_ref.conformance import edges
from xnor_ref.conformance.basics import bits, definitions
from xnor_ref.conformance.basics.arrays import Case, Data, Given
from xnor_ref.conformance.basics.conventions import NAMES, Conventions
from xnor_ref.conformance.basics.report import Observed, Report
from xnor_ref.conformance.basics.restrictions import Restrictions, multiple_of
from xnor_ref.conformance.basics.roles import ROLES
from xnor_ref.conformance.foreign import npz
from xnor_ref.conformance.foreign.programs import members
from xnor_ref.conformance.kit import Kit
from xnor_ref.conformance.trying import properties
from xnor_ref.conformance.trying.diagnose import CALLING, WORDS, diagnose
from xnor_ref.conformance.trying.running import Property
from xnor_ref.conformance.trying.subject import Subject
from xnor_ref.errors import InputError, OutputError, UnreadableError
from xnor_ref.storage import write_atomically

FORMAT, VERSION = "xnor_ref golden vectors", 1
INDEX = "index.json"
ANSWERS = (".answer", ".answer.npy", ".answer.npz")  # replaces .npz in the name of a case
_SHOWN = 8  # most files named in a message
_ADDED = ("expected", "allowed")  # members that are not arguments


def export_golden(
    folder: str | os.PathLike[str], *, roles: Iterable[str] = edges.ROLES, seed: int = 0, **settings: Any
) -> dict[str, int]:
    """Write edge cases with their expected results. Equal arguments give equal bytes.

    Parameters
    ----------
    folder : a new or empty folder. docs/conformance-kit.md describes its content.
    roles : roles to write cases for
    settings : restrictions and conventions, as in `Kit`; by default those of this project

    Returns
    -------
    dict
        The number of cases of each role.

    Raises
    ------
    InputError : a role or setting is unknown, or the folder is not empty
    OutputError : the folder cannot be written
    """
    roles = tuple(roles)
    if unknown := [role for role in roles if role not in edges.ROLES]:
        raise InputError(
            f"export_golden: {unknown[0]!r} has no golden vectors; these roles have: {', '.join(edges.ROLES)}"
        )
    limits, by = _understood(settings)
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        if any(place.iterdir()):
            raise InputError(f"export_golden: {folder} is not empty; name a new folder")
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error
    found: dict[str, list[dict[str, Any]]] = {}
    for role in roles:
        found[role] = []
        for request, case in _asked(role, limits, seed, by).values():
            name = f"{role}/{len(found[role]):03}.npz"
            (place / role).mkdir(exist_ok=True)
            write_atomically(place / name, npz.npz(request | _expected(role, request, by)), flush=False)
            found[role].append({"file": name, "data": {key: _told(data) for key, data in case.data.items()}})
    index = {
        "format": FORMAT,
        "version": VERSION,
        "seed": seed,
        "restrictions": {f.name: _plain(v) for f in fields(limits) if (v := getattr(limits, f.name)) != _default(f)},
        "conventions": {name: getattr(by, name) for name in NAMES},
        "roles": {
            role: {
                "what": ROLES[role].what,
                "arguments": ROLES[role].parameters,
                "conventions": ROLES[role].conventions,
                "cases": found[role],
            }
            for role in roles
        },
    }
    write_atomically(place / INDEX, json.dumps(index, indent=1).encode() + b"\n", flush=False)
    return {role: len(files) for role, files in found.items()}


def check_golden(folder: str | os.PathLike[str], **settings: Any) -> Report:
    """Check the answers next to the cases of `export_golden`.

    The answer to `conv2d/007.npz` is `conv2d/007.answer`, a .npy or .npz file like a program's answer. Its name may
    also end in .npy or .npz. A role without any answer is not tested.

    Parameters
    ----------
    folder : the folder of `export_golden`, with answers
    settings : conventions to demand, in addition to those demanded when the cases were written

    Raises
    ------
    InputError : the folder holds no golden vectors, no case has an answer, or a setting is unknown
    UnreadableError : a file cannot be read
    """
    place = Path(folder)
    index = _index(place)
    settings = _restored(index) | settings
    _, by = _understood(settings)
    kits = [_Golden(role, answers, by, settings) for role, answers in _answers(place, index).items()]
    reports = [kit.answered() for kit in kits]
    return Report(
        tuple(result for report in reports for result in report.results),
        Observed({role: found for report in reports for role, found in report.conventions.items()}),
        tuple(role for role in ROLES if not any(role in kit.functions for kit in kits)),
    )


class _Golden(Kit):
    """A role whose function reads its results from files, tested on the cases that have answers."""

    def __init__(self, role: str, answers: dict[Path, Path | None], by: Conventions, settings: dict[str, Any]) -> None:
        super().__init__(**settings | {role: _replay(role, answers)})
        cases = {file: _case(role, _request(file), by) for file in answers}
        self._files = {id(case): f"{role}/{file.name}" for file, case in cases.items()}
        self._failed: set[str] = set()
        self._cases = sorted(cases.values(), key=lambda case: sum(data.array().size for data in case.data.values()))

    def _properties(self, subject: Subject, roles: list[str]) -> list[Property]:
        (role,) = roles
        return [Property(f"{ROLES[role].what}: the golden vectors", self._cases, self._check, role=role)]

    def _check(self, subject: Subject, case: Case) -> None:
        try:
            properties.is_as_defined(subject, case)
        except Exception as error:
            self._failed.add(self._files[id(case)])
            raise type(error)(f"{self._files[id(case)]}: {error}") from None

    def answered(self) -> Report:
        """Return the report. A failure says how many answers are wrong, and names the first."""
        report = self.run(shrink=False)
        some = ", ".join(sorted(self._failed)[:_SHOWN]) + (", ..." if len(self._failed) > _SHOWN else "")
        told = f"; {len(self._failed)} of {len(self._files)} answers are wrong: {some}"
        results = (
            replace(one, failure=replace(one.failure, message=one.failure.message + told)) if one.failure else one
            for one in report.results
        )
        return replace(report, results=tuple(results))


def _understood(settings: dict[str, Any]) -> tuple[Restrictions, Conventions]:
    """Return the restrictions and conventions in a kit's settings."""
    kit = Kit(conv2d=len, **settings)
    by = Conventions(**kit.demands)
    if by.layout != Conventions.layout or by.transposed or by.rows != Conventions.rows:
        raise InputError("golden vectors must have channels first, and each row in separate words")
    return kit.restrictions, by


def _asked(
    role: str, limits: Restrictions, seed: int, by: Conventions
) -> dict[str, tuple[dict[str, np.ndarray], Case]]:
    """Return a role's requests by digest, with their cases: first those that show conventions, then edge cases."""
    found: dict[str, tuple[dict[str, np.ndarray], Case]] = {}
    case: Case
    called = True  # the conventions of the call

    def answer(*arguments: Any, **named: Any) -> np.ndarray:
        request = members(role, arguments, named)
        if called:
            found.setdefault(_digest(request), (request, case))
        return _expected(role, request, by)["expected"]

    class Noting(Subject):
        def call(self, of: Case, how: Conventions, arguments: dict[str, Any] | None = None) -> np.ndarray:
            nonlocal case, called
            case, called = of, all(getattr(how, name) == getattr(by, name) for name in (*CALLING, *WORDS))
            return super().call(of, how, arguments)

    subject = Noting({role: answer})
    subject.by[role] = by
    diagnose(subject, role, limits, by)
    for one in edges.cases(role, limits, seed, by.scale != "none"):
        subject.call(one, by)
    return found


def _digest(request: dict[str, np.ndarray]) -> str:
    return hashlib.sha256(npz.npz(request)).hexdigest()


def _case(role: str, request: dict[str, np.ndarray], by: Conventions) -> Case:
    """Return the case of a request, with its arrays unchanged, and signs instead of words."""
    made: dict[str, Any] = {name: array for name, array in request.items() if array.dtype.kind == "f"}
    settings: dict[str, Any] = {name: _number(array) for name, array in request.items() if name not in made}
    for name, recipe in (("words", "x"), ("a_words", "a"), ("b_words", "b")):
        if name in request:
            words, n = request[name], int(request["n"])
            read = bits.read(words.reshape(-1, words.shape[-1]), words.size // words.shape[-1], n, by)
            if read is None:
                raise InputError(f"a golden vector of {role} has words {words.shape}, too few for {n} bits")
            made[recipe] = np.float32(read[0].reshape(*words.shape[:-1], n))
            del settings[name]
    keywords = {name: settings.pop(name) for name in list(settings) if name not in ROLES[role].parameters}
    return Case(role, {name: Given(array) for name, array in made.items()}, settings, keywords)


def _number(array: np.ndarray) -> Any:
    """Return an int, or a tuple of tuples of ints."""
    return tuple(map(_number, array)) if array.ndim else int(array)


def _expected(role: str, request: dict[str, np.ndarray], by: Conventions) -> dict[str, np.ndarray]:
    """Return the expected result of a request, and for rounded results the largest difference of each."""
    case = _case(role, request, by)
    made = case.arguments() | case.keywords
    made.pop("n", None)
    want = definitions.DEFINITIONS[role](by, **made)
    if role == "pack":
        return {"expected": bits.write(want.value, by)}
    if want.terms is not None:
        return {"expected": want.value, "allowed": want.allowed("naive") + np.zeros_like(want.value)}
    whole = np.array_equal(want.value, np.rint(want.value)) and not np.isnan(want.value).any()
    return {"expected": want.value.astype(np.int32) if whole else want.value}


def _replay(role: str, answers: dict[Path, Path | None]) -> Callable[..., np.ndarray]:
    """Return a function that reads its answers from files."""
    table = {_digest(_request(file)): file for file in answers}

    def answered(*arguments: Any, **named: Any) -> np.ndarray:
        file = table.get(_digest(members(role, arguments, named)))
        if file is None:
            raise LookupError("no golden vector has these arguments")
        path = answers[file]
        if path is None:
            raise LookupError("it has no answer")
        try:
            return npz.one_array(path)
        except InputError as error:
            raise ValueError(str(error)) from None

    answered.__name__ = role
    return answered


def _answers(place: Path, index: dict[str, Any]) -> dict[str, dict[Path, Path | None]]:
    """Return the files with answers by role and case, without roles that have none. Raises InputError."""
    found = {}
    try:
        for role, entry in index["roles"].items():
            files = [place / case["file"] for case in entry["cases"]]
            if role not in edges.ROLES or any(file.parent != place / role for file in files):
                raise ValueError(f"it has files of {role!r} that are not in a folder of that name")
            found[role] = {file: _answer(file) for file in files}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{place / INDEX} is damaged: {error}") from None
    answered = {role: files for role, files in found.items() if any(files.values())}
    if not answered:
        file = next((file for files in found.values() for file in files), place / "conv2d" / "000.npz")
        raise InputError(f"{place} has no answers; the answer to {file.name} would be {file.with_suffix(ANSWERS[0])}")
    return answered


def _answer(file: Path) -> Path | None:
    """Return the file with the answer to a case, or None."""
    return next((path for end in ANSWERS if (path := file.with_name(file.stem + end)).is_file()), None)


def _request(file: Path) -> dict[str, np.ndarray]:
    try:
        arrays = npz.read_file(file)
    except OSError as error:
        raise UnreadableError(f"{file} cannot be read: {error.strerror or error}") from error
    return {name: array for name, array in arrays.items() if name not in _ADDED}


def _index(place: Path) -> dict[str, Any]:
    path = place / INDEX
    try:
        index = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{place} holds no golden vectors: {INDEX}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise InputError(f"{path} is not an index of golden vectors")
    if index.get("version") != VERSION:
        raise InputError(f"{path} has version {index.get('version')!r:.20}; this program reads version {VERSION}")
    return index


def _restored(index: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with which cases were written."""
    try:
        limits = {name: _tuples(value) for name, value in index["restrictions"].items()}
        own = Conventions()
        return limits | {n: v for n, v in index["conventions"].items() if v != getattr(own, n)}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{INDEX} is damaged: {error}") from None


def _plain(value: Any) -> Any:
    return {"multiple_of": value.of} if isinstance(value, multiple_of) else value


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    if isinstance(value, dict):
        return (
            multiple_of(value["multiple_of"]) if "multiple_of" in value else {k: _tuples(v) for k, v in value.items()}
        )
    return value


def _default(field: Any) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def _told(data: Any) -> str:
    """Return what an array is made of."""
    return data.kind if isinstance(data, Data) else "zeros, or subnormal numbers"
