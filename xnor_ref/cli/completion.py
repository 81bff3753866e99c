"""Shell completion. The possible values of an option or argument are read from its metavar."""

import re
from pkgutil import resolve_name

import click
from click.shell_completion import CompletionItem

VARIABLE = "_XNOR_REF_COMPLETE"  # set by the shell function that `_XNOR_REF_COMPLETE=bash_source xnor-ref` prints
_PATHS = re.compile("FILE|FOLDER|PATH|RUN|MODEL|IMAGE")
_REGISTRIES = {
    "EXPERIMENT": "xnor_ref.experiments.catalogue:EXPERIMENTS",
    "METHOD": "xnor_ref.nn.methods:METHODS",
    "NETWORK": "xnor_ref.models:names",
    "SET": "xnor_ref.bench.measuring.layers:LAYER_SETS",
}


def candidates(metavar: str, context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Return the completions of `incomplete`: the choices of [a|b], the names of a registry, or paths."""
    word = metavar.strip("[].")
    if word in _REGISTRIES:
        names = resolve_name(_REGISTRIES[word])
        choices = names() if callable(names) else names
    elif _PATHS.search(word):
        return [CompletionItem(incomplete, type="file")]
    else:
        choices = word.split("|") if metavar.startswith("[") else ()
    return [CompletionItem(choice) for choice in choices if choice.startswith(incomplete)]
