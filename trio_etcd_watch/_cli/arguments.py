"""Parses the command line and etcdctl's environment variables.

Sans-IO, except for what argparse itself prints. No argument takes a password, and no
message repeats text that may be one.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from trio_etcd_watch._arguments import key_range
from trio_etcd_watch._cursor import MAX_REVISION

T = TypeVar("T")

EXIT_CODES = """\
exit codes:
  0    done
  1    failed: the server refuses the request, or the output cannot be written
  2    wrong arguments, certificates or bookmark
  3    the history that was asked for is not there: compacted, lost, in the future,
       or another cluster's
  4    the credentials are refused, or the user may not read the range
  5    no answer within --command-timeout
  130, 141, 143
       ended by SIGINT, by the reader of the output, by SIGTERM
"""

ENVIRONMENT = """\
environment, where there is no flag:
  ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY,
  ETCDCTL_INSECURE_SKIP_TLS_VERIFY, ETCDCTL_DIAL_TIMEOUT, ETCDCTL_KEEPALIVE_TIME,
  ETCDCTL_KEEPALIVE_TIMEOUT, ETCDCTL_COMMAND_TIMEOUT, ETCDCTL_USER (NAME, or
  NAME:PASSWORD), ETCDCTL_PASSWORD
"""

_DESCRIPTIONS = {
    "watch": "Print each change of a key, a prefix or a range, as it comes.",
    "get": "Print a key, a prefix or a range as it stood at one revision.",
    "mirror": "Print what is there, then how it changes: net differences.",
}

_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")

_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where the cluster is, and which user connects to it."""

    endpoints: tuple[str, ...] = ("127.0.0.1:2379",)
    follow_members: bool = False
    cacert: str | None = None
    cert: str | None = None
    key: str | None = None
    insecure_skip_tls_verify: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    """None if it is to be read from `password_file`, or to be asked for."""
    password_file: str | None = None
    dial_timeout: float = 5.0
    keepalive_time: float = 10.0
    keepalive_timeout: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One run of the program."""

    command: str
    key: bytes
    prefix: bool = False
    range_end: bytes | None = None
    from_key: bool = False
    revision: int = 0
    prev_kv: bool = False
    progress: bool = False
    bookmark: str | None = None
    json: bool = False
    verbosity: int = 0
    command_timeout: float | None = None
    connection: Connection

    @property
    def range(self) -> tuple[bytes, bytes]:
        """The key and range_end that etcd's API has for the range."""
        return key_range(
            self.key,
            prefix=self.prefix,
            range_end=self.range_end,
            from_key=self.from_key,
        )


def parse(
    arguments: Sequence[str], environ: Mapping[str, str], version: str = ""
) -> Options:
    """Return the options that the arguments and the environment give.

    Raises:
        SystemExit: argparse has printed what is wrong (2), or the help (0).
    """
    given = vars(_parser(version).parse_args(arguments))
    parser: argparse.ArgumentParser = given["parser"]
    try:
        return _options(given, environ)
    except ValueError as exc:
        parser.error(str(exc))


def _options(given: dict[str, Any], environ: Mapping[str, str]) -> Options:
    range_end = given.get("range_end")
    timeout = _setting("command_timeout", given, environ, _seconds)
    options = Options(
        command=given["command"],
        # As bytes, since a key need not be UTF-8.
        key=os.fsencode(given["key_"]),
        prefix=given["prefix"],
        range_end=None if range_end is None else os.fsencode(range_end),
        from_key=given["from_key"],
        revision=given.get("rev", 0),
        prev_kv=given.get("prev_kv", False),
        progress=given.get("progress", False),
        bookmark=given.get("bookmark"),
        json=given["json"],
        verbosity=given["verbose"],
        command_timeout=timeout,
        connection=_connection(given, environ),
    )
    if not 0 <= options.revision <= MAX_REVISION:
        raise ValueError(f"--rev must be between 0 and {MAX_REVISION}")
    options.range  # noqa: B018  # for the ValueError that it raises
    return options


def _connection(given: dict[str, Any], environ: Mapping[str, str]) -> Connection:
    user, password = _user(given, environ)
    cacert = _setting("cacert", given, environ, str)
    cert = _setting("cert", given, environ, str)
    key = _setting("key", given, environ, str)
    if key and not cert:
        raise ValueError("--key is of no use without --cert")
    return Connection(
        endpoints=_endpoints(given, environ),
        follow_members=given.get("follow_members", False),
        cacert=cacert,
        cert=cert,
        key=key,
        insecure_skip_tls_verify=_setting(
            "insecure_skip_tls_verify", given, environ, _boolean
        )
        or False,
        user=user,
        password=password,
        password_file=given.get("password_file"),
        dial_timeout=_setting("dial_timeout", given, environ, _seconds) or 5.0,
        keepalive_time=_setting("keepalive_time", given, environ, _seconds) or 10.0,
        keepalive_timeout=_setting("keepalive_timeout", given, environ, _seconds)
        or 5.0,
    )


def _endpoints(given: dict[str, Any], environ: Mapping[str, str]) -> tuple[str, ...]:
    # As in etcdctl, --discovery-srv takes precedence over --endpoints.
    if domain := _setting("discovery_srv", given, environ, str):
        service = _setting("discovery_srv_name", given, environ, str)
        return (f"etcd+srv://{domain}" + (f"?service={service}" if service else ""),)
    endpoints = _setting("endpoints", given, environ, str) or "127.0.0.1:2379"
    return tuple(each.strip() for each in endpoints.split(",") if each.strip())


def _user(
    given: dict[str, Any], environ: Mapping[str, str]
) -> tuple[str | None, str | None]:
    """Return name and password; None for what is neither argument nor variable."""
    named, password = given.get("user"), environ.get("ETCDCTL_PASSWORD") or None
    if named is not None and ":" in named:
        # The value is not repeated: what follows the colon is a password.
        raise ValueError(
            "--user takes a name alone: others can read the command line, and with it "
            "a password; use --password-file, ETCDCTL_PASSWORD or the prompt"
        )
    if "password_file" in given:
        password = None
    elif named is None and password is None:
        name, colon, rest = environ.get("ETCDCTL_USER", "").partition(":")
        return name or None, rest if colon else None
    user = named or environ.get("ETCDCTL_USER") or None
    if user is None:
        if "password_file" in given:
            raise ValueError("--password-file is of no use without a user")
        return None, None
    return user, password


def _setting(
    name: str,
    given: Mapping[str, Any],
    environ: Mapping[str, str],
    read: Callable[[str], T],
) -> T | None:
    """Return the value of a flag or its environment variable; None without both."""
    source = f"--{name.replace('_', '-')}"
    text = given.get(name)
    if text is None:
        source = f"ETCDCTL_{name.upper()}"
        text = environ.get(source)
    if not text:
        return None
    try:
        return read(text)
    except ValueError as exc:
        raise ValueError(f"{source}: {exc}") from exc


def _seconds(text: str) -> float:
    """Parse a duration as Go writes it (5s, 1m30s), or a plain number of seconds."""
    parts = _DURATION.findall(text)
    if "".join(number + unit for number, unit in parts) == text:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        try:
            seconds = float(text)
        except ValueError:
            raise ValueError(f"{text!r} is no duration such as 5s or 1m30s") from None
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{text!r} is not above 0 seconds")
    return seconds


def _boolean(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


# The parser


class _Refuse(argparse.Action):
    """Refuses a flag without repeating its value."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        parser.error(
            "there is no --password, since others can read the command line; use "
            "--password-file, ETCDCTL_PASSWORD or the prompt"
        )


def _parser(version: str) -> argparse.ArgumentParser:
    everywhere = _flags_of_all()
    parser = argparse.ArgumentParser(
        prog="trio-etcd-watch",
        description="Follow an etcd v3 through lost connections, restarts and failover.",
        epilog=f"{ENVIRONMENT}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, description in _DESCRIPTIONS.items():
        command = commands.add_parser(
            name,
            help=description,
            description=description,
            epilog=f"{ENVIRONMENT}\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[everywhere],
            allow_abbrev=False,
        )
        command.set_defaults(parser=command)
        if name in {"watch", "get"}:
            command.add_argument(
                "--rev",
                type=int,
                default=0,
                metavar="N",
                help="the first revision wanted; by default from now"
                if name == "watch"
                else "the revision to read at; by default the newest",
            )
        if name == "watch":
            _add_flags_of_watch(command)
    return parser


def _flags_of_all() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("key_", metavar="KEY", help="the key, or where a range begins")
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument(
        "--prefix", action="store_true", help='all keys that begin with KEY; "" is all'
    )
    keys.add_argument("--range-end", metavar="KEY", help="from KEY to before this one")
    keys.add_argument("--from-key", action="store_true", help="from KEY on")
    parser.add_argument(
        "--json", action="store_true", help="a line of JSON for each event or key"
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="log connections to stderr, too; -vv logs everything",
    )
    _add_flags_of_connection(parser)
    return parser


def _add_flags_of_connection(parser: argparse.ArgumentParser) -> None:
    flags = parser.add_argument_group("connection")

    def add(name: str, metavar: str, *, help: str) -> None:  # noqa: A002  # argparse calls it so
        flags.add_argument(name, metavar=metavar, help=help, default=argparse.SUPPRESS)

    add("--endpoints", "HOST:PORT,...", help="by default 127.0.0.1:2379")
    add("--discovery-srv", "DOMAIN", help="where SRV records name the endpoints")
    add("--discovery-srv-name", "NAME", help="the name of one of its clusters")
    flags.add_argument(
        "--follow-members",
        action="store_true",
        default=argparse.SUPPRESS,
        help="use the addresses of the cluster's members, too",
    )
    add("--cacert", "FILE", help="the CAs to trust, instead of the system's")
    add("--cert", "FILE", help="the client's certificate")
    add("--key", "FILE", help="its private key, if it is not in the same file")
    flags.add_argument(
        "--insecure-skip-tls-verify",
        action="store_const",
        const="true",
        default=argparse.SUPPRESS,
        help="do not verify the server; for tests",
    )
    add("--user", "NAME", help="a user of etcd's auth; the password is asked for")
    add("--password-file", "FILE", help="a file that holds the password")
    flags.add_argument("--password", nargs="?", action=_Refuse, help=argparse.SUPPRESS)
    add("--command-timeout", "TIME", help="limit of a get, or until the others begin")
    add("--dial-timeout", "TIME", help="limit of one try of an address; by default 5s")
    add("--keepalive-time", "TIME", help="the silence before a ping; by default 10s")
    add("--keepalive-timeout", "TIME", help="limit of its answer; by default 5s")


def _add_flags_of_watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prev-kv", action="store_true", help="also print each key as it was before"
    )
    parser.add_argument(
        "--progress",
        "--progress-notify",
        action="store_true",
        help="print the server's progress notifications",
    )
    parser.add_argument(
        "--bookmark",
        metavar="FILE",
        help="resume where FILE says, and record the progress there",
    )
