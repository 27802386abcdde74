"""Which addresses of members are used."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from trio_etcd_watch._endpoints import Endpoint
from trio_etcd_watch._members import is_local, usable_members
from trio_etcd_watch._pb import watch_pb2 as pb

SECRET = "s3cret"
REMOTE = Endpoint("10.0.0.1", 2379, "", False)
HERE = Endpoint("127.0.0.1", 2379, "", False)


def usable(
    *urls: str,
    reporter: Endpoint = REMOTE,
    secure: bool = False,
    given: list[Endpoint] | None = None,
) -> tuple[list[str], list[str]]:
    """Return the authorities that are used, and the log lines about the others."""
    members = [pb.Member(ID=10, name="m", clientURLs=urls)]
    endpoints, left_out = usable_members(
        members, reporter=reporter, secure=secure, given=given or []
    )
    return [endpoint.authority for endpoint in endpoints], left_out


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("http://10.0.0.2:2379", "10.0.0.2", 2379, False),
        ("https://10.0.0.2:2379", "10.0.0.2", 2379, True),
        ("HTTPS://Etcd-0.Example.COM.:2379/", "etcd-0.example.com", 2379, True),
        ("https://[2001:db8::1]:2380", "2001:db8::1", 2380, True),
        ("http://etcd_0:1", "etcd_0", 1, False),
    ],
)
def test_what_is_used(url: str, host: str, port: int, tls: bool) -> None:
    members = [pb.Member(ID=1, name="m", clientURLs=[url])]
    endpoints, left_out = usable_members(
        members, reporter=REMOTE, secure=False, given=()
    )
    assert (endpoints, left_out) == ([Endpoint(host, port, "", tls)], [])


def test_learners_and_those_that_have_not_started() -> None:
    members = [
        pb.Member(ID=1, name="m1", clientURLs=["http://m1:1"]),
        pb.Member(ID=2, name="m2", clientURLs=["http://m2:1"], isLearner=True),
        pb.Member(ID=3, name="", clientURLs=["http://m3:1"]),
        pb.Member(ID=4, name="m4"),
    ]
    endpoints, left_out = usable_members(
        members, reporter=REMOTE, secure=False, given=()
    )
    assert [endpoint.host for endpoint in endpoints] == ["m1"]
    assert left_out == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "m:2379",
        "unix:///etcd.sock",
        "unixs://m:2379",
        "ftp://m:2379",
        "javascript:alert(1)",
        "http://",
        "http://m",
        "http://m:0",
        "http://m:65536",
        "http://m:http",
        "http://:2379",
        "http://m n:2379",
        "http://m\n:2379",
        "http://m:2379\r\nx",
        "http://m\x1b[31m:2379",
        "http://m\u202e:2379",
        "http://mü:2379",
        "http://[::1:2379",
        "http://[x]:2379",
        "http://0:2379",
        "http://0x7f000001:2379",
        "http://127.1:2379",
        "http://a,b:2379",
        f"http://root:{SECRET}@m:2379",
        f"http://{SECRET}@m:2379",
        f"http://m:2379/{SECRET}",
        "http://m:2379/X",
        f"http://m:2379/?token={SECRET}",
        f"http://m:2379/#{SECRET}",
        f"{SECRET}://m:2379",
        f"{SECRET}",
        f"http://m:{SECRET}",
    ],
)
def test_what_is_no_address_is_left_out_and_not_repeated(url: str) -> None:
    used, [line] = usable(url)
    assert used == []
    assert line.startswith("a URL of member a is left out: ")
    assert SECRET not in line
    assert line.isprintable()


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "[::]", "224.0.0.1", "[ff02::1]", "[::ffff:0.0.0.0]", "[fe80::1%eth0]"],
)
@pytest.mark.parametrize("reporter", [REMOTE, HERE])
def test_addresses_of_no_server(host: str, reporter: Endpoint) -> None:
    used, [line] = usable(f"http://{host}:2379", reporter=reporter)
    assert used == []
    assert host in line


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://m:1", "it is neither http:// nor https://"),
        ("http://a@m:1", "there is an '@' in it, and so perhaps a password"),
        ("http://m", "it is not host:port"),
        ("http://m:1/x", "there is more in it than host:port"),
        ("http://0.0.0.0:1", "0.0.0.0:1 is no address of a server"),
        (
            "http://[fe80::1%eth0]:1",
            "[fe80::1%eth0]:1 means something on that machine alone",
        ),
        ("http://localhost:1", "localhost:1 is that machine's own name for itself"),
        ("http://m:1", "m:1 is plaintext, and this channel is not"),
    ],
)
def test_why_it_is_left_out(url: str, why: str) -> None:
    lines = [f"a URL of member a is left out: {why}"]
    assert usable(url, secure=True) == ([], lines)


LOCAL = [
    "localhost",
    "localhost.localdomain",
    "localhost4",
    "localhost4.localdomain4",
    "localhost6",
    "localhost6.localdomain6",
    "ip6-localhost",
    "ip6-loopback",
    "ipv6-localhost",
    "ipv6-loopback",
    "loopback",
    "etcd.localhost",
    "a.b.localhost",
    "127.0.0.1",
    "127.1.2.3",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f01:203]",
    "[::127.0.0.1]",
]


@pytest.mark.parametrize("host", LOCAL)
def test_local_hosts_from_elsewhere(host: str) -> None:
    used, [line] = usable(f"http://{host}:2379")
    assert used == []
    assert "own name for itself" in line
    for here in (HERE, Endpoint("localhost", 1, "", None), Endpoint("", 0, "/s", None)):
        assert usable(f"http://{host}:2379", reporter=here) == ([f"{host}:2379"], [])


def test_what_is_local() -> None:
    hosts = [host.strip("[]") for host in LOCAL]
    assert [host for host in hosts if not is_local(host)] == []
    assert all(is_local(f"{host.upper()}.") for host in hosts if ":" not in host)
    others = (
        "localhost-1",
        "m",
        "m.localdomain",
        "10.0.0.1",
        "2001:db8::1",
        "::10.0.0.1",
        "::2",
        "::1:0:0",
        "localhosts.example.com",
        "my-ip6-localhost",
        "localhost5",
    )
    assert [host for host in others if is_local(host)] == []


@pytest.mark.parametrize("url", ["http://LocalHost.:1", "http://127.0.0.1.:1"])
def test_local_hosts_spelled_otherwise(url: str) -> None:
    used, [line] = usable(url)
    assert used == []
    assert "own name for itself" in line


def test_no_plaintext_where_tls_was_given() -> None:
    urls = ("http://m1:1", "https://m2:1")
    used, [line] = usable(*urls, secure=True)
    assert used == ["m2:1"]
    assert "m1:1 is plaintext" in line
    assert usable(*urls) == (["m1:1", "m2:1"], [])


def test_what_is_given_does_not_join() -> None:
    given = [Endpoint("m1", 1, "", None), Endpoint("m2", 1, "", True)]
    urls = ("http://m1:1", "https://m1:1", "http://m2:1", "https://m2:1")
    members = [pb.Member(ID=1, name="m", clientURLs=urls)]
    for secure, joined in (
        (False, [("m1", True), ("m2", False)]),
        (True, []),
    ):
        endpoints, _ = usable_members(
            members, reporter=REMOTE, secure=secure, given=given
        )
        assert [(each.host, each.tls) for each in endpoints] == joined


def test_each_joins_once() -> None:
    assert usable("http://m:1", "http://M:1/", "http://m.:1") == (["m:1"], [])


def test_a_long_list_is_cut() -> None:
    urls = [f"http://m{i}:1" for i in range(100_000)]
    used, left_out = usable(*urls)
    assert used == [f"m{i}:1" for i in range(100)]
    assert left_out == ["only the first 100 URLs of members are looked at"]
    used, left_out = usable(*(f"ftp://m{i}:1" for i in range(100_000)))
    assert used == []
    assert len(left_out) == 101


def test_many_members_are_not_looked_at() -> None:
    looked_at = []

    def each() -> Iterator[pb.Member]:
        for i in itertools.count():
            looked_at.append(i)
            yield pb.Member(ID=i, name="")

    endpoints, left_out = usable_members(
        each(), reporter=REMOTE, secure=False, given=()
    )
    assert (endpoints, left_out) == ([], [])
    assert len(looked_at) == 1000
