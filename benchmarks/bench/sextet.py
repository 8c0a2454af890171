"""A throw-away Sextet cluster, as anybody gets it from `sextet up`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.bench.report import Written
from benchmarks.local import Cluster
from cluster.local.ports import free_ports

READERS = 2


@dataclass
class Sextet:
    """`start` and `stop` as often as need be; the data stays."""

    folder: Path
    port: int = 0
    name: str = "Sextet"
    _instances: list[str] = field(default_factory=list)

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.folder / "data")

    @property
    def writer_url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/main"

    @property
    def read_urls(self) -> Sequence[str]:
        """The writer endpoint, and the reader endpoint twice, which spreads clients over two replicas."""
        reader = f"postgresql://postgres@127.0.0.1:{self.port + 1}/main"
        return [self.writer_url, reader, reader]

    def make(self) -> None:
        self.port = next(free_ports(28_000, taken=()))

    def start(self) -> None:
        made = (self.folder / "data").exists()
        arguments = [] if made else ["--port", self.port, "--readers", READERS]
        self.cluster.sextet("up", *arguments)

    def stop(self) -> None:
        if (self.folder / "data").exists():
            self.cluster.sextet("down")

    def written(self) -> Written:
        """Since the writer opened the volume: redo shipped to each storage node."""
        redo = self.status()["redo"]
        return Written(redo["redo_bytes"], redo["dirty_page_bytes"])

    def status(self) -> dict[str, Any]:
        return self.cluster.status()

    def settings(self) -> dict[str, str]:
        return {
            "version": self.cluster.sextet("version").strip(),
            "storage nodes": "6, commits at 4",
            "instances": f"a writer and {READERS} replicas",
            "buffer pool": "256 MiB each",
            "archive, hot window": "on, as by default",
        }
