"""A watch client for etcd v3, native to Trio.

Everything public is here; the modules behind it are private, except `testing`.
"""

from ._changes import Change as Change
from ._changes import MirrorUpdate as MirrorUpdate
from ._channel import Channel as Channel
from ._channel import Credentials as Credentials
from ._channel import MetadataLike as MetadataLike
from ._channel import TokenSource as TokenSource
from ._errors import AuthenticationError as AuthenticationError
from ._errors import ClusterChangedError as ClusterChangedError
from ._errors import CompactedError as CompactedError
from ._errors import FutureRevisionError as FutureRevisionError
from ._errors import HistoryLostError as HistoryLostError
from ._errors import NoLeaderError as NoLeaderError
from ._errors import PermissionDeniedError as PermissionDeniedError
from ._errors import RpcError as RpcError
from ._errors import WatchCanceledError as WatchCanceledError
from ._errors import WatchError as WatchError
from ._face import publish as _publish
from ._grpc.metadata import Metadata as Metadata
from ._grpc.status import StatusCode as StatusCode
from ._mapping import Snapshot as Snapshot
from ._mirror import Changes as Changes
from ._mirror import Mirror as Mirror
from ._mirror import MirrorStatistics as MirrorStatistics
from ._opening import open_watcher as open_watcher
from ._options import WatchOptions as WatchOptions
from ._purerpc import PurerpcChannel as PurerpcChannel
from ._responses import SPEEDUPS as _SPEEDUPS
from ._responses import Event as Event
from ._responses import EventType as EventType
from ._responses import KeyValue as KeyValue
from ._responses import ResponseHeader as ResponseHeader
from ._responses import WatchResponse as WatchResponse
from ._statistics import EndpointStatistics as EndpointStatistics
from ._statistics import WatcherStatistics as WatcherStatistics
from ._statistics import WatchState as WatchState
from ._views import PrefixView as PrefixView
from ._watch import Events as Events
from ._watch import Watch as Watch
from ._watch import WatchStatistics as WatchStatistics
from ._watcher import Watcher as Watcher

__version__ = "0.2.0"
"""Of this package; what is built has it from here."""

__speedups__ = _SPEEDUPS
"""Whether messages are decoded in C; in Python it is the same, but slower."""

__all__ = (
    "AuthenticationError",
    "Change",
    "Changes",
    "Channel",
    "ClusterChangedError",
    "CompactedError",
    "Credentials",
    "EndpointStatistics",
    "Event",
    "EventType",
    "Events",
    "FutureRevisionError",
    "HistoryLostError",
    "KeyValue",
    "Metadata",
    "MetadataLike",
    "Mirror",
    "MirrorStatistics",
    "MirrorUpdate",
    "NoLeaderError",
    "PermissionDeniedError",
    "PrefixView",
    "PurerpcChannel",
    "ResponseHeader",
    "RpcError",
    "Snapshot",
    "StatusCode",
    "TokenSource",
    "Watch",
    "WatchCanceledError",
    "WatchError",
    "WatchOptions",
    "WatchResponse",
    "WatchState",
    "WatchStatistics",
    "Watcher",
    "WatcherStatistics",
    "open_watcher",
)

_publish(__name__, globals(), __all__)
