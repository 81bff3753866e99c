"""Results of `verify` as JSON, and as JUnit XML for CI systems."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

from xnor_ref.cli.text import printable
from xnor_ref.errors import InputError, OutputError
from xnor_ref.storage import write_atomically

_MOST_NUMBERS = 2000  # most numbers of a counterexample that JSON shows
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_json(report: Any) -> dict[str, Any]:
    """Return a report of the conformance kit as JSON values."""
    return {
        "passed": report.passed,
        "examples": sum(result.examples for result in report.results),
        "seconds": round(sum(result.seconds for result in report.results), 3),
        "seed": report.seed,
        "properties": [
            {
                "role": result.role,
                "name": result.name,
                "examples": result.examples,
                "passed": result.passed,
                "seconds": round(result.seconds, 3),
                "failure": None if result.passed else _failure(result.failure),
            }
            for result in report.results
        ],
        "conventions": report.conventions,
        "not_tested": report.not_tested,
        "notes": report.notes,
    }


def _failure(failure: Any) -> dict[str, Any]:
    texts = ("kind", "message", "diagnosis", "hint", "numbers", "snippet")
    made = {} if failure.case is None else failure.case.arguments() | failure.case.keywords
    few = sum(getattr(value, "size", 1) for value in made.values()) <= _MOST_NUMBERS
    arguments = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in made.items()}
    return {name: getattr(failure, name) for name in texts} | {"arguments": arguments if few else None}


def told(report: Any) -> list[str]:
    """Return one line for each failure."""
    return [f"{failure.name}: {failure.message}" for failure in report.failures]


def check_junit(path: str) -> None:
    """Raise, before any work, if the file cannot be written, or exists and is not a JUnit file."""
    file = Path(path)
    if not file.parent.is_dir():
        raise OutputError(f"--junit {path}: the folder {file.parent} does not exist")
    if file.exists():
        if not file.is_file():
            raise OutputError(f"--junit {path} exists and is not a regular file")
        if b"<testsuite" not in file.read_bytes()[:1000] and file.stat().st_size:
            raise InputError(f"--junit {path} exists and is not a JUnit file; name another file")


def write_junit(path: str, found: dict[str, Any]) -> None:
    """Write a result of the kit or of this project's own checks, with one test case per property."""
    properties = found["properties"]
    counts = {"tests": str(len(properties)), "failures": str(sum(not one["passed"] for one in properties))}
    suites = Xml.Element("testsuites", counts)
    suite = Xml.SubElement(suites, "testsuite", {"name": "xnor_ref verify", "time": str(found["seconds"]), **counts})
    for one in properties:
        place = {"classname": one.get("role", "xnor_ref"), "name": one["name"], "time": str(one["seconds"])}
        case = Xml.SubElement(suite, "testcase", place)
        if not one["passed"]:
            failure = one["failure"]
            if isinstance(failure, str):
                message, lines = failure, [failure, f"smallest example: {one['example']}"]
            else:
                message, lines = (
                    failure["message"],
                    [failure[name] for name in ("message", "diagnosis", "hint", "numbers")],
                )
            element = Xml.SubElement(case, "failure", {"message": _xml(message)})
            element.text = _xml("\n".join(line for line in lines if line))
    Xml.indent(suites)
    write_atomically(path, Xml.tostring(suites, "utf-8", xml_declaration=True) + b"\n")


def _xml(text: str) -> str:
    return _NOT_XML.sub("?", printable(text))
