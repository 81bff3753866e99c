"""Options of `verify` for another implementation: its name, its limits and its conventions."""

from collections.abc import Callable
from typing import Any

import click

from xnor_ref.errors import InputError

OUTPUTS = {  # by name: conventions `form` and `scale`
    "dot": ("dot", "none"),
    "agreements": ("agreements", "none"),
    "popcount": ("disagreements", "none"),
    "alpha": ("dot", "alpha"),
    "layer-alpha": ("dot", "layer"),
    "alpha-k": ("dot", "alpha K"),
    "alpha-k-valid": ("dot", "alpha K valid"),
}
_OPTIONS = (
    click.option(
        "--implementation",
        metavar="FILE.py",
        help="Check the functions of a Python file that are named after roles: conv2d, linear, pack, ... This runs the "
        "file, so give only one that you trust.",
    ),
    click.option("--program", metavar="COMMAND", help="Check a program that reads and writes .npz files."),
    click.option("--library", metavar="FILE.so", help="Check functions of a C library."),
    click.option(
        "--role",
        "roles",
        metavar="ROLE[=NAME],...",
        help="Roles to check; for a library, with its functions' names [all of a file; conv2d].",
    ),
    click.option("--library-types", metavar="X,OUT,WORD", help="Types of a library's arrays [float32,int32,uint64]."),
    click.option("--keep-running", is_flag=True, help="Start the program once; it answers one case after another."),
    click.option("--timeout", type=float, metavar="SECONDS", help="Longest time for one answer [60]."),
    click.option("--channels", metavar="N,... or Nx", help="Input channels to try; 32x means multiples of 32."),
    click.option("--out-channels", metavar="N,... or Nx", help="Output channels to try."),
    click.option("--kernels", metavar="K,... or HxW,...", help="Kernel sizes, such as 1,3 or 3x1 [up to 4x4]."),
    click.option("--strides", metavar="S,... or HxW,...", help="Strides [1 to 3]."),
    click.option("--pad", "paddings", metavar="P,... or HxW,...", help="Paddings, also same [0 to 3]."),
    click.option("--pad-value", "pad_values", metavar="V,...", help="Values of the padding: 0, 1 or -1 [all]."),
    click.option("--dilations", metavar="D,... or HxW,...", help="Dilations to try [not passed]."),
    click.option("--groups", metavar="N,...", help="Groups of channels to try [not passed]."),
    click.option("--batch", type=click.IntRange(1), metavar="N", help="Largest number of images [3]."),
    click.option("--largest-image", type=click.IntRange(1), metavar="N", help="Largest height and width [6]."),
    click.option(
        "--largest-dot", type=click.IntRange(1), metavar="N", help="Largest number of products in a sum [76,800]."
    ),
    click.option("--square", is_flag=True, help="Try only square images, kernels, strides and paddings."),
    click.option("--image-covers-kernel", is_flag=True, help="Try only images at least as large as the kernel."),
    click.option("--signs-only", is_flag=True, help="Try only inputs and weights of +1 and -1."),
    click.option("--zero-free", is_flag=True, help="Try no inputs and weights with zeros."),
    click.option("--subnormal-free", is_flag=True, help="Try no inputs and weights with numbers below 1.2e-38."),
    click.option("--output", metavar=f"[{'|'.join(OUTPUTS)}]", help="What the results must be [detected]."),
    click.option("--sign-of-zero", metavar="[1|-1|0|sign-bit]", help="The sign that 0 must have [detected]."),
    click.option(
        "--convention",
        "conventions",
        metavar="NAME=VALUE",
        multiple=True,
        help="Another convention that must hold [detected].",
    ),
)


def kit_options(function: Callable) -> Callable:
    """Decorator: add all of these options. Those not given are None, False or ()."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def settings(given: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of `Kit` from the options given, and remove those from `given`."""
    from xnor_ref.conformance import multiple_of

    found: dict[str, Any] = {}
    for name in ("channels", "out_channels", "groups"):
        if (text := given.pop(name)) is not None:
            flag = "--" + name.replace("_", "-")
            if text.endswith("x"):
                found[name] = multiple_of(_number(flag, text[:-1], 1))
            else:
                found[name] = tuple(_number(flag, part, 1) for part in text.split(","))
    for name, flag, least in (
        ("kernels", "--kernels", 1),
        ("strides", "--strides", 1),
        ("paddings", "--pad", 0),
        ("dilations", "--dilations", 1),
    ):
        if (text := given.pop(name)) is not None:
            found[name] = tuple(
                part if part == "same" and name == "paddings" else _pair(flag, part, least) for part in text.split(",")
            )
    if (text := given.pop("pad_values")) is not None:
        found["pad_values"] = tuple(_number("--pad-value", part, -1, 1) for part in text.split(","))
    plain = "batch", "largest_image", "largest_dot", "square", "image_covers_kernel"
    for name in (*plain, "signs_only", "zero_free", "subnormal_free"):
        if (value := given.pop(name)) not in (None, False):
            found[name] = value
    return found | _demands(given)


def _demands(given: dict[str, Any]) -> dict[str, Any]:
    """Return the conventions stated by options."""
    from xnor_ref.conformance.basics.conventions import VALUES

    found: dict[str, Any] = {}
    if (output := given.pop("output")) is not None:
        if output not in OUTPUTS:
            raise InputError(f"--output must be one of {', '.join(OUTPUTS)}, got {output!r}")
        found["form"], found["scale"] = OUTPUTS[output]
    stated = [text.partition("=")[::2] for text in given.pop("conventions")]
    if (zero := given.pop("sign_of_zero")) is not None:
        stated.append(("sign_of_zero", zero.replace("-bit", " bit")))
    for name, text in stated:
        name = name.strip().replace("-", "_")
        if name not in VALUES:
            raise InputError(f"--convention: {name!r} is not a convention; choose one of {', '.join(VALUES)}")
        values = {str(value).lower(): value for value in VALUES[name]}
        if text.strip().lower() not in values:
            flag = "--sign-of-zero" if name == "sign_of_zero" else f"--convention {name}"
            raise InputError(f"{flag} must be one of {', '.join(map(str, VALUES[name]))}, got {text!r}")
        found[name] = values[text.strip().lower()]
    return found


def roles(given: dict[str, Any]) -> dict[str, str]:
    """Return the roles of --role with the function name given for each, or "". Removes the option from `given`."""
    from xnor_ref.conformance import ROLES

    text = given.pop("roles")
    wanted = dict(part.strip().partition("=")[::2] for part in text.split(",")) if text is not None else {}
    if unknown := [role for role in wanted if role not in ROLES]:
        raise InputError(f"--role: {unknown[0]!r} is not a role; choose from {', '.join(ROLES)}")
    return wanted


def functions(given: dict[str, Any], wanted: dict[str, str]) -> dict[str, Any]:
    """Return what is to be checked, by role, or {} if no option names it. Removes these options from `given`.

    `wanted` are the `roles`. If it is empty, all roles of a Python file are checked, or conv2d otherwise.
    """
    from xnor_ref import conformance as c

    file, command, library = (given.pop(name) for name in ("implementation", "program", "library"))
    types, keep, timeout = (given.pop(name) for name in ("library_types", "keep_running", "timeout"))
    named = {"--implementation": file, "--program": command, "--library": library}
    chosen = [flag for flag, value in named.items() if value is not None]
    if len(chosen) > 1:
        raise InputError(f"{' and '.join(chosen)} exclude each other; give one of them")
    for flag, value, of in (
        ("--timeout", timeout, chosen),
        ("--keep-running", keep or None, command),
        ("--library-types", types, library),
    ):
        if value is not None and not of:
            needed = {"--keep-running": "--program", "--library-types": "--library"}.get(flag, " or ".join(named))
            raise InputError(f"{flag} needs {needed}")
    if not chosen:
        return {}
    how = {} if timeout is None else {"timeout": timeout}
    if library is None and (named_ones := [f"{role}={name}" for role, name in wanted.items() if name]):
        raise InputError(
            f"--role {named_ones[0]}: only functions of a --library are named; write {named_ones[0].partition('=')[0]}"
        )
    if file is not None:
        found = c.python_file(file, **how)
        if missing := [role for role in wanted if role not in found.roles]:
            raise InputError(f"--role {missing[0]}: {file} has no such function; it has {', '.join(found.roles)}")
        return dict.fromkeys(wanted or found.roles, found)
    if command is not None:
        return dict.fromkeys(wanted or ["conv2d"], c.program(command, keep=keep, **how))
    parts = types.split(",") if types is not None else []
    if len(parts) > 3:
        raise InputError(f"--library-types must be up to three types, such as float32,int32,uint64; got {types!r}")
    symbols: dict[str, Any] = {role: name or role for role, name in (wanted or {"conv2d": ""}).items()}
    return dict.fromkeys(symbols, c.c_library(library, **symbols | how | dict(zip(("x", "out", "word"), parts))))


def _number(flag: str, text: str, least: int, most: int | None = None) -> int:
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or value < least or (most is not None and value > most):
        wanted = f"at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{flag} must be integers {wanted} with commas between them; got {text!r}")
    return value


def _pair(flag: str, text: str, least: int) -> Any:
    parts = text.split("x")
    if len(parts) > 2:
        raise InputError(f"{flag} must be numbers such as 3 or pairs such as 3x1 (vertical x horizontal); got {text!r}")
    values = tuple(_number(flag, part, least) for part in parts)
    return values if len(values) == 2 else values[0]
