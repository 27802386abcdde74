"""What is there twice: in Python, where it is used, and in C, in `_speedups`.

Sans-IO. The choice is made here, once: C where it was built, unless
TRIO_ETCD_WATCH_PURE=1 is set. Both do the same.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from importlib import import_module
from types import ModuleType

ABI = 4
"""Of what Python and C agree upon; the same number stands in `_speedups.c`. A module in
C that was built from other sources, beside an editable install, is not used."""

speedups: ModuleType | None = None
if os.environ.get("TRIO_ETCD_WATCH_PURE") != "1":
    with suppress(ImportError):
        speedups = import_module("._speedups", __package__)
if speedups is not None and getattr(speedups, "ABI", None) != ABI:
    logging.getLogger("trio_etcd_watch").warning(
        "%s was built from other sources, and is not used: install anew",
        speedups.__file__,
    )
    speedups = None
