"""The docs site: it is complete, its terms are explained, its figures are found, and it works from disk."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from urllib.parse import unquote

import pytest

import xnor_ref
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TERMS = re.findall(r"^\| \*\*(.+?)\*\*(?: \((.+?)\))? \|", (DOCS / "glossary.md").read_text(), re.MULTILINE)
DEFINED = re.compile(r"\b(?:an?|the|its|called) \*\*([a-z][a-z -]+)\*\*", re.IGNORECASE)


def prose(path):
    """The text of a page, without code and with each run of spaces as one."""
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\s+", " ", text)


def test_every_page_is_in_a_list_of_links():
    parents = [DOCS / name for name in ("index.md", "course/README.md", "reference/README.md", "results.md")]
    listed = {
        (parent.parent / link).resolve()
        for parent in parents
        for link in re.findall(r"^(?:- |\| )\[[^]]*\]\(([^)#]+\.md)\)", parent.read_text(), re.MULTILINE)
    }
    assert set(PAGES) - listed == {DOCS / "index.md"}


def test_the_glossary_is_sorted_and_every_term_is_used():
    names = [term.lower() for term, _ in TERMS]
    assert len(names) > 40 and names == sorted(set(names))
    places = [*PAGES, *(REPOSITORY / "xnor_ref").rglob("*.md")]
    text = " ".join(prose(path) for path in places if path.name != "glossary.md").lower()
    unused = [term for term in names if not re.search(rf"(?<!\w){re.escape(term)}(?:s|ed|\W|$)", text.replace("*", ""))]
    assert unused == []


def singular(term):
    return term.lower().removesuffix("s")


def test_a_term_that_a_page_defines_is_in_the_glossary():
    known = {singular(name) for term in TERMS for name in term if name}
    for path in PAGES:
        assert [term for term in DEFINED.findall(prose(path)) if singular(term) not in known] == [], path.name


def test_a_term_that_is_not_explained_is_seen():
    assert DEFINED.findall("The **roof** is high. A **half tone** is not, says **nobody**.") == ["roof", "half tone"]


def test_the_figures_of_the_questions_are_measured():
    """A number with a unit is in an example's output above, or in the page that its paragraph links to."""
    outputs, missing = "", []
    for part in (DOCS / "faq.md").read_text().split("\n\n"):
        linked = re.findall(r"\]\(([^)#]+\.md)", part)
        sources = outputs + " ".join((DOCS / name).read_text() for name in linked)
        outputs += part if part.startswith("```python") else ""
        for number, unit in re.findall(r"(\d[\d,.]*\d|\d)(x| %| kB| points)", part):
            if not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", sources):
                missing.append(number + unit)
    assert missing == ["58x", "58x"]  # the paper's


def loaded(path):
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_what_its_script_draws():
    assert (DOCS / "xnor.svg").read_text() == loaded(DOCS / "picture.py").draw()


def test_the_slides_are_those_of_the_lessons(monkeypatch):
    slides = loaded(DOCS / "course/slides.py")
    monkeypatch.setattr(slides, "draw", lambda path, target: iter([f"{path.stem}.svg"] * 9))
    text = (DOCS / "course/lecturers.md").read_text()
    one, two = (slides.session(part, None) for part in re.split(r"^## (?=Session)", text, flags=re.MULTILINE)[1:])
    assert 30 < len(one) < 90 and 30 < len(two) < 90
    for page in (*one, *two):
        assert page.count("\n") < 40 and "](../" not in page and "code-cell" not in page, page
    assert any("01-signs.svg" in page for page in one) and one[-1].count("\n- ") == two[-1].count("\n- ") == 5
    shown = slides.pages_of("Title", "One. Two. Three.\n\n<!-- next slide -->\n\n- [a](b.md)\n", iter(()))
    assert shown == ["## Title\n\nOne. Two.", "## Title (2)\n\n- a"]


class Page(HTMLParser):
    """What a page of the site links to, loads, and can be linked at."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.anchors = set(), set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.add(found["href"])
        elif tag in ("script", "img", "link", "iframe"):
            self.loads |= {found[key] for key in ("src", "href") if found.get(key)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built as CONTRIBUTING.md says."""
    pytest.importorskip("myst_nb", reason="needs pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = re.search(r"^sphinx-build (.*?)\s+#", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.MULTILINE)[1]
    command = command.replace("build/site", str(folder)).split()
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", *command], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.interop
@pytest.mark.skipif(find_spec("myst_nb") is None, reason="needs pip install -e '.[docs]'")
def test_the_site_works_from_disk(site):
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 60
    for path, page in pages.items():
        for target in page.loads:
            assert not re.match(r"(https?:)?//", target), f"{path.name} loads {target}"
            assert (path.parent / unquote(target.partition("?")[0].partition("#")[0])).exists(), (
                f"{path.name}: {target}"
            )
        for link in page.links:
            if re.match(r"\w+:", link):
                continue
            name, _, anchor = unquote(link).partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.exists(), f"{path.relative_to(site)}: {link}"
            assert not anchor or target not in pages or anchor in pages[target].anchors, f"{path.name}: {link}"


@pytest.mark.interop
@pytest.mark.skipif(find_spec("myst_nb") is None, reason="needs pip install -e '.[docs]'")
def test_every_stable_name_is_in_the_reference(site):
    anchors = set().union(*(Page(path).anchors for path in (site / "docs/reference").glob("*.html")))
    table = (DOCS / "stability.md").read_text().partition("## Python names")[2].partition("\n## ")[0]
    names = {f"xnor_ref.{name}" for name in xnor_ref.__all__}
    for line in table.splitlines():
        first, _, rest = line.removeprefix("| ").partition(" |")
        module = re.fullmatch(r"`(xnor_ref\.[a-z]+)`", first)
        if module and hasattr(xnor_ref, module[1].split(".")[1]) and module[1] not in names:
            package = getattr(xnor_ref, module[1].split(".")[1])
            stable = re.findall(r"`(\w+)`", rest)
            names |= {f"{module[1]}.{name}" for name in stable if callable(getattr(package, name, None))}
    assert len(names) > 40 and names - anchors == set()
