"""What the docs site adds to Sphinx: toctrees from lists of links, a reference, math without scripts."""

import inspect
import re
from importlib import import_module

from docutils import nodes
from latex2mathml.converter import convert
from sphinx import addnodes

import xnor_ref

ROOT_DOC = "docs/index"
REFERENCE = "docs/reference/"
PARENTS = {
    ROOT_DOC,
    "docs/course/README",
    f"{REFERENCE}README",
    "docs/results",
    "docs/architecture",
    "xnor_ref/kernels/README",
}
PARENTS |= {"xnor_ref/kernels/training/README", "xnor_ref/datasets/README"}
STABLE = {  # the names of a module, where they are not all that it exports
    "xnor_ref": xnor_ref.__all__,
    "xnor_ref.models": ["build", "names", "register"],
    "xnor_ref.training.fit": ["History"],
}


def add_toctrees(app, docname, source):
    """Make a toctree, a part of the side bar, of the links that begin the list items and table rows of a page."""
    if docname not in PARENTS:
        return
    parts = re.split(r"^(?=## )", source[0], flags=re.MULTILINE)
    for place, part in enumerate(parts):
        found = re.findall(r"^(?:- |\| )\[([^]]*)\]\(([^)#]+)\.md\)", part, re.MULTILINE)
        pages = [f"{title} <{page}>" for title, page in found]
        if pages:
            caption = [f":caption: {part.splitlines()[0][3:]}"] if docname == ROOT_DOC else []
            parts[place] += "\n".join(["", "```{toctree}", ":hidden:", *caption, "", *pages, "```", "", ""])
    source[0] = "".join(parts)


def public_names(module):
    """Names of the functions and classes that a module exports, also those that it loads at first use."""
    later = {*getattr(module, "_PUBLIC", ()), *getattr(module, "_LATER", ())}
    found = {name: getattr(module, name) for name in {*vars(module), *later} if not name.startswith("_")}
    ours = {name for name, value in found.items() if str(getattr(value, "__module__", "")).startswith("xnor_ref")}
    return sorted(name for name in ours if inspect.isclass(found[name]) or inspect.isfunction(found[name]))


def add_reference(app, docname, source):
    """Below a page of the reference, the docstrings of the modules that its title names."""
    if not docname.startswith(REFERENCE) or docname in PARENTS:
        return
    for title in source[0].partition("\n")[0].removeprefix("# ").split(", "):
        module = import_module(title)
        for name in STABLE.get(title) or public_names(module):
            value = getattr(module, name)
            kind = "class" if inspect.isclass(value) else "function" if callable(value) else "data"
            members = ["   :members:"] if kind == "class" else []
            source[0] += "\n".join(["", "```{eval-rst}", f".. auto{kind}:: {title}.{name}", *members, "```", ""])


def list_table(rows):
    """The lines of a Markdown table, without their indentation, as those of a reStructuredText table."""
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if not set(row) <= set("|-: ")]
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in cells:
        lines += [f"   {'* -' if not place else '  -'} {escaped(cell)}" for place, cell in enumerate(row)]
    return [*lines, ""]


def escaped(line):
    """Text in which * and | mean themselves outside of backticks, as in the project's docstrings."""
    parts = re.split(r"(`[^`]*`)", line)
    parts[::2] = [re.sub(r"([*|\\])|(?<=\w)(_)(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def to_rst(app, what, name, obj, options, lines):
    """Turn a docstring, plain text with Markdown's tables and indented blocks, into the markup that Sphinx reads."""
    given, lines[:] = list(lines), []
    if what in ("property", "attribute"):
        lines.append("")  # or napoleon takes what stands before a colon for a type
    for is_table, group in grouped(given):
        if is_table:
            margin = " " * (len(group[0]) - len(group[0].lstrip()))
            lines += [margin + line for line in list_table([line.strip() for line in group])]
            continue
        doctest = False
        for line in group:
            doctest = line.lstrip().startswith(">>>") or (doctest and bool(line.strip()))
            before = next((text for text in reversed(lines) if text.strip()), "")
            starts = lines and not lines[-1].strip() and before.endswith(":") and not before.endswith("::")
            if starts and not doctest and indentation(line) > indentation(before) and line.strip():
                lines[len(lines) - 1 - lines[::-1].index(before)] += ":"  # an indented block is shown as it is
            lines.append(line if doctest or in_block(lines, line) else escaped(line))


def indentation(line):
    return len(line) - len(line.lstrip())


def in_block(lines, line):
    """Whether a line belongs to the block after the last line that ends with two colons."""
    for before in reversed(lines):
        if before.endswith("::"):
            return indentation(line) > indentation(before)
        if before.strip() and indentation(before) < indentation(line):
            return False
    return False


def grouped(lines):
    """(whether it is a table, lines) of the parts of a docstring."""
    groups = []
    for line in lines:
        is_table = line.lstrip().startswith("| ") or line.lstrip().startswith("|--")
        if not groups or groups[-1][0] != is_table:
            groups.append((is_table, []))
        groups[-1][1].append(line)
    return groups


def inline_math(self, node):
    """Math as MathML, which browsers draw themselves: no script and no font has to be fetched."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block_math(self, node):
    self.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def open_pages(app, doctree, docname):
    """A link to a page that is served as it is leads there, in place of a download."""
    for node in list(doctree.findall(addnodes.download_reference)):
        if node["reftarget"].endswith(".html"):
            name = node["reftarget"].rpartition("_static/")[2]
            root = "../" * docname.count("/")
            node.replace_self(nodes.reference("", "", *node.children, refuri=f"{root}_static/{name}", internal=True))


def setup(app):
    app.connect("doctree-resolved", open_pages)
    app.connect("source-read", add_toctrees)
    app.connect("source-read", add_reference)
    app.connect("autodoc-process-docstring", to_rst, priority=400)  # before napoleon
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
