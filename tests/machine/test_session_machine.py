"""The state machine of the session passes against the model of etcd.

`SESSION_PROFILE=session-thorough` makes it run for minutes; give pytest
`-o faulthandler_timeout=0` with it.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from tests.machine.session_machine import SessionMachine

settings.register_profile(
    "session",
    max_examples=600,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "session-thorough", settings.get_profile("session"), max_examples=20_000
)

TestSession = SessionMachine.TestCase
TestSession.settings = settings.get_profile(
    os.environ.get("SESSION_PROFILE", "session")
)
