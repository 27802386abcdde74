"""One watch's place in history: its next revision, and the only rules that move it.

Sans-IO. docs/explanation/guarantees.md has all the rules, by name; their numbers here are
1 exact_start, 2 creation_moves_nothing, 3 events_move, 4 own_progress_moves and
answers_move_nothing, 5 never_backwards, 6 whole_revisions, 7 resumed_at_once,
8 progress_always, 9 unread_survives.

1. A watch from now (start_revision 0) covers exactly the revisions above the header
   of its creation. (The Go client resumes at that header, and repeats its event.)
2. Creation never moves a start that was asked for. (It did in the Go client of 2016:
   a stream that broke before the first event lost the history in between.)
3. Events move it past the last of them. The header of their response says nothing:
   a server that replays history sends its newest revision there.
4. A progress notification for this very watch moves it past its header. One that
   answers a request (watch id -1) does not: etcd before 3.4.25 and 3.5.8 sends it
   before the events that it vouches for.
5. It never falls, and events below it are not delivered again.
"""

from __future__ import annotations

from ._grpc.status import StreamLost

MAX_REVISION = 2**63 - 1
"""The last that can be asked for."""


class Cursor:
    """The revision from which a watch is to be created on its next stream.

    Attributes:
        next_revision: 0 until the creation of a watch from now is confirmed.
        told: the newest revision that the cluster has told this watch; never a start
            that the user chose. A cluster whose newest is below has lost history.
    """

    __slots__ = ("next_revision", "told")

    def __init__(self, start_revision: int) -> None:
        self.next_revision: int = start_revision
        self.told: int = 0

    def created(self, header_revision: int, *, made_up: bool = False) -> None:
        """Note that the server has confirmed the watch (rules 1 and 2).

        Args:
            header_revision: of the creation.
            made_up: whether it is not the cluster's word. etcd's grpc-proxy puts the
                start of a watch there that joins another.

        Raises:
            StreamLost: no server can have come that far.
        """
        told = self.told if made_up else max(self.told, header_revision)
        if self.next_revision == 0:
            self._advance(header_revision)
        self.told = told

    def is_new(self, mod_revision: int) -> bool:
        """Whether an event of this revision has still to be delivered (rule 5)."""
        return mod_revision >= self.next_revision

    def delivered(self, last_mod_revision: int) -> None:
        """Note that whole revisions up to this one are delivered (rule 3).

        Raises:
            StreamLost: no server can have come that far.
        """
        self._advance(last_mod_revision)

    def progressed(self, header_revision: int) -> None:
        """Note a progress notification for this very watch (rule 4).

        Raises:
            StreamLost: no server can have come that far.
        """
        self._advance(header_revision)

    def _advance(self, revision: int) -> None:
        if revision >= MAX_REVISION:
            raise StreamLost(f"revision {revision} is nonsense")
        self.next_revision = max(self.next_revision, revision + 1)
        self.told = max(self.told, revision)
