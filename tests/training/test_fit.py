"""`fit`: it trains as the command `train` does, on arrays in any layout, and says what it cannot take."""

import inspect
import json
import re

import numpy as np
import pytest

import xnor_ref
from tests.training.training_samples import TINY, result_bytes, tiny_config
from xnor_ref import models, nn
from xnor_ref.autodiff import no_grad
from xnor_ref.cli import main
from xnor_ref.cli.commands.train import command
from xnor_ref.datasets import shapes
from xnor_ref.errors import InputError, InputTypeError, ModelFileError, NonFiniteError, XnorRefError
from xnor_ref.kernels.basics.threads import get_threads
from xnor_ref.training.fit import SETTINGS, History
from xnor_ref.training.fitting.interrupt import Interrupted
from xnor_ref.training.fitting.trainer import Callback
from xnor_ref.training.job import train_run

fit = xnor_ref.fit
SHORT = {"epochs": 2, "batch_size": 8}
ABOUT = ("train_loss", "train_top1", "val_loss", "val_top1", "val_top5", "best", "epoch", "step", "lr")


def net(seed=0, channels=3, outputs=2):
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1, rng=rng),
        nn.BatchNorm2d(8),
        nn.BinaryConv2d(8, 8, 3, padding=1, rng=rng),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.GlobalAvgPool2d(),
        nn.Linear(8, outputs, rng=rng),
    )


def images(count=24, shape=(6, 8, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def labels(count=24):
    return np.arange(count) % 2


def weights(network):
    return {name: array.tobytes() for name, array in network.state_dict().items()}


def test_by_names_it_writes_the_bytes_of_the_command(tmp_path):
    config = tiny_config(tmp_path, method="bnn")
    train_run(config, out=tmp_path / "train")
    own = {**TINY, "data_dir": str(tmp_path), "method": "bnn"}
    history = fit("shapes-net", "shapes", out=tmp_path / "fit", **own)
    assert result_bytes(tmp_path / "fit") == result_bytes(tmp_path / "train")
    lines = [json.loads(line) for line in (tmp_path / "train" / "metrics.jsonl").read_text().splitlines()]
    assert [[line[key] for key in ABOUT] for line in history.epochs] == [[line[key] for key in ABOUT] for line in lines]
    assert history.settings["method"] == "bnn" and history.report["disagreements"] == 0
    assert main(["evaluate", str(tmp_path / "fit"), "--quiet"]) == 0


def test_a_given_network_on_arrays_trains_to_the_same_weights(tmp_path):
    said = {key: TINY[key] for key in ("batch_size", "epochs", "lr")} | {"augment": False}
    sizes = {key: TINY[key] for key in ("train_size", "val_size")}
    data = shapes.load(name="shapes", data_dir=tmp_path, progress=None, **sizes)
    width = TINY["model_options"]["width"]
    own = models.build("shapes-net", image_size=64, in_channels=3, num_classes=12, width=width, relu=True)
    pairs = [(part.images, part.labels) for part in (data.train, data.val)]
    given = fit(own, *pairs, classes=data.classes, **said)
    named = fit("shapes-net", "shapes", model_options={"width": width}, data_dir=str(tmp_path), **sizes, **said)
    assert weights(own) == weights(named.network) and given.network is own
    assert [line["val_loss"] for line in given.epochs] == [line["val_loss"] for line in named.epochs]
    assert given.report == named.report


def test_every_layout_is_the_same_data():
    pixels = images()
    first = pixels.transpose(0, 3, 1, 2)
    given = [(pixels, "auto"), (first, "auto"), (pixels, "NHWC"), (first, "NCHW")]
    found = [weights(fit(net(), (some, labels()), layout=how, **SHORT).network) for some, how in given]
    assert all(other == found[0] for other in found[1:])
    grey = images(shape=(6, 8, 1))
    ends = [weights(fit(net(channels=1), (some, labels()), **SHORT).network) for some in (grey, grey[..., 0])]
    assert ends[0] == ends[1]
    real = pixels.astype(np.float32)
    ends = [weights(fit(net(), (some, labels()), **SHORT).network) for some in (real, real.astype(">f4"))]
    assert ends[0] == ends[1]


def test_float_images_are_taken_as_they_are():
    x = np.random.default_rng(0).standard_normal((24, 3, 6, 8), np.float32)
    history = fit(net(), (x, labels()), (x[:8], labels(8)), **SHORT)
    turned = fit(net(), (np.ascontiguousarray(x.transpose(0, 2, 3, 1)), labels()), **SHORT)
    assert weights(history.network) == weights(turned.network)
    with no_grad():
        logits = history.network(x).data
    packed = xnor_ref.freeze(history.network)
    assert np.array_equal(packed.logits(x), logits) and (packed.mean, packed.std) == ((0,) * 3, (1,) * 3)
    assert history.report["disagreements"] == 0 and history.report["max_logit_difference"] == 0


def test_raw_pixels_are_normalised_by_their_own_statistics():
    pixels = images()
    packed = xnor_ref.freeze(fit(net(), (pixels, labels()), **SHORT).network)
    np.testing.assert_allclose(packed.mean, (pixels / 255).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(packed.std, (pixels / 255).std(axis=(0, 1, 2)))
    assert packed.logits(pixels).shape == (24, 2)


def test_rows_are_images_of_one_pixel():
    rows = np.random.default_rng(0).standard_normal((40, 9), np.float32)
    rng = np.random.default_rng(1)
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(9), nn.BinaryLinear(9, 16, rng=rng), nn.Linear(16, 2, rng=rng))
    history = fit(network, (rows, (rows[:, 0] > 0).astype(int)), epochs=20, batch_size=8, lr=0.02)
    assert history.epochs[-1]["train_top1"] > 0.8
    assert xnor_ref.freeze(network).logits(rows[:, :, None, None]).shape == (40, 2)


@pytest.mark.parametrize(
    "some, classes, names",
    [
        (["cat", "ant"], None, ("ant", "cat")),
        (["cat", "ant"], ("cat", "ant"), ("cat", "ant")),
        ([1, 0], ("no", "yes"), ("no", "yes")),
        (np.array([1, 0], np.uint8), None, ("0", "1")),
        ([("a", 1), ("b", 2)], None, ("('a', 1)", "('b', 2)")),
        (np.array(["cat", "ant"]), None, ("ant", "cat")),
        ([True, False], None, ("False", "True")),
    ],
)
def test_labels_of_any_kind(some, classes, names):
    """Two classes by brightness: the packed network answers with the names, in their order."""
    pixels = np.repeat(np.uint8([[[[230]]], [[[20]]]]), 6, axis=1).repeat(6, axis=2).repeat(12, axis=0)
    of = np.repeat(some, 12) if isinstance(some, np.ndarray) else [one for one in some for _ in range(12)]
    history = fit(net(channels=1), (pixels, of), classes=classes, epochs=30, batch_size=8, lr=0.02)
    packed = xnor_ref.freeze(history.network)
    assert packed.classes == names
    said = [packed.classes[index] for index in packed.predict(pixels[[0, -1]])]
    given = [classes[one] if classes == ("no", "yes") else str(one) for one in some]
    assert said == given


def test_a_module_with_a_forward_of_its_own_is_trained_though_it_cannot_be_packed(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.conv(x).mean(axis=(2, 3)))

    notes = []

    class Notes(xnor_ref.training.fitting.observer.Observer):
        def note(self, text):
            notes.append(text)

    network = Own()
    before = weights(network)
    history = fit(network, (images(), labels()), (images(), labels()), out=tmp_path / "o", progress=Notes(), **SHORT)
    assert weights(network).keys() == before.keys() and all(weights(network)[name] != before[name] for name in before)
    assert history.report == {} and not (tmp_path / "o" / "model.safetensors").exists()
    assert any("cannot be packed" in note for note in notes)


class Stop(Callback):
    def __init__(self, number):
        self.number = number

    def after_step(self, trainer, step):
        if step.number == self.number:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [0, 3, 5])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(tmp_path, at):
    data, val, more = (
        (images(), labels()),
        (images(seed=1), labels()),
        {**SHORT, "checkpoint_every": 0.0, "augment": True},
    )
    whole = fit(net(), data, val, out=tmp_path / "whole", **more)
    with pytest.raises(Interrupted):
        fit(net(), data, val, out=tmp_path / "parts", callbacks=[Stop(at)], **more)
    rest = fit(net(seed=7 if at else 0), data, val, out=tmp_path / "parts", resume=True, **more)
    assert weights(rest.network) == weights(whole.network)
    names = "model.safetensors", "checkpoints/best.safetensors"
    assert [(tmp_path / "parts" / name).read_bytes() for name in names] == [
        (tmp_path / "whole" / name).read_bytes() for name in names
    ]
    assert [line["val_loss"] for line in rest.epochs] == [line["val_loss"] for line in whole.epochs]
    again = fit(net(seed=8), data, val, out=tmp_path / "parts", resume=True, **more)
    assert weights(again.network) == weights(whole.network) and len(again.epochs) == 2


def test_it_starts_from_other_weights_unless_it_goes_on(tmp_path):
    def own():
        return models.build("shapes-net", image_size=16, in_channels=3, num_classes=2, width=2, seed=5)

    data = images(shape=(16, 16, 3)), labels()
    first = fit(own(), data, out=tmp_path / "first", **SHORT)
    how = {**SHORT, "init_from": str(tmp_path / "first"), "out": tmp_path / "second", "lr": 1e-12}
    with pytest.raises(Interrupted):  # before there is a checkpoint
        fit(own(), data, callbacks=[Stop(0)], **how)
    second = fit(own(), data, resume=True, **how)
    for name, array in first.network.state_dict().items():
        if "running" not in name:
            np.testing.assert_allclose(second.network.state_dict()[name], array, atol=1e-9)
    (tmp_path / "first" / "float.safetensors").unlink()
    assert weights(fit(own(), data, resume=True, **how).network) == weights(second.network)


def test_what_a_run_is_not_resumed_with(tmp_path):
    fit(net(), (images(), labels()), out=tmp_path / "run", **SHORT)

    def refused(message, network=None, data=None, **changes):
        with pytest.raises(XnorRefError, match=message):
            how = {**SHORT, "out": tmp_path / "run", "resume": True, **changes}
            fit(network or net(), data or (images(), labels()), **how)

    refused("lr: 0.001 there, 0.1 requested", lr=0.1)
    refused("network: ", network=nn.Sequential(*net()._layers.values(), nn.Hardtanh()))
    for setting in ({"grad_mode": "paper"}, {"clamp": True}, {"k_grad": True}, {"sign_gradient": "bireal"}):
        other = nn.BinaryConv2d(8, 8, 3, padding=1, **setting)
        refused("network: ", network=nn.Sequential(**{**net()._layers, "2": other}))
    refused("network: ", network=nn.Sequential(**{**net()._layers, "1": nn.BatchNorm2d(8, eps=0.01)}))
    refused("sha256: ", data=(images(seed=2), labels()))
    refused("is not empty; name another folder", resume=False)
    refused("resume needs out", out=None)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    refused("holds files, but no run", out=tmp_path / "photos")


def test_the_command_line_knows_such_a_folder(tmp_path, capsys):
    pixels = images(shape=(8, 8, 3))
    fit(net(), (pixels, labels()), (pixels, labels()), out=tmp_path / "run", **SHORT)
    assert main(["evaluate", str(tmp_path / "run")]) == main(["train", "--resume", str(tmp_path / "run")]) == 4
    assert "is a run of a program; resume it by xnor_ref.fit" in capsys.readouterr().err
    from PIL import Image

    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "a.png")]) == 0


def test_nothing_is_written_and_nothing_stays_changed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before, network = get_threads(), net().train()
    history = fit(network, (images(), labels()), threads=1, **SHORT)
    assert list(tmp_path.iterdir()) == [] and get_threads() == before and history.folder is None
    assert not network.training and not any(module.training for _, module in network.named_modules())
    assert capsys.readouterr() == ("", "")
    fit(network, (images(), labels()), (images(), labels()), progress=True, epochs=1)
    assert "epoch   1  loss" in capsys.readouterr().err


def test_every_column_is_explained():
    history = fit(net(), (images(), labels()), epochs=1)
    assert [key for key in history.epochs[0] if f"`{key}`" not in History.__doc__] == []


def test_without_validation_its_figures_are_none():
    history = fit(net(), (images(), labels()), **SHORT)
    assert [line["val_top1"] for line in history.epochs] == [None, None] and history.best is None
    history = fit(net(), (images(), labels()), (images(seed=3), labels()), epochs=4, batch_size=8, lr=0.05)
    best = max(line["val_top1"] for line in history.epochs)
    assert history.best["val_top1"] == best and all(
        line["val_top1"] < best for line in history.epochs[: history.best["epoch"] - 1]
    )


def test_the_signature_and_its_help_are_those_of_train():
    options = {option.name: option for option in command.params}
    parameters = inspect.signature(fit).parameters
    assert set(SETTINGS) == (set(options) | {"config_file"}) - {
        *("dataset", "model", "tiny_imagenet", "download", "config_file", "resume", "out", "quiet", "as_json", "help"),
        *("recipe", "distributed", "rank_timeout"),
    }
    assert list(parameters)[:3] == ["network", "train", "validation"] and set(SETTINGS) < set(parameters)
    for name, field in SETTINGS.items():
        assert parameters[name].default == ({} if name == "model_options" else field.default)
        (text,) = re.findall(rf"^    {name}\n        (.*)$", fit.__doc__, re.MULTILINE)
        assert text.startswith(field.metadata["help"]) and field.metadata["help"] in options[name].help


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"epochs": 2.5}, "epochs must be an integer, got 2.5"),
        ({"epoch": 2}, "fit: unknown key 'epoch'; did you mean 'epochs'?"),
        ({"optimizer": "adm"}, "optimizer must be one of .* did you mean 'adam'"),
        ({"momentum": 0.5}, "momentum .* needs optimizer sgd"),
        ({"method": "bnn"}, "method .* is a setting of a network by name; its layers decide it"),
        ({"weight_scale": "off"}, "weight_scale .* is a setting of a network by name"),
        ({"train_size": 9}, "train_size .* is a setting of a data set by name; arrays have none"),
        ({"warmup_epochs": 99}, "warmup_epochs .* must not be more than epochs"),
        ({"dataset": "mnist"}, "dataset .* is given by the argument train"),
        ({"model": "lenet5"}, "model .* is given by the argument network"),
        ({"out": ""}, "out is empty; name a folder"),
        ({"layout": "HWCN"}, "layout must be one of auto, NHWC, NCHW; got 'HWCN'"),
        ({"classes": 2}, "classes must be a sequence such as a list, in the order of the logits; got 2"),
        ({"classes": "ab"}, "in the order of the logits; got 'ab'"),
        ({"callbacks": Callback()}, "callbacks must be a list of Callback objects, got <"),
        ({"callbacks": [Callback]}, "callbacks must be a list of Callback objects, got \\[<class"),
        ({"out": 3}, "out must be a str or PathLike, got 3"),
    ],
)
def test_settings_are_checked_as_those_of_train(settings, message):
    with pytest.raises(InputError, match=message):
        fit(net(), (images(), labels()), **settings)


def test_a_data_set_by_name_has_its_own_layout():
    with pytest.raises(InputError, match="the data set 'shapes' has its own validation images, classes and layout"):
        fit(net(), "shapes", layout="NCHW")


X, Y = images(), labels()
NAN = np.where(np.arange(24)[:, None, None, None] == 5, np.nan, 1).repeat(3, axis=1).astype(np.float32)


@pytest.mark.parametrize(
    "train, kind, message",
    [
        ((X, Y + 1), InputError, "train labels run from 1 to 2, but there are 2 classes: 0 to 1"),
        ((X, Y - 1), InputError, "run from -1 to 0"),
        ((X.astype(float), Y), InputTypeError, "train images must be an array of uint8 .* got float64"),
        ((X.tolist(), Y), InputTypeError, "got list"),
        ((NAN, Y), InputError, "train images hold NaN or infinity, first in image 5"),
        ((X, Y * 0), InputError, "all 24 labels are '0'; training needs at least two classes"),
        ((X[:0], Y[:0]), InputError, r"must be at least one image.* got shape \(0, 6, 8, 3\)"),
        ((X[:1], Y[:1]), InputError, "at least two classes"),
        ((X, Y[:-1]), InputError, "train: 24 images but 23 labels"),
        ((X, Y[:, None]), InputError, r"train labels must be \(N,\).* got shape \(24, 1\)"),
        ((X, np.eye(2)[Y]), InputError, r"got shape \(24, 2\); for one-hot rows use .argmax\(axis=1\)"),
        ((X, Y / 2), InputTypeError, "must be integers or names of classes, got float64"),
        ((X, [[0]] * 24), InputTypeError, r"names of classes, got \[0\]"),
        ((X, 3), InputTypeError, "train labels must be one for each image, got int"),
        ((X, [1, "a"] * 12), InputTypeError, "of several types have no order"),
        ((images(shape=(8, 8, 16)), Y), InputError, "no axis could be channels .* give layout='NHWC'"),
        ((images(shape=(3, 8, 3)), Y), InputError, "two axes could be channels"),
        ((X[0, 0, 0], Y), InputError, r"got shape \(3,\)"),
        ((images(shape=(6, 8, 1)), Y), InputError, "conv2d: input has C=1, but the layer needs C=3"),
        (X, InputTypeError, r"train must be \(images, labels\), got ndarray"),
        (("cifar", Y), InputTypeError, "got str"),
        ("cifar", InputError, "dataset must be one of .* did you mean 'cifar10'"),
    ],
)
def test_bad_data_is_named(train, kind, message):
    with pytest.raises(kind, match=message):
        fit(net(), train, epochs=1)


@pytest.mark.parametrize(
    "validation, message",
    [
        (
            (images(shape=(8, 6, 3)), Y),
            r"validation images are uint8 \(H, W, C\) = \(8, 6, 3\), but training images are uint8",
        ),
        ((X.astype(np.float32), Y), "validation images are float32"),
        ((X, Y + 5), "validation labels run from 5 to 6"),
        ((X[:3], Y), "validation: 3 images but 24 labels"),
    ],
)
def test_bad_validation_is_named(validation, message):
    with pytest.raises(InputError, match=message):
        fit(net(), (X, Y), validation, epochs=1)


def test_a_class_that_training_does_not_know():
    with pytest.raises(InputError, match="validation labels: 'c' is not among the classes 'a', 'b'"):
        fit(net(), (X, ["a", "b"] * 12), (X, ["c"] * 24), epochs=1)
    with pytest.raises(InputError, match="the network has 2 logits, but there are 3 classes"):
        fit(net(), (X, ["a", "b", "c"] * 8), epochs=1)
    with pytest.raises(InputError, match="classes must have different names"):
        fit(net(), (X, ["1", 1] * 12), classes=("1", 1), epochs=1)


@pytest.mark.parametrize("network, message", [(3, "got int"), (nn.Conv2d, "got type")])
def test_what_is_no_network(network, message):
    with pytest.raises(InputTypeError, match=f"network must be a Module of nn or the name of one, {message}"):
        fit(network, (X, Y))


class Arrays(nn.Module):
    def forward(self, x):
        return x.data


def test_networks_that_do_not_classify():
    with pytest.raises(InputError, match=r"returns \(1, 3, 6, 8\); it must return logits"):
        fit(nn.Sequential(nn.ReLU()), (X, Y), epochs=1)
    with pytest.raises(InputTypeError, match="the network must return a Tensor, got ndarray"):
        fit(Arrays(), (X, Y), epochs=1)
    with pytest.raises(InputError, match=r"model must be one of .* got 'shapesnet'; did you mean 'shapes-net'"):
        fit("shapesnet", (X, Y))
    with pytest.raises(InputError, match="params holds no parameters"):
        fit(nn.Sequential(nn.GlobalAvgPool2d()), (X, np.arange(24) % 3), epochs=1)


def test_numbers_that_overflow_stop_the_run():
    with pytest.raises(NonFiniteError, match=r"no checkpoint was written yet\. A smaller lr"):
        fit(net(), (X, Y), optimizer="sgd", momentum=0, lr=1e30, epochs=3, batch_size=8)


def test_a_network_by_name_is_built_for_the_arrays():
    pixels = images(count=24, shape=(16, 16, 1))
    history = fit("shapes-net", (pixels, ["a", "b", "c"] * 8), method="bwn", model_options={"width": 2}, **SHORT)
    assert history.network.config["num_classes"] == 3 and history.network.config["method"] == "bwn"
    assert history.settings["augment"] is False and "dataset" not in history.settings
    with pytest.raises(InputError, match="networks by name take square images, got 16x20 pixels"):
        fit("shapes-net", (images(shape=(16, 20, 1)), labels()))


def test_numpy_alone_trains_as_well():
    x = images(shape=(16, 16, 3))
    fast, readable = (
        fit(net(), (x, Y), backend=name, backward="fp32", epochs=1, batch_size=12) for name in ("auto", "reference")
    )
    assert readable.settings["backend"] == "reference"
    np.testing.assert_allclose(readable.epochs[0]["train_loss"], fast.epochs[0]["train_loss"], rtol=1e-4)


def test_a_damaged_checkpoint_folder(tmp_path):
    fit(net(), (X, Y), out=tmp_path / "run", **SHORT)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(ModelFileError, match="none of the"):
        fit(net(), (X, Y), out=tmp_path / "run", resume=True, **SHORT)
