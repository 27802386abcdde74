"""Whose turn it is: endpoints that were given, targets of SRV records, members.

Sans-IO. A round gives each its turn once; a failure leads to the next. A name's turn is
taken by the endpoints that it stands for just then.

1. What was given is never forgotten.
2. Members that join have their turn in this round; those that are gone have none.
3. Once members are known, a round begins with those that have not failed of late: when a
   cluster has moved, what was given may be dead for good.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias, final

from ._endpoints import Endpoint, SrvName

Source: TypeAlias = Literal["given", "srv", "member"]


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
        self._failed: set[Endpoint] = set()

    def take(self) -> Endpoint | SrvName:
        """Return whose turn it is.

        A name has to be looked up: then call `expand()`, and again `take()`.
        """
        if not self._waiting:
            turns = [*self._given, *self._members]
            if self._members:
                turns.sort(key=self._has_failed)
            self._waiting.extend(turns)
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
        gone = before - set(members)
        waiting = [turn for turn in self._waiting if turn not in gone]
        waiting += [member for member in members if member not in before]
        self._waiting = deque(waiting)
        self._members = tuple(members)
        self._prune()
        return True

    def failed(self, endpoint: Endpoint) -> None:
        """Note that it could not be reached."""
        self._failed.add(endpoint)
        self._prune()

    def worked(self, endpoint: Endpoint) -> None:
        """Note that it was reached."""
        self._failed.discard(endpoint)

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

    def _has_failed(self, turn: Endpoint | SrvName) -> bool:
        if isinstance(turn, Endpoint):
            return turn in self._failed
        targets = self._targets.get(turn, ())
        return bool(targets) and self._failed.issuperset(targets)

    def _prune(self) -> None:
        self._failed.intersection_update(endpoint for endpoint, _ in self.known())
