"""Compares the speedups with protobuf on random messages, under ASAN and UBSAN.

    python -m tests.fuzz --seconds 60 --seed 7

It builds the extension with the sanitizers (GCC or Clang, as $CC says), and runs itself
with that. An input on which the two decoders differ is printed, with its number; an
error that a sanitizer finds ends the process. Each message is in its own allocation, so
that ASAN sees a read past its end. Batches are compared with those of the Python twin.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[2]
NAME = "trio_etcd_watch._speedups"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def build(folder: Path) -> Path:
    """Compile the extension with sanitizers."""
    extension = folder / "_speedups.abi3.so"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    include = f"-I{sysconfig.get_path('include')}"
    strict = [
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-g",
        "-O1",
        "-shared",
        "-fPIC",
    ]
    source = str(ROOT / "trio_etcd_watch" / "_speedups.c")
    macro = "-DPy_LIMITED_API=0x030B0000"
    target = ["-o", str(extension)]
    command = [*compiler, *strict, *SANITIZERS, macro, include, source, *target]
    subprocess.run(command, check=True)
    return extension


def run_sanitized(arguments: list[str]) -> int:
    """Run this program with the sanitized extension; return its exit code."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    runtime = subprocess.run(
        [*compiler, "-print-file-name=libasan.so"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        extension = build(Path(folder))
        environment = {
            "LD_PRELOAD": runtime,
            # The interpreter itself leaks when it exits.
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONMALLOC": "malloc",
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz", "--extension", extension, *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
        )
    return done.returncode


def load(extension: str) -> None:
    """Make the package import this extension as its own."""
    loader = ExtensionFileLoader(NAME, extension)
    spec = importlib.util.spec_from_file_location(NAME, extension, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[NAME] = module


def fuzz(seconds: float, seed: int) -> int:
    """Compare until the time is over; return an exit code."""
    # The package must not be imported before `load()`.
    from tests.support import wire
    from trio_etcd_watch import __speedups__

    assert __speedups__
    end = time.monotonic() + seconds
    count = errors = 0
    while time.monotonic() < end:
        kind = wire.KINDS[count % len(wire.KINDS)]
        shown, right, ours = wire.compare(kind, Random(f"{seed} {count}"))
        if ours != right:
            print(f"{kind} {count} of seed {seed} differs: {shown}")
            return 1
        count += 1
        errors += right is None
    print(f"{count} inputs of seed {seed}, {errors} of them malformed: all the same")
    return 0


def main() -> int:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--extension", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.extension:
        return run_sanitized(sys.argv[1:])
    load(arguments.extension)
    return fuzz(arguments.seconds, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
