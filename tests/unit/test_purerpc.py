"""Channels of purerpc are recognized by their attributes, without importing it."""

from __future__ import annotations

import ssl

import pytest

from trio_etcd_watch._purerpc import address_of

CONTEXT = ssl.create_default_context()


class Channel:
    """Like that of purerpc 0.8; the real one is tested in an environment of its own."""

    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)


Channel.__module__ = "purerpc.client"


@pytest.mark.parametrize("context", [None, CONTEXT])
def test_address(context: ssl.SSLContext | None) -> None:
    channel = Channel(_host="h", _port=1, _ssl_context=context)
    assert address_of(channel) == ("h", 1, context)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"_host": "h", "_port": 1},
        {"_host": "h", "_port": "1", "_ssl_context": None},
        {"_host": "h", "_port": 1, "_ssl_context": "s3cret"},
    ],
)
def test_a_version_that_is_not_known(attributes: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=r"purerpc\.client\.Channel .* version") as info:
        address_of(Channel(**attributes))
    assert "s3cret" not in str(info.value)


@pytest.mark.parametrize("channel", ["h:1", None, 1, ["h:1"]])
def test_all_else(channel: object) -> None:
    assert address_of(channel) is None
