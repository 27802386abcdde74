"""The resume point of one watch, and the only rules that move it.

Sans-IO. The resume point is the revision from which the watch is created on its next
stream. These are the rules, by their names in docs/explanation/guarantees.md:

exact_start
    A watch from now (start_revision 0) covers exactly the revisions above the header
    of its creation. (Go's client resumes at that header, and repeats its event.)
creation_moves_nothing
    Creation never moves a start that was asked for. (It did in Go's client of 2016: a
    stream that broke before the first event lost the history in between.)
events_move
    Events move the resume point past the last of them. The header of their response does
    not: a server that replays history sends its newest revision there.
own_progress_moves, answers_move_nothing
    A progress notification for this very watch moves the resume point past its header.
    The answer to a progress request (watch id -1) does not: etcd before 3.4.25 and 3.5.8
    sends it before the events that it covers.
never_backwards
    The resume point never falls, and events below it are not delivered again.
reported_by_the_cluster_only
    Only what the cluster itself reports counts, and never a start that the user
    chose or a header that a proxy made up.
"""

from __future__ import annotations

from ._grpc.status import StreamLost

MAX_REVISION = 2**63 - 1
"""The highest revision that can be requested."""


class Cursor:
    """The revision from which a watch is to be created on its next stream.

    Attributes:
        next_revision: the resume point; 0 until a watch from now is confirmed.
        reported: the newest revision that the cluster has reported to this watch; never
            a start that the user chose. A cluster whose newest revision is lower has
            lost history.
    """

    __slots__ = ("next_revision", "reported")

    def __init__(self, start_revision: int) -> None:
        self.next_revision: int = start_revision
        self.reported: int = 0

    def created(self, header_revision: int, *, made_up: bool = False) -> None:
        """Note that the server has confirmed the watch: exact_start.

        Args:
            header_revision: the revision in the header of the creation.
            made_up: whether that is not the cluster's revision. For a watch that joins
                another one, etcd's grpc-proxy puts the start of the watch there.

        Raises:
            StreamLost: no server can have reached that revision.
        """
        reported = self.reported if made_up else max(self.reported, header_revision)
        if self.next_revision == 0:
            self._advance(header_revision)
        self.reported = reported

    def is_new(self, mod_revision: int) -> bool:
        """Whether an event of this revision is not delivered yet: never_backwards."""
        return mod_revision >= self.next_revision

    def delivered(self, last_mod_revision: int) -> None:
        """Note that whole revisions up to this one are delivered: events_move.

        Raises:
            StreamLost: no server can have reached that revision.
        """
        self._advance(last_mod_revision)

    def progressed(self, header_revision: int) -> None:
        """Note a progress notification for this very watch: own_progress_moves.

        Raises:
            StreamLost: no server can have reached that revision.
        """
        self._advance(header_revision)

    def _advance(self, revision: int) -> None:
        if revision >= MAX_REVISION:
            raise StreamLost(f"revision {revision} is nonsense")
        self.next_revision = max(self.next_revision, revision + 1)
        self.reported = max(self.reported, revision)
