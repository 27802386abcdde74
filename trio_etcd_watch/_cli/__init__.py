"""The command line, `trio-etcd-watch`; no module of the library imports it."""
