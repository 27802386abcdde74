"""What is there twice: in Python, where it is used, and in C, in `_speedups`.

Sans-IO. The choice is made here, once: C where it was built, unless
TRIO_ETCD_WATCH_PURE=1 is set. Both do the same.
"""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from types import ModuleType

speedups: ModuleType | None = None
if os.environ.get("TRIO_ETCD_WATCH_PURE") != "1":
    with suppress(ImportError):
        speedups = import_module("._speedups", __package__)
