"""The programs of the how-to pages about TLS and auth do what their pages say."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio
import trustme

from tests.support.auth import (
    READER,
    Guarded,
    b64,
    distinguishes_tokens,
    jwt,
    open_guarded,
)
from tests.support.cli import Cli, open_command
from tests.support.helpers import LIMIT
from tests.support.howto import cli_command
from tests.support.programs import ENDPOINT, blocks, open_program
from trio_etcd_watch.testing import open_cluster, open_etcd

PERMISSION = {
    "permType": "READ",
    "key": b64("/config/"),
    "range_end": b64("/config0"),
}


async def permit(server: Guarded) -> None:
    """Let the reader read the keys that the programs watch."""
    await server.request("/v3/auth/role/grant", {"name": "r", "perm": PERMISSION})


def write_certificates(folder: Path) -> ssl.SSLContext:
    """Write the files of tls.py and etcd; the client's certificate names the reader."""
    ca = trustme.CA()
    server = ca.issue_cert("127.0.0.1")
    client = ca.issue_cert("reader@example.org", common_name=READER.user)
    ca.cert_pem.write_to_path(folder / "ca.pem")
    for name, cert in (("server", server), ("client", client)):
        cert.private_key_pem.write_to_path(folder / f"{name}-key.pem")
        cert.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    context = ssl.create_default_context()
    ca.configure_trust(context)
    ca.issue_cert("root@example.org").configure_cert(context)
    return context


async def test_mutual_tls(tmp_path: Path, newest_binary: str) -> None:
    context = write_certificates(tmp_path)
    args = [
        f"--cert-file={tmp_path / 'server.pem'}",
        f"--key-file={tmp_path / 'server-key.pem'}",
        f"--trusted-ca-file={tmp_path / 'ca.pem'}",
        "--client-cert-auth",
        "--bcrypt-cost=4",
    ]
    async with open_etcd(binary=newest_binary, args=args, ssl_context=context) as etcd:
        server = Guarded(etcd)
        await server.set_up()
        await permit(server)
        # The certificate names the user.
        async with open_program("tls.py", etcd.endpoint, folder=tmp_path) as program:
            await program.lines(1)
            await server.put("/config/a", "1")
            assert await program.lines(2) == [b"watching", b"PUT b'/config/a' b'1'"]
        command = [
            each.replace(ENDPOINT, etcd.endpoint)
            for each in cli_command("howto/tls.md")
        ]
        async with open_command(command, {}, tmp_path) as program:
            await put_until_seen(server, program)


async def put_until_seen(server: Guarded, program: Cli) -> None:
    """Write until the program has seen it, which it does once its watch begins."""
    with trio.fail_after(LIMIT):
        while b"/config/a" not in program.output:
            await server.put("/config/a", "1")
            with trio.move_on_after(0.2):
                await program.lines(1)


async def test_credentials(tmp_path: Path, newest_binary: str) -> None:
    async with open_guarded(newest_binary, "--bcrypt-cost=4") as server:
        endpoint = server.etcd.endpoint
        for password, said in (
            (READER.password, b"the user may not read /config/"),
            ("another", b"wrong user or password"),
        ):
            async with open_program(
                "auth.py", endpoint, READER_PASSWORD=password
            ) as program:
                assert await program.wait() == 1
                assert said in await program.errors()
        await permit(server)
        async with open_program(
            "auth.py", endpoint, READER_PASSWORD=READER.password
        ) as program:
            await program.lines(1)
            # The server has forgotten its token by then.
            await server.etcd.kill()
            await server.etcd.start()
            await server.put("/config/a", "1")
            assert await program.lines(2) == [b"watching", b"PUT b'/config/a' b'1'"]
        (tmp_path / "reader.password").write_text(READER.password)
        where = {"ETCDCTL_ENDPOINTS": endpoint}
        command = cli_command("howto/auth.md")
        async with open_command(command, where, tmp_path) as program:
            await put_until_seen(server, program)


@pytest.mark.parametrize("is_good", [True, False])
async def test_token_file(tmp_path: Path, newest_binary: str, is_good: bool) -> None:
    async with open_guarded(newest_binary, jwt(tmp_path), "--bcrypt-cost=4") as server:
        await permit(server)
        token = await server.token(READER) if is_good else "not.the.servers"
        (tmp_path / "etcd-token").write_text(f"{token}\n")
        async with open_program(
            "token_file.py", server.etcd.endpoint, folder=tmp_path
        ) as program:
            if is_good:
                await program.lines(1)
                await server.put("/config/a", "1")
                assert (await program.lines(2))[1] == b"PUT b'/config/a' b'1'"
            else:
                assert await program.wait() == 1
                error = (
                    b"AuthenticationError"
                    if distinguishes_tokens(server.etcd)
                    else b"PermissionDeniedError"
                )
                assert error in await program.errors()


async def test_members(newest_binary: str) -> None:
    async with open_cluster(binary=newest_binary) as cluster:
        first, second, third = cluster.members
        async with open_program("follow_members.py", first.endpoint) as program:
            # Each event prints what is known by then.
            count = 1
            await program.lines(count)
            with trio.fail_after(LIMIT):
                while program.output.count(b" member\n") < 2:
                    await second.put("/config/a", "1")
                    count += 2
                    await program.lines(count)
    (page,) = blocks("howto/membership.md", "text")
    for shown, here in (
        ("127.0.0.1:2379", first),
        ("127.0.0.1:22379", second),
        ("127.0.0.1:32379", third),
    ):
        page = page.replace(shown, here.endpoint)
    event, *endpoints = page.splitlines()
    printed, *known = program.output.decode().splitlines()[-4:]
    assert printed == event
    assert sorted(known) == sorted(endpoints)
