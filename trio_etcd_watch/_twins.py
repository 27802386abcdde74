"""Chooses between the two implementations of the functions that exist in Python and C.

Sans-IO. Those in C are in `_speedups`, those in Python in the modules that use them,
and both do the same. C is used where it was built, unless TRIO_ETCD_WATCH_PURE=1 is
set.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from importlib import import_module
from types import ModuleType

ABI = 7
"""The version of the interface between Python and C, which `_speedups.c` has too. A
module in C that was built from other sources, beside an editable install, is not
used."""

speedups: ModuleType | None = None
if os.environ.get("TRIO_ETCD_WATCH_PURE") != "1":
    with suppress(ImportError):
        speedups = import_module("._speedups", __package__)
if speedups is not None and getattr(speedups, "ABI", None) != ABI:
    logging.getLogger("trio_etcd_watch").warning(
        "%s was built from other sources, and is not used: reinstall it",
        speedups.__file__,
    )
    speedups = None
