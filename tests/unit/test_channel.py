"""How a cluster is described."""

from __future__ import annotations

import ssl
import traceback
from typing import Any

import pytest

from trio_etcd_watch import Channel, Credentials, open_watcher
from trio_etcd_watch._channel import as_channel, metadata_pairs

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("text", "authority", "tls"),
    [
        ("127.0.0.1:2379", "127.0.0.1:2379", None),
        ("etcd.example.com:2379", "etcd.example.com:2379", None),
        ("localhost:1", "localhost:1", None),
        ("localhost:65535", "localhost:65535", None),
        ("http://etcd:2379", "etcd:2379", False),
        ("http://etcd:2379/", "etcd:2379", False),
        ("https://etcd:2379", "etcd:2379", True),
        ("[::1]:2379", "[::1]:2379", None),
        ("https://[2001:db8::1]:2379", "[2001:db8::1]:2379", True),
        ("[fe80::1%eth0]:2379", "[fe80::1%eth0]:2379", None),
        ("unix:///run/etcd.sock", "localhost", None),
        ("unix://relative.sock", "localhost", None),
    ],
)
def test_endpoints(text: str, authority: str, tls: bool | None) -> None:
    [endpoint] = Channel(text)._endpoints
    assert (endpoint.authority, endpoint.tls) == (authority, tls)
    if text.startswith("unix://"):
        assert str(endpoint) == text
        assert endpoint.path == text.removeprefix("unix://")
    else:
        assert str(endpoint) == authority
        assert not endpoint.path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "etcd",
        ":2379",
        "etcd:",
        "etcd:0",
        "etcd:65536",
        "etcd:-1",
        "etcd:http",
        "etcd:2379:1",
        "::1:2379",
        "[::1]",
        "[::1:2379",
        "[x]:2379",
        "http://",
        "https://etcd",
        "unix://",
        "ftp://etcd:2379",
        "HTTP//etcd:2379",
        "etcd:2379/path",
        "http://etcd:2379/v3",
        "http://etcd:2379?x",
        "http://etcd:2379#x",
        "user@etcd:2379",
        "http://user:pw@etcd:2379",
        "etcd:2379,other:2379",
        "etcd :2379",
        "etcd:2379\n",
        "et\tcd:2379",
    ],
)
def test_bad_endpoints(text: str) -> None:
    with pytest.raises(ValueError, match="endpoint") as info:
        Channel("good:2379", text)
    assert repr(text) in str(info.value)


@pytest.mark.parametrize("endpoint", [None, 2379, b"etcd:2379", ("etcd", 2379)])
def test_endpoints_of_a_wrong_type(endpoint: Any) -> None:  # noqa: ANN401
    with pytest.raises(TypeError, match="endpoint") as info:
        Channel(endpoint)
    assert repr(endpoint) in str(info.value)


def test_defaults() -> None:
    channel = Channel("etcd:2379")
    assert channel.ssl_context is None
    assert channel.credentials is None
    assert channel.metadata == ()
    assert channel.connect_timeout == 5.0
    # etcd punishes more than one ping in 5 s.
    assert channel.keepalive_time == 10.0
    assert channel.keepalive_timeout == 5.0


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"ssl_context": True}, TypeError, "ssl_context"),
        ({"credentials": ("root", SECRET)}, TypeError, "credentials"),
        ({"metadata": 5}, TypeError, "metadata"),
        ({"metadata": "token"}, TypeError, "metadata"),
        ({"metadata": [("token", SECRET, "x")]}, TypeError, "metadata"),
        ({"metadata": {"Token": SECRET}}, ValueError, "metadata"),
        ({"metadata": {"token": f"{SECRET}\r\n"}}, ValueError, "metadata"),
        ({"metadata": {"token": None}}, TypeError, "metadata"),
        ({"metadata": {"client-api-version": SECRET}}, ValueError, "metadata"),
        *(
            case
            for name in ("connect_timeout", "keepalive_time", "keepalive_timeout")
            for case in (
                ({name: "5"}, TypeError, name),
                ({name: None}, TypeError, name),
                ({name: True}, TypeError, name),
                ({name: 0}, ValueError, name),
                ({name: -1.0}, ValueError, name),
                ({name: float("nan")}, ValueError, name),
            )
        ),
        ({"max_message_size": 1023}, ValueError, "max_message_size"),
        ({"max_message_size": 2**32}, ValueError, "max_message_size"),
        ({"max_message_size": 1.5}, TypeError, "max_message_size"),
    ],
)
def test_bad_arguments(
    arguments: dict[str, Any], error: type[Exception], name: str
) -> None:
    with pytest.raises(error, match=name) as info:
        Channel("etcd:2379", **arguments)
    assert SECRET not in str(info.value)


def test_no_endpoints() -> None:
    with pytest.raises(ValueError, match="endpoints must not be empty"):
        Channel()
    with pytest.raises(ValueError, match="endpoints must not be empty"):
        as_channel([])


def test_tls_context_contradicts_http() -> None:
    context = ssl.create_default_context()
    Channel("https://etcd:2379", "etcd:2379", ssl_context=context)
    with pytest.raises(
        ValueError, match="ssl_context contradicts endpoint 'http://b:1'"
    ):
        Channel("https://a:1", "http://b:1", ssl_context=context)


@pytest.mark.parametrize(
    ("user", "password", "error"),
    [
        ("", SECRET, ValueError),
        (None, SECRET, TypeError),
        ("root", 5, TypeError),
        ("root", SECRET + "\udc80", ValueError),
    ],
)
def test_bad_credentials(user: Any, password: Any, error: type[Exception]) -> None:  # noqa: ANN401
    with pytest.raises(error) as info:
        Credentials(user, password)
    assert SECRET not in "".join(traceback.format_exception(info.value))


def test_metadata_is_compared_without_its_order() -> None:
    pairs = [("b", "2"), ("a", "1"), ("b", "1")]
    assert metadata_pairs(pairs) == (("a", "1"), ("b", "2"), ("b", "1"))
    assert metadata_pairs({"b": "2", "a": "1"}) == metadata_pairs(
        iter([("a", "1"), ("b", "2")])
    )
    assert metadata_pairs(None) == metadata_pairs({}) == ()


def test_no_repr_shows_a_secret() -> None:
    credentials = Credentials("root", SECRET)
    channel = Channel(
        "etcd:2379", "unix:///s", credentials=credentials, metadata={"token": SECRET}
    )
    shown = [repr(credentials), repr(channel), str(channel), f"{channel}"]
    assert not [text for text in shown if SECRET in text]
    assert repr(channel) == (
        "Channel('etcd:2379', 'unix:///s', credentials=Credentials(user='root'))"
    )


def endpoints(channel: object) -> list[str]:
    return [str(endpoint) for endpoint in as_channel(channel)._endpoints]


def test_what_stands_for_a_channel() -> None:
    channel = Channel("etcd:2379")
    assert as_channel(channel) is channel
    assert endpoints("a:1") == ["a:1"]
    assert endpoints(["a:1", "b:2"]) == ["a:1", "b:2"]
    assert endpoints(("https://a:1",)) == ["a:1"]
    assert endpoints(f"{host}:1" for host in "ab") == ["a:1", "b:1"]


@pytest.mark.parametrize("value", [None, 5, b"a:1", object()])
def test_what_stands_for_none(value: object) -> None:
    # At the call, before anything is entered.
    with pytest.raises(TypeError, match="channel must be") as info:
        open_watcher(value)
    assert repr(value) in str(info.value)
