"""Benchmarks: this library beside other etcd watch clients. See README.md."""
