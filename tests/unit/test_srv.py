"""SRV records: their order, and which of them are used."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_etcd_watch._endpoints import Endpoint, SrvName, is_host_name
from trio_etcd_watch._grpc.status import StreamLost
from trio_etcd_watch._srv import NoRecords, Record, in_order, usable_targets

DRAWS = 10_000
NAME = SrvName("example.com")


def record(
    target: str = "m.example.com", *, priority: int = 0, weight: int = 0, port: int = 1
) -> Record:
    return Record(priority, weight, port, target)


def assert_within_3_sigma(count: int, chance: float, draws: int = DRAWS) -> None:
    sigma = math.sqrt(draws * chance * (1 - chance))
    assert abs(count - draws * chance) <= 3 * sigma


def test_weights_over_many_draws() -> None:
    draw = random.Random(7)
    weights = {"a": 1, "b": 2, "c": 3, "d": 60, "e": 34}
    records = [record(target, weight=weight) for target, weight in weights.items()]
    orders = [
        [each.target for each in in_order(records, draw.random)] for _ in range(DRAWS)
    ]
    firsts = Counter(order[0] for order in orders)
    for target, weight in weights.items():
        assert_within_3_sigma(firsts[target], weight / 100)
    # The second is drawn among the remaining ones, by their weights.
    seconds = Counter(order[1] for order in orders if order[0] == "d")
    for target in "abce":
        assert_within_3_sigma(seconds[target], weights[target] / 40, firsts["d"])


def test_equal_weights_over_many_draws() -> None:
    draw = random.Random(7)
    for weight in (0, 5):
        records = [record(target, weight=weight) for target in "abcd"]
        firsts = Counter(in_order(records, draw.random)[0].target for _ in range(DRAWS))
        for target in "abcd":
            assert_within_3_sigma(firsts[target], 1 / 4)


def test_weight_zero_beside_others_has_a_very_small_chance() -> None:
    draw = random.Random(7)
    records = [record("zero"), record("one", weight=1), record("two", weight=2)]
    firsts = Counter(in_order(records, draw.random)[0].target for _ in range(DRAWS))
    assert 0 < firsts["zero"] < DRAWS / 200


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 65_535)), max_size=20),
    st.floats(0, 1, exclude_max=True),
)
def test_each_has_one_turn_and_lower_priorities_come_first(
    pairs: list[tuple[int, int]], number: float
) -> None:
    records = [
        record(str(i), priority=priority, weight=weight)
        for i, (priority, weight) in enumerate(pairs)
    ]
    ordered = in_order(records, lambda: number)
    priorities = [each.priority for each in ordered]
    assert priorities == sorted(priorities)
    assert sorted(ordered, key=lambda each: int(each.target)) == records


def test_numbers_at_either_end() -> None:
    records = [record("a", weight=1), record("b", weight=1)]
    assert [r.target for r in in_order(records, lambda: 0.0)] == ["a", "b"]
    almost_one = math.nextafter(1.0, 0.0)
    assert [r.target for r in in_order(records, lambda: almost_one)] == ["b", "a"]


def test_half_of_the_numbers_draws_each_of_two() -> None:
    records = [record("a", weight=1), record("b", weight=1)]
    below = math.nextafter(0.5, 0.0)
    assert [r.target for r in in_order(records, lambda: below)] == ["a", "b"]
    assert [r.target for r in in_order(records, lambda: 0.5)] == ["b", "a"]


def test_a_number_that_rounding_puts_at_the_end_draws_the_last() -> None:
    almost_one = math.nextafter(1.0, 0.0)
    # The steps are those of the draw, at the weight that records of weight 0 have: other
    # steps may round in another way, and then this number does not lead to the end.
    weight = 0.001
    remaining = almost_one * sum([weight] * 9)
    for _ in range(9):
        remaining -= weight
    assert remaining == 0
    records = [record(name) for name in "abcdefghi"]
    ordered = in_order(records, lambda: almost_one)
    assert "".join(each.target for each in ordered) == "ihgfedcba"


def usable(
    *records: Record, name: SrvName = NAME, tls: bool = True, trusts: bool = False
) -> list[Endpoint]:
    return usable_targets(name, records, tls=tls, trusts=trusts)[0]


def test_a_certificate_has_to_name_the_domain() -> None:
    [endpoint] = usable(record("m0.example.com", port=2379))
    assert endpoint == Endpoint("m0.example.com", 2379, "", True, "example.com")
    [endpoint] = usable(record(), name=SrvName("example.com", server_name="x.org"))
    assert endpoint.server_name == "x.org"
    [endpoint] = usable(record(), tls=False)
    assert (endpoint.tls, endpoint.server_name) == (False, "")


INSIDE = ["example.com", "a.example.com", "a.b.example.com"]
OUTSIDE = [
    "evil.org",
    "example.com.evil.org",
    "badexample.com",
    "example.org",
    "com",
]


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("target", [*INSIDE, *OUTSIDE])
def test_a_target_outside_the_domain(target: str, tls: bool) -> None:
    forged = record(target)
    if target in INSIDE:
        assert len(usable(forged, tls=tls)) == 1
        return
    with pytest.raises(StreamLost, match=f"{target} is outside example.com") as info:
        usable(forged, tls=tls)
    assert not isinstance(info.value, NoRecords)
    good = record()
    endpoints, left_out = usable_targets(NAME, [forged, good], tls=tls, trusts=False)
    assert [endpoint.host for endpoint in endpoints] == [good.target]
    assert len(left_out) == 1
    # The user says which name to trust.
    named = SrvName("example.com", server_name="etcd.example.org")
    assert len(usable(forged, name=named, tls=tls)) == 1
    assert len(usable(forged, trusts=True, tls=tls)) == 1


@pytest.mark.parametrize("target", ["127.0.0.1", "0x7f000001", "a\\032b", "-a", "a..b"])
def test_targets_that_are_no_hosts(target: str) -> None:
    with pytest.raises(StreamLost, match="is no host"):
        usable(record(target), trusts=True)


def test_the_longest_name_of_a_host() -> None:
    assert is_host_name("a." * 126 + "a")
    assert not is_host_name("a." * 126 + "aa")


def test_a_target_without_a_port() -> None:
    with pytest.raises(StreamLost, match="has port 0"):
        usable(record(port=0))


def test_the_root_says_that_there_is_none() -> None:
    with pytest.raises(NoRecords, match="no such service"):
        usable(record(""))
    # RFC 2782: it has a meaning only on its own; beside others it is not a host.
    assert len(usable(record(""), record())) == 1


def test_a_denial_says_for_how_long_it_holds() -> None:
    denial = NoRecords("there are none", 7.5)
    assert (str(denial), denial.ttl) == ("there are none", 7.5)
    assert NoRecords("there are none").ttl == 0


@pytest.mark.parametrize(
    ("flawed", "reason"),
    [
        (record("-a"), "target '-a' is no host"),
        (record("m", port=0), "target m has port 0"),
        (
            record("m.evil.org"),
            (
                "target m.evil.org is outside example.com, and may be forged "
                "(an ssl_context with its CA, or ?server_name=, allows it)"
            ),
        ),
    ],
)
def test_why_a_record_is_left_out(flawed: Record, reason: str) -> None:
    endpoints, left_out = usable_targets(
        NAME, [flawed, record()], tls=True, trusts=False
    )
    assert [endpoint.host for endpoint in endpoints] == [record().target]
    assert left_out == [reason]


def test_targets_are_bounded_and_each_is_there_once() -> None:
    hosts = (f"m{i}.example.com" for i in itertools.count())
    records = [record(next(hosts)) for _ in range(105)]
    endpoints, left_out = usable_targets(NAME, records, tls=True, trusts=False)
    assert len(endpoints) == 100
    assert left_out == ["5 more than 100 records"]
    assert usable_targets(NAME, records[:100], tls=True, trusts=False)[1] == []
    assert len(usable(record(weight=1), record(weight=2))) == 1


def test_names_of_the_records() -> None:
    assert NAME.query(tls=True) == "_etcd-client-ssl._tcp.example.com."
    assert NAME.query(tls=False) == "_etcd-client._tcp.example.com."
    named = SrvName("example.com", "one")
    assert named.query(tls=True) == "_etcd-client-ssl-one._tcp.example.com."
    assert named.query(tls=False) == "_etcd-client-one._tcp.example.com."
