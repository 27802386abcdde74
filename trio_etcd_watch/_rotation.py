"""Whose turn it is: endpoints that were given, targets of SRV records, members.

Sans-IO. A round gives each its turn once; a failure leads to the next. A name's turn is
taken by the endpoints that it stands for just then.

1. What was given is never forgotten.
2. Members that join have their turn in this round; those that are gone have none.
3. Once members are known, those come last that have failed of late: when a cluster has
   moved, what was given may be dead for good.
4. Before them, but behind all others, come members that were never tried: their addresses
   may be reached from inside alone, and each try would cost its timeout. So an endpoint
   that is lost after it has served has another turn before them, but not again and again:
   one that comes and goes leads to the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias, final

from ._endpoints import Endpoint, SrvName

Source: TypeAlias = Literal["given", "srv", "member"]

BRIEF = 3.0
"""Seconds: an endpoint that served no longer has no other turn."""

LASTING = 60.0
"""Seconds: one that served longer does not come and go."""

MAX_RETURNS = 3
"""Other turns in a row of one that never lasts."""


@final
class Rotation:
    """The endpoints of one watcher.

    Args:
        given: shuffled, so that clients spread over the members.
    """

    def __init__(self, given: Sequence[Endpoint | SrvName]) -> None:
        self._given = tuple(given)
        self._targets: dict[SrvName, tuple[Endpoint, ...]] = {}
        self._members: tuple[Endpoint, ...] = ()
        self._waiting: deque[Endpoint | SrvName] = deque()
        # Of those that were tried: whether it worked the last time.
        self._worked: dict[Endpoint, bool] = {}
        # The last that worked, and how often in a row it has had another turn.
        self._last: Endpoint | None = None
        self._returns = 0

    def take(self) -> Endpoint | SrvName:
        """Return whose turn it is.

        A name has to be looked up: then call `expand()`, and again `take()`.
        """
        if not self._waiting:
            self._wait([*self._given, *self._members])
        return self._waiting.popleft()

    def expand(self, name: SrvName, targets: Sequence[Endpoint]) -> None:
        """Let a name stand for these, at least one, whose turns come next."""
        self._targets[name] = tuple(targets)
        self._waiting.extendleft(reversed(targets))
        self._prune()

    def expand_as_before(self, name: SrvName) -> None:
        """Let those have their turns for whom a name stood last: it is not known now."""
        self._waiting.extendleft(reversed(self._targets.get(name, ())))

    def forget(self, name: SrvName) -> None:
        """Let a name stand for nothing."""
        self._targets.pop(name, None)
        self._prune()

    def join(self, members: Sequence[Endpoint]) -> bool:
        """Take these, in this order, for the members that are there.

        Returns:
            Whether they are others than before.
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
        """Note that it could not be reached."""
        self._worked[endpoint] = False
        self._prune()

    def worked(self, endpoint: Endpoint) -> None:
        """Note that it was reached."""
        if endpoint != self._last:
            self._last, self._returns = endpoint, 0
        self._worked[endpoint] = True
        self._prune()

    def lost(self, endpoint: Endpoint, served: float) -> None:
        """Note that it was lost, after it has served for so many seconds."""
        if served > LASTING:
            self._returns = 0
        if not self._members or served <= BRIEF or self._returns == MAX_RETURNS:
            return
        if (turn := self._turn_of(endpoint)) is not None:
            self._returns += 1
            others = [each for each in self._waiting if each not in (endpoint, turn)]
            self._wait([*others, turn])

    def known(self) -> Iterator[tuple[Endpoint, Source]]:
        """Yield the endpoints that are known, each once, and where from."""
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
        """Say where one is from that has its turn."""
        # What is not known any more was a name's.
        return dict(self.known()).get(endpoint, "srv")

    def _turn_of(self, endpoint: Endpoint) -> Endpoint | SrvName | None:
        """Return in whose turn it is tried: a name's may lead elsewhere by now."""
        source = dict(self.known()).get(endpoint)
        if source != "srv":
            return endpoint if source else None
        return next(name for name, found in self._targets.items() if endpoint in found)

    def _wait(self, turns: list[Endpoint | SrvName]) -> None:
        """Let these have their turns, in this order but for those that are in doubt."""
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
