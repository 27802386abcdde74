"""Print the present keys, and then each change, with python-etcd3."""

import etcd3

ENDPOINT = "127.0.0.1:2379"

host, port = ENDPOINT.split(":")
client = etcd3.client(host, int(port))
state = client.get_prefix_response("/config/")
for kv in state.kvs:
    print(kv.key.decode(), "is", kv.value.decode())
events, cancel = client.watch_prefix(
    "/config/", start_revision=state.header.revision + 1
)
for event in events:
    kind = "PUT" if isinstance(event, etcd3.events.PutEvent) else "DELETE"
    print(kind, event.key.decode(), event.value.decode())
