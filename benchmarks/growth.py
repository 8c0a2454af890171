"""What a cluster's growth costs: commits a second, and CPU of a commit, by volume size and by replicas.

    python -m benchmarks.growth [--sizes 10M,100M,1G] [--replicas 1,5,15] [--seconds 10] [--rounds 3]

Single rows of pgbench's accounts are updated by 16 clients, through pgbench, as in `make bench`. First a
cluster with two replicas grows from size to size: the updated table stays as it is, about 10 MB, which the
buffer pool holds, and rows of 5 MB beside it make the volume larger; each size is measured once all redo
has become pages, the archive has caught up, and the table has been read once. Then for each number of
replicas a new cluster with that table alone is measured. An empty `--sizes` or `--replicas` leaves that
part out.

Prints for each the median rate over the rounds with least and most, its ratio to the first of its part,
and microseconds of CPU for one commit by the kernel's count, by kind of process. All processes and pgbench
share this machine's CPUs, so more replicas leave less for everybody: `busy` is how many CPUs all
processes of Sextet together kept busy.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench import pgbench, scripts
from benchmarks.clones import until_written_down
from benchmarks.local import Cluster, cluster, save
from benchmarks.procfs import cpu_s
from benchmarks.profile import kind_of, processes
from cluster.local.ports import free_ports
from cluster.local.sizes import format_size, parse_size

CLIENTS = 16
SCALE = 1
REPLICAS = 2
"""While the size is what grows."""

BIG_ROW_BYTES = 5_000_000
WRITTEN_DOWN_S = 600.0
ARCHIVED_S = 600.0
NOW_S = 10.0
"""An archive that is no further behind than this has caught up."""


@dataclass(frozen=True, slots=True)
class Round:
    """One run of pgbench: commits a second, how many in all, and what the processes spent from its start to
    its end, which took so many seconds."""

    rate: float
    commits: int
    seconds: float
    cpu_s: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Point:
    """Rounds at one size and number of replicas."""

    volume_bytes: int
    replicas: int
    rounds: Sequence[Round]

    def rate(self) -> float:
        return statistics.median(one.rate for one in self.rounds)

    def cpu_us(self) -> dict[str, float]:
        """Microseconds for one commit, by kind of process, those of a kind together."""
        spent = dict.fromkeys(GROUPS, 0.0)
        for one in self.rounds:
            for name, seconds in one.cpu_s.items():
                spent[group(name)] += seconds
        commits = sum(one.commits for one in self.rounds)
        return {kind: seconds / commits * 1e6 for kind, seconds in spent.items()}

    def busy(self) -> float:
        """CPUs that all processes of Sextet kept busy."""
        total = sum(sum(one.cpu_s.values()) for one in self.rounds)
        return total / sum(one.seconds for one in self.rounds)

    def as_json(self) -> dict[str, Any]:
        cpu = {kind: round(us, 1) for kind, us in self.cpu_us().items()}
        return {
            "volume_bytes": self.volume_bytes,
            "replicas": self.replicas,
            "commits_per_s": [round(one.rate, 1) for one in self.rounds],
            "cpu_us_per_commit": {**cpu, "all": round(sum(self.cpu_us().values()), 1)},
            "cpus_busy": round(self.busy(), 2),
        }


GROUPS = ("writer", "storage", "replica", "others")


def group(process: str) -> str:
    kind = kind_of(process)
    return kind if kind in GROUPS else "others"


def measure_round(pids: Mapping[str, int], script: Path, url: str, seconds: float) -> Round:
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    began = time.perf_counter()
    measured = pgbench.run(script, [url], clients=CLIENTS, seconds=seconds, scale=SCALE)
    took = time.perf_counter() - began
    used = {name: cpu_s(pid) - before[name] for name, pid in pids.items()}
    if measured.failed:
        print(f"{measured.failed} transactions failed", file=sys.stderr)
    return Round(measured.tps, max(1, measured.count), took, used)


class Growth:
    def __init__(self, made: Cluster, replicas: int, script: Path) -> None:
        self._made = made
        self._replicas = replicas
        self._script = script
        self._pids = processes(made)
        self._url = made.status()["endpoints"]["writer"]

    def fill(self) -> None:
        """pgbench's tables."""
        with self._made.connect() as client:
            for sql in scripts.SCHEMA:
                client.execute(sql.encode())
            client.execute("CREATE TABLE big (b BLOB)")
            for sql, _ in scripts.fill(SCALE):
                client.execute(sql.encode())

    def grow_to(self, size: int) -> None:
        missing = size - self.size()
        with self._made.connect() as client:
            client.execute("SET statement_timeout = 0")
            for _ in range(max(0, missing) // BIG_ROW_BYTES):
                client.execute(f"INSERT INTO big (b) SELECT zeroblob({BIG_ROW_BYTES})".encode())

    def size(self) -> int:
        """Bytes of the volume's pages, one copy."""
        return int(self._made.status()["volume"]["bytes"])

    def until_quiet(self) -> None:
        until_written_down(self._made, "main", WRITTEN_DOWN_S)
        deadline = time.monotonic() + ARCHIVED_S
        while (behind := self._made.status()["archive"]["behind_s"]) is None or behind > NOW_S:
            if time.monotonic() > deadline:
                sys.exit(f"the archive is {behind} s behind after {ARCHIVED_S:.0f} s")
            time.sleep(1.0)

    def warm(self) -> None:
        """Read the updated table: what made the volume grow has pushed it out of the writer's pool."""
        with self._made.connect() as client:
            client.execute(b"SELECT sum(abalance) FROM pgbench_accounts")

    def measure(self, seconds: float, rounds: int) -> Point:
        size = self.size()
        self.warm()
        found = [measure_round(self._pids, self._script, self._url, seconds) for _ in range(rounds)]
        return Point(size, self._replicas, found)


HEADS = ("volume", "replicas", "commits/s", "least", "most", "ratio", *GROUPS, "all µs", "busy")


def line(point: Point, first: Point) -> str:
    rates, cpu = [one.rate for one in point.rounds], point.cpu_us()
    cells = (
        format_size(point.volume_bytes),
        str(point.replicas),
        *(f"{rate:.0f}" for rate in (point.rate(), min(rates), max(rates))),
        f"{point.rate() / first.rate():.2f}",
        *(f"{us:.0f}" for us in (*cpu.values(), sum(cpu.values()))),
        f"{point.busy():.2f}",
    )
    return "".join(f"{cell:>11}" for cell in cells)


def show(points: list[Point], point: Point) -> None:
    points.append(point)
    print(line(point, points[0]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", default="10M,100M,1G", help="comma-separated, ascending")
    parser.add_argument("--replicas", default="1,5,15", help="comma-separated")
    parser.add_argument("--seconds", type=int, default=10, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if shutil.which("pgbench") is None:
        sys.exit("pgbench is missing (Debian: postgresql-contrib)")
    sizes = sorted(parse_size(text) for text in arguments.sizes.split(",") if text)
    counts = [int(text) for text in arguments.replicas.split(",") if text]
    by_size: list[Point] = []
    by_replicas: list[Point] = []
    print("".join(f"{head:>11}" for head in HEADS), flush=True)
    with tempfile.TemporaryDirectory(prefix="sextet-bench-") as folder:
        script = Path(folder) / "update.sql"
        script.write_text(next(work.script for work in scripts.WORKS if work.name == "update"))
        if sizes:
            with cluster(port=next(free_ports(26_000, taken=())), readers=REPLICAS) as made:
                growth = Growth(made, REPLICAS, script)
                growth.fill()
                for size in sizes:
                    growth.grow_to(size)
                    growth.until_quiet()
                    show(by_size, growth.measure(arguments.seconds, arguments.rounds))
        for count in counts:
            with cluster(port=next(free_ports(26_000, taken=())), readers=count) as made:
                growth = Growth(made, count, script)
                growth.fill()
                growth.until_quiet()
                show(by_replicas, growth.measure(arguments.seconds, arguments.rounds))
    save(
        "growth",
        {
            "clients": CLIENTS,
            "seconds": arguments.seconds,
            "cpus": os.cpu_count(),
            "by_size": [point.as_json() for point in by_size],
            "by_replicas": [point.as_json() for point in by_replicas],
        },
    )


if __name__ == "__main__":
    main()
