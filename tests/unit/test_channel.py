"""The description of a cluster by a Channel."""

from __future__ import annotations

import copy
import pickle
import re
import socket
import ssl
import sys
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from trio_etcd_watch import Channel, Credentials, open_watcher
from trio_etcd_watch._channel import as_channel, metadata_pairs, needs_tls

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
        ("HTTPS://etcd:2379", "etcd:2379", True),
        ("Http://etcd:2379", "etcd:2379", False),
        ("https://etcd.:2379", "etcd.:2379", True),
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
    assert endpoint.server_name == ""
    if text.startswith("unix://"):
        assert str(endpoint) == text
        assert (endpoint.host, endpoint.port) == ("", 0)
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
        "etcd:2379/X",
        "http://etcd:2379/v3",
        "http://etcd:2379?x",
        "http://etcd:2379#x",
        ".etcd:2379",
        ".:2379",
        "et\x1b[31mcd:2379",
        "et\0cd:2379",
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


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("localhost", "did you mean 'localhost:2379'?"),
        ("https://etcd", "did you mean 'https://etcd:2379'?"),
        ("[::1]", "did you mean '[::1]:2379'?"),
        ("a:1,b:2", "give each endpoint as an argument of its own"),
        ("https://a:1,https://b:2", "give each endpoint as an argument of its own"),
        ("::1:2379", "an IPv6 address needs brackets, as in '[::1]:2379'"),
        ("::1", "an IPv6 address needs brackets, as in '[::1]:2379'"),
        ("[::1]:http", ""),
        ("etcd:http", ""),
    ],
)
def test_hints(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match="endpoint must be host:port") as info:
        Channel(text)
    assert str(info.value).endswith(f"got {text!r}; {hint}" if hint else f"{text!r}")


@pytest.mark.parametrize(
    "make",
    [
        *(
            lambda text=text: Channel("good:2379", text)
            for text in (
                f"root:{SECRET}@etcd:2379",
                f"http://root:{SECRET}@etcd:2379",
                f"https://root:{SECRET}@etcd",
                f"http://root:{SECRET}/x@etcd:2379",
                f"http://root:{SECRET}[@etcd:2379",
                f"a:1,root:{SECRET}@etcd:2379",
                f"ftp://root:{SECRET}@etcd:2379",
            )
        ),
        lambda: Channel([f"root:{SECRET}@etcd:2379"]),  # type: ignore[arg-type]
        lambda: open_watcher(f"root:{SECRET}@etcd:2379".encode()),  # type: ignore[arg-type]  # bytes
    ],
)
def test_passwords_in_an_endpoint_are_not_repeated(make: Callable[[], object]) -> None:
    with pytest.raises((ValueError, TypeError)) as info:
        make()
    assert SECRET not in "".join(traceback.format_exception(info.value))
    if isinstance(info.value, ValueError):
        assert "credentials=Credentials(" in str(info.value)


@pytest.mark.parametrize(
    ("text", "domain", "service", "server_name"),
    [
        ("etcd+srv://example.com", "example.com", "", ""),
        ("ETCD+SRV://Example.COM./", "example.com", "", ""),
        ("etcd+srv://example.com?service=one", "example.com", "one", ""),
        ("etcd+srv://local?service=ONE-2", "local", "one-2", ""),
        ("etcd+srv://a.b?server_name=Etcd.Net.", "a.b", "", "etcd.net"),
        ("etcd+srv://a.b/?service=x&server_name=y", "a.b", "x", "y"),
        (f"etcd+srv://{'a.' * 99}aa", f"{'a.' * 99}aa", "", ""),
    ],
)
def test_names(text: str, domain: str, service: str, server_name: str) -> None:
    channel = Channel("https://etcd:2379", text)
    [name] = channel._srv_names
    assert (name.domain, name.service, name.server_name) == (
        domain,
        service,
        server_name,
    )
    assert [endpoint.host for endpoint in channel._endpoints] == ["etcd"]
    shown = f"etcd+srv://{domain}" + (f"?service={service}" if service else "")
    assert repr(shown) in repr(channel)
    assert Channel(text) == Channel(str(text))


@pytest.mark.parametrize(
    "rest",
    [
        "",
        ".",
        "example.com:2379",
        "127.0.0.1",
        "0x7f.0x1",
        "[::1]",
        "exa mple.com",
        "example.com\n",
        "example..com",
        "-example.com",
        "exämple.com",
        "example.com/path",
        "example.com#x",
        f"{'a' * 64}.com",
        f"{'a.' * 100}a",
        "example.com?service=",
        "example.com?service=a.b",
        "example.com?service=a_b",
        f"example.com?service={'a' * 41}",
        "example.com?service=a&service=b",
        "example.com?services=a",
        "example.com?server_name=1.2.3.4",
        "example.com?server_name=a b",
        "example.com?x",
        "example.com?service=a&x",
        "example.com?service=a;server_name=b",
    ],
)
def test_bad_names(rest: str) -> None:
    text = f"etcd+srv://{rest}"
    with pytest.raises(ValueError, match="endpoint") as info:
        Channel(text)
    assert repr(text) in str(info.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("etcd+srv://example.com:2379", "; its records say the ports"),
        ("etcd+srv://exämple.com", "; write its labels as DNS has them (xn--…)"),
        ("etcd+srv://example..com", ""),
    ],
)
def test_hints_for_names(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match="endpoint must be etcd") as info:
        Channel(text)
    assert str(info.value).endswith(f", got {text!r}{hint}")


def test_a_password_in_a_name_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="credentials=") as info:
        Channel(f"etcd+srv://root:{SECRET}@example.com")
    assert SECRET not in str(info.value)


@pytest.mark.parametrize(
    ("beside", "arguments", "error"),
    [
        ("http://a:1", {}, None),
        ("https://a:1", {}, None),
        ("unix:///s", {}, None),
        ("a:1", {}, "'a:1' has no scheme, which is plaintext"),
        ("http://a:1", {"token": SECRET}, "'http://a:1' is plaintext beside 'etcd"),
        ("https://a:1", {"token": SECRET}, None),
        ("a:1", {"ssl_context": ssl.create_default_context()}, None),
    ],
)
def test_what_stands_beside_a_name(
    beside: str, arguments: dict[str, Any], error: str | None
) -> None:
    def make() -> Channel:
        return Channel(beside, "etcd+srv://example.com", **arguments)

    if error is None:
        make()
        return
    with pytest.raises(ValueError, match=re.escape(error)) as info:
        make()
    assert SECRET not in str(info.value)


def test_without_dnspython_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "dns"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "trio_etcd_watch._resolver", raising=False)
    # This makes the import system treat the module as missing.
    monkeypatch.setitem(sys.modules, "dns", None)
    with pytest.raises(ValueError, match=r"trio-etcd-watch\[srv\]") as info:
        Channel("etcd+srv://example.com")
    assert "etcd+srv://example.com" in str(info.value)
    Channel("https://example.com:2379", follow_members=True)


def test_no_unix_sockets_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(ValueError, match="'unix:///s': this system has no unix"):
        Channel("unix:///s")


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
    # etcd does not allow more than one ping in 5 s.
    assert channel.keepalive_time == 10.0
    assert channel.keepalive_timeout == 5.0
    assert channel.follow_members is False


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"ssl_context": True}, TypeError, "ssl_context"),
        (
            {"ssl_context": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)},
            ValueError,
            "ssl_context must be a client's",
        ),
        ({"token": SECRET.encode()}, TypeError, "token"),
        ({"token": 5}, TypeError, "token"),
        ({"token": ""}, ValueError, "token is empty"),
        ({"token": f"{SECRET}\n"}, ValueError, "token has .*line end"),
        ({"token": f"{SECRET}\r\nx: y"}, ValueError, "token has"),
        ({"token": f"{SECRET}é"}, ValueError, "token has"),
        ({"token": f" {SECRET}"}, ValueError, "token begins or ends with a space"),
        (
            {"token": SECRET, "credentials": Credentials("root", SECRET)},
            ValueError,
            "credentials and token exclude each other",
        ),
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
        ({"follow_members": 1}, TypeError, "follow_members"),
        ({"follow_members": "yes"}, TypeError, "follow_members"),
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


SECRETS: list[dict[str, Any]] = [
    {"credentials": Credentials("root", SECRET)},
    {"token": SECRET},
]


@pytest.mark.parametrize("secret", SECRETS, ids=["credentials", "token"])
def test_no_secret_goes_in_plaintext_beside_tls(secret: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'http://b:1' is plaintext beside") as info:
        Channel("https://a:1", "http://b:1", **secret)
    assert SECRET not in str(info.value)
    Channel("https://a:1", "http://b:1")
    # All alike; only on this machine; and TLS because of the context.
    Channel("http://a:1", "b:1", **secret)
    Channel("https://a:1", "unix:///s", **secret)
    Channel("https://a:1", "b:1", ssl_context=ssl.create_default_context(), **secret)


def test_what_has_no_scheme_beside_tls() -> None:
    with pytest.raises(ValueError, match="'b:1' has no scheme, which is plaintext"):
        Channel("https://a:1", "b:1")


@pytest.mark.parametrize("name", [*Channel.__slots__, "other"])
def test_a_channel_cannot_be_changed(name: str) -> None:
    channel = Channel("etcd:2379")
    before = repr(channel), hash(channel)
    with pytest.raises((AttributeError, TypeError)):
        setattr(channel, name, None)
    with pytest.raises((AttributeError, TypeError)):
        delattr(channel, name)
    assert not hasattr(channel, "__dict__")
    assert (repr(channel), hash(channel)) == before


async def token() -> str:
    return SECRET


def test_channels_are_equal_by_value() -> None:
    arguments: dict[str, Any] = {
        "ssl_context": ssl.create_default_context(),
        "credentials": Credentials("root", SECRET),
        "metadata": {"b": "2", "a": "1"},
        "connect_timeout": 3,
    }
    channel = Channel("etcd:1", **arguments)
    arguments["metadata"] = [("a", "1"), ("b", "2")]
    assert channel == Channel("etcd:1", **arguments) == copy.copy(channel)
    assert hash(channel) == hash(Channel("etcd:1", **arguments))
    for changed in (
        Channel("etcd:2", **arguments),
        *(
            Channel("etcd:1", **{**arguments, name: value})
            for name, value in (
                ("ssl_context", ssl.create_default_context()),
                ("credentials", None),
                ("metadata", None),
                ("connect_timeout", 4),
                ("keepalive_time", 4),
                ("keepalive_timeout", 4),
                ("max_message_size", 4096),
            )
        ),
    ):
        assert changed != channel
    assert Channel("a:1", token=token) == Channel("a:1", token=token)
    assert Channel("a:1", token=SECRET) != Channel("a:1", token=token)
    other: object = "etcd:1"
    assert channel != other
    small = Channel("a:1", credentials=arguments["credentials"])
    assert pickle.loads(pickle.dumps(small)) == copy.deepcopy(small) == small


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
    shown.append(repr(Channel("etcd:2379", token=SECRET)))
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
    # The call itself raises, before anything is entered.
    with pytest.raises(TypeError, match="channel must be") as info:
        open_watcher(value)  # type: ignore[arg-type]  # bad on purpose
    assert repr(value) in str(info.value)


@pytest.mark.parametrize(
    ("endpoints", "arguments", "wants"),
    [
        (["http://a:1"], {}, False),
        (["a:1"], {"token": "t"}, False),
        (["unix:///s"], {}, False),
        (["unix:///s"], {"token": "t"}, True),
        (["unix:///s"], {"credentials": Credentials("u", "p")}, True),
        (["unix:///s", "a:1"], {"token": "t"}, False),
        (["etcd+srv://example.com"], {"token": "t"}, True),
        (["https://a:1"], {}, True),
        (["a:1"], {"ssl_context": ssl.create_default_context()}, True),
    ],
)
def test_a_secret_that_does_not_go_in_plaintext_never_does(
    endpoints: list[str], arguments: dict[str, Any], wants: bool
) -> None:
    assert needs_tls(Channel(*endpoints, **arguments)) == wants
