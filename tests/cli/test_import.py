"""`import`: networks of other libraries become model files that every command takes."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from tests.interop.onnx_in.onnx_files import QONNX, File, binary_network
from xnor_ref import load_packed
from xnor_ref.cli import main


@pytest.fixture
def here(tmp_path, monkeypatch, capfd):
    """A folder with a file, net.onnx, and photos; a function that runs a command there."""
    monkeypatch.chdir(tmp_path)
    binary_network().save(tmp_path / "net.onnx", "logits")
    (tmp_path / "photos").mkdir()
    for index in range(5):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")

    def command(*arguments):
        code = main(list(arguments))
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return command


def test_what_became_of_each_layer_is_shown(here):
    code, out, err = here("import", "net.onnx", "-o", "m.safetensors", "--mean", "0.5", "--std", "0.1,0.2,0.3")
    assert code == 0, err
    rows = [line.split() for line in out.splitlines()[1:6]]
    assert [row[:3] for row in rows[:4]] == [
        ["stem", "conv2d", "8x16x16"],
        ["bn", "batch_norm", "8x16x16"],
        ["conv", "binary_conv2d", "4x16x16"],
        ["pool", "global_avg_pool2d", "4"],
    ]
    assert rows[0][3:] == ["real", "real", "216"] and rows[2][3:] == ["signs", "signs", "288"]
    packed = load_packed("m.safetensors")
    assert packed.mean == (0.5,) * 3 and packed.std == (0.1, 0.2, 0.3)
    assert packed.metadata["training"] == {"imported_from": "net.onnx"}


def test_an_imported_model_works_everywhere(here):
    assert here("import", "net.onnx", "-o", "m.safetensors", "--classes", "a,b,c,d")[0] == 0
    code, out, _ = here("info", "m.safetensors")
    assert code == 0 and "imported_from net.onnx" in out and "a, b, c, d" in out
    code, out, _ = here("predict", "m.safetensors", "photos/0.png", "--json")
    assert code == 0 and {found["class"] for found in json.loads(out)["results"][0]["classes"]} == set("abcd")
    assert here("compress", "m.safetensors", "-o", "small.safetensors")[0] == 0
    code, _, err = here("evaluate", "m.safetensors")
    assert code == 2 and "name one with --dataset" in err


def test_an_imported_model_is_scored_on_a_data_set_in_the_order_of_its_classes(here):
    binary_network((3, 64, 64), 12).save(Path("wide.onnx"), "logits")
    assert here("import", "wide.onnx", "-o", "m.safetensors")[0] == 0
    sizes = "--dataset", "shapes", "--train-size", "12", "--val-size", "24"
    code, out, err = here("evaluate", "m.safetensors", *sizes, "--quiet", "--json")
    assert code == 0 and json.loads(out)["images"] == 24, err
    assert here("import", "wide.onnx", "-o", "n.safetensors", "--classes", ",".join("abcdefghijkl"))[0] == 0
    code, _, err = here("evaluate", "n.safetensors", *sizes, "--quiet")
    assert code == 2 and "other classes" in err


def test_what_is_there_is_not_overwritten(here):
    assert here("import", "net.onnx", "-o", "m.safetensors")[0] == 0
    code, _, err = here("import", "net.onnx", "-o", "m.safetensors")
    assert code == 2 and "--force" in err
    assert here("import", "net.onnx", "-o", "m.safetensors", "--force")[0] == 0
    assert here("import", "net.onnx", "-o", "net.onnx", "--force")[0] == 2


def a_torch_file():
    """What torch.save writes: a zip with a pickle in it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({}))
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (a_torch_file(), "save_file(torch.load("),
        (pickle.dumps([1], 2), "never read"),
        (b"\x1c\0\0\0TFL3" + bytes(40), "TensorFlow Lite"),
        (b"", "not a file of ONNX"),
        (b"hello", "not a file of ONNX"),
        (b"\x08\x07", "no graph"),
        (b"\x08", "cut short"),
        (None, "no such file"),
        ("folder", "a folder"),
    ],
)
def test_files_that_are_not_read(here, tmp_path, content, text):
    if content == "folder":
        (tmp_path / "x.pth").mkdir()
    elif content is not None:
        (tmp_path / "x.pth").write_bytes(content)
    code, _, err = here("import", "x.pth", "-o", "m.safetensors")
    assert code == 4 and text in err and not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--mean", "x"], "--mean must be numbers"),
        (["--mean", "nan"], "--mean must be numbers"),
        (["--std", "0"], "std"),
        (["--std", "1,1"], "std must be 3 numbers"),
        (["--classes", "a,b"], "2 classes but 4 logits"),
        (["--input-shape", "3,8"], "--input-shape must be C,H,W"),
        (["--input-shape", "3,8,8"], "input_shape is (3, 8, 8)"),
        (["--map", "m.toml"], "description of the layers is not needed"),
    ],
)
def test_arguments_that_do_not_fit(here, arguments, text):
    code, _, err = here("import", "net.onnx", "-o", "m.safetensors", *arguments)
    assert code == 2 and text in err


def test_nodes_that_cannot_come_are_named(here, tmp_path):
    file = File((1, 3, 8, 8))
    file.add("Flatten", file.add("Erf", "x", name="odd"), outputs=["y"])
    file.save(tmp_path / "odd.onnx", "y")
    code, _, err = here("import", "odd.onnx", "-o", "m.safetensors")
    assert (
        code == 2 and "1 layer cannot be converted" in err and "node 'odd' (Erf): the operation is not supported" in err
    )


@pytest.mark.interop
@pytest.mark.parametrize("domain", ["", QONNX])
@pytest.mark.parametrize("softmax", [False, True])
def test_check_compares_with_the_runtime_of_the_file(here, tmp_path, domain, softmax):
    runtime = "qonnx" if domain else "onnxruntime"
    pytest.importorskip(runtime)
    file = binary_network(domain=domain, softmax=softmax)
    file.shape = (1, 3, 16, 16) if domain else file.shape
    file.save(tmp_path / "net.onnx", "logits")
    code, out, err = here("import", "net.onnx", "-o", "m.safetensors", "--check", "photos", "--json")
    compared = json.loads(out)["compared"]
    assert code == 0 and compared["runtime"] == runtime and compared["same_label"] == compared["images"] == 5, err
    assert compared["difference"] < 1e-5


@pytest.mark.interop
def test_a_model_that_answers_otherwise_is_not_written(here, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from xnor_ref.interop.onnx_in import running

    right = running.run
    monkeypatch.setattr(running, "run", lambda *arguments: right(*arguments)[:, ::-1])
    code, _, err = here("import", "net.onnx", "-o", "m.safetensors", "--check", "photos")
    assert code == 6 and "the logits of 5 of 5 images differ from those of onnxruntime" in err
    assert not (tmp_path / "m.safetensors").exists()


def test_check_says_that_the_runtime_is_missing(here, monkeypatch):
    monkeypatch.setattr("xnor_ref.cli.commands.import_.find_spec", lambda name: None)
    code, out, _ = here("import", "net.onnx", "-o", "m.safetensors", "--check", "photos")
    assert (
        code == 0
        and "nothing was compared: the package onnxruntime is not installed; install it with: pip install"
        in " ".join(out.split())
    )
    for folder, text in (("nothing", "no such folder"), (".xnor", "no such folder")):
        code, _, err = here("import", "net.onnx", "-o", "n.safetensors", "--check", folder)
        assert code == 3 and text in err


def test_weights_of_pytorch_come_with_a_layout(here, tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"conv.weight": (8, 3, 3, 3), "fc.weight": (4, 8), "fc.bias": (4,)}
    save_file(
        {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}, tmp_path / "net.safetensors"
    )
    layers = ("binary_conv2d", "conv", "padding = 1"), ("global_avg_pool2d", "pool", ""), ("linear", "fc", "")
    text = "input_shape = [3, 8, 8]\n" + "".join(
        f'[[layers]]\nkind = "{kind}"\nname = "{name}"\n{more}\n' for kind, name, more in layers
    )
    (tmp_path / "layout.toml").write_text(text)
    code, out, err = here(
        "import", "net.safetensors", "--map", "layout.toml", "-o", "m.safetensors", "--check", "photos"
    )
    assert (
        code == 0
        and "weight = fc.weight, bias = fc.bias" in out
        and "there is no runtime here for safetensors files" in out
    ), err
    assert load_packed("m.safetensors").input_shape == (3, 8, 8)
    code, _, err = here("import", "net.safetensors", "-o", "n.safetensors")
    assert code == 2 and "give a layout" in err
    code, _, err = here("import", "m.safetensors", "-o", "n.safetensors")
    assert code == 2 and "a file of this project" in err
