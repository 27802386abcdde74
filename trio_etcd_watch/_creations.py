"""Assigns the replies to creations on one stream to their watches: replies_matched.

Sans-IO. A reply to a creation does not name its request, but the replies come in the
order of the requests. So every creation that was sent waits in a queue, even one whose
watch has ended: its reply must still be received, and its watch id canceled. The server
assigns ids in that order, too. If the ids show that replies come in another order (as
from etcd's grpc-proxy), a new stream is needed, and from then on each creation waits
for the reply to the one before.
"""

from __future__ import annotations

from collections import deque

from ._grpc.status import StreamLost
from ._subscription import State, Subscription


class Creations:
    """The queue of creations. Unless pipelined, only the first one has been sent.

    Attributes:
        pipelined: whether creations are sent without waiting for each other.
        answered: how many replies have come, on all streams so far.
        abandoned: how many creations in the queue are of watches that have ended.
    """

    def __init__(self) -> None:
        self.pipelined = True
        self.answered = 0
        self.abandoned = 0
        self._queue: deque[Subscription] = deque()
        self._next_watch_id = 0

    def __len__(self) -> int:
        return len(self._queue)

    def clear(self) -> None:
        """Forget all creations: the stream is lost."""
        self._queue.clear()
        self.abandoned = 0
        self._next_watch_id = 0

    def add(self, subscription: Subscription) -> bool:
        """Add a creation to the queue; return whether it is to be sent now."""
        self._queue.append(subscription)
        return self.pipelined or len(self._queue) == 1

    def sent(self, unsent: int) -> list[Subscription]:
        """Return the watches whose creations were sent, and that have not ended.

        Args:
            unsent: how many creations, the last ones, were requested but not sent.
        """
        queue = list(self._queue) if self.pipelined else list(self._queue)[:1]
        given_out = queue[: len(queue) - unsent]
        return [each for each in given_out if each.state is State.CREATING]

    def reply(self) -> Subscription | None:
        """Return the watch whose reply has come, and remove it; None if none waits."""
        if not self._queue:
            return None
        self.answered += 1
        return self._pop()

    def next_to_send(self) -> Subscription | None:
        """Return the watch to create after a reply; None if creations are pipelined."""
        if self.pipelined:
            return None
        # Those whose watches have ended meanwhile were never sent.
        while self._queue and self._queue[0].state is not State.CREATING:
            self._pop()
        return self._queue[0] if self._queue else None

    def _pop(self) -> Subscription:
        subscription = self._queue.popleft()
        if subscription.state is not State.CREATING:
            self.abandoned -= 1
        return subscription

    def check_order(self, watch_id: int) -> None:
        """Check that the server assigns ids in the order of the requests.

        Raises:
            StreamLost: it does not, so replies cannot be assigned to their watches.
        """
        expected, self._next_watch_id = self._next_watch_id, watch_id + 1
        # If no other reply is awaited, this one is the right one, whatever its id.
        if self.pipelined and self._queue and watch_id != expected:
            self.pipelined = False
            raise StreamLost("the server answers creations out of order")
