"""Slides for the two sessions of lecturers.md, made from the lessons: `python docs/course/slides.py build/slides`.

It writes slides.md and its pictures for Marp, which makes a PDF of them. There is a slide for each section of a
lesson (more for a long one): the first two sentences of each paragraph, and every list, table, equation, picture and
short piece of code. Two marks in a lesson change that: `<!-- no slide -->` below a heading leaves its section out,
and `<!-- next slide -->` begins another one.
"""

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
CELL = re.compile(r"^```\{code-cell\} python\n(---\n.*?---\n)?(.*?)^```\n?", re.MULTILINE | re.DOTALL)
LEFT_OUT = ("Exercises", "Read on in the source")
LINES = 17  # what a slide holds beside its heading
LONGEST_CODE = 12
HEAD = """---
marp: true
math: mathjax
paginate: true
style: |
  section { font-size: 26px; justify-content: start; padding: 48px 60px; }
  section.lead { justify-content: center; }
  h1 { font-size: 44px; } h2 { font-size: 34px; }
  table { font-size: 20px; } pre { font-size: 20px; } img { max-width: 100%; max-height: 340px; }
---
"""


def blocks_of(section):
    """The blocks of a section, between empty lines; a fenced block or an equation is one."""
    parts = re.split(r"(^```.*?^```$|^\$\$.*?\$\$$)", section, flags=re.MULTILINE | re.DOTALL)
    for place, part in enumerate(parts):
        if place % 2:
            yield part
        else:
            yield from (block.strip("\n") for block in re.split(r"\n\s*\n", part) if block.strip())


def first_sentences(paragraph, count=2):
    """The first sentences of a paragraph; a colon ends one before what the next block shows."""
    text = " ".join(paragraph.split()).replace(" al. ", " al.\N{NO-BREAK SPACE}")
    found = re.split(r"(?<=[a-z0-9)*`°²α-ω][.?!:]) (?=[A-Z0-9*`‖√α-ω\[])", text)
    return " ".join(found[:count])


def plain(text):
    """A text whose links are words, since a slide leads nowhere, and whose list items are one line each."""
    return re.sub(r"\n +(?=\S)", " ", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text))


def lines_of(block):
    """About how many lines of a slide a block takes."""
    if block.startswith("!["):
        return 9
    if block.startswith("$$"):
        return 3
    scale = 0.75 if block.startswith("```") else 1.15
    return 1 + sum(scale * (1 + len(line) // (150 if line.startswith("|") else 95)) for line in block.splitlines())


def shown(block, pictures):
    """What a slide shows of a block, or None."""
    cell = CELL.match(block + "\n")
    if cell:
        options, code = cell.groups()
        if options and "picture" in options:
            return f"![]({next(pictures)})"
        code = "\n".join(
            line for line in code.strip("\n").splitlines() if not line.startswith(("import ", "from ", "assert "))
        )
        return f"```python\n{code.strip()}\n```" if 0 < code.count("\n") + 1 <= LONGEST_CODE and code.strip() else None
    if block.startswith("```"):
        return block
    if block.startswith(("|", "- ", "1. ", "$$", "<!--")):
        return plain(block)
    return plain(first_sentences(block))


def pages_of(title, section, pictures):
    """The slides of a section."""
    pages, used = [[]], 0.0
    for block in blocks_of(section):
        content = shown(block, pictures)
        if content is None:
            continue
        size = lines_of(content)
        if content == "<!-- next slide -->" or (pages[-1] and used + size > LINES):
            pages.append([])
            used = 0
        if not content.startswith("<!--"):
            pages[-1].append(content)
            used += size
    heading = [f"## {title}", *(f"## {title} ({n})" for n in range(2, len(pages) + 1))]
    return ["\n\n".join([head, *page]) for head, page in zip(heading, pages) if page]


def draw(path, target):
    """Run a lesson, save its pictures, and yield their names; a lesson is run when the first of them is asked for."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = {}
    for number, (options, code) in enumerate(CELL.findall(path.read_text())):
        exec(compile(code, path.name, "exec"), names)
        if "picture" in options:
            name = f"{path.stem}-{number}.svg"
            plt.gcf().savefig(target / name, bbox_inches="tight")
            plt.close("all")
            yield name


def lesson(path, target, summary):
    """The slides of a lesson, or of its summary alone."""
    text = path.read_text().partition("\n# ")[2]
    pictures, slides = draw(path, target), []
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, _, section = part.partition("\n")
        wanted = title == "Summary" if summary else title not in LEFT_OUT
        if wanted and "<!-- no slide -->" not in section:
            slides += pages_of(title if not summary else text.partition("\n")[0], section, pictures)
    return slides


def session(text, target):
    """The slides of a session: its rows in order, each with the lessons that it names, and its questions."""
    title = text.partition("\n")[0]
    slides = [f"<!-- _class: lead -->\n# {title}"]
    for start, end, what, source in re.findall(r"^\| (\d+)-(\d+) \| (.*?) \| (.*?) \|$", text, re.MULTILINE):
        slides.append(f"<!-- _class: lead -->\n## {plain(what)}\n\nminutes {start} to {end}")
        paths = re.findall(r"\((\d\d-[a-z-]+\.md)\)", source)
        for name in paths:
            slides += lesson(FOLDER / name, target, summary=int(end) - int(start) <= 5)
    table = text.partition("| question |")[2].partition("\n\n")[0].splitlines()[2:]
    questions = "\n".join(f"- {plain(row.split('|')[1].strip())}" for row in table)
    return [*slides, f"## Questions\n\n{questions}"]


def main(target):
    target.mkdir(parents=True, exist_ok=True)
    text = (FOLDER / "lecturers.md").read_text()
    slides = [
        page for part in re.split(r"^## (?=Session)", text, flags=re.MULTILINE)[1:] for page in session(part, target)
    ]
    (target / "slides.md").write_text(HEAD + "\n\n---\n\n".join(slides) + "\n")
    print(f"{len(slides)} slides in {target / 'slides.md'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
