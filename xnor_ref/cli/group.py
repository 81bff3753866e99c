"""The group of all commands. A command's module is imported only when the command is called, so `--help` is quick."""

import difflib
import keyword
from collections.abc import Iterable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from xnor_ref import __version__
from xnor_ref.cli.completion import candidates
from xnor_ref.cli.help import WIDTH, wrapped, write_options
from xnor_ref.cli.text import program

COMMANDS = {
    "train": "Train a network, freeze it to bits and check that both agree.",
    "evaluate": "Score a run's networks, or a model file, on the validation images.",
    "predict": "Classify photos.",
    "import": "Convert a network of another library to a model file.",
    "export": "Write a run's checkpoint as a model file, or a network in ONNX.",
    "compress": "Store binary layers along trees of output channels (MST-compression).",
    "show": "Show a run, a photo's way through a network, or how runs differ, as one page.",
    "reproduce": "Train the papers' tables and figures, beside the papers' own results.",
    "bench": "Measure speed on this machine, against its roof and other libraries.",
    "verify": "Check exactness on this machine, or of another implementation.",
    "check": "Check the exercises of the course, or find a planted bug.",
    "info": "Describe the installation, a model file, a run or a network's cost.",
}


def command_of(name: str) -> Any:
    """Return the command of this name. A file adds an underscore to a name that Python reserves, such as `import_`."""
    return import_module(f"xnor_ref.cli.commands.{name}{'_' * keyword.iskeyword(name)}").command


def hint(word: str, known: Iterable[str]) -> str:
    """Suggest what an unknown word may have meant."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(known)}."


class LazyGroup(click.Group):
    """Commands by name from `COMMANDS`; a module of `xnor_ref.cli.commands` holds `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return command_of(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"No such command {args[0]!r}. {hint(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


class Command(click.Command):
    """A command with examples at the end of its help, and with shell completion. The examples run as printed.

    `groups` are the headings of its options, each with their names.
    """

    def __init__(
        self, *args: Any, examples: tuple[str, ...] = (), groups: Mapping[str, str] | None = None, **kwargs: Any
    ):
        super().__init__(*args, **kwargs)
        self.examples, self.groups = examples, groups or {}
        for parameter in self.params:
            if parameter.metavar:
                parameter.shell_complete = partial(candidates, parameter.metavar)  # type: ignore[method-assign]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_options(self, ctx, formatter, self.groups)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            for example in self.examples:
                for line in wrapped(f"{program()} {example}", formatter.current_indent):
                    formatter.write(f"{line}\n")


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
    epilog="Exit codes: 0 done; 1 a bug, or an error of the system; 2 wrong usage; 3 data set or image; 4 model, "
    "checkpoint or run rejected; 5 a number is not finite; 6 results that must be equal differ; 7 a file cannot be "
    "written; 130 or 143 stopped by Ctrl-C or SIGTERM; 141 the reader of the output closed it.",
)
@click.version_option(__version__, prog_name="xnor_ref")
def cli() -> None:
    """XNOR-Net: train binary networks, run them on packed bits, and check that both agree."""
