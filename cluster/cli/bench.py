"""`sextet bench`: the benchmark that comes with the repository and not with the package."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from cluster.cli.errors import CommandFailed

ROOT = Path(__file__).parents[2]


def run(arguments: Sequence[str]) -> int:
    """Its exit status. Raises CommandFailed where it cannot be had."""
    if not (ROOT / "benchmarks" / "bench").is_dir():
        raise CommandFailed(
            "the benchmark is part of the repository; clone it and run `make bench` there"
        )
    if find_spec("psycopg") is None:
        raise CommandFailed(
            "the benchmark needs what developers need; run `make bench` in the repository once"
        )
    command = [sys.executable, "-m", "benchmarks.bench", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode
