"""TLS on the command line, by flags and etcdctl's variables, with certificates."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.etcd.test_tls import Certificates, open_secure
from tests.support.cli import open_cli, run_cli


async def test_certificates(etcd_binaries: list[str], tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    chain, key, both = (tmp_path / name for name in ("chain", "client-key", "both"))
    certificates.client.cert_chain_pems[0].write_to_path(chain)
    certificates.client.private_key_pem.write_to_path(key)
    certificates.client.private_key_and_cert_chain_pem.write_to_path(both)
    async with open_secure(certificates, etcd_binaries[0]) as etcd:
        await etcd.put("a", "1")
        where = ["get", "a", "--endpoints", f"https://{etcd.endpoint}"]
        ca, client = f"--cacert={tmp_path / 'ca.pem'}", f"--cert={both}"
        for flags in (
            [ca, f"--cert={chain}", f"--key={key}"],
            [ca, client],
            ["--insecure-skip-tls-verify", client],
        ):
            done = await run_cli(*where, *flags)
            assert (done.returncode, done.stdout, done.stderr) == (0, b"a\n1\n", b"")
        done = await run_cli(
            "get",
            "a",
            ETCDCTL_ENDPOINTS=etcd.endpoint,
            ETCDCTL_CACERT=str(tmp_path / "ca.pem"),
            ETCDCTL_CERT=str(chain),
            ETCDCTL_KEY=str(key),
        )
        assert (done.returncode, done.stdout) == (0, b"a\n1\n")
        for flags, complaint in (
            ([client], b"certificate verify failed"),
            ([ca], b"WARNING"),
        ):
            async with open_cli(*where, *flags) as cli:
                await cli.until_error(complaint)
                assert await cli.end() == -signal.SIGTERM
            assert cli.output == b""
