"""From options to a channel: files, TLS, and the source of the password."""

from __future__ import annotations

import getpass
import ssl
import warnings
from pathlib import Path

import pytest
import trustme

from trio_etcd_watch import Credentials
from trio_etcd_watch._cli.arguments import Connection
from trio_etcd_watch._cli.connecting import SetupError, channel_of


def test_plain() -> None:
    channel = channel_of(Connection(endpoints=("h:1", "h:2"), dial_timeout=7.0))
    assert repr(channel) == "Channel('h:1', 'h:2', credentials=None)"
    assert (channel.connect_timeout, channel.keepalive_time) == (7.0, 10.0)
    assert channel.ssl_context is None
    with pytest.raises(SetupError, match=r"did you mean 'h:2379'\?"):
        channel_of(Connection(endpoints=("h",)))


def test_certificates(tmp_path: Path) -> None:
    ca = trustme.CA()
    cert = ca.issue_cert("client")
    trusted, chain, key = (tmp_path / name for name in ("ca", "chain", "key"))
    ca.cert_pem.write_to_path(trusted)
    cert.cert_chain_pems[0].write_to_path(chain)
    cert.private_key_pem.write_to_path(key)
    options = Connection(cacert=str(trusted), cert=str(chain), key=str(key))
    context = channel_of(options).ssl_context
    assert context is not None
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == 1
    careless = channel_of(Connection(insecure_skip_tls_verify=True)).ssl_context
    assert careless is not None
    assert careless.verify_mode == ssl.CERT_NONE
    for wrong, message in (
        (Connection(cacert="/absent"), "--cacert: /absent cannot be used: No such"),
        (Connection(cacert=str(key)), "--cacert: .*/key cannot be used"),
        (Connection(cert=str(chain), key="/absent"), "--cert, --key: .*, /absent"),
    ):
        with pytest.raises(SetupError, match=message):
            channel_of(wrong)


def test_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"

    def credentials(**options: str) -> Credentials | None:
        return channel_of(
            Connection(
                user="u",
                password=options.get("password"),
                password_file=options.get("password_file"),
            )
        ).credentials

    assert credentials(password="p") == Credentials("u", "p")
    # A line end that an editor adds is not part of it; a space may be.
    for content in ("p ", "p \n", "p \r\n"):
        file.write_bytes(content.encode())
        assert credentials(password_file=str(file)) == Credentials("u", "p ")
    file.write_bytes(b"\xff")
    with pytest.raises(SetupError, match="is not UTF-8"):
        credentials(password_file=str(file))
    with pytest.raises(SetupError, match="--password-file: /absent cannot be used"):
        credentials(password_file="/absent")
    monkeypatch.setattr(getpass, "getpass", lambda prompt: f"asked by {prompt}")
    assert credentials() == Credentials("u", "asked by Password of u: ")


@pytest.mark.parametrize("trouble", [EOFError, getpass.GetPassWarning])
def test_no_password_is_typed_where_it_shows(
    monkeypatch: pytest.MonkeyPatch, trouble: type[Exception]
) -> None:
    def ask(_: str) -> str:
        if issubclass(trouble, Warning):
            warnings.warn("can not control echo", trouble, stacklevel=1)
            return "seen by all"
        raise trouble

    monkeypatch.setattr(getpass, "getpass", ask)
    with pytest.raises(SetupError, match="there is no terminal to ask on"):
        channel_of(Connection(user="u"))
