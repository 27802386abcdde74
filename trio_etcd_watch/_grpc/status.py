"""Describes how a call ends: with the server's status, or with a loss.

Sans-IO. Both are returned as values, and the caller decides what they mean.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias


class StatusCode(enum.IntEnum):
    """The status codes of gRPC (grpc.io, "Status codes and their use in gRPC")."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @classmethod
    def _missing_(cls, value: object) -> StatusCode:
        return cls.UNKNOWN


@dataclass(frozen=True, slots=True)
class Status:
    """The status with which the server ended a call."""

    code: StatusCode
    message: str

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}" if self.message else self.code.name


class StreamLost(Exception):
    """The call or its connection broke, and a new one can replace it.

    Users never see this exception: its text is the reason in the log.
    """


class TooManyPings(StreamLost):
    """The server ended the connection because it was pinged too often."""


CallEnd: TypeAlias = Status | StreamLost
"""How a call ended."""
