"""The command line's arguments and etcdctl's variables; passwords are not shown."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from trio_etcd_watch._cli.arguments import EXIT_CODES, Connection, Options, parse
from trio_etcd_watch._cursor import MAX_REVISION

SECRET = "not to be seen"


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the width at which argparse breaks lines."""
    monkeypatch.setenv("COLUMNS", "80")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, **environ: str) -> str:
    """Return the error of argparse."""
    with pytest.raises(SystemExit) as info:
        parse(arguments, environ)
    assert info.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert SECRET not in said.err
    return said.err


@pytest.mark.parametrize("command", ["get", "watch", "mirror"])
def test_the_least(command: str) -> None:
    assert parse([command, "a"], {}) == Options(
        command=command, key=b"a", connection=Connection()
    )


@pytest.mark.parametrize("asked", ["flags", "environment"])
def test_a_domain_comes_before_endpoints(asked: str) -> None:
    flags = ["--discovery-srv=example.com", "--discovery-srv-name=blue"]
    environ = {
        "ETCDCTL_DISCOVERY_SRV": "example.com",
        "ETCDCTL_DISCOVERY_SRV_NAME": "blue",
    }
    of_flags = asked == "flags"
    arguments = ["get", "a", "--endpoints=a:1", *(flags if of_flags else ())]
    options = parse(arguments, {} if of_flags else environ)
    assert options.connection.endpoints == ("etcd+srv://example.com?service=blue",)
    options = parse(["get", "a", flags[0]], {})
    assert options.connection.endpoints == ("etcd+srv://example.com",)
    assert not options.connection.follow_members
    assert parse(["get", "a", "--follow-members"], {}).connection.follow_members


def test_all_of_a_watch() -> None:
    options = parse(
        [
            "watch",
            "a",
            "--range-end",
            "b",
            "--rev",
            "7",
            "--prev-kv",
            "--progress",
            "--bookmark",
            "f",
            "--json",
            "-vv",
        ],
        {},
    )
    assert options == Options(
        command="watch",
        key=b"a",
        range_end=b"b",
        revision=7,
        prev_kv=True,
        progress=True,
        bookmark="f",
        json=True,
        verbosity=2,
        connection=Connection(),
    )
    assert options.range == (b"a", b"b")
    assert parse(["watch", "a", "--progress-notify"], {}).progress


def test_ranges() -> None:
    assert parse(["mirror", "a", "--prefix"], {}).range == (b"a", b"b")
    assert parse(["get", "", "--prefix"], {}).range == (b"\0", b"\0")
    assert parse(["get", "a", "--from-key"], {}).range == (b"a", b"\0")
    assert parse(["get", "--", "--prefix"], {}).key == b"--prefix"


def test_a_key_of_bytes_comes_as_python_hands_it_over() -> None:
    assert parse(["get", "\udcff"], {}).key == b"\xff"
    assert parse(["get", "a", "--range-end", "\udcff"], {}).range_end == b"\xff"


CONNECTION = {
    "endpoints": "h:1,h:2",
    "cacert": "ca",
    "cert": "c",
    "key": "k",
    "dial_timeout": "1m30.5s",
    "keepalive_time": "200ms",
    "keepalive_timeout": "3",
}
EXPECTED = Connection(
    endpoints=("h:1", "h:2"),
    cacert="ca",
    cert="c",
    key="k",
    insecure_skip_tls_verify=True,
    dial_timeout=90.5,
    keepalive_time=0.2,
    keepalive_timeout=3.0,
)


def test_a_connection_by_flags() -> None:
    flags = [
        f"--{name.replace('_', '-')}={value}" for name, value in CONNECTION.items()
    ]
    others = {f"ETCDCTL_{name.upper()}": "7:7" for name in CONNECTION}
    others["ETCDCTL_INSECURE_SKIP_TLS_VERIFY"] = "false"
    options = parse(["get", "a", *flags, "--insecure-skip-tls-verify"], others)
    assert options.connection == EXPECTED


def test_a_connection_by_variables() -> None:
    environ = {f"ETCDCTL_{name.upper()}": value for name, value in CONNECTION.items()}
    environ |= {
        "ETCDCTL_INSECURE_SKIP_TLS_VERIFY": "T",
        "ETCDCTL_COMMAND_TIMEOUT": "5s",
    }
    options = parse(["get", "a"], environ)
    assert options.connection == EXPECTED
    assert options.command_timeout == 5.0
    empty = parse(["get", "a"], dict.fromkeys(environ, ""))
    assert empty.connection == Connection()
    assert empty.command_timeout is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1h", 3600.0),
        ("2m", 120.0),
        ("3s", 3.0),
        ("4ms", 0.004),
        ("5us", 0.000_005),
        ("5µs", 0.000_005),
        ("6ns", 0.000_000_006),
        ("1h2m3.5s", 3723.5),
        (".5m", 30.0),
        ("1.s", 1.0),
        ("0.25", 0.25),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    options = parse(["get", "a"], {"ETCDCTL_COMMAND_TIMEOUT": text})
    assert options.command_timeout == pytest.approx(seconds, rel=1e-9)
    assert parse(["get", "a", f"--command-timeout={text}"], {}) == options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, True) for text in ("1", "t", "T", "true", "True", "TRUE")),
        *((text, False) for text in ("0", "f", "F", "false", "False", "FALSE")),
    ],
)
def test_booleans_are_spelled_as_in_go(text: str, value: bool) -> None:
    options = parse(["get", "a"], {"ETCDCTL_INSECURE_SKIP_TLS_VERIFY": text})
    assert options.connection.insecure_skip_tls_verify is value


def test_the_newest_revision_that_may_be_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert parse(["get", "a", f"--rev={MAX_REVISION}"], {}).revision == MAX_REVISION
    said = refused(capsys, "get", "a", f"--rev={MAX_REVISION + 1}")
    assert f"--rev must be between 0 and {MAX_REVISION}" in said


@pytest.mark.parametrize(
    ("flags", "environ", "user", "password"),
    [
        ([], {"USER": f"u:{SECRET}"}, "u", SECRET),
        ([], {"USER": "u:p:q"}, "u", "p:q"),
        ([], {"USER": "u:"}, "u", ""),
        ([], {"USER": "u"}, "u", None),
        ([], {"USER": "u", "PASSWORD": SECRET}, "u", SECRET),
        # As in etcdctl: with a password of its own, the name may contain a colon.
        ([], {"USER": "u:v", "PASSWORD": SECRET}, "u:v", SECRET),
        ([], {"PASSWORD": SECRET}, None, None),
        # An empty variable is none.
        ([], {"USER": "", "PASSWORD": SECRET}, None, None),
        ([], {"USER": f"u:{SECRET}", "PASSWORD": ""}, "u", SECRET),
        (["--user=u"], {"PASSWORD": ""}, "u", None),
        (["--user=u"], {"USER": f"v:{SECRET}"}, "u", None),
        (["--user=u"], {"PASSWORD": SECRET}, "u", SECRET),
        (["--user=u", "--password-file=f"], {"PASSWORD": SECRET}, "u", None),
    ],
)
def test_users(
    flags: list[str], environ: dict[str, str], user: str | None, password: str | None
) -> None:
    named = {f"ETCDCTL_{name}": value for name, value in environ.items()}
    connection = parse(["get", "a", *flags], named).connection
    assert (connection.user, connection.password) == (user, password)
    assert (connection.password_file is None) == ("--password-file=f" not in flags)
    assert SECRET not in repr(connection)


def test_a_password_is_no_argument(capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (
        [f"--user=u:{SECRET}"],
        ["--password", SECRET],
        [f"--password={SECRET}"],
    ):
        said = refused(capsys, "watch", "a", *flags)
        assert "others can read the command line" in said


@pytest.mark.parametrize(
    ("flags", "environ", "message"),
    [
        (["--rev=-1"], {}, "--rev must be between 0 and"),
        (["--rev=x"], {}, "argument --rev: invalid int value"),
        (["--range-end=A"], {}, "range_end must be above key"),
        (["--key=k"], {}, "--key is of no use without --cert"),
        (["--password-file=f"], {}, "--password-file is of no use without a user"),
        (["--dial-timeout=soon"], {}, "--dial-timeout: 'soon' is no duration"),
        (["--dial-timeout=0s"], {}, "--dial-timeout: '0s' is not above 0"),
        (["--dial-timeout=inf"], {}, "--dial-timeout: 'inf' is not above 0"),
        ([], {"ETCDCTL_KEEPALIVE_TIME": "1s!"}, "ETCDCTL_KEEPALIVE_TIME: '1s!' is no"),
        (
            [],
            {"ETCDCTL_INSECURE_SKIP_TLS_VERIFY": "yes"},
            "'yes' is neither true nor false",
        ),
        # Flags cannot be abbreviated: a later version may have two with this prefix.
        (["--pre"], {}, "unrecognized arguments: --pre"),
    ],
)
def test_what_is_wrong(
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    environ: dict[str, str],
    message: str,
) -> None:
    assert message in refused(capsys, "get", "a", *flags, **environ)


@pytest.mark.parametrize(
    ("arguments", "usage", "missing"),
    [([], "trio-etcd-watch ", "COMMAND"), (["get"], "trio-etcd-watch get ", "KEY")],
)
def test_what_is_missing(
    capsys: pytest.CaptureFixture[str], arguments: list[str], usage: str, missing: str
) -> None:
    said = refused(capsys, *arguments)
    assert said.startswith(f"usage: {usage}")
    assert said.endswith(f"the following arguments are required: {missing}\n")


def test_the_usage_is_that_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "get", "a", "--rev=-1").startswith(
        "usage: trio-etcd-watch get "
    )


def test_flags_of_the_program_are_not_abbreviated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refused(capsys, "--vers").endswith("are required: COMMAND\n")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        parse(["--version"], {}, "1.2.3")
    assert info.value.code == 0
    assert capsys.readouterr().out == "1.2.3\n"


ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs/reference/command-line.md").read_text()
COMMANDS = re.findall(r"^    trio-etcd-watch (.+)$", README, re.MULTILINE)


def test_the_readme_shows_each_command() -> None:
    assert {line.split()[0] for line in COMMANDS} == {"get", "watch", "mirror"}


@pytest.mark.parametrize("line", COMMANDS)
def test_what_the_readme_shows_is_right(line: str) -> None:
    assert parse(shlex.split(line), {}).prefix


def test_the_reference_has_the_exit_codes() -> None:
    table = REFERENCE.partition("| exit code | meaning |")[2].partition("\n\n")[0]
    in_reference = re.findall(r"^\| (\d) \| (.+) \|$", table, re.MULTILINE)
    in_help = re.findall(r"^  (\d)    (.+(?:\n {7}.+)*)$", EXIT_CODES, re.MULTILINE)
    assert len(in_help) == 6
    for (code, meaning), (shown, text) in zip(in_reference, in_help, strict=True):
        plain = " ".join(text.split())
        assert (code, meaning.replace("`", "").split(" (for")[0]) == (shown, plain)


def test_the_reference_says_what_a_revision_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (meaning,) = re.findall(r"^\| `--rev N` \| (.+) \|$", REFERENCE, re.MULTILINE)
    parts = dict(re.findall(r"`(\w+)`: ([^;]+)", meaning))
    assert set(parts) == {"get", "watch"}
    for command, said in parts.items():
        with pytest.raises(SystemExit):
            parse([command, "--help"], {})
        helped = " ".join(capsys.readouterr().out.split())
        assert f"--rev N {said.replace(',', ';')} " in helped
