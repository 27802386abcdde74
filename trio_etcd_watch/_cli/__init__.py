"""The command line, `trio-etcd-watch`. Nothing of the library imports it."""
