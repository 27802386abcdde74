"""Answer readiness probes: are the settings there, and are they recent?"""

from dataclasses import dataclass

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart_trio import QuartTrio

from trio_etcd_watch import Mirror, open_watcher

GRACE = 60.0
"""Seconds for which the service may go on with what it last read."""


@dataclass
class Service:
    """What the probes look at."""

    config: Mirror | None = None

    def obstacle(self) -> str | None:
        """Say why no requests should come; None if they may."""
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
    """Answer probes from the beginning, and follow the settings."""
    service = Service()
    config = Config.from_mapping(bind=["127.0.0.1:8000"])
    async with trio.open_nursery() as nursery:
        # Before the mirror: a probe is answered while etcd is still out of reach.
        await nursery.start(serve, application(service), config)
        async with open_watcher("127.0.0.1:2379") as watcher:
            async with watcher.mirror("/config/", prefix=True) as service.config:
                await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
