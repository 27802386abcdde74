"""The judge finds each kind of violation in the changed report of a quiet run.

`make validate` builds the judge from Go; without it these tests are skipped.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio

from tests.chaos.reports import ClientReport, value_or_hash, write_clients
from tests.chaos.trial import KEYS, Options
from tests.chaos.validate import JUDGE, OLDEST, judge, run
from trio_etcd_watch.testing._program import inspect_program

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(not JUDGE.exists(), reason="make validate builds the judge"),
]

Watch: TypeAlias = dict[str, Any]
Case: TypeAlias = tuple[Path, list[ClientReport]]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A report that is not changed."""
    folder = tmp_path_factory.mktemp("report")
    quiet = Options(seed=3, seconds=4.0, size=1, quiet=True)
    outcome = trio.run(run, quiet, folder)
    assert outcome.hanging == []
    clients = [
        ClientReport(_load(each / "operations.json"), _load(each / "watch.json"))
        for each in sorted(folder.glob("client-*"), key=_number)
    ]
    return folder, clients


def _number(path: Path) -> int:
    return int(path.name.removeprefix("client-"))


def _load(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Ways to change a watch. Each returns whether it can be applied to this watch.


def places(watch: Watch, least: int = 1) -> Iterator[int]:
    """Yield responses with this many events, if other events follow."""
    full = [i for i, each in enumerate(watch["Responses"]) if each["Events"]]
    for i in full[1:-1]:
        if len(watch["Responses"][i]["Events"]) >= least:
            yield i


def lose_event(watch: Watch) -> bool:
    for i in places(watch):
        del watch["Responses"][i]
        return True
    return False


def lose_first_event(watch: Watch) -> bool:
    """Lose it from a watch that requested a start revision."""
    responses = watch["Responses"]
    full = [i for i, each in enumerate(responses) if each["Events"]]
    if not watch["Request"]["Revision"] or len(full) < 2:
        return False
    del responses[full[0]]
    return True


def lose_part_of_transaction(watch: Watch) -> bool:
    for i in places(watch):
        events = watch["Responses"][i]["Events"]
        if len(events) > 1 and events[0]["Revision"] == events[1]["Revision"]:
            del events[1]
            return True
    return False


def lose_last_event(watch: Watch) -> bool:
    """Only the bookmark at the end shows this, as it skips that event."""
    responses = watch["Responses"]
    for i in reversed(range(len(responses))):
        if responses[i]["Events"]:
            del responses[i]
            return any(each["Events"] for each in responses)
    return False


def repeat_event(watch: Watch) -> bool:
    for i in places(watch):
        response = watch["Responses"][i]
        # If several revisions were repeated, their order would be violated first.
        if response["Events"][0]["Revision"] == response["Events"][-1]["Revision"]:
            watch["Responses"].insert(i, copy.deepcopy(response))
            return True
    return False


def reorder_events(watch: Watch) -> bool:
    responses = watch["Responses"]
    for i in places(watch):
        if responses[i + 1]["Events"]:
            responses[i], responses[i + 1] = responses[i + 1], responses[i]
            return True
    return False


def split_transaction(watch: Watch) -> bool:
    for i in places(watch, 2):
        first = watch["Responses"][i]
        events = first["Events"]
        if events[-2]["Revision"] == events[-1]["Revision"]:
            watch["Responses"].insert(i + 1, first | {"Events": [events.pop()]})
            return True
    return False


def bookmark_ahead(watch: Watch) -> bool:
    """Add a progress answer that has overtaken events that it covers."""
    for i in places(watch):
        revision = watch["Responses"][i]["Events"][0]["Revision"]
        progress = {"Events": [], "IsProgressNotify": True, "Revision": revision}
        watch["Responses"].insert(i, progress)
        return True
    return False


def bookmark_behind(watch: Watch) -> bool:
    for i in places(watch):
        revision = watch["Responses"][i]["Events"][-1]["Revision"] - 1
        progress = {"Events": [], "IsProgressNotify": True, "Revision": revision}
        watch["Responses"].insert(i + 1, progress)
        return True
    return False


def change_event(change: Callable[[dict[str, Any]], bool]) -> Callable[[Watch], bool]:
    def spoil(watch: Watch) -> bool:
        return any(
            change(event)
            for i in places(watch)
            for event in watch["Responses"][i]["Events"]
        )

    return spoil


@change_event
def wrong_prev_value(event: dict[str, Any]) -> bool:
    if "PrevValue" in event:
        event["PrevValue"]["Value"] = value_or_hash(b"another")
        return True
    return False


@change_event
def wrong_prev_version(event: dict[str, Any]) -> bool:
    if "PrevValue" in event:
        event["PrevValue"]["Version"] += 1
        return True
    return False


@change_event
def wrong_is_create(event: dict[str, Any]) -> bool:
    event["IsCreate"] = not event["IsCreate"]
    return True


@change_event
def wrong_value(event: dict[str, Any]) -> bool:
    if event["Type"] == "put-operation":
        event["Value"] = value_or_hash(b"another")
        return True
    return False


@change_event
def delete_instead_of_put(event: dict[str, Any]) -> bool:
    if event["Type"] == "put-operation" and not event["IsCreate"]:
        event["Type"], event["Value"] = "delete-operation", {}
        return True
    return False


@change_event
def event_of_another_revision(event: dict[str, Any]) -> bool:
    if event["Type"] == "put-operation" and not event["IsCreate"]:
        event["Revision"] += 1
        return True
    return False


def event_of_another_key(watch: Watch) -> bool:
    for i in places(watch):
        if watch["Request"]["Key"]:
            watch["Responses"][i]["Events"][0]["Key"] = "/elsewhere"
            return True
    return False


SPOILED_WATCHES: dict[str, tuple[Callable[[Watch], bool], str]] = {
    "lost event": (lose_event, "Reliable"),
    "lost first event": (lose_first_event, "Resumable"),
    "lost last event": (lose_last_event, "Reliable"),
    "lost part of a transaction": (lose_part_of_transaction, "Reliable"),
    "repeated event": (repeat_event, "Unique"),
    "reordered events": (reorder_events, "Ordered"),
    "split transaction": (split_transaction, "Atomic"),
    "bookmark ahead": (bookmark_ahead, "Bookmarkable"),
    "bookmark behind": (bookmark_behind, "Bookmarkable"),
    "wrong prev_kv": (wrong_prev_value, "prevValue"),
    "wrong version in prev_kv": (wrong_prev_version, "prevValue"),
    "wrong is_create": (wrong_is_create, "IsCreate"),
    "another key": (event_of_another_key, "watch filter"),
    "wrong value": (wrong_value, "Reliable"),
    "DELETE instead of PUT": (delete_instead_of_put, "Reliable"),
    "wrong revision": (event_of_another_revision, "broke"),
}
"""Each change, and the guarantee that the judge must then find violated."""


# Ways to change what the writers recorded.


def wrong_revision(operation: dict[str, Any]) -> bool:
    if operation["Input"]["Type"] != "txn":
        return False
    operation["Output"]["Revision"] += 1
    return True


def wrong_old_read(operation: dict[str, Any]) -> bool:
    kvs = operation["Output"].get("Range", {}).get("KVs")
    if not kvs or not operation["Input"]["Range"]["Revision"]:
        return False
    kvs[0]["Version"] += 1
    return True


SPOILED_OPERATIONS: dict[str, tuple[Callable[[dict[str, Any]], bool], str]] = {
    "wrong revision": (wrong_revision, "linearization: Failure"),
    "wrong old read": (wrong_old_read, "serializable: Failure"),
}


def test_honest(honest: Case) -> None:
    folder, clients = honest
    write_clients(folder, clients)
    holds, said = judge(folder)
    assert holds, said


@pytest.mark.parametrize("name", SPOILED_WATCHES)
def test_spoiled_watch(honest: Case, name: str) -> None:
    folder, clients = honest
    spoil, guarantee = SPOILED_WATCHES[name]
    spoiled = copy.deepcopy(clients)
    assert any(spoil(watch) for client in spoiled for watch in client.watches)
    write_clients(folder, spoiled)
    holds, said = judge(folder)
    assert not holds
    assert guarantee in said.partition("watch: ")[2]


@pytest.mark.parametrize("name", SPOILED_OPERATIONS)
def test_spoiled_operation(honest: Case, name: str) -> None:
    folder, clients = honest
    spoil, verdict = SPOILED_OPERATIONS[name]
    spoiled = copy.deepcopy(clients)
    assert any(spoil(each) for client in spoiled for each in client.operations)
    write_clients(folder, spoiled)
    holds, said = judge(folder)
    assert not holds
    assert verdict in said


def test_lost_transactions(honest: Case) -> None:
    """Failed transactions that were not applied take no time, however many."""
    folder, clients = honest
    swollen = copy.deepcopy(clients)
    operations = [each for client in swollen for each in client.operations]
    stream_id = max(each["ClientId"] for each in operations)
    template = next(each for each in operations if each["Input"]["Type"] == "txn")
    for number in range(40):
        lost = copy.deepcopy(template)
        put = {"Key": KEYS[0], "Value": value_or_hash(b"lost %d" % number)}
        lost["Input"]["Txn"]["OperationsOnSuccess"] = [
            {"Type": "put-operation", "Put": put},
            {"Type": "delete-operation", "Delete": {"Key": KEYS[1]}},
        ]
        lost |= {"ClientId": stream_id + 1 + number, "Output": {"Error": "no answer"}}
        swollen[0].operations.append(lost)
    write_clients(folder, swollen)
    holds, said = judge(folder)
    assert holds, said


async def test_chaos(etcd_binaries: list[str], tmp_path: Path) -> None:
    """A short run of `make validate` on each server that loses nothing by itself."""
    new = [path for path in etcd_binaries if inspect_program(path).version >= OLDEST]
    for number, binary in enumerate(new):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome = await run(Options(seconds=8.0, binary=binary), folder)
        assert outcome.hanging == []
        holds, said = await trio.to_thread.run_sync(judge, folder)
        assert holds, said
