"""What a mirror refuses: bad arguments, use after its block, shared iterators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.support.helpers import LIMIT
from trio_etcd_watch import Mirror, open_watcher
from trio_etcd_watch.testing import Etcd

BAD = [
    ({"key": 1}, TypeError, "key must be str or bytes, got 1"),
    ({"key": bytearray(b"a")}, TypeError, r"key must be .* got bytearray"),
    ({"key": ""}, ValueError, "key must not be empty, got ''"),
    ({"key": "a\udc80"}, ValueError, "key cannot be encoded as UTF-8: 'a.udc80'"),
    ({"key": "a", "range_end": 1}, TypeError, "range_end must be .* got 1"),
    (
        {"key": "b", "range_end": "a"},
        ValueError,
        "range_end must be above key, got b'a'",
    ),
    (
        {"key": "a", "prefix": True, "range_end": "b"},
        ValueError,
        "prefix and range_end",
    ),
    ({"key": "a", "prefix": True, "from_key": True}, ValueError, "prefix and from_key"),
    (
        {"key": "a", "range_end": "b", "from_key": True},
        ValueError,
        "range_end and from_key",
    ),
    ({"key": "a", "metadata": 1}, TypeError, "metadata must be a mapping"),
    ({"key": "a", "metadata": {"X": "y"}}, ValueError, "metadata name must be .*'X'"),
    ({"key": "a", "what": 1}, TypeError, "what"),
]
"""Arguments of `mirror()` and `snapshot()`, and the error for each."""


@pytest.fixture
async def unreachable() -> str:
    """An endpoint where no server listens."""
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.mark.parametrize(("arguments", "kind", "words"), BAD)
async def test_bad_arguments_of_reads(
    unreachable: str, arguments: dict[str, object], kind: type[Exception], words: str
) -> None:
    async with open_watcher(unreachable) as watcher:
        with pytest.raises(kind, match=words):
            # At the call: nothing is entered.
            watcher.mirror(**arguments)  # type: ignore[call-overload]  # bad on purpose
        # Nobody answers here, so it did not ask.
        with trio.fail_after(LIMIT), pytest.raises(kind, match=words):
            await watcher.snapshot(**arguments)  # type: ignore[call-overload]  # likewise


@pytest.mark.parametrize(
    ("revision", "kind"),
    [(-1, ValueError), (2**63, ValueError), ("1", TypeError), (True, TypeError)],
)
async def test_bad_revisions_of_a_snapshot(
    unreachable: str, revision: object, kind: type[Exception]
) -> None:
    async with open_watcher(unreachable) as watcher:
        with trio.fail_after(LIMIT), pytest.raises(kind) as caught:
            await watcher.snapshot("a", revision=revision)  # type: ignore[call-overload]  # bad
    assert "revision must be" in str(caught.value)
    assert f"got {revision!r}" in str(caught.value)


async def test_bad_arguments_of_a_mirrors_methods(etcd: Etcd) -> None:
    await etcd.put("a", "1")
    async with open_watcher(etcd.endpoint) as watcher:
        with trio.fail_after(LIMIT):
            async with watcher.mirror("a") as mirror:
                for mapping in (mirror, mirror.prefix("a"), mirror.copy()):
                    keys: list[object] = [1, None, bytearray(b"a")]
                    for key in keys:
                        words = "key must be str or bytes, got"
                        with pytest.raises(TypeError, match=words):
                            mapping[key]  # type: ignore[index]  # bad on purpose
                        with pytest.raises(TypeError, match=words):
                            mapping.get(key)  # type: ignore[call-overload]  # likewise
                        # As for any mapping, what cannot be a key is not in it.
                        assert key not in mapping
                    with pytest.raises(KeyError, match="absent"):
                        mapping["absent"]
                with pytest.raises(TypeError, match="key must be str or bytes, got 1"):
                    mirror.prefix(1)  # type: ignore[arg-type]  # bad on purpose
                with pytest.raises(
                    TypeError, match="predicate must be callable, got 1"
                ):
                    await mirror.wait_for(1)  # type: ignore[arg-type]  # likewise
                # The mirror is not affected.
                await etcd.put("a", "2")
                await mirror.wait_for(lambda m: m["a"].value == b"2")


async def test_every_use_after_its_block_is_told(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        with trio.fail_after(LIMIT):
            async with watcher.mirror("a") as mirror:
                view, changes = mirror.prefix("a"), mirror.changes()
                await etcd.put("a", "1")
                await mirror.wait_for(len)
                kept = mirror.copy()
        uses: list[Callable[[], object]] = [
            lambda: mirror.revision,
            lambda: mirror.prefix("a")["a"],
            mirror.copy,
            mirror.changes,
            mirror.statistics,
        ]
        for mapping in (mirror, view):
            uses += [
                lambda m=mapping: m["a"],  # type: ignore[misc]  # bound early
                lambda m=mapping: m.get("a"),  # type: ignore[misc]  # likewise
                lambda m=mapping: "a" in m,  # type: ignore[misc]  # likewise
                lambda m=mapping: list(m),  # type: ignore[misc]  # likewise
                lambda m=mapping: len(m),  # type: ignore[misc]  # likewise
                lambda m=mapping: list(m.items()),  # type: ignore[misc]  # likewise
                lambda m=mapping: dict(m),  # type: ignore[misc]  # likewise
                lambda m=mapping: m == {},  # type: ignore[misc]  # likewise
            ]
        for number, use in enumerate(uses):
            with pytest.raises(trio.ClosedResourceError, match="is closed"):
                pytest.fail(f"use {number} gave {use()!r}")
        waits: list[Callable[[], Awaitable[object]]] = [
            mirror.sync,
            mirror.verify,
            lambda: mirror.wait_for(lambda _: True),
            changes.__anext__,
        ]
        for wait in waits:
            with pytest.raises(trio.ClosedResourceError, match="is closed"):
                await wait()
        # A copy is a value, and does not change.
        assert kept["a"].value == b"1"


async def test_two_tasks_on_one_iterator(etcd: Etcd) -> None:
    async with open_watcher(etcd.endpoint) as watcher:
        with trio.fail_after(LIMIT):
            async with watcher.mirror("a") as mirror, trio.open_nursery() as nursery:
                changes, other = mirror.changes(), mirror.changes()
                await anext(changes)
                changed: list[bytes] = []
                iterated = trio.Event()

                async def iterate() -> None:
                    changed.extend(each.key for each in (await anext(changes)).changes)
                    iterated.set()

                nursery.start_soon(iterate)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await anext(changes)
                # Another iterator can be used by another task.
                await anext(other)
                await etcd.put("a", "1")
                await iterated.wait()
                assert changed == [b"a"]
                # Once the first task is done, any other may iterate.
                await etcd.put("a", "2")
                assert len((await anext(changes)).changes) == 1


@pytest.mark.parametrize("asked", [1, 2])
async def test_a_predicate_that_raises(etcd: Etcd, asked: int) -> None:
    calls = 0

    def predicate(mirror: Mirror) -> bool:
        nonlocal calls
        calls += 1
        if calls == asked:
            raise LookupError("mine")
        return False

    async with open_watcher(etcd.endpoint) as watcher:
        with trio.fail_after(LIMIT):
            async with watcher.mirror("a") as mirror, trio.open_nursery() as nursery:
                changes = mirror.changes(initial=False)
                raised = trio.Event()

                async def ask() -> None:
                    with pytest.raises(LookupError, match="mine"):
                        await mirror.wait_for(predicate)
                    raised.set()

                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                await etcd.put("a", "1")
                await raised.wait()
                # The mirror continues, and so do its other users.
                assert len((await anext(changes)).changes) == 1
                await etcd.put("a", "2")
                await mirror.sync()
                assert mirror["a"].value == b"2"
                assert calls == asked
