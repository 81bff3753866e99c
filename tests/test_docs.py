"""The documents say what is true: commands parse, examples run, links lead somewhere, every exit code is told."""

import doctest
import inspect
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.check_distribution import differences
from tests.conftest import REPOSITORY
from tests.run_docs import documented_commands, files_of
from xnor_ref import binary, errors, models, nn
from xnor_ref.autodiff import Tensor
from xnor_ref.cli import main
from xnor_ref.cli.group import COMMANDS as NAMES
from xnor_ref.cli.group import command_of
from xnor_ref.datasets import shapes
from xnor_ref.nn.settings import RULES
from xnor_ref.packed import load_packed
from xnor_ref.training.fitting.interrupt import Interrupted
from xnor_ref.training.settings import plugins
from xnor_ref.training.settings.config import load_toml
from xnor_ref.training.settings.recipes import RECIPES
from xnor_ref.training.settings.resolve import resolve
from xnor_ref.training.storing.float_file import load_float

PLACES = "*.md", "docs/**/*.md", "data/*.md", "xnor_ref/**/*.md"
DOCUMENTS = sorted(path for place in PLACES for path in REPOSITORY.glob(place))
COMMANDS = [command for path in DOCUMENTS for command in documented_commands(path.read_text())]


def test_commands_are_found():
    assert ["train", "--resume", "auto"] in COMMANDS
    assert documented_commands("```sh\npython cli.py info  # x\n```\n```text\npython cli.py no\n```\n") == [["info"]]


@pytest.fixture
def shown_files(tmp_path, monkeypatch):
    """The working folder holds the files that documents show, and what they register is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "_NETWORKS", dict(models._NETWORKS))
    for registry in RULES.values():
        monkeypatch.setattr(registry, "_rules", dict(registry._rules))
    for path in DOCUMENTS:
        for file, text in files_of(path.read_text()).items():
            (tmp_path / file).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", ["median.py", "tiny_net.py"])
def test_a_rule_and_a_network_of_ones_own_take_one_short_file(shown_files, name):
    assert len((shown_files / name).read_text().splitlines()) <= 25


def test_a_script_of_eight_lines_trains_freezes_and_predicts(shown_files, capsys):
    script = (shown_files / "mine.py").read_text()
    assert sum(map(bool, script.splitlines())) == 8
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    np.save("images.npy", (rng.integers(0, 128, (200, 12, 12, 3)) + 100 * labels[:, None, None, None]).astype(np.uint8))
    np.save("labels.npy", labels)
    exec(script, {})
    top1, *predicted = re.findall(r"[\d.]+", capsys.readouterr().out)
    assert float(top1) > 0.9 and len(predicted) == 5 and load_packed("mine.safetensors").input_shape == (3, 12, 12)


def test_a_rule_of_ones_own_is_trained_frozen_and_equal(shown_files, capsys):
    small = ["--epochs", "1", "--train-size", "96", "--val-size", "32", "--quiet"]
    own = ["--plugin", "median.py", "--weight-scale", "median"]
    assert main(["train", *small, *own, "--out", "run"]) == 0
    out = capsys.readouterr().out
    assert "images on which the two disagree: 0 of 32" in out
    (printed,) = (line.split("evaluate ")[1] for line in out.splitlines() if " evaluate " in line)
    assert main(["evaluate", *shlex.split(printed), "--quiet"]) == 0
    frozen = load_file("run/model.safetensors")
    model = load_float(Path("run/float.safetensors"))[0]
    layer = dict(model.named_modules())["block1.conv"]
    alpha = np.median(np.abs(layer.weight.data), axis=(1, 2, 3))
    np.testing.assert_allclose(frozen["block1.conv.alpha"], alpha, rtol=1e-6)

    Path("median.py").write_text(Path("median.py").read_text().replace("median |W|", "another text"))
    plugins._loaded.clear()
    binary.WEIGHT_SCALES.remove("median")
    assert main(["train", "--resume", "run/checkpoints/best.safetensors", "--plugin", "median.py"]) == 4
    assert "plugin" in capsys.readouterr().err
    binary.WEIGHT_SCALES.remove("median")
    for command in (["evaluate", "run"], ["export", "run", "-o", "x.safetensors"], ["train", "--resume", "run"]):
        assert main(command) == 4
        err = capsys.readouterr().err
        assert "got 'median'" in err and "--plugin" in err and "median.py" in err and "damaged" not in err, err
    assert main(["predict", "run", "run/sample.png"]) == 0


def test_a_stopped_run_prints_a_command_that_names_its_plugin(monkeypatch, capsys):
    def stopped(arguments):
        raise Interrupted(2, "stopped in epoch 1", Path("run"), "my rules.py")

    monkeypatch.setattr("xnor_ref.cli._run", stopped)
    assert main(["train"]) == 130
    assert capsys.readouterr().err.rstrip().endswith("train --resume run --plugin 'my rules.py'")


@pytest.mark.parametrize(
    "text, message",
    [
        ("import nothing_of_this_name", "line 1: ModuleNotFoundError"),
        ("\n\n1 / 0\n", "line 3: ZeroDivisionError: division by zero"),
        ("x = (\n", "line 1: SyntaxError"),
        (None, "No such file"),
    ],
)
def test_a_plugin_that_fails_is_named_with_its_line(shown_files, capsys, text, message):
    if text is not None:
        Path("own.py").write_text(text)
    plugins._loaded.clear()
    assert main(["train", "--plugin", "own.py"]) == 2
    err = capsys.readouterr().err
    assert "plugin own.py" in err and message in err and "Traceback" not in err


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_documented_commands_parse(arguments, shown_files):
    assert arguments[0] in NAMES
    plugins._loaded.clear()
    command = command_of(arguments[0])
    command.make_context(arguments[0], list(arguments[1:]))


PAGES = [
    "README.md",
    "docs/conformance-kit.md",
    "docs/faq.md",
    "docs/library.md",
    "docs/own-rule.md",
    "docs/packed-network.md",
]


@pytest.mark.parametrize("name", PAGES)
def test_python_examples_give_what_they_show(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (REPOSITORY / name).read_text()
    examples = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    test = doctest.DocTestParser().get_doctest(examples, {}, name, name, 0)
    assert len(test.examples) > 5
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0


def test_what_differs_from_pytorch_is_so():
    rng = np.random.default_rng(0)
    conv, linear, norm = nn.Conv2d(50, 40, 3, rng=rng), nn.Linear(900, 40, rng=rng), nn.BatchNorm2d(50)
    assert conv.bias is None and linear.bias is not None
    np.testing.assert_allclose([conv.weight.data.var(), linear.weight.data.var()], [2 / 450, 1 / 900], rtol=0.05)
    names = [name for name in norm.state_dict()]
    assert names == ["weight", "bias", "running_mean", "running_var"] and (norm.eps, norm.momentum) == (1e-5, 0.1)
    x = Tensor(rng.standard_normal((4, 50, 3, 3), np.float32), requires_grad=True)
    assert norm.eval() is norm and norm(x).sum().backward() is None and norm.weight.grad is None
    assert norm.train() is norm and norm(x).sum().backward() is None and norm.weight.grad is not None
    at = Tensor([-1.0, 0.0, 1.0], requires_grad=True)
    nn.Hardtanh()(at).sum().backward()
    assert at.grad.tolist() == [1, 1, 1] and nn.Sign()(at).data.tolist() == [-1, 1, 1]
    assert at.var().item() == pytest.approx(np.var([-1, 0, 1]))
    loss = (at * at).sum()
    loss.backward(keep_tape=True)
    loss.backward()
    binary = nn.BinaryConv2d(3, 4, 1, bias=True)
    decayed = [p.decay for p in (conv.weight, linear.bias, norm.weight, binary.weight, binary.bias)]
    assert decayed == [True, False, False, False, False] and isinstance(at > 0, np.ndarray)
    assert nn.cross_entropy(linear(np.zeros((2, 900), np.float32)), np.array([0, 1])).item() == pytest.approx(
        np.log(40)
    )
    net = nn.Sequential(conv, name=norm)
    assert net[0] is conv and net["name"] is norm and list(net) == [conv, norm]


def anchors(text):
    """What a link can name after its #: headings in small letters, with hyphens and without other punctuation."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", path.read_text()):
        found = path.parent / target if target else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text()), f"{target}#{anchor}"


def test_an_anchor_is_a_heading():
    assert anchors("# Why it's so: a-b\n```\n# no\n```\n## Second one\n") == {"why-its-so-a-b", "second-one"}


def test_the_defaults_of_each_data_set_are_told():
    text = (REPOSITORY / "docs" / "training-options.md").read_text()
    (table,) = re.findall(r"^\| `--dataset` .*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = {
        cells[0]: cells[1:]
        for cells in ([c.strip() for c in line.strip("|").split("|")] for line in table.splitlines())
    }
    assert list(rows) == list(RECIPES)
    for dataset, row in rows.items():
        found = resolve({"dataset": dataset})
        shown = [found.model, *(str(v) for v in (found.epochs, found.batch_size, found.lr))]
        has_k = found.input_scale != "off"
        assert row == [*shown, *("yes" if v else "no" for v in (found.augment, found.relu, has_k))]
    assert "6,000 images for training and 1,200 for validation" in text
    assert inspect.signature(shapes.load).parameters["train_size"].default == 6000


def test_the_example_of_a_config_file_is_one(tmp_path):
    (example,) = re.findall(
        r"^```toml\n(.*?)^```", (REPOSITORY / "docs/command-line.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "settings.toml").write_text(example)
    assert resolve(load_toml(tmp_path / "settings.toml")).epochs == 20


def test_every_exit_code_is_told():
    text = (REPOSITORY / "docs/command-line.md").read_text()
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    for code in {value.exit_code for value in classes} | {0, 130, 143}:
        assert re.search(rf"^\| (.*\b)?{code}\b.* \|", text, re.MULTILINE), code


def test_archives_are_compared_with_the_repository():
    kept = {"LICENSE": (REPOSITORY / "LICENSE").read_bytes(), "cli.py": b"", "more.py": b""}
    assert differences(kept, {"LICENSE", "cli.py", "README.md"}) == [
        "differs: cli.py",
        "missing: README.md",
        "not expected: more.py",
    ]
