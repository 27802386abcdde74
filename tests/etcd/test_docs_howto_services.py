"""The programs of the how-to pages about services answer as their pages say."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from tests.support.cli import open_command
from tests.support.helpers import LIMIT, eventually
from tests.support.howto import cli_command, open_shell, output_of
from tests.support.pages import typed
from tests.support.programs import blocks, open_program, write_program
from trio_etcd_watch.testing import Etcd, Put
from trio_etcd_watch.testing._servers import reserve_port


@pytest.fixture
def address() -> Iterator[str]:
    """A free address for a program to listen at."""
    with ExitStack() as resources:
        yield reserve_port(resources)


class Client:
    """A client of one server."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def get(self, path: str) -> tuple[int, str]:
        """Return status and text of the answer; 0 if no server listens."""
        try:
            answer = await self._client.get(path)
        except httpx.TransportError:
            return 0, ""
        return answer.status_code, answer.text

    async def until(self, path: str, status: int, text: str) -> None:
        """Repeat the request until the answer is this one."""

        async def is_answered() -> bool:
            return await self.get(path) == (status, text)

        await eventually(is_answered)


@asynccontextmanager
async def open_client(address: str) -> AsyncGenerator[Client]:
    async with httpx.AsyncClient(
        base_url=f"http://{address}", timeout=LIMIT, trust_env=False
    ) as client:
        yield Client(client)


async def test_readiness(newest_etcd: Etcd, address: str) -> None:
    await newest_etcd.kill()
    replaced = {"127.0.0.1:8000": address, "GRACE = 60.0": "GRACE = 0.0"}
    async with (
        open_program("readiness.py", newest_etcd.endpoint, replaced=replaced),
        open_client(address) as client,
    ):
        await client.until("/readyz", 503, "the settings have not been read yet")
        await newest_etcd.start()
        await client.until("/readyz", 200, "ready")
        await newest_etcd.kill()
        await client.until("/readyz", 503, "etcd has been out of reach for too long")
        await newest_etcd.start()
        await client.until("/readyz", 200, "ready")


async def test_readiness_has_patience(newest_etcd: Etcd, address: str) -> None:
    replaced = {"127.0.0.1:8000": address}
    async with (
        open_program(
            "readiness.py", newest_etcd.endpoint, replaced=replaced
        ) as program,
        open_client(address) as client,
    ):
        await client.until("/readyz", 200, "ready")
        await newest_etcd.kill()
        await program.until_error(b"no watch stream")
        assert await client.get("/readyz") == (200, "ready")


async def test_a_probe_by_a_command(newest_etcd: Etcd) -> None:
    command = cli_command("howto/readiness.md")
    where = {"ETCDCTL_ENDPOINTS": newest_etcd.endpoint}
    async with open_command(command, where) as program:
        assert await program.wait() == 0
    await newest_etcd.kill()
    async with open_command(command, where) as program:
        assert await program.wait() == 5


async def test_metrics(newest_etcd: Etcd, address: str) -> None:
    await newest_etcd.put("/config/a", "1")

    async def samples() -> dict[str, float]:
        status, text = await client.get("/metrics")
        families = text_string_to_metric_families(text)
        found = {
            sample.name + "".join(sample.labels.values()): sample.value
            for family in families
            for sample in family.samples
        }
        return found if status == 200 else {}

    async def is_live() -> bool:
        return (await samples()).get("etcd_watcheslive") == 1

    async def is_lost() -> bool:
        now = await samples()
        return now["etcd_mirror_disconnected_seconds"] > 0

    replaced = {"127.0.0.1:9100": address}
    async with (
        open_program("metrics.py", newest_etcd.endpoint, replaced=replaced),
        open_client(address) as client,
    ):
        await eventually(is_live)
        now = await samples()
        assert now["etcd_mirror_keys"] == 1
        assert now["etcd_watch_reconnects_total"] == 0
        assert now["etcd_mirror_disconnected_seconds"] == 0
        # The page lists them all.
        page = blocks("howto/metrics.md", "text")[0]
        shown = {line.partition(" ")[0] for line in page.splitlines()}
        answer = (await client.get("/metrics"))[1]
        exported = {line.partition(" ")[0] for line in answer.splitlines()} - {"#"}
        assert shown == exported
        await newest_etcd.kill()
        await eventually(is_lost)
        await newest_etcd.start()
        await eventually(is_live)
        now = await samples()
        assert now["etcd_watch_reconnects_total"] >= 1
        assert now["etcd_mirror_disconnected_seconds"] == 0


async def test_metrics_as_it_is_typed(
    newest_etcd: Etcd, address: str, tmp_path: Path
) -> None:
    await newest_etcd.txn(Put("/config/a", "1"), Put("/config/b", "2"))
    write_program(
        tmp_path, "metrics.py", newest_etcd.endpoint, {"127.0.0.1:9100": address}
    )
    _, serve, ask = typed("howto/metrics.md")
    async with open_shell(tmp_path) as shell, open_client(address) as client:
        await shell.type(serve)

        async def is_live() -> bool:
            _, text = await client.get("/metrics")
            return 'etcd_watches{state="live"} 1.0' in text

        await eventually(is_live)
        page = blocks("howto/metrics.md", "text")[0]
        assert await output_of(ask.replace("127.0.0.1:9100", address)) == page


async def test_an_application_that_hypercorn_starts(
    newest_etcd: Etcd, address: str, tmp_path: Path
) -> None:
    write_program(tmp_path, "quart_app.py", newest_etcd.endpoint, {})
    await newest_etcd.put("/config/mode", "fast")
    _, serve, ask = typed("howto/hypercorn.md")
    _, *arguments = serve.replace("127.0.0.1:8000", address).split()
    command = [sys.executable, "-m", "hypercorn", *arguments]
    async with (
        open_command(command, {}, tmp_path) as program,
        open_client(address) as client,
    ):
        try:
            await client.until("/config/mode", 200, "fast")
            assert await output_of(ask.replace("127.0.0.1:8000", address)) == "fast"
            await newest_etcd.put("/config/mode", "slow")
            await client.until("/config/mode", 200, "slow")
            assert await client.get("/config/limit") == (404, "no such setting\n")
        finally:
            # Otherwise its worker would outlive it.
            with trio.CancelScope(shield=True):
                assert await program.end(signal.SIGTERM) == 0
