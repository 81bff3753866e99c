"""The config: every field checked, the same from TOML, JSON and the command line."""

import json
import math

import pytest

from xnor_ref import datasets, models
from xnor_ref.binary import INPUT_SCALES, SIGN_GRADIENTS, WEIGHT_GRADIENTS, WEIGHT_SCALES
from xnor_ref.errors import InputError
from xnor_ref.nn import GAMMAS, LOSSES
from xnor_ref.nn.methods import (
    BATCH_NORMS,
    BLOCK_ORDERS,
    GAMMA_INITS,
    METHODS,
    SHORTCUTS,
    BinaryOptions,
    options_of,
)
from xnor_ref.optim import KINDS, OPTIMIZERS
from xnor_ref.training.settings.config import FIELDS, TrainConfig, choices_of, differences, load_toml, needs_of
from xnor_ref.training.settings.recipes import NAMES, RECIPES, named
from xnor_ref.training.settings.resolve import resolve


@pytest.mark.parametrize(
    "name, registry",
    [
        ("dataset", datasets.names()),
        ("model", models.names()),
        ("method", METHODS),
        ("loss", LOSSES),
        ("schedule", KINDS),
        ("optimizer", OPTIMIZERS),
        ("grad_mode", WEIGHT_GRADIENTS),
        ("input_scale", INPUT_SCALES),
        ("weight_scale", WEIGHT_SCALES),
        ("gamma", GAMMAS),
        ("gamma_init", GAMMA_INITS),
        ("block_order", BLOCK_ORDERS),
        ("batch_norm", BATCH_NORMS),
        ("sign_gradient", SIGN_GRADIENTS),
        ("shortcut", SHORTCUTS),
    ],
)
def test_choices_are_those_of_the_parts_that_they_name(name, registry):
    assert choices_of(FIELDS[name]) == tuple(registry)
    method = {"gamma": {"method": "xnor++"}, "gamma_init": {"method": "xnor++"}}.get(name, {})
    for choice in registry:
        assert getattr(resolve({**method, name: choice}), name) == choice


def test_every_field_that_needs_another_names_a_value_that_it_may_have():
    needs = {name: needs_of(field) for name, field in FIELDS.items() if "needs" in field.metadata}
    for other, values in needs.values():
        assert values and set(values) <= set(choices_of(FIELDS[other]))
    assert {name for name, (other, _) in needs.items() if other == "method"} == set(BinaryOptions.names())


@pytest.mark.parametrize(
    ("said", "relu", "input_scale"),
    [
        ({}, True, "off"),
        ({"input_scale": "plain"}, True, "plain"),
        ({"k_grad": True}, True, None),
        ({"block_order": "cbap"}, None, "off"),
        ({"react": True}, None, "off"),
        ({"block_order": "acbp"}, None, "off"),
        ({"shortcut": "bireal"}, None, "off"),
        ({"shortcut": "bireal", "relu": True}, True, "off"),
        ({"relu": False}, False, "off"),
        ({"method": "xnor++"}, True, None),
        ({"method": "full"}, None, None),
        ({"model": "alexnet"}, True, "off"),
        ({"faithful": "allenai"}, False, "off"),
        ({"dataset": "shapes"}, True, None),
        ({"dataset": "shapes", "model": "resnet18"}, True, "off"),
        ({"dataset": "mnist", "model": "shapes-net", "k_grad": True}, True, None),
        ({"dataset": "shapes", "method": "bwn"}, None, None),
        ({"dataset": "cifar10"}, True, "off"),
        ({"dataset": "mnist"}, None, None),
    ],
    ids=str,
)
def test_recipes_of_binary_methods_give_way_to_what_was_said(said, relu, input_scale):
    config = resolve({"dataset": "tiny-imagenet", **said})
    assert (config.relu, config.input_scale) == (relu, input_scale)


@pytest.mark.parametrize("dataset", RECIPES)
def test_every_data_set_has_a_recipe_that_is_sound(dataset):
    config = resolve({"dataset": dataset})
    assert config.dataset == dataset and config.model == RECIPES[dataset]["model"]
    assert set(RECIPES) == set(datasets.names())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_recipes_by_name_give_sound_settings_for_every_method(name, method):
    for dataset in ("tiny-imagenet", "folder"):
        if name == "paper" and method not in ("xnor", "bwn", "full"):
            with pytest.raises(InputError, match="faithful allenai needs method xnor or bwn"):
                resolve({"dataset": dataset, "method": method, **named(name, {"dataset": dataset, "method": method})})
            continue
        said = {"dataset": dataset, "method": method, "seed": 3}
        config = resolve({**said, **named(name, said)})
        assert (config.method, config.seed) == (method, 3)
        options_of(method, config.options_of("method"))


def test_recipes_by_name_give_way_to_what_was_said():
    said = {"dataset": "tiny-imagenet", "epochs": 2, "model": "nin"}
    brought = named("best", said)
    assert not brought.keys() & said.keys() and resolve({**said, **brought}).model == "nin"
    assert named("default", said) == {}
    for bad, dataset, message in (
        ("bests", "tiny-imagenet", "recipe must be one of default, best, paper, got 'bests'"),
        ("best", "mnist", "recipe best is for the data sets tiny-imagenet and folder, got mnist"),
    ):
        with pytest.raises(InputError, match=message):
            named(bad, {"dataset": dataset})


def test_json_gives_the_config_back():
    config = resolve({"dataset": "mnist", "model_options": {}, "seed": 2**63 - 1, "lr": 1e-5})
    assert TrainConfig(**json.loads(json.dumps(config.to_dict()))) == config


def test_identity_leaves_out_what_cannot_change_results():
    a = resolve({"threads": 1, "data_dir": "x", "checkpoint_every": 5, "keep": 9})
    b = resolve({"threads": 2, "data_dir": "y"})
    assert a.identity() == b.identity() and a != b
    assert resolve({"seed": 1}).identity() != resolve({"seed": 2}).identity()


@pytest.mark.parametrize(
    "key, value",
    [
        ("lr", math.nan),
        ("lr", math.inf),
        ("lr", 0),
        ("lr", -1.0),
        ("lr", "0.1"),
        ("lr", True),
        ("epochs", 0),
        ("epochs", 2.5),
        ("epochs", 10**9),
        ("epochs", True),
        ("batch_size", 1),
        ("seed", -1),
        ("seed", 2**63),
        ("threads", 0),
        ("threads", 100_000),
        ("weight_decay", -1e-9),
        ("weight_decay", math.nan),
        ("momentum", 1.0),
        ("label_smoothing", 1),
        ("warmup_epochs", -1),
        ("augment", 1),
        ("augment", "yes"),
        ("dataset", "imagenette"),
        ("dataset", None),
        ("model", "resnet"),
        ("method", "bwnn"),
        ("optimizer", "Adam"),
        ("schedule", "exponential"),
        ("milestones", 3),
        ("milestones", []),
        ("milestones", [0, 3]),
        ("milestones", [3, 3]),
        ("milestones", [1.5]),
        ("milestones", [True]),
        ("power", 0),
        ("power", math.inf),
        ("final_lr", -1),
        ("loss", "mse"),
        ("input_scale", "on"),
        ("pad_value", 2),
        ("pad_value", "0"),
        ("weight_bits", 0),
        ("input_bits", 9),
        ("grad_bits", 1.5),
        ("react", 1),
        ("init_from", ""),
        ("temperature", 0),
        ("pad_value", True),
        ("grad_mode", "true"),
        ("center", True),
        ("model_options", "width=3"),
        ("model_options", {"width": 0.5}),
        ("model_options", {"width": None}),
        ("limit_train", 0),
        ("data_dir", ""),
        ("data_dir", "a\0b"),
        ("archive", 7),
        ("checkpoint_every", math.nan),
        ("keep", 0),
    ],
)
def test_a_bad_value_is_refused_by_name(key, value):
    with pytest.raises(InputError) as caught:
        resolve({key: value})
    assert key in str(caught.value)
    if key in FIELDS:
        assert repr(value) in str(caught.value)


def test_fields_that_clash_are_refused():
    with pytest.raises(InputError, match=r"warmup_epochs \(=9\) must not be more than epochs \(=3\)"):
        resolve({"epochs": 3, "warmup_epochs": 9})
    with pytest.raises(InputError, match="label_smoothing"):
        resolve({"loss": "squared-hinge", "label_smoothing": 0.1})
    with pytest.raises(InputError, match=r"milestones \(=\[1, 3\]\) must be less than epochs \(=3\)"):
        resolve({"epochs": 3, "schedule": "step", "milestones": [1, 3]})
    with pytest.raises(InputError, match=r"final_lr \(=1\) must not be more than lr \(=0.1\)"):
        resolve({"lr": 0.1, "final_lr": 1})


@pytest.mark.parametrize(
    "said, words",
    [
        ({"dataset": "mnist", "train_size": 5}, r"train_size \(=5\) needs dataset shapes, got dataset 'mnist'"),
        ({"image_size": 32}, "image_size .* needs dataset folder or imagenet, got dataset 'shapes'"),
        ({"momentum": 0.5}, r"momentum \(=0.5\) needs optimizer sgd, got optimizer 'adam'"),
        ({"momentum": FIELDS["momentum"].default}, "needs optimizer sgd"),
        ({"milestones": [2]}, "milestones .* needs schedule step, got schedule 'cosine'"),
        ({"schedule": "linear", "power": 2}, "power .* needs schedule polynomial, got schedule 'linear'"),
        *(
            ({"backward": "int8", **more}, r"backward \(=int8\) needs layers with signs for weights and inputs")
            for more in (
                {"method": "full"},
                {"method": "bwn"},
                {"k_grad": True},
                {"grad_bits": 1},
                {"weight_bits": 2, "input_bits": 2},
                {"input_bits": 4},
            )
        ),
        ({"decay_all": True}, r"decay_all \(=True\) needs weight_decay above 0"),
        ({"decay_epochs": 3}, r"decay_epochs \(=3\) needs weight_decay above 0"),
        ({"epochs": 6, "mst_lambda": 0.1, "mst_start": 6}, r"mst_start \(=6\) must be less than epochs \(=6\)"),
        ({"schedule": "step", "final_lr": 1e-6}, "final_lr .* needs schedule cosine or linear or polynomial"),
        *(
            ({"method": "full", name: value}, f"{name} .* needs method {words}, got method 'full'")
            for name, value, words in (
                ("grad_mode", "ste", "xnor or bwn"),
                ("pad_value", 0, r"xnor or xnor\+\+ or bnn"),
                ("input_scale", "off", "xnor"),
                ("weight_scale", "off", "xnor or bwn"),
                ("k_grad", False, "xnor"),
                ("centre", True, r"xnor or bwn or xnor\+\+"),
                ("clamp", True, r"xnor or bwn or xnor\+\+"),
                ("glorot", True, "binaryconnect or bnn"),
                ("stochastic", True, "binaryconnect"),
                ("gamma", "o", r"binary-inputs\+\+ or xnor\+\+"),
                ("gamma_init", "ones", r"xnor\+\+"),
                ("block_order", "cbap", "xnor"),
                ("weight_bits", 2, r"xnor or xnor\+\+"),
                ("input_bits", 1, r"xnor or xnor\+\+"),
                ("grad_bits", 1, r"xnor or xnor\+\+ or bnn"),
                ("sign_gradient", "bireal", r"xnor or binary-inputs or binary-inputs\+\+ or xnor\+\+ or bnn"),
                ("shift_batch_norm", True, "bnn"),
                ("shortcut", "bireal", r"xnor or binary-inputs or binary-inputs\+\+ or xnor\+\+"),
                ("react", True, r"xnor or binary-inputs or binary-inputs\+\+ or xnor\+\+"),
                ("relu", True, r"xnor or binary-inputs or binary-inputs\+\+ or xnor\+\+"),
            )
        ),
    ],
)
def test_what_would_have_no_effect_is_refused(said, words):
    with pytest.raises(InputError, match=words):
        resolve(said)


def test_methods_bring_their_learning_rate():
    assert resolve({"method": "bnn"}).lr == resolve({"method": "bnn", "dataset": "mnist"}).lr == 0.01
    assert resolve({"method": "bwn"}).lr == 0.005 and resolve({"method": "bnn", "lr": 0.1}).lr == 0.1


def test_only_options_with_an_effect_are_handed_on():
    config = resolve({"grad_mode": "ste", "train_size": 50})
    assert config.options_of("method") == {"relu": True, "grad_mode": "ste"} and config.options_of("dataset") == {
        "train_size": 50
    }
    assert config.options_of("optimizer") == {} and config.options_of("loss") == {"label_smoothing": 0.0}
    config = resolve({"optimizer": "sgd", "loss": "squared-hinge", "schedule": "step", "milestones": (2, 4)})
    assert config.options_of("optimizer") == {"momentum": 0.9} and config.options_of("loss") == {}
    assert config.options_of("schedule") == {"milestones": [2, 4]}


def test_a_typing_error_gets_a_suggestion():
    for values, hint in (
        ({"model": "resnet-18"}, "resnet18"),
        ({"dataset": "tiny-imagnet"}, "tiny-imagenet"),
        ({"learning_rate": 1}, ""),
        ({"epoch": 1}, "epochs"),
    ):
        with pytest.raises(InputError, match=f"did you mean '{hint}'" if hint else "unknown key"):
            resolve(values)


def test_toml(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('dataset = "mnist"\nepochs = 2\nbatch-size = 10\naugment = false\n[model_options]\n')
    assert load_toml(path) == {
        "dataset": "mnist",
        "epochs": 2,
        "batch_size": 10,
        "augment": False,
        "model_options": {},
    }
    assert resolve({**load_toml(path), "epochs": 5}).epochs == 5
    values = load_toml(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # a byte-order mark
    assert load_toml(path) == values


@pytest.mark.parametrize(
    "text, words",
    [
        ("epochs = ", "Invalid value"),
        ("epoch = 3", "unknown key 'epoch'; did you mean 'epochs'?"),
        ("[train]\nepochs = 3", "unknown key 'train'"),
        ("\xff\xfe", "config file"),
        ("lr = " + "[" * 100_000, "recursion"),
    ],
)
def test_a_bad_toml_file_is_refused(tmp_path, text, words):
    path = tmp_path / "run.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="config file") as caught:
        load_toml(path)
    assert words in str(caught.value)
    with pytest.raises(InputError, match="No such file"):
        load_toml(tmp_path / "missing.toml")
    with pytest.raises(InputError, match="not a regular file"):
        load_toml(tmp_path)


def test_differences_names_key_and_both_values():
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == [
        "b: 2 there, 3 requested",
        "c: None there, 4 requested",
    ]
