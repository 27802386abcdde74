"""Builds `trio_etcd_watch._speedups` into the wheel, and adds metadata of a release.

Without a compiler, or with TRIO_ETCD_WATCH_PURE=1, the wheel is pure, and everything
works, but slower. One extension serves every CPython from 3.11 on (the limited API);
free-threaded ones, which have no limited API, get the pure wheel.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface
from packaging.tags import sys_tags
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

HOME = os.environ.get("TRIO_ETCD_WATCH_HOME", "").rstrip("/")
"""The URL of the project, https://host/owner/name, under which every other URL is. A
build without it has no URLs, and no links from one file to another."""

EMAIL = os.environ.get("TRIO_ETCD_WATCH_EMAIL", "")
"""The address of whoever releases the project; a build without it has none."""

FILES = f"{HOME}/blob/main/"
"""The URL under which the files of the repository can be read."""

PACKAGE = Path(__file__).parent / "trio_etcd_watch"

# One translation unit: the headers are its parts.
SPEEDUPS = Extension(
    "trio_etcd_watch._speedups",
    ["trio_etcd_watch/_speedups.c"],
    depends=[str(part) for part in PACKAGE.glob("_speedups_*.h")],
    define_macros=[("Py_LIMITED_API", "0x030B0000")],
    py_limited_api=True,
)


class CustomMetadataHook(MetadataHookInterface):
    """Adds URLs, author and readme; hatchling finds this class by its file."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add what depends on `HOME` and `EMAIL`."""
        urls = {
            "Homepage": HOME,
            "Documentation": f"{FILES}docs/index.md",
            "Source": HOME,
            "Issues": f"{HOME}/issues",
            "Changelog": f"{FILES}CHANGELOG.md",
        }
        metadata["urls"] = urls if HOME else {}
        author = {"name": "The trio-etcd-watch project"}
        metadata["authors"] = [author | ({"email": EMAIL} if EMAIL else {})]
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": _with_absolute_links(text),
        }


class CustomBuildHook(BuildHookInterface):
    """Builds the extension; hatchling finds this class by its file."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build in place, where an editable install finds it, and include it."""
        if not _is_wanted() or not (extension := _build(Path(self.root))):
            return
        # auditwheel sets the manylinux tags, since it checks that they are right.
        platform = next(
            tag.platform
            for tag in sys_tags()
            if not tag.platform.startswith(("manylinux", "musllinux"))
        )
        build_data["tag"] = f"cp311-abi3-{platform}"
        build_data["pure_python"] = False
        build_data["artifacts"].append(extension)


def _with_absolute_links(text: str) -> str:
    """Return Markdown with absolute links to files, or without `HOME` with none."""
    absolute = rf"[\1]({FILES}\2)" if HOME else r"\1"
    return re.sub(r"\[([^\]]+)\]\((?![a-z]+:|#)([^)]+)\)", absolute, text)


def _is_wanted() -> bool:
    return (
        os.environ.get("TRIO_ETCD_WATCH_PURE") != "1"
        and sys.implementation.name == "cpython"
        and not sysconfig.get_config_var("Py_GIL_DISABLED")
    )


def _build(root: Path) -> str | None:
    """Return the path of the extension below root; None if it cannot be built."""
    command = build_ext(Distribution({"ext_modules": [SPEEDUPS]}))
    command.inplace = True
    with tempfile.TemporaryDirectory() as folder:
        command.build_temp = folder
        command.ensure_finalized()
        before = Path.cwd()
        os.chdir(root)
        try:
            command.run()
        except (CCompilerError, ExecError, PlatformError, OSError):
            return None
        finally:
            os.chdir(before)
    return Path(command.get_ext_filename(SPEEDUPS.name)).as_posix()
