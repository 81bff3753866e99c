"""Everything that decides what a training run computes, in one checked, frozen record.

A field is defined once, here: its default, what it may be, what it needs to have an effect, and its help text. The
command line's options, the keys of a TOML file and `config.json` in the run folder all come from this list. Choices
that a registry holds are looked up there.
"""

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any

from xnor_ref.errors import InputError, InputTypeError

_BINARY = ("method", "xnor_ref.nn.methods:methods_with")
_SHAPES = ("dataset", ("shapes",))


def _field(default: Any, kind: str, help: str, *, identity: bool = True, **rule: Any) -> Any:
    """A field with its rule; `identity` is False where the value cannot change a run's results.

    `choices` is a tuple, or "module:name" of the registry that holds them. `needs` is (other field, its values with
    which this one has an effect), or in place of the values "module:function", which gives them for this field's name.
    """
    metadata = {"kind": kind, "help": help, "identity": identity, **rule}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; `resolve` fills in what was not said.

    Raises
    ------
    InputError, InputTypeError
        A field has a wrong type, is not finite, out of its range, not among its choices or without effect; the
        message names the key, the value and what is allowed.
    """

    dataset: str = _field("shapes", "choice", "Data set to train on.", choices="xnor_ref.datasets:names")
    model: str = _field("shapes-net", "choice", "Network.", choices="xnor_ref.models:names")
    method: str = _field(
        "xnor",
        "choice",
        "What is binary, and how it is scaled; full: the full-precision twin.",
        choices="xnor_ref.nn.methods:METHODS",
    )
    epochs: int = _field(10, "int", "Passes over the training images.", low=1, high=100_000)
    batch_size: int = _field(64, "int", "Images per optimiser step.", low=2, high=65_536)
    optimizer: str = _field("adam", "choice", "Optimiser.", choices="xnor_ref.optim:OPTIMIZERS")
    lr: float = _field(0.001, "float", "Learning rate at its highest.", low=0, open=True)
    momentum: float = _field(0.9, "float", "Momentum of sgd.", low=0, high=0.9999, needs=("optimizer", ("sgd",)))
    weight_decay: float = _field(0.0, "float", "Weight decay of real weights.", low=0, high=1)
    schedule: str = _field("cosine", "choice", "How the learning rate falls.", choices="xnor_ref.optim:KINDS")
    milestones: list[int] | None = _field(  # noqa: RUF009 - the default is None
        None,
        "integers",
        "Epochs after which schedule step divides the learning rate by 10 (default: 1/2 and 3/4 of all).",
        needs=("schedule", ("step",)),
    )
    power: float | None = _field(
        None,
        "float",
        "Power of schedule polynomial (default: 4).",
        low=0,
        high=100,
        open=True,
        needs=("schedule", ("polynomial",)),
    )
    final_lr: float | None = _field(
        None,
        "float",
        "Learning rate at the end (default: 0).",
        low=0,
        needs=("schedule", ("cosine", "linear", "polynomial")),
    )
    warmup_epochs: float = _field(0.0, "float", "Epochs of linear warm-up.", low=0, high=100_000)
    loss: str = _field("cross-entropy", "choice", "Loss.", choices="xnor_ref.nn:LOSSES")
    label_smoothing: float = _field(
        0.0, "float", "Label smoothing of cross-entropy.", low=0, high=0.9, needs=("loss", ("cross-entropy",))
    )
    augment: bool = _field(True, "bool", "Random crops and flips of training images.")
    seed: int = _field(0, "int", "Everything random is derived from it.", low=0, high=2**63 - 1)
    input_scale: str | None = _field(
        None,
        "choice",
        "Activation scale K of binary layers (default: the model's).",
        choices="xnor_ref.nn:BinaryConv2d.input_scales",
        needs=_BINARY,
    )
    pad_value: int | None = _field(
        None, "int-choice", "Padding of binary convolutions (default: the model's).", choices=(-1, 0, 1), needs=_BINARY
    )
    grad_mode: str | None = _field(
        None,
        "choice",
        "Gradient of binary weights (default: the model's).",
        choices="xnor_ref.binary:GRAD_MODES",
        needs=_BINARY,
    )
    weight_scale: str | None = _field(
        None,
        "choice",
        "Weight scale alpha of binary layers (default: the model's).",
        choices="xnor_ref.nn.methods:WEIGHT_SCALES",
        needs=_BINARY,
    )
    k_grad: bool | None = _field(None, "bool", "Let the gradient flow through K too.", needs=_BINARY)
    centre: bool | None = _field(None, "bool", "Mean-centre latent weights after each step.", needs=_BINARY)
    clamp: bool | None = _field(None, "bool", "Clamp latent weights to [-1, 1] after each step.", needs=_BINARY)
    glorot: bool | None = _field(
        None, "bool", "Even initial weights and learning rates scaled by fan-in and fan-out.", needs=_BINARY
    )
    stochastic: bool | None = _field(None, "bool", "Draw the signs of weights at random in training.", needs=_BINARY)
    gamma: str | None = _field(
        None,
        "choice",
        "What the learned scale of xnor++ is built from (default: o-h-w).",
        choices="xnor_ref.nn:GAMMAS",
        needs=_BINARY,
    )
    gamma_init: str | None = _field(
        None,
        "choice",
        "What the learned scale of xnor++ is at first (default: ones).",
        choices="xnor_ref.nn.methods:GAMMA_INITS",
        needs=_BINARY,
    )
    block_order: str | None = _field(
        None,
        "choice",
        "Order of BatchNorm, activation, convolution and pooling (default: bacp).",
        choices="xnor_ref.nn.methods:BLOCK_ORDERS",
        needs=_BINARY,
    )
    model_options: dict[str, Any] = _field(  # noqa: RUF009 - `_field` makes a default_factory of it
        {}, "table", "Option of this network alone, such as width=32."
    )
    train_size: int | None = _field(
        None, "int", "Images that the data set shapes draws for training.", low=1, high=1_000_000, needs=_SHAPES
    )
    val_size: int | None = _field(
        None, "int", "Images that the data set shapes draws for validation.", low=1, high=1_000_000, needs=_SHAPES
    )
    image_size: int | None = _field(
        None,
        "int",
        "Pixels a side that images of the data set folder are brought to.",
        low=8,
        high=1024,
        needs=("dataset", ("folder",)),
    )
    limit_train: int | None = _field(None, "int", "Train on a fixed choice of N images only.", low=1, high=2**40)
    limit_val: int | None = _field(None, "int", "Validate on a fixed choice of N images only.", low=1, high=2**40)
    data_dir: str = _field("data", "text", "Folder that holds the data sets.", identity=False)
    archive: str | None = _field(None, "text", "Zip archive to read the data set from.", identity=False)
    threads: int | None = _field(
        None, "int", "Threads for all computing (default: all processors).", identity=False, low=1, high=1024
    )
    checkpoint_every: float = _field(
        60.0, "float", "Seconds between checkpoints inside an epoch.", identity=False, low=0, high=1e9
    )
    keep: int = _field(3, "int", "Checkpoints to keep besides the best.", identity=False, low=1, high=1000)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _checked(field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        for field in dataclasses.fields(self):
            if getattr(self, field.name) != field.default:
                self.require_effect(field)
        if self.warmup_epochs > self.epochs:
            raise InputError(f"warmup_epochs (={self.warmup_epochs:g}) must not be more than epochs (={self.epochs})")
        if self.milestones and self.milestones[-1] >= self.epochs:
            raise InputError(f"milestones (={self.milestones}) must be less than epochs (={self.epochs})")
        if self.final_lr is not None and self.final_lr > self.lr:
            raise InputError(f"final_lr (={self.final_lr:g}) must not be more than lr (={self.lr:g})")

    def require_effect(self, field: dataclasses.Field) -> None:
        """Raise InputError if another field's value leaves `field` without effect."""
        if not self._has_effect(field):
            other, values = needs_of(field)
            raise InputError(
                f"{field.name} (={getattr(self, field.name)}) needs {other} {' or '.join(values)}, "
                f"got {other} {getattr(self, other)!r}"
            )

    def _has_effect(self, field: dataclasses.Field) -> bool:
        if "needs" not in field.metadata:
            return True
        other, values = needs_of(field)
        return getattr(self, other) in values

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return dataclasses.asdict(self)

    def identity(self) -> dict[str, Any]:
        """The fields that decide the results: two runs that agree here compute the same bytes."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.metadata["identity"]}

    def options_of(self, choice: str) -> dict[str, Any]:
        """The fields that belong to what is chosen in the field `choice`; None leaves the default to what is chosen."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata.get("needs", ("",))[0] == choice
            and getattr(self, field.name) is not None
            and self._has_effect(field)
        }


FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}


def choices_of(field: dataclasses.Field) -> tuple:
    """The values that a choice field takes."""
    choices = _found(field.metadata["choices"])
    return tuple(choices() if callable(choices) else choices)


def needs_of(field: dataclasses.Field) -> tuple[str, tuple]:
    """The other field, and its values with which this one has an effect."""
    other, values = field.metadata["needs"]
    values = _found(values)
    return other, tuple(values(field.name) if callable(values) else values)


def _found(registry: Any) -> Any:
    """What "module:name" names, looked up only now: `--help` of other commands does without it."""
    if not isinstance(registry, str):
        return registry
    module, _, name = registry.partition(":")
    return attrgetter(name)(import_module(module))


def _checked(field: dataclasses.Field, value: Any) -> Any:
    """`value` in the field's own type, or InputError."""
    name, kind, rule = field.name, field.metadata["kind"], field.metadata
    if value is None and field.default is None:
        return None
    if kind == "bool":
        if not isinstance(value, bool):
            raise InputTypeError(f"{name} must be true or false, got {value!r}")
        return value
    if kind == "table":
        if not isinstance(value, dict) or not all(
            isinstance(key, str) and isinstance(item, (bool, int, str)) for key, item in value.items()
        ):
            raise InputTypeError(f"{name} must be a table of whole numbers, texts and booleans, got {value!r}")
        return dict(value)
    if kind == "integers":
        if not isinstance(value, (list, tuple)) or not all(type(item) is int for item in value):
            raise InputTypeError(f"{name} must be a list of integers, got {value!r}")
        if not value or value[0] < 1 or any(b <= a for a, b in pairwise(value)):
            raise InputError(f"{name} must be at least one number, ascending from 1 or more, got {value!r}")
        return list(value)
    if kind == "text":
        if not isinstance(value, str) or not value or "\0" in value:
            raise InputTypeError(f"{name} must be a non-empty text, got {value!r}")
        return value
    if kind in ("choice", "int-choice"):
        choices = choices_of(field)
        if isinstance(value, bool) or value not in choices:
            raise InputError(
                f"{name} must be one of {', '.join(map(str, choices))}; got {value!r}{did_you_mean(value, choices)}"
            )
        return value
    if isinstance(value, bool) or not isinstance(value, int if kind == "int" else (int, float)):
        raise InputTypeError(f"{name} must be {'an integer' if kind == 'int' else 'a number'}, got {value!r}")
    low, high = rule["low"], rule.get("high", math.inf)
    too_low = value <= low if rule.get("open") else value < low
    if not math.isfinite(value) or too_low or value > high:
        lower = f"more than {low}" if rule.get("open") else f"at least {low}"
        upper = f" and at most {high:,}" if math.isfinite(high) else " and finite"
        raise InputError(f"{name} must be {lower}{upper}, got {value!r}")
    return int(value) if kind == "int" else float(value)


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """'; did you mean x?' for the known word nearest to `word`, or nothing."""
    near = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_values(values: Mapping[str, Any], where: str = "config") -> None:
    """Raise InputError for the first key that is no field, or whose value its field does not take."""
    for key, value in values.items():
        if key not in FIELDS:
            raise InputError(f"{where}: unknown key {key!r}{did_you_mean(key, FIELDS)} (known: {', '.join(FIELDS)})")
        _checked(FIELDS[key], value)


MAX_TOML_BYTES = 2**20


def load_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file of config fields; '-' in keys is read as '_'.

    Raises
    ------
    InputError
        No such file, not TOML, or a key that is no field.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise InputError(f"config file {path}: not a regular file")
        with open(path, "rb") as file:
            text = file.read(MAX_TOML_BYTES + 1)
        if len(text) > MAX_TOML_BYTES:
            raise InputError(f"config file {path}: more than {MAX_TOML_BYTES} bytes")
        raw = tomllib.loads(text.decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"config file {path}: {reason}") from None
    values = {key.replace("-", "_"): value for key, value in raw.items()}
    check_values(values, f"config file {path}")
    return values


def resolve(said: Mapping[str, Any]) -> TrainConfig:
    """The config of a run: what was said, then the recipe of its data set, then the defaults.

    Parameters
    ----------
    said : mapping
        Field names to values, of the config file and the command line together.

    Raises
    ------
    InputError, InputTypeError
        As `TrainConfig`; and something was said that has no effect, even if it is the default.
    """
    from xnor_ref.training.recipes import recipe

    check_values(said)
    dataset = said.get("dataset", FIELDS["dataset"].default)
    method = said.get("method", FIELDS["method"].default)
    config = TrainConfig(**{**recipe(dataset, method), **said})
    for key, value in said.items():
        if value is not None:
            config.require_effect(FIELDS[key])
    return config


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """'key: found 3, asked for 5' for each key of `wanted` that `found` has otherwise."""
    return [
        f"{key}: {found.get(key)!r} there, {value!r} asked for"
        for key, value in wanted.items()
        if found.get(key) != value
    ]
