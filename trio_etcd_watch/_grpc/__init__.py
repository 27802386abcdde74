"""A gRPC client over HTTP/2 on one Trio stream, independent of etcd.

`connection` does the I/O, `http2` drives h2, `frames` and `messages` parse DATA,
`metadata` checks what is sent with a call, and `status` describes how a call ends.
"""
