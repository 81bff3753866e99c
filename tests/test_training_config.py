"""The config: every field checked, the same from TOML, JSON and the command line."""

import json
import math

import pytest

from xnor_ref import datasets, models
from xnor_ref.errors import InputError
from xnor_ref.nn.blocks import METHODS as NETWORK_METHODS
from xnor_ref.nn.losses import LOSSES
from xnor_ref.optim import KINDS
from xnor_ref.training import config as module
from xnor_ref.training.config import FIELDS, TrainConfig, choices_of, differences, load_toml, resolve
from xnor_ref.training.recipes import RECIPES


def test_choices_are_those_of_the_parts_that_they_name():
    assert choices_of(FIELDS["dataset"]) == datasets.names()
    assert choices_of(FIELDS["model"]) == models.names()
    assert set(choices_of(FIELDS["method"])) == set(NETWORK_METHODS)
    assert set(choices_of(FIELDS["loss"])) == set(LOSSES)
    assert set(choices_of(FIELDS["schedule"])) == set(KINDS)


@pytest.mark.parametrize("dataset", RECIPES)
def test_every_data_set_has_a_recipe_that_is_sound(dataset):
    config = resolve({"dataset": dataset})
    assert config.dataset == dataset and config.model == RECIPES[dataset]["model"]
    assert set(RECIPES) == set(module.DATASETS)


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
        ("dataset", "imagenet"),
        ("dataset", None),
        ("model", "resnet"),
        ("method", "bnn"),
        ("optimizer", "Adam"),
        ("schedule", "exponential"),
        ("loss", "mse"),
        ("input_scale", "on"),
        ("pad_value", 2),
        ("pad_value", "0"),
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
    with pytest.raises(InputError, match=r"train_size .* belongs to the data set shapes"):
        resolve({"dataset": "mnist", "train_size": 5})
    with pytest.raises(InputError, match=r"image_size .* belongs to the data set folder"):
        resolve({"image_size": 32})


def test_a_typing_error_gets_a_suggestion():
    for values, hint in (
        ({"model": "resnet"}, "resnet18"),
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


@pytest.mark.parametrize(
    "text, words",
    [
        ("epochs = ", "Invalid value"),
        ("epoch = 3", "unknown key 'epoch'; did you mean 'epochs'?"),
        ("[train]\nepochs = 3", "unknown key 'train'"),
        ("\xff\xfe", "config file"),
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
    with pytest.raises(InputError, match="directory"):
        load_toml(tmp_path)


def test_differences_names_key_and_both_values():
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == [
        "b: 2 there, 3 asked for",
        "c: None there, 4 asked for",
    ]
