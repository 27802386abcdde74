"""How Sphinx builds the documentation; `make docs` runs it."""

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

# A reference to a name of this library must be right. There is no inventory of Trio's or
# Python's names, which would have to be fetched. What docstrings have in backquotes is
# code, and a link where there is such a name.
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
"""The classes that users call; all others come from the library."""

# Public classes claim to be defined where they are public, and Sphinx looks there for what is
# said of their fields: so here they say in which file that is.
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
    """Show no arguments of a class that nobody calls, and what `async with` gives once."""
    if what in {"class", "exception"} and name.split(".")[-1] not in CONSTRUCTED:
        return None, None
    manages = re.search(r"AsyncContextManager|AsyncGenerator", returned or "")
    return arguments, None if manages else returned


def link_to_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.Element | None:
    """Find a class, of which a signature knows the private module, where it is public."""
    package, underscore, rest = node.get("reftarget", "").partition("._")
    if not underscore or not package.startswith(trio_etcd_watch.__name__):
        return None
    public = f"{package}.{rest.split('.')[-1]}"
    python, builder = env.get_domain("py"), app.builder
    return python.resolve_xref(env, node["refdoc"], builder, "obj", public, node, text)


def let_long_names_break(
    app: Sphinx, page: str, template: str, context: dict[str, Any], tree: object
) -> None:
    """Let long names break behind `_` and `.`, on narrow pages and in narrow columns."""
    words = r'(?<=<span class="pre">)[^<]{20,}(?=</span>)'
    context["body"] = re.sub(
        words,
        lambda word: re.sub(r"(?<=\w)(?<!\btest)[._](?=\w)", r"\g<0><wbr/>", word[0]),
        context.get("body", ""),
    )


def setup(app: Sphinx) -> None:
    """Connect what is above."""
    app.connect("html-page-context", let_long_names_break)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("missing-reference", link_to_public_name)
