"""gRPC over HTTP/2, for a client on one trio stream; knows nothing of etcd.

`connection` does the I/O, `http2` drives h2, `frames` has the DATA path, `metadata`
says what may be sent beside a call, `status` how a call ends.
"""
