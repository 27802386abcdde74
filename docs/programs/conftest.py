"""Gives the tests beside it the fixture `etcd`."""

pytest_plugins = ["trio_etcd_watch.testing"]
