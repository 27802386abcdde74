"""Marks all tests of this folder: they run real servers."""

from __future__ import annotations

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker("etcd")
