"""Answer readiness probes: have the settings been read, and are they recent?"""

from dataclasses import dataclass

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart_trio import QuartTrio

from trio_etcd_watch import Mirror, open_watcher

GRACE = 60.0
"""Seconds for which the service may use the settings that it last read."""


@dataclass
class Service:
    """The state that the probes check."""

    config: Mirror | None = None

    def obstacle(self) -> str | None:
        """Return why the service is not ready, or None if it is."""
        if self.config is None:
            return "the settings have not been read yet"
        since = self.config.statistics().disconnected_since
        if since is not None and trio.current_time() - since > GRACE:
            return "etcd has been out of reach for too long"
        return None


def application(service: Service) -> QuartTrio:
    """Return the web application with its probe."""
    app = QuartTrio(__name__)

    @app.get("/readyz")
    async def readyz() -> tuple[str, int]:
        obstacle = service.obstacle()
        return ("ready", 200) if obstacle is None else (obstacle, 503)

    return app


async def main() -> None:
    """Answer probes from the start, and follow the settings."""
    service = Service()
    config = Config.from_mapping(bind=["127.0.0.1:8000"])
    async with trio.open_nursery() as nursery:
        # Serve before the mirror is entered, so that probes are answered meanwhile.
        await nursery.start(serve, application(service), config)
        async with open_watcher("127.0.0.1:2379") as watcher:
            async with watcher.mirror("/config/", prefix=True) as service.config:
                await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
