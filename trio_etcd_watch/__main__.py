"""The program: `trio-etcd-watch`, and `python -m trio_etcd_watch`."""

from __future__ import annotations

import os
import sys

from ._cli.run import leave, run


def main() -> None:
    """Run with the arguments and the environment of this process, and end it."""
    leave(run(sys.argv[1:], os.environ))


if __name__ == "__main__":
    main()
