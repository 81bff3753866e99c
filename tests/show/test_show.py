"""The pages of `show`: sound HTML that needs nothing else, right numbers, and words where something is missing."""

import inspect
import json
import re
import shlex
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.training.training_samples import tiny_config
from xnor_ref import fit, freeze, models, nn
from xnor_ref.cli import main
from xnor_ref.errors import InputError, OutputError
from xnor_ref.packed import load_packed
from xnor_ref.show import page
from xnor_ref.show.classes import confusion
from xnor_ref.show.compare import compare_page
from xnor_ref.show.layers import costs
from xnor_ref.show.photo import photo_page
from xnor_ref.show.report import model_page, run_page
from xnor_ref.show.source import answers, read_run
from xnor_ref.training.callbacks.latent import LatentFigures
from xnor_ref.training.callbacks.mst import MstPull
from xnor_ref.training.fitting.observer import Observer
from xnor_ref.training.fitting.trainer import Callback
from xnor_ref.training.job import make_trainer, train_run
from xnor_ref.training.settings.config import FIELDS
from xnor_ref.training.settings.resolve import resolve
from xnor_ref.training.settings.words import train_words
from xnor_ref.training.storing.runs import RunFolder

NASTY = ("<script>alert(1)</script>", "a&amp;b\"'", "{{}}%s", "</td></table> 🦊")
SECTIONS = (
    "Training",
    "Which classes are confused",
    "The surest mistakes",
    "Latent weights",
    "Filters",
    "What was run",
)


class Reader(HTMLParser):
    """Reads a page strictly: elements are closed in order; what it would load, and its texts."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.texts, self.tags = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for key, value in attributes if key in ("src", "srcset", "data", "action")]
        self.loads += [value for key, value in attributes if key == "href" and not value.startswith("#")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def read(content):
    """A page's text, once it is known to be sound and to need nothing else."""
    reader, text = Reader(), content.decode()
    reader.feed(text)
    reader.close()
    assert reader.open == [] and "script" not in reader.tags
    assert all(load.startswith("data:image/png;base64,") for load in reader.loads)
    assert not re.search(r"url\(|@import", text)
    return " ".join(" ".join(reader.texts).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("show")
    train_run(tiny_config(folder, epochs=2), out=folder / "run")
    return folder / "run"


@pytest.fixture
def copy(run, tmp_path):
    """The run under a name that no page is ready for."""
    return shutil.copytree(run, tmp_path / "a <b>&amp;\"'")


def shown(path, **said):
    return read(run_page(path, said, "xnor-ref", Observer())[0])


def test_the_page_of_a_run(run):
    content, charts = run_page(run, {}, "xnor-ref", Observer())
    text = read(content)
    assert all(section in text for section in SECTIONS)
    assert {"loss", "accuracy", "learning-rate", "flips", "dead", "latent-block1.conv"} <= charts.keys()
    report = json.loads((run / "report.json").read_text())
    assert f"{100 * report['packed']['top1']:.1f} %" in text and f"0 of {report['images']}" in text
    command = shlex.split(re.search(r"xnor-ref train [^<]*?(?= All settings)", text)[0])
    assert command[2:] == train_words(RunFolder(run).config())


def test_the_confusion_matrix_counts_every_image(run):
    found = answers(read_run(run), {}, Observer())
    counts = confusion(found)
    report = json.loads((run / "report.json").read_text())
    assert counts.sum() == report["images"] == len(found.data.val)
    assert np.trace(counts) == round(report["packed"]["top1"] * report["images"])
    assert (counts.sum(axis=1) == np.bincount(found.data.val.labels, minlength=len(counts))).all()


def test_names_may_hold_anything(copy, monkeypatch):
    text = shown(copy)
    assert f"Run {copy.name}" in text
    network = freeze(
        models.build("shapes-net", image_size=16, in_channels=3, num_classes=4, width=2),
        mean=0.5,
        std=0.25,
        classes=NASTY,
    )
    network.save(copy / "m.safetensors")
    text = read(model_page(copy / "m.safetensors"))
    assert NASTY[0] in text and NASTY[1] in text and NASTY[2] in text
    assert NASTY[0] in read(photo_page(network, copy.name, copy / "sample.png", top=4))


def test_what_is_missing_is_said_and_the_rest_is_there(copy):
    for name in ("report.json", "float.safetensors", "model.safetensors", "env.json"):
        (copy / name).unlink()
    config = json.loads((copy / "config.json").read_text())
    config["config"]["epochs"] = 9
    (copy / "config.json").write_text(json.dumps(config))
    text = shown(copy)
    assert "This run is not finished: 2 of 9 epochs are done" in text and "top-1 of the network as it stands" in text
    assert all(section in text for section in SECTIONS)  # from the newest checkpoint
    shutil.rmtree(copy / "checkpoints")
    text = shown(copy)
    assert "There is no trained network yet" in text and "Not shown, because there is no network to ask" in text
    assert "Latent weights" in text and "Sizes and operations" not in text
    (copy / "metrics.jsonl").unlink()
    text = shown(copy)
    assert "No epoch is finished yet" in text and "What was run" in text


def test_a_run_of_a_program(tmp_path):
    network = models.build("shapes-net", image_size=16, in_channels=3, num_classes=2, width=2)
    images, labels = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), np.uint8), np.arange(24) % 2
    fit(network, (images, labels), (images, labels), epochs=1, batch_size=8, out=tmp_path / "fit")
    text = shown(tmp_path / "fit")
    assert "not finished" not in text and "1 of 1 epochs" in text and "A program trained this network" in text
    assert (
        text.count("the run was trained on images that a program gave") == 2 and "Filters" in text and "\\x" not in text
    )


def test_a_data_set_that_is_gone(copy):
    config = json.loads((copy / "config.json").read_text())
    config["config"] |= {"dataset": "cifar10", "data_dir": str(copy / "gone")}
    config["config"] |= {"train_size": None, "val_size": None, "image_size": None}
    (copy / "config.json").write_text(json.dumps(config))
    text = shown(copy)
    assert text.count("Not shown, because") == 2 and "cifar10" in text and "Filters" in text


@pytest.mark.parametrize(
    "lines, words",
    [
        (['{"epoch": 1, "train_loss": NaN, "val_loss": Infinity, "flips": null}'], "One epoch is done"),
        (['{"epoch": 1, "train_loss": NaN, "val_top1": 0.5}'] * 2, "Numbers of train_loss are not finite"),
        (
            ['{"epoch": 1, "train_loss": "x", "latent": {"a": {"reach": "b"}, "c": 3}, "seconds": []}', "{"],
            "is damaged",
        ),
        (['{"train_loss": 1}', "[1]", "null"], "No epoch is finished yet"),
    ],
)
def test_metrics_may_hold_anything(copy, lines, words):
    (copy / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    assert words in shown(copy)


def test_the_sum_that_a_page_writes_out_is_right(run):
    """Recounted from the signs, with zeros in place of padding."""
    network = load_packed(run / "model.safetensors")
    text = read(photo_page(network, "m", run / "sample.png"))
    place = r"strongest output \(channel (\d+), row (\d+), column (\d+)\)"
    pattern = place + r": of (\d+) pairs of bits, (\d+) differ, so Z = \d+ - 2 × \d+ = (-?\d+)\."
    found = re.findall(pattern, text)
    layers = [layer for layer in network.layers if layer.kind == "binary_conv2d"]
    assert len(found) == len(layers) > 1
    from xnor_ref.datasets.images import load_photo

    trace = network.trace(load_photo(run / "sample.png", network.input_shape[1:])[None])
    for layer, numbers in zip(layers, found):
        o, y, x, pairs, differ, z = map(int, numbers)
        signs, w = trace[layer.name]["signs"][0].astype(int), network.weights(layer.name)[o].astype(int)
        padded = np.pad(signs, ((0, 0), (1, 1), (1, 1)))[:, y : y + 3, x : x + 3]
        assert (int((padded != 0).sum()), int((padded * w < 0).sum()), int((padded * w).sum())) == (pairs, differ, z)


def odd_networks():
    """Shortcuts and concatenations, layers of several bits, of signs for weights alone, linear ones, grey images."""
    rng = np.random.default_rng(0)

    def seeded(network):
        for parameter in network.parameters():
            parameter.data[...] = rng.standard_normal(parameter.shape, np.float32)
        return network

    yield (
        seeded(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.BinaryLinear(64, 300), nn.ReLU(), nn.Linear(300, 3))),
        (1, 8, 8),
    )
    layers = {
        "a": (nn.BinaryConv2d(3, 4, 3, padding=1), "input"),
        "b": (nn.BinaryConv2d(3, 4, 1), "input"),
        "c": (nn.Concat(), "a", "b"),
        "d": (nn.GlobalAvgPool2d(), "c"),
    }
    yield seeded(nn.Graph(layers)), (3, 8, 8)


def test_networks_of_any_kind(run):
    for network, shape in odd_networks():
        packed = freeze(network, input_shape=shape, mean=0.5, std=0.25)
        text = read(photo_page(packed, "m", run / "sample.png"))
        assert all(layer.name in text for layer in packed.layers)
    for method, options in (("bwn", {}), ("xnor", {"weight_bits": 2, "input_bits": 2}), ("full", {})):
        network = models.build("resnet20", image_size=16, in_channels=3, num_classes=4, method=method, **options)
        packed = freeze(network, mean=0.5, std=0.25)
        rows = costs(packed)
        whole = sum(
            array.size for name, array in network.state_dict().items() if name.endswith("weight") and array.ndim > 1
        )
        assert sum(row["float_bytes"] for row in rows if row["macs"]) >= 4 * whole
        assert (sum(row["words"] for row in rows) > 0) == (method == "xnor")
    assert "layer" in read(photo_page(packed, "m", run / "sample.png"))


def test_runs_beside_each_other(run, copy):
    config = json.loads((copy / "config.json").read_text())
    config["config"] |= {"lr": 0.125, "data_dir": "elsewhere"}
    (copy / "config.json").write_text(json.dumps(config))
    content, charts = compare_page([run, copy])
    text = read(content)
    differ = text[text.index("Settings that differ", text.index("How they ended") + 60) :]
    assert "lr 0.01" in differ and "0.125" in differ and "data_dir" not in differ and "batch_size" not in differ
    assert {mark.label for mark in charts["loss"].marks} == {None, run.name, copy.name}
    text = read(compare_page([run, run])[0])
    assert "All settings that change results are equal" in text and "run (2)" in text


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"method": "bwn", "lr": 0.01},
        {"dataset": "cifar10", "milestones": [3, 5], "schedule": "step", "optimizer": "sgd", "momentum": 0.8},
        {"model": "resnet20", "augment": False, "model_options": {"width": 8}},
        {"dataset": "tiny-imagenet", "model": "alexnet", "faithful": "xnor", "epochs": 3},
    ],
)
def test_the_command_that_repeats_a_run(said):
    if said.get("faithful") and said["faithful"] not in _presets():
        said = {**said, "faithful": _presets()[0]}
    from xnor_ref.cli import options
    from xnor_ref.cli.commands.train import command

    config = resolve(said)
    words = train_words(config)
    given = command.make_context("train", list(words)).params
    again = resolve(options.said({key: value for key, value in given.items() if key in FIELDS}))
    assert again.identity() == config.identity() and len(words) <= 3 * len(said) + 2


def _presets():
    from xnor_ref.training.settings.faithful import PRESETS

    return list(PRESETS)


def columns(heading):
    """The names in the first column of a table of docs/show.md."""
    text = (REPOSITORY / "docs" / "show.md").read_text()
    section = text[text.index(heading) :].split("\n## ")[0]
    return {
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)
    }


def test_columns_are_documented_as_they_are_written(run):
    of_mst = set(re.findall(r'"(mst_\w+)"', inspect.getsource(MstPull.figures)))
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert columns("## metrics.jsonl") == line.keys() | of_mst and len(of_mst) == 5
    written = json.loads((run / "config.json").read_text())
    wanted = written.keys() | written["data"].keys() | {"fit", "teacher", "plugin"}
    assert columns("## config.json") == wanted


class Count(Callback):
    """Flips of every step, and the weights at the end of an epoch."""

    def __init__(self, model):
        self.latent = [parameter for parameter in model.parameters() if parameter.latent]
        self.flips, self.lines = [], []

    def after_backward(self, trainer, step):
        self.before = np.concatenate([parameter.data.ravel() >= 0 for parameter in self.latent])

    def after_step(self, trainer, step):
        self.flips.append(np.mean(self.before != np.concatenate([p.data.ravel() >= 0 for p in self.latent])))


def test_flips_dead_weights_and_histograms(run):
    from xnor_ref import optim
    from xnor_ref.datasets import Split
    from xnor_ref.datasets.base import make_dataset

    pixels = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), np.uint8)
    split = Split(pixels, np.arange(32) % 2)
    model = models.build("shapes-net", image_size=16, in_channels=3, num_classes=2, width=2)
    lines, count = [], Count(model)
    trainer = make_trainer(
        model,
        make_dataset("noise", ("a", "b"), split, split),
        optim.SGD(model.named_parameters(), 30.0),
        lambda step: 30.0,
        epochs=2,
        batch_size=8,
        callbacks=[count],
        record=lines.append,
    )
    trainer.fit()
    assert [line["flips"] for line in lines] == pytest.approx([np.mean(count.flips[:4]), np.mean(count.flips[4:])])
    latent = {name.removesuffix(".weight"): p.data for name, p in model.named_parameters() if p.latent}
    everything = np.concatenate([values.ravel() for values in latent.values()])
    assert 0 < lines[-1]["dead"] == np.mean(np.abs(everything) > 1) < 1 and lines[0]["flips"] > 0
    assert {name: sum(of["counts"]) for name, of in lines[-1]["latent"].items()} == {
        n: v.size for n, v in latent.items()
    }
    assert all(of["reach"] == np.abs(latent[name]).max() for name, of in lines[-1]["latent"].items())
    assert LatentFigures(nn.Linear(2, 2)).figures(trainer) == {}


@pytest.fixture
def cli(run, tmp_path, monkeypatch, capfd):
    """Calls `show` in a folder of its own; (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = main(["show", *map(str, arguments)])
        return code, *capfd.readouterr()

    return call


def test_the_command_writes_where_it_should(cli, run, copy, tmp_path):
    code, out, _ = cli(copy, "--figures", "f", "--json", "--limit-val", 10)
    result = json.loads(out)
    assert code == 0 and result["page"] == str(copy / "report.html") and "10 validation" not in out
    assert len(result["figures"]) == len(list((tmp_path / "f").glob("*.svg"))) > 5
    assert cli(copy, run, "-o", "c.html")[0] == 0 and "2 runs" in read((tmp_path / "c.html").read_bytes())
    assert cli(copy, copy / "sample.png")[0] == 0 and (tmp_path / "sample-explained.html").exists()
    assert cli(copy / "model.safetensors")[0] == 0 and (tmp_path / "model.html").exists()
    assert cli(copy / "model.safetensors")[0] == 0  # its own page is replaced


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["nowhere"], 4, "nowhere: there is no such run, model or photo"),
        (["RUN", "no.png"], 3, "no.png: cannot be read"),
        (["RUN", "RUN/sample.png", "RUN/sample.png"], 2, "one with one PHOTO"),
        (["RUN", "RUN", "RUN/sample.png"], 2, "or several RUNs"),
        (["RUN/model.safetensors", "RUN"], 2, "only runs are compared"),
        (["RUN", "-o", "taken.html"], 2, "taken.html is there already and no page of this command"),
        (["RUN", "-o", "no/page.html"], 7, "no folder"),
        (["RUN", "-o", "."], 2, "is a folder"),
        (["RUN", "RUN/sample.png", "--figures", "f"], 2, "--figures needs RUNs"),
        (["RUN", "--format", "png"], 2, "--format png needs --figures"),
        (["RUN/model.safetensors", "--limit-val", "3"], 2, "--limit-val: needs one RUN alone"),
        (["RUN", "--threads", "0"], 2, "threads must be at least 1"),
        ([], 2, "Missing argument"),
    ],
)
def test_wrong_usage_is_told(cli, run, tmp_path, arguments, code, words):
    (tmp_path / "taken.html").write_text("<p>mine</p>")
    got, _, err = cli(*(argument.replace("RUN", str(run)) for argument in arguments))
    assert (got, words in err) == (code, True), err
    assert "Traceback" not in err and (tmp_path / "taken.html").read_text() == "<p>mine</p>"


def test_text_is_escaped_where_it_enters():
    assert page.el("p", "<b>", page.Html("<i>x</i>"), title='"&') == '<p title="&quot;&amp;">&lt;b&gt;<i>x</i></p>'
    assert page.text("a\x00b\n") == "a\\x00b\n" and page.percent(float("nan")) == page.percent(None) == "–"


def test_only_pages_of_this_command_are_replaced(tmp_path):
    page.save(tmp_path / "a.html", page.page("t", "", []))
    page.save(tmp_path / "a.html", page.page("u", "", []))
    assert "<title>u</title>" in (tmp_path / "a.html").read_text()
    (tmp_path / "a.html").write_text("")
    with pytest.raises(InputError):
        page.save(tmp_path / "a.html", b"")
    with pytest.raises(OutputError):
        page.save(tmp_path / "no" / "a.html", b"")
