"""The programs of the how-to pages about keys: they do what their pages say."""

from __future__ import annotations

from tests.support.cli import Cli
from tests.support.programs import blocks, open_program
from trio_etcd_watch.testing import Etcd, Put


async def until(program: Cli, line: str) -> int:
    """Wait for a line; how many there are by then."""
    count = 1
    while (await program.lines(count))[count - 1] != line.encode():
        count += 1
    return count


def shown(page: str) -> list[bytes]:
    """The output that a page shows first."""
    return blocks(f"howto/{page}", "text")[0].encode().splitlines()


async def test_hot_reload(newest_etcd: Etcd) -> None:
    await newest_etcd.txn(Put("/config/limit", "5"), Put("/config/mode", "fast"))
    async with open_program("reload_validated.py", newest_etcd.endpoint) as program:
        await program.lines(1)
        await newest_etcd.put("/config/limit", "0")
        await program.lines(2)
        await newest_etcd.restart()
        await newest_etcd.put("/config/limit", "7")
        assert await program.lines(3) == shown("hot-reload.md")


async def test_discovery(newest_etcd: Etcd) -> None:
    async with open_program("pick_instance.py", newest_etcd.endpoint) as program:
        await newest_etcd.put("/services/mail/one", "10.0.0.1:25")
        assert await program.lines(1) == [b"sending to 10.0.0.1:25"]
        await newest_etcd.put("/services/mail/two", "10.0.0.2:25")
        await until(program, "sending to 10.0.0.2:25")
        await newest_etcd.delete("/services/mail/two")
        await newest_etcd.delete("/services/mail/one")
        await newest_etcd.put("/services/mail/three", "10.0.0.3:25")
        count = await until(program, "sending to 10.0.0.3:25")
        rest = (await program.lines(count + 5))[count:]
        assert set(rest) == {b"sending to 10.0.0.3:25"}
