"""Benchmarks of this library and other etcd watch clients. See README.md."""
