"""A throw-away cluster for a measurement, driven by the `sextet` command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Cluster:
    data: Path

    def sextet(self, *arguments: object) -> str:
        command = [sys.executable, "-m", "cluster.cli.app", *map(str, arguments)]
        environment = {**os.environ, "SEXTET_DATA": str(self.data)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.sextet("status", "--json"))
        return found

    def writer(self) -> dict[str, Any]:
        return next(i for i in self.status()["instances"] if i["role"] == "writer")

    def connect(self, *, reader: bool = False) -> psycopg.Connection[tuple[Any, ...]]:
        url = self.status()["endpoints"]["reader" if reader else "writer"]
        return psycopg.connect(url, autocommit=True, connect_timeout=30)

    def kill_writer(self) -> float:
        """kill -9 the writer; seconds until a new connection has committed."""
        url = self.status()["endpoints"]["writer"]
        os.kill(self.writer()["pid"], signal.SIGKILL)
        started = time.perf_counter()
        while True:
            try:
                with psycopg.connect(url, autocommit=True, connect_timeout=30) as connection:
                    connection.execute("INSERT INTO beat DEFAULT VALUES")
                    return time.perf_counter() - started
            except psycopg.OperationalError:
                time.sleep(0.01)


@contextmanager
def cluster(*, port: int = 26432, readers: int = 2) -> Iterator[Cluster]:
    """Up for the length of the block, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="sextet-bench-") as folder:
        made = Cluster(Path(folder) / "data")
        made.sextet("up", "--port", port, "--readers", readers)
        try:
            yield made
        finally:
            made.sextet("down")


def save(name: str, result: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
