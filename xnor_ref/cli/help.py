"""The help of a command: options under headings, everything within 80 columns."""

from collections.abc import Iterable, Mapping
from itertools import pairwise

import click

WIDTH = 80
_METAVAR = 24  # columns that a list of choices may take beside its option; a longer one is told in words
_WHOLE = "\N{NON-BREAKING HYPHEN}"  # of a name that is not cut at the end of a line

TRAIN = {  # the headings of `train --help`, and the options under them
    "What to train": "dataset tiny_imagenet model model_options method recipe faithful plugin init_from",
    "Data": "data_dir archive download train_size val_size image_size limit_classes limit_train limit_val",
    "ImageNet": "store_dir in_place",
    "Augmentation": "augment crop scale_to",
    "Length and steps": "epochs batch_size optimizer momentum eps loss label_smoothing clip_norm average seed",
    "Learning rate": "lr schedule milestones lr_factors power final_lr warmup_epochs",
    "Weight decay": "weight_decay decay_all decay_epochs",
    "Smaller images first": "small_images small_share",
    "Scales and signs": "weight_scale input_scale k_grad gamma gamma_init grad_mode sign_gradient pad_value",
    "Latent weights": "centre clamp glorot stochastic",
    "Blocks and ends": "block_order relu react rprelu shortcut batch_norm shift_batch_norm ends",
    "Several bits": "weight_bits weight_quantizer input_bits input_levels grad_bits grad_rounding grad_range grad_for",
    "A teacher": "teacher distill_weight temperature",
    "MST-compression": "mst_lambda mst_pull mst_start mst_ramp mst_refresh mst_margin",
    "Arithmetic": "backend backward threads check_agreement",
    "Several processes": "shards norm_over compress_gradients distributed rank_timeout",
    "The run": "out resume config_file checkpoint_every keep quiet as_json",
}


def _record(parameter: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    """(option, help) as click has them, but with a long list of choices in the help."""
    record, metavar = parameter.get_help_record(context), parameter.metavar or ""
    if record is None or not metavar.startswith("[") or len(metavar) <= _METAVAR:
        return record
    choices = metavar.strip("[]").replace("|", ", ").replace("-", _WHOLE)
    return record[0].replace(metavar, "NAME"), f"{record[1]} One of {choices}."


def write_options(
    command: click.Command, context: click.Context, formatter: click.HelpFormatter, groups: Mapping[str, str]
) -> None:
    """Write the options of a command under the headings of `groups`, those in none under the last."""
    options = {p.name: _record(p, context) for p in command.get_params(context) if p.param_type_name == "option"}
    left = {name: record for name, record in options.items() if record is not None}
    named = groups or {"Options": ""}
    sections = {title: [left.pop(name) for name in names.split() if name in left] for title, names in named.items()}
    sections[list(sections)[-1]] += left.values()
    for title, records in sections.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)
    formatter.buffer = [text.replace(_WHOLE, "-") for text in formatter.buffer]


def wrapped(command: str, indent: int) -> Iterable[str]:
    """The lines of a shell command, cut before an option or an argument; all but the last end with a backslash."""
    words, line = command.split(" "), ""
    parts = [words[0]]
    for before, word in pairwise(words):
        if before.startswith("-") and not word.startswith("-"):
            parts[-1] += f" {word}"  # the value of an option, as far as one can tell
        else:
            parts.append(word)
    for part in parts:
        if line and indent + len(line) + len(part) + 3 > WIDTH:
            yield " " * indent + line + " \\"
            line = "  "
        line += part if not line.strip() else f" {part}"
    yield " " * indent + line
