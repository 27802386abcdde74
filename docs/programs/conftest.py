"""Provide the fixture `etcd` for the tests in this folder."""

pytest_plugins = ["trio_etcd_watch.testing"]
