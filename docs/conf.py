"""How Sphinx builds the documentation; `make docs` runs it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import trio_etcd_watch

project = "trio-etcd-watch"
author = "The trio-etcd-watch project"
project_copyright = author
version = release = trio_etcd_watch.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib_trio",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["programs"]

# A reference to a name of this library must be right. There is no inventory of Trio's or
# Python's names, which would have to be fetched.
nitpick_ignore_regex = [("py:.*", r"(?!trio_etcd_watch\b).*")]

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "separated"
autodoc_inherit_docstrings = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 72
add_module_names = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_title = f"trio-etcd-watch {release}"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
