"""The commands and their flags on real servers."""

from __future__ import annotations

import base64
import signal
from pathlib import Path
from typing import Any

import trio

from tests.support.auth import READER, open_guarded
from tests.support.cli import objects, open_cli, run_cli
from tests.support.helpers import LIMIT
from trio_etcd_watch import EventType, open_watcher
from trio_etcd_watch.testing import Etcd, Put, open_cluster, open_etcd

ODD = b"\xff\xfe\n\x1b[31m"
"""Not UTF-8, and not to be shown on a terminal."""


async def fill(etcd: Etcd) -> int:
    """Write a few keys; return the revision before them."""
    before = await etcd.revision()
    await etcd.txn(Put("a", "1"), Put("b", "2"))
    await etcd.put("c", "3")
    await etcd.put("a", "4")
    await etcd.delete("b")
    return before


def fields(key: str, value: str, numbers: tuple[int, int, int]) -> dict[str, Any]:
    create, mod, version = numbers
    return {
        "key": base64.b64encode(key.encode()).decode(),
        "key_utf8": key,
        "create_revision": create,
        "mod_revision": mod,
        "version": version,
        "value": base64.b64encode(value.encode()).decode(),
        "value_utf8": value,
        "lease": 0,
    }


async def test_get(any_etcd: Etcd) -> None:
    before = await fill(any_etcd)

    async def get(*arguments: str) -> bytes:
        done = await run_cli("get", *arguments, ETCDCTL_ENDPOINTS=any_etcd.endpoint)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout

    async with trio.open_nursery() as nursery:

        async def check(expected: bytes, *arguments: str) -> None:
            assert await get(*arguments) == expected

        for expected, arguments in (
            (b"a\n4\n", ["a"]),
            (b"", ["absent"]),
            (b"a\n4\nc\n3\n", ["", "--prefix"]),
            (b"c\n3\n", ["b", "--from-key"]),
            (b"a\n4\n", ["a", "--range-end", "c"]),
            (b"a\n1\nb\n2\n", ["", "--prefix", f"--rev={before + 1}"]),
        ):
            nursery.start_soon(check, expected, *arguments)
    assert objects(await get("", "--prefix", "--json")) == [
        {"revision": before + 4, "kv": fields("a", "4", (before + 1, before + 3, 2))},
        {"revision": before + 4, "kv": fields("c", "3", (before + 2, before + 2, 1))},
    ]


async def test_watch(etcd: Etcd) -> None:
    before = await fill(etcd)
    all_of_it = ["", "--prefix", f"--rev={before + 1}", "--endpoints", etcd.endpoint]
    async with open_cli("watch", *all_of_it, "--prev-kv") as human:
        lines = await human.lines(19)
        await etcd.put("d", "5")
        assert await human.lines(22) == [*lines, b"PUT", b"d", b"5"]
    assert b" ".join(lines) == (b"PUT a 1 PUT b 2 PUT c 3 PUT a 1 a 4 DELETE b 2 b ")
    async with open_cli("watch", *all_of_it, "--prev-kv", "--json") as machine:
        events = await machine.objects(6)
    a = fields("a", "1", (before + 1, before + 1, 1))
    assert events[0] == {"type": "PUT", "kv": a}
    assert events[3] == {
        "type": "PUT",
        "kv": fields("a", "4", (before + 1, before + 3, 2)),
        "prev_kv": a,
    }
    assert events[4] == {
        "type": "DELETE",
        "kv": fields("b", "", (0, before + 4, 0)),
        "prev_kv": fields("b", "2", (before + 1, before + 1, 1)),
    }
    ranges = (["b", "--from-key"], ["b", "--range-end=c"], ["c"])
    for arguments, keys in zip(ranges, (["b", "c"], ["b", "b"], ["c"]), strict=True):
        async with open_cli("watch", *arguments, *all_of_it[2:], "--json") as narrow:
            seen = await narrow.objects(len(keys))
        assert [event["kv"]["key_utf8"] for event in seen[: len(keys)]] == keys
        assert "prev_kv" not in seen[-1]


async def test_a_watch_from_now(any_etcd: Etcd) -> None:
    await fill(any_etcd)
    async with open_cli(
        "watch", "a", "--json", "-v", "--endpoints", any_etcd.endpoint
    ) as cli:
        # Repeats until the watch is seen to exist.
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:

                async def write() -> None:
                    while True:
                        await any_etcd.put("a", "new")
                        await trio.sleep(0.05)

                nursery.start_soon(write)
                (first, *_) = await cli.objects(1)
                nursery.cancel_scope.cancel()
        assert first["kv"]["value_utf8"] == "new"
        await cli.end()
        assert b"INFO trio-etcd-watch: connected to" in await cli.errors()


async def test_progress(etcd_binary: str) -> None:
    args = ["--experimental-watch-progress-notify-interval=200ms"]
    async with open_etcd(binary=etcd_binary, args=args) as etcd:
        revision = await etcd.put("a", "1")
        where = ["watch", "b", "--endpoints", etcd.endpoint, "--progress"]
        async with open_cli(*where, "--json") as machine, open_cli(*where) as human:
            (line, *_) = await machine.objects(1)
            assert line == {"type": "PROGRESS", "revision": revision}
            (text, *_) = await human.lines(1)
            assert text == b"progress notify: %d" % revision


async def test_mirror(etcd: Etcd) -> None:
    before = await fill(etcd)
    where = ["mirror", "", "--prefix", "--endpoints", etcd.endpoint]
    async with open_cli(*where) as human, open_cli(*where, "--json") as machine:
        assert b" ".join(await human.lines(6)) == b"PUT a 4 PUT c 3"
        state = await machine.objects(2)
        await etcd.delete("c")
        assert b" ".join((await human.lines(9))[6:]) == b"DELETE c "
        (change,) = (await machine.objects(3))[2:]
    c = fields("c", "3", (before + 2, before + 2, 1))
    assert state[1] == {
        "type": "PUT",
        "revision": before + 4,
        "resynced": False,
        "kv": c,
    }
    assert change == {
        "type": "DELETE",
        "revision": before + 5,
        "resynced": False,
        "kv": {"key": "Yw==", "key_utf8": "c"},
        "prev_kv": c,
    }


async def test_keys_that_are_no_text(any_etcd: Etcd) -> None:
    revision = await any_etcd.put(ODD, ODD)
    where = ["--endpoints", any_etcd.endpoint]
    plain = await run_cli("get", ODD, *where)
    assert plain.stdout == ODD + b"\n" + ODD + b"\n"
    (line,) = objects(
        (await run_cli("get", ODD[:1], "--prefix", "--json", *where)).stdout
    )
    assert base64.b64decode(line["kv"]["key"]) == ODD
    assert "key_utf8" not in line["kv"]
    assert "value_utf8" not in line["kv"]
    async with open_cli("watch", ODD, f"--rev={revision}", "--json", *where) as cli:
        (event,) = await cli.objects(1)
    assert event == {"type": "PUT", "kv": line["kv"]}


async def test_the_server_is_killed_in_the_middle(etcd: Etcd) -> None:
    written: list[int] = []
    start = await etcd.revision() + 1
    watch = ["watch", "k", "--prefix", f"--rev={start}", "--json"]
    async with open_cli(*watch, "--endpoints", etcd.endpoint) as cli:
        for turn in range(3):
            written += [await etcd.put(f"k{i}", str(turn)) for i in range(5)]
            await cli.lines(len(written))
            await etcd.kill()
            await etcd.start()
        events = await cli.objects(len(written))
        await cli.end()
        assert b"WARNING" in await cli.errors()
    assert [event["kv"]["mod_revision"] for event in events] == written


async def test_every_field_is_the_librarys(any_etcd: Etcd) -> None:
    """Return the same events from the API, field by field."""
    before = await fill(any_etcd)
    lease = await any_etcd.request("/v3/lease/grant", {"TTL": 600})
    await any_etcd.request(
        "/v3/kv/put",
        {"key": "YQ==", "value": "", "lease": lease["ID"]},
    )
    watch = ["watch", "", "--prefix", f"--rev={before + 1}", "--json", "--prev-kv"]
    async with open_cli(*watch, "--endpoints", any_etcd.endpoint) as cli:
        lines = await cli.objects(6)
    async with (
        open_watcher(any_etcd.endpoint) as watcher,
        watcher.watch(
            "", prefix=True, start_revision=before + 1, prev_kv=True
        ) as watching,
    ):
        for line in lines:
            event = await anext(watching.events())
            assert EventType[line["type"]] is event.type
            assert line["kv"]["lease"] == event.kv.lease
            assert line["kv"]["mod_revision"] == event.kv.mod_revision
            assert ("prev_kv" in line) == (event.prev_kv is not None)
    assert lines[-1]["kv"]["lease"] == int(lease["ID"])


async def test_users(etcd_binaries: list[str], tmp_path: Path) -> None:
    async with open_guarded(etcd_binaries[0]) as guarded:
        await guarded.put("r", "1")
        where = ["--endpoints", guarded.etcd.endpoint]
        secret = tmp_path / "secret"
        secret.write_text(READER.password + "\n")

        async def get(*arguments: str, **env: str) -> tuple[int, bytes, bytes]:
            done = await run_cli("get", *arguments, *where, **env)
            assert READER.password.encode() not in done.stderr
            return done.returncode, done.stdout, done.stderr

        read = (0, b"r\n1\n", b"")
        name, password = READER.user, READER.password
        assert await get("r", ETCDCTL_USER=f"{name}:{password}") == read
        assert await get("r", ETCDCTL_USER=name, ETCDCTL_PASSWORD=password) == read
        assert await get("r", f"--user={name}", f"--password-file={secret}") == read
        wrong = await get("r", ETCDCTL_USER=f"{name}:no")
        assert wrong[:2] == (4, b"")
        assert b"invalid user ID or password" in wrong[2]
        assert wrong[2].count(b"\n") == 1
        denied = await get("x", ETCDCTL_USER=f"{name}:{password}")
        assert denied[:2] == (4, b"")
        assert b"permission denied" in denied[2]
        for command in ("watch", "mirror"):
            done = await run_cli(command, "r", *where, ETCDCTL_USER=f"{name}:no")
            assert (done.returncode, done.stdout) == (4, b"")


async def test_a_compacted_start(etcd_binary: str) -> None:
    async with open_etcd(binary=etcd_binary) as etcd:
        await fill(etcd)
        revision = await etcd.revision()
        await etcd.compact(revision)
        where = ["--endpoints", etcd.endpoint]
        watch = await run_cli("watch", "a", "--rev=2", *where)
        assert (watch.returncode, watch.stdout) == (3, b"")
        assert watch.stderr == (
            b"trio-etcd-watch: the required revision has been compacted; the oldest "
            b"left is %d\n" % revision
        )
        assert (await run_cli("get", "a", "--rev=2", *where)).returncode == 3
        assert (await run_cli("get", "a", "--rev=999", *where)).returncode == 3


async def test_it_says_which_endpoints_are_known(etcd_binary: str) -> None:
    async with open_cluster(2, binary=etcd_binary) as cluster:
        one, other = cluster.members
        where = [f"--endpoints={one.endpoint}", "--follow-members", "-v"]
        async with open_cli("watch", "a", *where) as cli:
            known = f"members in addition to the given endpoints: {other.endpoint}"
            await cli.until_error(known.encode())
            assert await cli.end() == -signal.SIGTERM


async def test_a_domain_without_records() -> None:
    where = ["--discovery-srv=nowhere.invalid", "-v"]
    async with open_cli("watch", "a", *where) as cli:
        await cli.until_error(b"etcd+srv://nowhere.invalid")
        assert await cli.end() == -signal.SIGTERM
