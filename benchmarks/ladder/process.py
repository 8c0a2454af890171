"""A process of the ladder: it is told what to do in its arguments and says one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from engine.net.process import STOP_S, SUPERVISED

HOST = "127.0.0.1"


@contextmanager
def process(module: str, *arguments: object) -> Iterator[tuple[int, str]]:
    """Runs for the length of the block at most; its pid and its line. It dies with whoever started it.

    Raises SystemExit if it ends without a word.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, SUPERVISED: str(os.getpid()), "SEXTET_LOG": "WARNING"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        line = child.stdout.readline().strip()
        if not line:
            raise SystemExit(f"{module} has ended, status {child.wait()}")
        yield child.pid, line
    finally:
        child.terminate()
        try:
            child.wait(2 * STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()
