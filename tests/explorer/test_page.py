"""The page of a packed model file, as a file: it holds all that it needs, and the command writes it."""

import json
import re

import pytest

from tests.explorer.explorer_samples import PAGE, SCRIPTS, held_model, model_of_the_docs
from tests.packed import packed_samples
from xnor_ref.cli import main
from xnor_ref.explorer.writing import explorer_page
from xnor_ref.packed.ops import OPS


def without_samples(page: bytes) -> bytes:
    """Another version of Pillow may draw other samples."""
    return re.sub(rb'(<script type="application/json" id="about">).*?(</script>)', rb"\1\2", page, flags=re.DOTALL)


def test_the_command_writes_the_page_of_the_docs(tmp_path, capfd):
    model, page = model_of_the_docs(tmp_path), tmp_path / "page.html"
    assert main(["show", str(model), "--explorer", "-o", str(page)]) == 0
    assert capfd.readouterr().out == f"written: {page}; open it in a browser\n"
    made = page.read_bytes()
    assert without_samples(made) == without_samples(PAGE.read_bytes()), "write docs/_static/explorer.html anew"
    assert held_model(made) == model.read_bytes()
    assert main(["show", str(tmp_path), "--explorer", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"page": str(tmp_path / "explorer.html"), "figures": []}
    assert (tmp_path / "explorer.html").read_bytes() == made


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    page = explorer_page(model_of_the_docs(tmp_path)).decode()
    assert "default-src 'none'" in page and not re.search(r"https?://|@import|\bimport\b.*\bfrom\b|url\(", page)
    assert re.findall(r"<(?:script|link|img|iframe)[^>]*\b(?:src|href)=", page) == []
    for name in ("operations.js", "reader.js", "photos.js", "drawing.js", "explain.js", "page.js"):
        assert f"<script>\n{(SCRIPTS / name).read_text()}</script>" in page
    assert "</script" not in "".join(path.read_text() for path in SCRIPTS.glob("*.js"))


def test_names_in_a_model_file_cannot_leave_their_place(tmp_path):
    sample = packed_samples.tiny()
    sample.metadata["classes"] = ["</script><script>", "$version"]
    sample.metadata["training"] = {"model": "<b>$model</title>"}
    sample.network().save(tmp_path / "model")
    page = explorer_page(tmp_path / "model").decode()
    assert page.count("<script") == page.count("</script>") == 8
    assert "<title>Inside a binary network: &lt;b&gt;$model&lt;/title&gt;</title>" in page


def test_every_operation_can_be_run_and_explained():
    for script, table in (("operations.js", "ALL"), ("explain.js", "WORDS")):
        text = (SCRIPTS / script).read_text()
        (body,) = re.findall(rf"\n  const {table} = {{\n(.*?)\n  }};\n", text, re.DOTALL)
        assert set(re.findall(r"^    (\w+):", body, re.MULTILINE)) == set(OPS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--explorer"], "nowhere: "),
        (["text.safetensors", "--explorer"], "text.safetensors: "),
        (["model", "photo.jpg", "--explorer"], "--explorer takes one RUN or MODEL and no --figures"),
        (["four", "--explorer"], "four takes images of 4 channels; an explorer's pictures have 1 or 3"),
        (["model", "--explorer", "-o", "page.txt"], "page.txt is there already and no page of this command"),
        (["model", "--explorer", "-o", "none/page.html"], "there is no folder none"),
    ],
)
def test_what_the_command_refuses(arguments, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.txt").write_text("a text")
    (tmp_path / "text.safetensors").write_text("a text")
    packed_samples.tiny().network().save(tmp_path / "model")
    packed_samples.version_5().network().save(tmp_path / "four")
    assert main(["show", *arguments]) != 0
    err = capfd.readouterr().err
    assert message in err and "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["four", "model", "page.txt", "text.safetensors"]
