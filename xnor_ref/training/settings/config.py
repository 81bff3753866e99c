"""All settings that decide what a training run computes, in one checked, frozen record.

Each field is defined once, here: its default, its allowed values, what it needs to have an effect, and its help text.
The command line's options, the keys of a TOML file and `config.json` in the run folder all come from this list. Choices
that a registry holds are looked up there.
"""

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xnor_ref.errors import InputError
from xnor_ref.training.settings import plugins
from xnor_ref.training.settings.fields import checked as _checked
from xnor_ref.training.settings.fields import choices_of as choices_of
from xnor_ref.training.settings.fields import define as _field
from xnor_ref.training.settings.fields import did_you_mean as did_you_mean
from xnor_ref.training.settings.fields import has_effect, needs_of

DATA_DIR_VARIABLE = "XNOR_REF_DATA"
_BINARY = ("method", "xnor_ref.nn.methods:methods_with")
_SHAPES = ("dataset", ("shapes",))
_IMAGENET = ("dataset", ("imagenet",))
_PARTS = {  # fields that need another field to have an effect
    "weight_decay": ("decay_all", "decay_epochs"),
    "teacher": ("distill_weight", "temperature"),
    "small_images": ("small_share",),
    "mst_lambda": ("mst_pull", "mst_start", "mst_ramp", "mst_refresh", "mst_margin"),
}


def _option(*rule: Any, **more: Any) -> Any:
    """Define a field whose default is None."""
    return _field(None, *rule, **more)


def _binary(*rule: Any, **more: Any) -> Any:
    """Define such a field for methods with binary layers."""
    return _option(*rule, needs=_BINARY, **more)


@dataclass(frozen=True)
class TrainConfig:
    """The settings of one training run. `resolve` fills in those not given.

    Raises
    ------
    InputError, InputTypeError : a field has a wrong type, is not finite or out of range, is not among its choices, or
        has no effect. The message gives the key, the value and what is allowed
    """

    dataset: str = _field("shapes", "choice", "Data set.", "xnor_ref.datasets:names")
    model: str = _field("shapes-net", "choice", "Network.", "xnor_ref.models:names")
    method: str = _field(
        "xnor",
        "choice",
        "What is binary, and its scales. full: full precision.",
        "xnor_ref.nn.methods:METHODS",
    )
    faithful: str | None = _option(
        "choice",
        "Follow the authors' released code where it differs from the paper; see docs/faithful.md.",
        "xnor_ref.training.settings.faithful:PRESETS",
    )
    epochs: int = _field(10, "int", "Passes over the training images.", low=1, high=100_000)
    batch_size: int = _field(64, "int", "Images per optimiser step.", low=2, high=65_536)
    optimizer: str = _field("adam", "choice", "Optimiser.", "xnor_ref.optim:OPTIMIZERS")
    lr: float = _field(0.001, "float", "Highest learning rate.", low=0, open=True)
    momentum: float = _field(0.9, "float", "Momentum of sgd.", low=0, high=0.9999, needs=("optimizer", ("sgd",)))
    eps: float | None = _option(
        "float", "eps of adam (default: 1e-8).", low=0, high=1, open=True, needs=("optimizer", ("adam",))
    )
    weight_decay: float = _field(0.0, "float", "Weight decay of real weights.", low=0, high=1)
    decay_all: bool | None = _option(
        "bool", "Apply weight decay to all parameters, including latent weights and BatchNorm."
    )
    decay_epochs: int | None = _option("int", "Epochs with weight decay (default: all).", low=1, high=100_000)
    schedule: str = _field("cosine", "choice", "How the learning rate falls.", "xnor_ref.optim:KINDS")
    milestones: list[int] | None = _option(  # noqa: RUF009 - the default is None
        "integers",
        "Epochs after which schedule step divides the learning rate by 10 (default: 1/2 and 3/4 of all).",
        needs=("schedule", ("step",)),
    )
    lr_factors: list[float] | None = _option(  # noqa: RUF009 - the default is None
        "numbers",
        "Factor of lr after each milestone (default: 0.1, 0.01, ...).",
        needs=("schedule", ("step",)),
    )
    power: float | None = _option(
        "float",
        "Power of schedule polynomial (default: 4).",
        low=0,
        high=100,
        open=True,
        needs=("schedule", ("polynomial",)),
    )
    final_lr: float | None = _option(
        "float", "Learning rate at the end (default: 0).", low=0, needs=("schedule", ("cosine", "linear", "polynomial"))
    )
    warmup_epochs: float = _field(0.0, "float", "Epochs of linear warm-up.", low=0, high=100_000)
    loss: str = _field("cross-entropy", "choice", "Loss.", "xnor_ref.nn:LOSSES")
    label_smoothing: float = _field(
        0.0, "float", "Label smoothing of cross-entropy.", low=0, high=0.9, needs=("loss", ("cross-entropy",))
    )
    backend: str = _field(
        "auto",
        "choice",
        "Kernels. auto: the fastest on this processor; reference: slow and readable NumPy.",
        ("auto", "reference"),
    )
    check_agreement: bool = _field(
        True,
        "bool",
        "Before the first step, check that binary layers train and evaluate with the same results.",
        identity=False,
    )
    backward: str = _field(
        "auto",
        "choice",
        "Arithmetic of binary convolutions' gradients. auto: int8 if the processor has VNNI.",
        "xnor_ref.nn.backend:BACKWARDS",
    )
    augment: bool = _field(True, "bool", "Random crops and flips of training images.")
    small_images: int | None = _option(
        "int", "Size in pixels of training images in the first epochs.", low=1, high=1024
    )
    small_share: float | None = _option(
        "float", "Share of the epochs with small_images (default: 0.6).", low=0, high=1, open=True
    )
    clip_norm: float | None = _option(
        "float", "Scale all gradients down if their common norm exceeds this.", low=0, high=1e6, open=True
    )
    average: float | None = _option(
        "float",
        "Validate and store an exponential moving average of the weights, with this decay per step.",
        low=0,
        high=0.99999,
    )
    shards: int | None = _option(
        "int",
        "Parts into which a batch is cut. As many ranks or fewer compute the same bits (default: 1; 4 with "
        "--distributed, where ranks can share them).",
        low=1,
        high=65_536,
    )
    norm_over: str | None = _option(
        "choice",
        "Images over which BatchNorm normalises in training: the whole batch (default) or each shard.",
        ("batch", "shard"),
    )
    compress_gradients: str | None = _option(
        "choice",
        "Send gradients in fewer bits: sign sends 1 bit instead of 32, and adds the error to the next step.",
        ("sign",),
    )
    seed: int = _field(0, "int", "Seed of all random numbers.", low=0, high=2**63 - 1)
    input_scale: str | None = _binary(
        "choice",
        "Input scale K of binary layers (default: plain; off if the data set's recipe, block order cbap or faithful "
        "says so and k_grad is not set).",
        "xnor_ref.binary:INPUT_SCALES",
    )
    pad_value: int | None = _binary("int-choice", "Padding of binary convolutions (default: the model's).", (-1, 0, 1))
    grad_mode: str | None = _binary(
        "choice", "Gradient of binary weights (default: the model's).", "xnor_ref.binary:WEIGHT_GRADIENTS"
    )
    weight_scale: str | None = _binary(
        "choice", "Weight scale alpha of binary layers (default: the model's).", "xnor_ref.binary:WEIGHT_SCALES"
    )
    k_grad: bool | None = _binary("bool", "Let the gradient flow through K too.")
    centre: bool | None = _binary("bool", "Mean-centre latent weights after each step.")
    clamp: bool | None = _binary("bool", "Clamp latent weights to [-1, 1] after each step.")
    glorot: bool | None = _binary(
        "bool", "Glorot's uniform initial weights and learning rates scaled by fan-in and fan-out."
    )
    stochastic: bool | None = _binary("bool", "Draw the signs of weights at random in training.")
    gamma: str | None = _binary(
        "choice", "Factors of the learned scale of xnor++ (default: o-h-w).", "xnor_ref.nn:GAMMAS"
    )
    gamma_init: str | None = _binary(
        "choice", "Initial value of the learned scale of xnor++ (default: ones).", "xnor_ref.nn.methods:GAMMA_INITS"
    )
    block_order: str | None = _binary(
        "choice",
        "Order of BatchNorm, activation, convolution and pooling (default: bacp).",
        "xnor_ref.nn.methods:BLOCK_ORDERS",
    )
    weight_bits: int | None = _binary("int", "Bits of a weight (default: 1).", low=1, high=8)
    input_bits: int | None = _binary("int", "Bits of an input of a binary layer (default: 1).", low=1, high=8)
    input_levels: str | None = _binary(
        "choice",
        "Levels of inputs with several bits: even, or ternary (-1, 0, 1) with 2 bits (default: even).",
        "xnor_ref.nn.settings:INPUT_LEVELS",
    )
    weight_quantizer: str | None = _binary(
        "choice", "Quantiser of weights with several bits (default: uniform).", "xnor_ref.binary:QUANTIZERS"
    )
    grad_bits: int | None = _binary(
        "int", "Bits of the gradient propagated through binary weights (default: real).", low=1, high=8
    )
    grad_rounding: str | None = _binary(
        "choice",
        "Rounding of gradients with grad_bits (default: nearest).",
        "xnor_ref.nn.settings:GRAD_ROUNDINGS",
    )
    grad_range: str | None = _binary(
        "choice",
        "Range of the levels of grad_bits: the largest gradient of a layer or of each sample (default: layer).",
        "xnor_ref.nn.settings:GRAD_RANGES",
    )
    grad_for: str | None = _binary(
        "choice",
        "Which gradients use the rounded ones: those of inputs, or all (default: inputs).",
        "xnor_ref.nn.settings:GRAD_USES",
    )
    sign_gradient: str | None = _binary(
        "choice", "Replacement for the derivative of sign (default: ste).", "xnor_ref.binary:SIGN_GRADIENTS"
    )
    shift_batch_norm: bool | None = _binary("bool", "BatchNorm with factors that are powers of two.")
    shortcut: str | None = _binary(
        "choice",
        "Shortcut around every binary convolution (default: the model's).",
        "xnor_ref.nn.methods:SHORTCUTS",
    )
    relu: bool | None = _binary("bool", "ReLU after each binary layer (default: from the data set's recipe).")
    react: bool | None = _binary("bool", "A learned shift before each sign, and rprelu.")
    rprelu: bool | None = _binary("bool", "A PReLU between two learned shifts after each binary layer.")
    batch_norm: str | None = _binary(
        "choice",
        "BatchNorm: plain; official, with eps and initial scale of the authors' code; or none (default: plain).",
        "xnor_ref.nn.methods:BATCH_NORMS",
    )
    ends: str | None = _binary(
        "choice", "Weights of the first and the last layer (default: the method's).", "xnor_ref.nn.methods:ENDS"
    )
    plugin: str | None = _option(
        "text",
        "Run this Python file first. It may register your rules and networks. Run only files that you trust.",
        identity=False,
    )
    init_from: str | None = _option("text", "Start from the weights of this float network, checkpoint or run.")
    teacher: str | None = _option("text", "Also learn from the answers of this network: a model file or a run.")
    distill_weight: float | None = _option(
        "float", "Share of the teacher in the loss (default: 0.9).", low=0, high=1, open=True
    )
    temperature: float | None = _option(
        "float", "Divisor of both networks' logits in the teacher's loss (default: 4).", low=0, high=1000, open=True
    )
    mst_lambda: float | None = _option(
        "float",
        "Strength of the pull between filters for MST-compression. 0 only logs their distance.",
        low=0,
        high=100,
    )
    mst_pull: str | None = _option(
        "choice",
        "Target of the pull. tree (default): a filter's neighbours; centre: the signs of most filters.",
        ("tree", "centre"),
    )
    mst_start: float | None = _option("float", "Epochs before the pull begins (default: 0).", low=0, high=100_000)
    mst_ramp: float | None = _option("float", "Epochs over which the pull rises (default: 0).", low=0, high=100_000)
    mst_refresh: int | None = _option(
        "int", "Steps between two searches for the trees (default: an epoch, at most 100).", low=1, high=10**9
    )
    mst_margin: float | None = _option(
        "float", "Share of signs up to which two filters may differ without a pull (default: 0).", low=0, high=0.5
    )
    model_options: dict[str, Any] = _field({}, "table", "Option of this network only, such as width=32.")  # noqa: RUF009 - `_field` makes a default_factory of it
    train_size: int | None = _option(
        "int", "Images that the data set shapes draws for training.", low=1, high=1_000_000, needs=_SHAPES
    )
    val_size: int | None = _option(
        "int", "Images that the data set shapes draws for validation.", low=1, high=1_000_000, needs=_SHAPES
    )
    image_size: int | None = _option(
        "int",
        "Size in pixels of the images of folder and imagenet (default: 64 and 224).",
        low=8,
        high=1024,
        needs=("dataset", ("folder", "imagenet")),
    )
    crop: str | None = _option(
        "choice",
        "Training crops of imagenet: random, of the usual size; resized, of random size and shape (default: random).",
        "xnor_ref.datasets.imagenet.photos:CROPS",
        needs=_IMAGENET,
    )
    scale_to: int | None = _option(
        "int",
        "Draw the shorter side of training images of imagenet from 256 to N pixels before the crop.",
        low=256,
        high=2048,
        needs=_IMAGENET,
    )
    in_place: bool | None = _option(
        "bool", "Read the images of imagenet where they lie, without a store of small JPEGs.", needs=_IMAGENET
    )
    store_dir: str | None = _option(
        "text", "Folder for the store of imagenet (default: packed in data_dir).", identity=False, needs=_IMAGENET
    )
    limit_classes: int | None = _option("int", "Use only the first N classes of the data set.", low=2, high=2**40)
    limit_train: int | None = _option("int", "Train on a fixed selection of N images only.", low=1, high=2**40)
    limit_val: int | None = _option("int", "Validate on a fixed selection of N images only.", low=1, high=2**40)
    data_dir: str = _field("data", "text", "Folder that holds the data sets.", identity=False)
    archive: str | None = _option("text", "Zip archive to read the data set from.", identity=False)
    threads: int | None = _option(
        "int", "Threads for all computing (default: all processors).", identity=False, low=1, high=1024
    )
    checkpoint_every: float = _field(
        60.0, "float", "Seconds between checkpoints inside an epoch.", identity=False, low=0, high=1e9
    )
    keep: int = _field(3, "int", "Checkpoints to keep besides the best.", identity=False, low=1, high=1000)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))
        for field in dataclasses.fields(self):
            if getattr(self, field.name) != field.default:
                self.require_effect(field)
        if self.warmup_epochs > self.epochs:
            raise InputError(f"warmup_epochs (={self.warmup_epochs:g}) must not be more than epochs (={self.epochs})")
        if self.milestones and self.milestones[-1] >= self.epochs:
            raise InputError(f"milestones (={self.milestones}) must be less than epochs (={self.epochs})")
        if self.lr_factors and len(self.lr_factors) != len(self.milestones or ()):
            raise InputError(f"lr_factors (={self.lr_factors}) must be as many as milestones (={self.milestones})")
        if self.final_lr is not None and self.final_lr > self.lr:
            raise InputError(f"final_lr (={self.final_lr:g}) must not be more than lr (={self.lr:g})")
        if self.backward == "int8" and not self.has_gradients_of_signs:
            raise InputError(
                "backward (=int8) needs layers with signs for weights and inputs, without k_grad and grad_bits; got "
                f"method {self.method}, weight_bits {self.weight_bits or 1}, input_bits {self.input_bits or 1}, "
                f"k_grad {bool(self.k_grad)}, grad_bits {self.grad_bits}"
            )
        for other in _PARTS:
            for name, value in self.parts_of(other).items():
                if not getattr(self, other):
                    wanted = "a teacher" if other == "teacher" else f"{other} above 0, got {getattr(self, other)}"
                    shown = f"{value:g}" if isinstance(value, float) else value
                    raise InputError(f"{name} (={shown}) needs {wanted}")
        if self.mst_start is not None and self.mst_start >= self.epochs:
            raise InputError(f"mst_start (={self.mst_start:g}) must be less than epochs (={self.epochs})")

    @property
    def has_gradients_of_signs(self) -> bool:
        """Whether there are layers whose gradients `backward` affects: products of a gradient with signs."""
        from xnor_ref.nn.methods import METHODS

        few_bits = (self.weight_bits or 1) > 1 or (self.input_bits or 1) > 1
        return METHODS[self.method].on_bits and not (few_bits or self.k_grad or self.grad_bits)

    def require_effect(self, field: dataclasses.Field) -> None:
        """Raise InputError if another field's value makes `field` ineffective."""
        if not has_effect(field, vars(self)):
            other, values = needs_of(field)
            raise InputError(
                f"{field.name} (={getattr(self, field.name)}) needs {other} {' or '.join(values)}, "
                f"got {other} {getattr(self, other)!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return dataclasses.asdict(self)

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the results. Two runs that agree in them compute the same bytes."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.metadata["identity"]}

    def options_of(self, choice: str) -> dict[str, Any]:
        """Return the fields that belong to the value of the field `choice`. None leaves the default to that value."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata.get("needs", ("",))[0] == choice
            and getattr(self, field.name) is not None
            and has_effect(field, vars(self))
        }

    def parts_of(self, other: str) -> dict[str, Any]:
        """Return the given fields that need the field `other` to have an effect."""
        return {name: getattr(self, name) for name in _PARTS[other] if getattr(self, name) is not None}


FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}


def default_data_dir() -> str:
    """Return the default folder of data sets."""
    return os.environ.get(DATA_DIR_VARIABLE) or "data"


def check_values(values: Mapping[str, Any], where: str = "config") -> None:
    """Raise InputError for the first key that is not a field, or whose value its field does not accept."""
    for key, value in values.items():
        if key not in FIELDS:
            raise InputError(f"{where}: unknown key {key!r}{did_you_mean(key, FIELDS)} (known: {', '.join(FIELDS)})")
        _checked(FIELDS[key], value)


MAX_TOML_BYTES = 2**20


def load_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file of config fields. '-' in keys is read as '_'.

    Raises
    ------
    InputError : the file is missing or not TOML, or a key is not a field
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise InputError(f"config file {path}: not a regular file")
        with open(path, "rb") as file:
            text = file.read(MAX_TOML_BYTES + 1)
        if len(text) > MAX_TOML_BYTES:
            raise InputError(f"config file {path}: it has more than {MAX_TOML_BYTES} bytes")
        raw = tomllib.loads(text.decode("utf-8-sig"))  # some editors write a byte-order mark
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"config file {path}: {reason}") from None
    values = {key.replace("-", "_"): value for key, value in raw.items()}
    if isinstance(values.get("plugin"), str):
        plugins.load(values["plugin"])
    check_values(values, f"config file {path}")
    return values


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return 'key: 3 there, 5 requested' for each key of `wanted` with another value in `found`."""
    return [
        f"{key}: {found.get(key)!r} there, {value!r} requested"
        for key, value in wanted.items()
        if found.get(key) != value
    ]
