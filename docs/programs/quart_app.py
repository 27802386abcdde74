"""A web application that Hypercorn starts by name, with a mirror in the background."""

import trio
from quart import Response
from quart_trio import QuartTrio

from trio_etcd_watch import Mirror, open_watcher

app = QuartTrio(__name__)
config: Mirror


async def keep_config(
    task_status: trio.TaskStatus[Mirror] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep the settings until the application is shut down."""
    async with open_watcher("127.0.0.1:2379") as watcher:
        async with watcher.mirror("/config/", prefix=True) as mirror:
            task_status.started(mirror)
            await trio.sleep_forever()


@app.before_serving
async def start() -> None:
    """Wait for the settings before any request is served."""
    global config
    with trio.fail_after(30):
        config = await app.nursery.start(keep_config)


@app.get("/config/<name>")
async def setting(name: str) -> Response:
    """Return the present value of a setting."""
    kv = config.get(f"/config/{name}")
    return Response(kv.value) if kv else Response("no such setting\n", status=404)
