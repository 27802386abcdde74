"""Export the statistics of a watcher and of a mirror to Prometheus."""

from collections.abc import Iterator

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from prometheus_client import CollectorRegistry, make_asgi_app
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from trio_etcd_watch import Mirror, Watcher, open_watcher


class WatchCollector(Collector):
    """Reads the statistics when Prometheus asks."""

    def __init__(self, watcher: Watcher, mirror: Mirror) -> None:
        """Collect the statistics of this watcher and this mirror."""
        self._watcher = watcher
        self._mirror = mirror

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its present value."""
        now = self._watcher.statistics()
        watches = GaugeMetricFamily(
            "etcd_watches", "Open watches, by state.", labels=["state"]
        )
        watches.add_metric(["creating"], now.creating)
        watches.add_metric(["live"], now.live)
        watches.add_metric(["parked"], now.parked)
        watches.add_metric(["resuming"], now.resuming)
        yield watches
        yield CounterMetricFamily(
            "etcd_watch_reconnects", "Streams lost so far.", now.reconnects
        )
        yield CounterMetricFamily(
            "etcd_watch_events", "Events received so far.", now.events_received
        )
        yield GaugeMetricFamily(
            "etcd_watch_unread_events",
            "Events that wait for their users.",
            now.unread_events,
        )
        mirror = self._mirror.statistics()
        yield GaugeMetricFamily("etcd_mirror_keys", "Keys in the mirror.", mirror.keys)
        yield CounterMetricFamily(
            "etcd_mirror_resyncs",
            "How often it has read its range again.",
            mirror.resyncs,
        )
        since = mirror.disconnected_since
        yield GaugeMetricFamily(
            "etcd_mirror_disconnected_seconds",
            "How long it has been without a stream.",
            0.0 if since is None else trio.current_time() - since,
        )


async def main() -> None:
    """Serve the metrics while the mirror is open."""
    config = Config.from_mapping(bind=["127.0.0.1:9100"])
    async with open_watcher("127.0.0.1:2379") as watcher:
        async with watcher.mirror("/config/", prefix=True) as mirror:
            registry = CollectorRegistry()
            registry.register(WatchCollector(watcher, mirror))
            await serve(make_asgi_app(registry), config)


if __name__ == "__main__":
    trio.run(main)
