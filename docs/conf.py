"""Configure Sphinx, which `make docs` runs to build the documentation."""

import ast
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

sys.path.insert(0, str(Path(__file__).parents[1]))

import trio_etcd_watch
from trio_etcd_watch import testing

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

# References to names of this library must resolve. Names of Trio and Python are
# ignored, because their inventories would have to be downloaded. Text in single
# backquotes in a docstring is code, and a link if a name of the library matches.
default_role = "py:obj"
nitpick_ignore_regex = [
    ("py:.*", r"(?!trio_etcd_watch\b).*"),
    ("py:obj", r".*"),
]

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_custom_sections = ["Recovery"]
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 72
add_module_names = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css", "pages.css"]
html_title = f"trio-etcd-watch {release}"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False

CONSTRUCTED = {"Channel", "Credentials", "Delete", "Put", "ScriptedEtcd"}
"""The classes that users instantiate; only the library creates all others."""

# The `__module__` of public classes is the public package, but Sphinx finds the docstrings
# of their fields only in the module that defines them.
for _package in (trio_etcd_watch, testing):
    for _file in Path(_package.__file__ or "").parent.rglob("_*.py"):
        _path = _file.relative_to(Path(trio_etcd_watch.__file__).parents[1])
        for _node in ast.parse(_file.read_text()).body:
            _name = _node.name if isinstance(_node, ast.ClassDef) else ""
            if _name in _package.__all__:
                getattr(_package, _name).__module__ = ".".join(
                    _path.with_suffix("").parts
                )


def shorten_signature(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    arguments: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:
    """Hide arguments of classes that users do not create, and context managers."""
    if what in {"class", "exception"} and name.split(".")[-1] not in CONSTRUCTED:
        return None, None
    manages = re.search(r"AsyncContextManager|AsyncGenerator", returned or "")
    return arguments, None if manages else returned


def link_to_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.Element | None:
    """Resolve a class in a signature from its private module to its public name."""
    package, underscore, rest = node.get("reftarget", "").partition("._")
    if not underscore or not package.startswith(trio_etcd_watch.__name__):
        return None
    public = f"{package}.{rest.split('.')[-1]}"
    python, builder = env.get_domain("py"), app.builder
    return python.resolve_xref(env, node["refdoc"], builder, "obj", public, node, text)


def let_long_names_break(
    app: Sphinx, page: str, template: str, context: dict[str, Any], tree: object
) -> None:
    """Permit line breaks after `_` and `.` in long names, for narrow pages."""
    words = r'(?<=<span class="pre">)[^<]{20,}(?=</span>)'
    context["body"] = re.sub(
        words,
        lambda word: re.sub(r"(?<=\w)(?<!\btest)[._](?=\w)", r"\g<0><wbr/>", word[0]),
        context.get("body", ""),
    )


def setup(app: Sphinx) -> None:
    """Register the functions above with Sphinx."""
    app.connect("html-page-context", let_long_names_break)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("missing-reference", link_to_public_name)
