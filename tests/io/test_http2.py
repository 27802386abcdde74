"""What h2 must not log."""

from __future__ import annotations

import logging

import pytest
from trio.testing import MockClock

from tests.support.connection import Caller, connected


async def test_tokens_are_not_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with connected() as ends:
        Caller(ends.connection, [("token", "s3cret")])
        await ends.peer.accept_call()
    ours = [r for r in caplog.records if "s3cret" in r.getMessage()]
    assert ours == []
