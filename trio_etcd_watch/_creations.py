"""The creations of one stream whose replies are awaited: replies_matched.

Sans-IO. Replies to creations carry nothing that names their request, but come in its
order. So every creation sent waits in a queue, also one that nobody wants any more: its
reply must still be met, and its watch id canceled. Ids are given in that order too.
Where they show that replies are not (etcd's grpc-proxy), a new stream is needed, and
from then on each creation waits for the reply to the one before.
"""

from __future__ import annotations

from collections import deque

from ._grpc.status import StreamLost
from ._subscription import State, Subscription


class Creations:
    """The queue. Unless pipelined, only the first in it has been sent.

    Attributes:
        pipelined: whether creations are sent without waiting for each other.
        answered: how many replies have come on all streams so far.
        abandoned: how many in the queue nobody wants any more.
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
        """Forget all: the stream is gone."""
        self._queue.clear()
        self.abandoned = 0
        self._next_watch_id = 0

    def add(self, subscription: Subscription) -> bool:
        """Let it wait for its reply; return whether it is to be sent now."""
        self._queue.append(subscription)
        return self.pipelined or len(self._queue) == 1

    def sent(self, unsent: int) -> list[Subscription]:
        """Return those that the server has to answer, and somebody still wants.

        Args:
            unsent: how many requests have not been given out, which are the last ones.
        """
        queue = list(self._queue) if self.pipelined else list(self._queue)[:1]
        given_out = queue[: len(queue) - unsent]
        return [each for each in given_out if each.state is State.CREATING]

    def reply(self) -> Subscription | None:
        """Take the one that a reply is for; None if there is none."""
        if not self._queue:
            return None
        self.answered += 1
        return self._pop()

    def next_to_send(self) -> Subscription | None:
        """Return whose turn it is after a reply, where they are not pipelined."""
        if self.pipelined:
            return None
        # Of those that were left meanwhile the server has never heard.
        while self._queue and self._queue[0].state is not State.CREATING:
            self._pop()
        return self._queue[0] if self._queue else None

    def _pop(self) -> Subscription:
        subscription = self._queue.popleft()
        if subscription.state is not State.CREATING:
            self.abandoned -= 1
        return subscription

    def check_order(self, watch_id: int) -> None:
        """Check that ids are given in the order of the requests.

        Raises:
            StreamLost: they are not. It cannot be known whose replies are whose.
        """
        expected, self._next_watch_id = self._next_watch_id, watch_id + 1
        # The only reply that was awaited is the right one, whatever its id.
        if self.pipelined and self._queue and watch_id != expected:
            self.pipelined = False
            raise StreamLost("the server answers creations out of order")
