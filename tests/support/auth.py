"""An etcd with auth enabled, and tokens that any member can check."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.helpers import LIMIT
from trio_etcd_watch import Credentials
from trio_etcd_watch.testing import Etcd, EtcdRequestError, open_etcd

ROOT = Credentials("root", "root's password")
READER = Credentials("reader", "reader's password")


class Guarded:
    """An etcd with auth enabled, and requests as root."""

    def __init__(self, etcd: Etcd) -> None:
        self.etcd = etcd

    async def request(self, path: str, body: Mapping[str, object]) -> dict[str, object]:
        """Make a request as root, with a new token.

        The request is repeated with another token if that one expires before etcd
        checks it again: etcd computes for long when it checks a password, and the
        tokens of tests live for seconds.
        """
        with trio.fail_after(LIMIT):
            while True:
                self.etcd.token = None
                self.etcd.token = await self.token(ROOT)
                try:
                    return await self.etcd.request(path, body)
                except EtcdRequestError as exc:
                    if exc.message != "etcdserver: invalid auth token":
                        raise

    async def token(self, user: Credentials) -> str:
        """Return a new token for a user."""
        answer = await self.etcd.request(
            "/v3/auth/authenticate", {"name": user.user, "password": user.password}
        )
        return str(answer["token"])

    async def put(self, key: str, value: str) -> None:
        await self.request("/v3/kv/put", {"key": b64(key), "value": b64(value)})

    async def set_up(self) -> None:
        """Give root all permissions; let reader read the keys that begin with `r`."""
        add = self.etcd.request
        await add("/v3/auth/role/add", {"name": "root"})
        await add("/v3/auth/role/add", {"name": "r"})
        permission = {"permType": "READ", "key": b64("r"), "range_end": b64("s")}
        await add("/v3/auth/role/grant", {"name": "r", "perm": permission})
        for user, role in ((ROOT, "root"), (READER, "r")):
            await add(
                "/v3/auth/user/add", {"name": user.user, "password": user.password}
            )
            await add("/v3/auth/user/grant", {"user": user.user, "role": role})
        await add("/v3/auth/enable", {})


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def jwt(folder: Path) -> str:
    """Return the flag for tokens that any member can check, with a key in folder."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "private.pem").write_bytes(private)
    (folder / "public.pem").write_bytes(public)
    keys = f"pub-key={folder / 'public.pem'},priv-key={folder / 'private.pem'}"
    return f"--auth-token=jwt,{keys},sign-method=RS256,ttl=1h"


@asynccontextmanager
async def open_guarded(binary: str, *args: str) -> AsyncGenerator[Guarded]:
    async with open_etcd(binary=binary, args=args) as etcd:
        guarded = Guarded(etcd)
        await guarded.set_up()
        yield guarded


def distinguishes_tokens(etcd: Etcd) -> bool:
    """Whether a refused token has an error text other than "permission denied"."""
    return not (etcd.version < (3, 4, 22) or (3, 5) <= etcd.version < (3, 5, 6))
