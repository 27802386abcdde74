"""Makes a `Channel` from options: reads certificates, and asks for the password."""

from __future__ import annotations

import getpass
import ssl
import warnings
from pathlib import Path

from trio_etcd_watch._channel import Channel, Credentials

from .arguments import Connection


class SetupError(Exception):
    """The options cannot be used; the text never has a password."""


def channel_of(options: Connection) -> Channel:
    """Return the channel to the cluster.

    Raises:
        SetupError: an option cannot be used; the text names the option or the file.
        KeyboardInterrupt: the user interrupted the prompt.
    """
    context = _context(options)
    credentials = _credentials(options)
    try:
        return Channel(
            *options.endpoints,
            ssl_context=context,
            credentials=credentials,
            connect_timeout=options.dial_timeout,
            follow_members=options.follow_members,
            keepalive_time=options.keepalive_time,
            keepalive_timeout=options.keepalive_timeout,
        )
    except ValueError as exc:
        raise SetupError(str(exc)) from exc


def _context(options: Connection) -> ssl.SSLContext | None:
    skips = options.insecure_skip_tls_verify
    if not (options.cacert or options.cert or skips):
        # For https:// the library makes its own.
        return None
    try:
        context = ssl.create_default_context(cafile=options.cacert)
    except OSError as exc:
        raise _not_read("--cacert", options.cacert, exc) from exc
    if skips:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.cert:
        try:
            context.load_cert_chain(options.cert, options.key)
        except OSError as exc:
            name = f"{options.cert}, {options.key}" if options.key else options.cert
            raise _not_read("--cert, --key", name, exc) from exc
    return context


def _credentials(options: Connection) -> Credentials | None:
    if options.user is None:
        return None
    password = options.password
    if options.password_file is not None:
        password = _password_in(options.password_file)
    elif password is None:
        password = _ask_password(options.user)
    try:
        return Credentials(options.user, password)
    except ValueError as exc:
        raise SetupError(str(exc)) from exc


def _password_in(name: str) -> str:
    try:
        # Editors end a file with a line end, which is not part of the password.
        return Path(name).read_text("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SetupError(f"--password-file: {name} is not UTF-8") from None
    except OSError as exc:
        raise _not_read("--password-file", name, exc) from exc


def _ask_password(user: str) -> str:
    """Ask on the terminal, which does not echo what is typed."""
    with warnings.catch_warnings():
        # It is better not to ask than to echo the password.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(f"Password of {user}: ")
        except (getpass.GetPassWarning, EOFError):
            raise SetupError(
                f"no password for {user!r}: there is no terminal to ask on; use "
                f"--password-file or ETCDCTL_PASSWORD"
            ) from None


def _not_read(option: str, name: str | None, error: OSError) -> SetupError:
    return SetupError(f"{option}: {name} cannot be used: {error.strerror or error}")
