"""Decides which endpoint is tried next: given ones, targets of SRV records, or members.

Sans-IO. Each has one turn in a round; after a failure the next has its turn. The turn
of a name goes to the endpoints that it resolves to at that time.

1. Given endpoints are never forgotten.
2. Members that join have their turn in the same round; removed members have none.
3. Once members are known, endpoints that failed at their last try come last: when a
   cluster has moved, the given endpoints may be dead for good.
4. Before these, but after all others, come members that were never tried: their
   addresses may be reachable only from inside the cluster's network, and from outside
   each try would take its whole timeout. So an endpoint that is lost after it has
   served gets an extra turn before them, but only a few times in a row if it is lost
   again and again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias, final

from ._endpoints import Endpoint, SrvName

Source: TypeAlias = Literal["given", "srv", "member"]

BRIEF = 3.0
"""Seconds. An endpoint that served no longer than this gets no extra turn."""

LASTING = 60.0
"""Seconds. An endpoint that served longer than this counts as stable."""

MAX_RETURNS = 3
"""How many extra turns in a row an unstable endpoint gets."""


@final
class Rotation:
    """The endpoints of one watcher.

    Args:
        given: the given endpoints, shuffled, so that clients spread over the members.
    """

    def __init__(self, given: Sequence[Endpoint | SrvName]) -> None:
        self._given = tuple(given)
        self._targets: dict[SrvName, tuple[Endpoint, ...]] = {}
        self._members: tuple[Endpoint, ...] = ()
        self._waiting: deque[Endpoint | SrvName] = deque()
        # For endpoints that were tried: whether the last try worked.
        self._worked: dict[Endpoint, bool] = {}
        # The last endpoint that worked, and how many extra turns in a row it has had.
        self._last: Endpoint | None = None
        self._returns = 0

    def take(self) -> Endpoint | SrvName:
        """Return the endpoint or name whose turn it is.

        A name has to be looked up: then call `expand()`, and `take()` again.
        """
        if not self._waiting:
            self._wait([*self._given, *self._members])
        return self._waiting.popleft()

    def expand(self, name: SrvName, targets: Sequence[Endpoint]) -> None:
        """Set the targets of a name, at least one; their turns come next."""
        self._targets[name] = tuple(targets)
        self._waiting.extendleft(reversed(targets))
        self._prune()

    def expand_as_before(self, name: SrvName) -> None:
        """Give the next turns to a name's last targets, as its new ones are unknown."""
        self._waiting.extendleft(reversed(self._targets.get(name, ())))

    def forget(self, name: SrvName) -> None:
        """Remove the targets of a name."""
        self._targets.pop(name, None)
        self._prune()

    def join(self, members: Sequence[Endpoint]) -> bool:
        """Set the current members, in this order.

        Returns:
            Whether they differ from those before.
        """
        before = set(self._members)
        members = [member for member in members if member not in self._given]
        if before == set(members):
            return False
        self._members = tuple(members)
        known = dict(self.known())
        waiting = [
            turn for turn in self._waiting if turn in known or turn in self._given
        ]
        joined = [member for member in members if member not in before]
        self._wait([*waiting, *(turn for turn in joined if turn not in waiting)])
        self._prune()
        return True

    def failed(self, endpoint: Endpoint) -> None:
        """Note that an endpoint could not be reached."""
        self._worked[endpoint] = False
        self._prune()

    def worked(self, endpoint: Endpoint) -> None:
        """Note that an endpoint was reached."""
        if endpoint != self._last:
            self._last, self._returns = endpoint, 0
        self._worked[endpoint] = True
        self._prune()

    def lost(self, endpoint: Endpoint, served: float) -> None:
        """Note that an endpoint was lost after it served for this many seconds."""
        if served > LASTING:
            self._returns = 0
        if not self._members or served <= BRIEF or self._returns == MAX_RETURNS:
            return
        if (turn := self._turn_of(endpoint)) is not None:
            self._returns += 1
            others = [each for each in self._waiting if each not in (endpoint, turn)]
            self._wait([*others, turn])

    def known(self) -> Iterator[tuple[Endpoint, Source]]:
        """Yield each known endpoint once, with its source."""
        found: dict[Endpoint, Source] = {}
        for given in self._given:
            if isinstance(given, Endpoint):
                found[given] = "given"
        for targets in self._targets.values():
            for target in targets:
                found.setdefault(target, "srv")
        for member in self._members:
            found.setdefault(member, "member")
        yield from found.items()

    def source_of(self, endpoint: Endpoint) -> Source:
        """Return the source of an endpoint that has its turn."""
        # An endpoint that is not known any more was the target of a name.
        return dict(self.known()).get(endpoint, "srv")

    def _turn_of(self, endpoint: Endpoint) -> Endpoint | SrvName | None:
        """Return whose turn leads to an endpoint: its own, a name's, or None."""
        source = dict(self.known()).get(endpoint)
        if source != "srv":
            return endpoint if source else None
        return next(name for name, found in self._targets.items() if endpoint in found)

    def _wait(self, turns: list[Endpoint | SrvName]) -> None:
        """Queue these turns in this order, except that doubtful ones come later."""
        if self._members:
            sources = dict(self.known())
            turns = sorted(turns, key=lambda turn: self._doubt(turn, sources))
        self._waiting = deque(turns)

    def _doubt(
        self, turn: Endpoint | SrvName, sources: Mapping[Endpoint, Source]
    ) -> int:
        if isinstance(turn, SrvName):
            targets = self._targets.get(turn, ())
            failed = [self._worked.get(target) is False for target in targets]
            return 2 if failed and all(failed) else 0
        if turn in self._worked:
            return 0 if self._worked[turn] else 2
        return int(sources.get(turn) == "member")

    def _prune(self) -> None:
        known = {endpoint for endpoint, _ in self.known()}
        self._worked = {e: worked for e, worked in self._worked.items() if e in known}
