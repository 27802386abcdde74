"""Starts the program: `trio-etcd-watch`, or `python -m trio_etcd_watch`."""

from __future__ import annotations

import os
import sys

from ._cli.run import end_process, run


def main() -> None:
    """Run with this process's arguments and environment, and end the process."""
    end_process(run(sys.argv[1:], os.environ))


if __name__ == "__main__":
    main()
