"""Everything that decides what a training run computes, in one checked, frozen record.

A field is defined once, here: its default, what it may be, and its help text. The command line's options, the keys
of a TOML file and `config.json` in the run folder all come from this list.
"""

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xnor_ref.errors import InputError, InputTypeError

DATASETS = ("shapes", "tiny-imagenet", "cifar10", "mnist", "fashion-mnist", "folder")
METHODS = ("xnor", "full")
_DATASET_OPTIONS = {"train_size": "shapes", "val_size": "shapes", "image_size": "folder"}


def _field(default: Any, kind: str, help: str, *, identity: bool = True, **rule: Any) -> Any:
    """A field with its rule; `identity` is False where the value cannot change a run's results."""
    metadata = {"kind": kind, "help": help, "identity": identity, **rule}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _model_names() -> tuple[str, ...]:
    from xnor_ref import models

    return tuple(models.names())


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; `resolve` fills in what was not said.

    Raises
    ------
    InputError, InputTypeError
        A field has a wrong type, is not finite, out of its range or not among its choices; the message names
        the key, the value and what is allowed.
    """

    dataset: str = _field("shapes", "choice", "Data set to train on.", choices=DATASETS)
    model: str = _field("shapes-net", "choice", "Network.", choices=_model_names)
    method: str = _field(
        "xnor", "choice", "xnor: binary weights and inputs; full: the full-precision twin.", choices=METHODS
    )
    epochs: int = _field(10, "int", "Passes over the training images.", low=1, high=100_000)
    batch_size: int = _field(64, "int", "Images per optimiser step.", low=2, high=65_536)
    optimizer: str = _field("adam", "choice", "Optimiser.", choices=("adam", "sgd"))
    lr: float = _field(0.001, "float", "Learning rate at its highest.", low=0, open=True)
    momentum: float = _field(0.9, "float", "Momentum of sgd.", low=0, high=0.9999)
    weight_decay: float = _field(0.0, "float", "Weight decay of real weights.", low=0, high=1)
    schedule: str = _field(
        "cosine",
        "choice",
        "How the learning rate falls.",
        choices=("constant", "step", "cosine", "linear", "polynomial"),
    )
    warmup_epochs: float = _field(0.0, "float", "Epochs of linear warm-up.", low=0, high=100_000)
    loss: str = _field("cross-entropy", "choice", "Loss.", choices=("cross-entropy", "squared-hinge"))
    label_smoothing: float = _field(0.0, "float", "Label smoothing of cross-entropy.", low=0, high=0.9)
    augment: bool = _field(True, "bool", "Random crops and flips of training images.")
    seed: int = _field(0, "int", "Everything random is derived from it.", low=0, high=2**63 - 1)
    input_scale: str | None = _field(
        None,
        "choice",
        "Activation scale K of binary layers (default: the model's).",
        choices=("off", "plain", "valid"),
    )
    pad_value: int | None = _field(
        None, "int-choice", "Padding of binary convolutions (default: the model's).", choices=(-1, 0, 1)
    )
    grad_mode: str | None = _field(
        None,
        "choice",
        "Gradient of binary weights (default: the model's).",
        choices=("paper", "corrected", "ste", "official"),
    )
    weight_scale: str | None = _field(
        None, "choice", "Weight scale alpha of binary layers (default: the model's).", choices=("alpha", "off")
    )
    k_grad: bool | None = _field(None, "bool", "Let the gradient flow through K too.")
    centre: bool | None = _field(None, "bool", "Mean-centre latent weights after each step.")
    clamp: bool | None = _field(None, "bool", "Clamp latent weights to [-1, 1] after each step.")
    model_options: dict[str, Any] = _field(  # noqa: RUF009 - `_field` makes a default_factory of it
        {}, "table", "Option of this network alone, such as width=32."
    )
    train_size: int | None = _field(
        None, "int", "Images that the data set shapes draws for training.", low=1, high=1_000_000
    )
    val_size: int | None = _field(
        None, "int", "Images that the data set shapes draws for validation.", low=1, high=1_000_000
    )
    image_size: int | None = _field(
        None, "int", "Pixels a side that images of the data set folder are brought to.", low=8, high=1024
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
        if self.warmup_epochs > self.epochs:
            raise InputError(f"warmup_epochs (={self.warmup_epochs:g}) must not be more than epochs (={self.epochs})")
        if self.loss != "cross-entropy" and self.label_smoothing:
            raise InputError(
                f"label_smoothing (={self.label_smoothing:g}) needs loss cross-entropy, got loss {self.loss!r}"
            )
        for name, owner in _DATASET_OPTIONS.items():
            if getattr(self, name) is not None and self.dataset != owner:
                raise InputError(
                    f"{name} (={getattr(self, name)}) belongs to the data set {owner}, got dataset {self.dataset!r}"
                )

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return dataclasses.asdict(self)

    def identity(self) -> dict[str, Any]:
        """The fields that decide the results: two runs that agree here compute the same bytes."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.metadata["identity"]}

    def dataset_options(self) -> dict[str, Any]:
        """What was said about the data set itself, for `datasets.load`."""
        return {name: getattr(self, name) for name in _DATASET_OPTIONS if getattr(self, name) is not None}

    def build_options(self) -> dict[str, Any]:
        """What was said about layers, for `models.build`; unsaid options are the model's own."""
        names = ("weight_scale", "input_scale", "pad_value", "grad_mode", "k_grad", "centre", "clamp")
        said = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return {**said, **self.model_options}


FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}


def choices_of(field: dataclasses.Field) -> tuple:
    """The values that a choice field takes."""
    choices: tuple | Callable[[], tuple] = field.metadata["choices"]
    return choices() if callable(choices) else choices


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


def load_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file of config fields; '-' in keys is read as '_'.

    Raises
    ------
    InputError
        No such file, not TOML, or a key that is no field.
    """
    try:
        with open(path, "rb") as file:
            raw = tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
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
    """
    from xnor_ref.training.recipes import recipe

    check_values(said)
    dataset = said.get("dataset", FIELDS["dataset"].default)
    method = said.get("method", FIELDS["method"].default)
    return TrainConfig(**{**recipe(dataset, method), **said})


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """'key: found 3, asked for 5' for each key of `wanted` that `found` has otherwise."""
    return [
        f"{key}: {found.get(key)!r} there, {value!r} asked for"
        for key, value in wanted.items()
        if found.get(key) != value
    ]
