"""Settings of the docs site: `sphinx-build -W -c docs . build/site` in the repository's root.

The root is the source folder, so that a link between two Markdown files leads to the same place on the site and on a
Git host. The pages and their order come from the lists of links in `docs/index.md`.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import xnor_ref  # noqa: E402

project = "xnor_ref"
author = "the authors of xnor_ref"
version = release = xnor_ref.__version__
html_title = f"xnor_ref {version}"

root_doc = "docs/index"
include_patterns = ["*.md", "data/README.md", "docs/**.md", "xnor_ref/**.md"]
exclude_patterns = [".*", "build", "dist", "runs", "tests", "**/node_modules", "data/*/**"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "site_parts"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
# The lessons are shown without results; a test runs them. With this variable they run here, and pictures are shown.
nb_execution_mode = "force" if os.environ.get("XNOR_REF_RUN_LESSONS") else "off"
nb_execution_timeout = 600

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give types, shapes and units
