"""What bounds Sextet's throughput: servers that do more and more of what it does, the same works on each.

    python -m benchmarks.ceiling [--rounds 2] [--seconds 8] [--scale 10] [--only NAME]

- `protocol`: PostgreSQL's protocol by engine.pgwire's codec in an asyncio server, every answer ready-made.
- `SQL in memory`: Sextet's server and SQL engine, one process; a commit is durable at once, nowhere.
- `six echoes`: no SQL. A message of 300 bytes to each of six processes, four of which have to answer before
  the next; and the same once each has it on its disk. A round is the least that one client's commit, and
  that each batch of commits, takes. Beside it stands PostgreSQL's commit of one client.
- `Sextet` as `sextet up` makes it, with two replicas, and `PostgreSQL` as one primary and five standbys,
  `ANY 3` of which must have a commit on disk, both as in `make bench`; reads at the writer only.

By turns, never two at a time, each with pgbench -M prepared. Prints medians over the rounds: transactions a
second, milliseconds of one, microseconds of CPU for one by the kernel's count (all processes of the server,
and beside it pgbench, which shares this machine's CPUs with them), and the rate divided by PostgreSQL's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.bench import pgbench, scripts
from benchmarks.bench.postgres import Postgres, postgres
from benchmarks.bench.sextet import Sextet
from benchmarks.footprint import all_processes
from benchmarks.ladder import echo
from benchmarks.ladder.process import HOST, process
from benchmarks.local import save
from benchmarks.procfs import cpu_s, ended_children_cpu_s

WORKS = (("update", 1), ("update", 16), ("update", 64), ("select-only", 16))
"""pgbench's scripts by their names in `benchmarks.bench.scripts`, and clients."""

ROUND = ("quorum round", 1)
LIKE_ROUND = WORKS[0]
"""What of PostgreSQL's a quorum round is compared with."""

THEIRS = Postgres.name
LEFT_S = 0.2
"""Until servers have ended what they had for clients that have left: what it used counts then."""

Work = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Figure:
    tps: float
    latency_ms: float
    cpu_us: float
    """For one transaction, all processes of the server."""
    client_us: float = 0.0
    """Likewise, of pgbench."""


@dataclass
class Results:
    """Figures of each round, by work and rung."""

    figures: dict[tuple[Work, str], list[Figure]] = field(default_factory=dict)

    def note(self, work: Work, rung: str, figure: Figure) -> None:
        self.figures.setdefault((work, rung), []).append(figure)

    def median(self, work: Work, rung: str) -> Figure:
        found = self.figures[work, rung]
        return Figure(
            statistics.median(one.tps for one in found),
            statistics.median(one.latency_ms for one in found),
            statistics.median(one.cpu_us for one in found),
            statistics.median(one.client_us for one in found),
        )

    def ratio(self, work: Work, rung: str) -> float | None:
        """Of rates, to PostgreSQL's; None without it."""
        same = LIKE_ROUND if work == ROUND else work
        if (same, THEIRS) not in self.figures:
            return None
        return self.median(work, rung).tps / self.median(same, THEIRS).tps

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {
                "work": work[0],
                "clients": work[1],
                "rung": rung,
                "rounds": [asdict(one) for one in found],
                "ratio": self.ratio(work, rung),
            }
            for (work, rung), found in self.figures.items()
        ]

    def table(self) -> str:
        rows = [("work", "rung", "tps", "ms", "CPU µs", "pgbench", "ratio")]
        for work, rung in sorted(self.figures, key=lambda key: [ROUND, *WORKS].index(key[0])):
            figure, ratio = self.median(work, rung), self.ratio(work, rung)
            rows.append(
                (
                    f"{work[0]}, {work[1]} client{'s' * (work[1] > 1)}",
                    rung,
                    f"{figure.tps:,.0f}",
                    f"{figure.latency_ms:.2f}",
                    f"{figure.cpu_us:,.0f}",
                    f"{figure.client_us:,.0f}" if figure.client_us else "-",
                    "-" if ratio is None else f"{ratio:.2f}",
                )
            )
        return "\n".join("{:24}{:22}{:>9}{:>9}{:>9}{:>9}{:>8}".format(*row) for row in rows)


# -- servers


@dataclass(frozen=True, slots=True)
class Target:
    url: str
    cpu_s: Callable[[], float]
    """What its processes have used so far."""


def fill(url: str, scale: int) -> None:
    with psycopg.connect(url, autocommit=True) as client:
        for sql in scripts.SCHEMA:
            client.execute(sql.encode())
        for sql, _ in scripts.fill(scale):
            client.execute(sql.encode())


@contextmanager
def one_process(module: str, *, filled_to: int = 0) -> Iterator[Target]:
    with process(module) as (pid, port):
        url = f"postgresql://postgres@{HOST}:{port}/main"
        if filled_to:
            fill(url, filled_to)
        yield Target(url, partial(cpu_s, pid))


def make(database: Sextet | Postgres, scale: int) -> None:
    """Data that is there whenever it starts from now on."""
    try:
        database.make()
        database.start()
        fill(database.writer_url, scale)
        if isinstance(database, Postgres):
            with psycopg.connect(database.writer_url, autocommit=True) as client:
                client.execute("VACUUM ANALYZE")  # as `pgbench -i` ends
    finally:
        database.stop()


@contextmanager
def started(database: Sextet | Postgres) -> Iterator[Target]:
    """With the updated table read once: how it gets warm is not the question."""
    try:
        database.start()
        with psycopg.connect(database.writer_url, autocommit=True) as client:
            client.execute("SELECT sum(abalance) FROM pgbench_accounts")
        pids = [] if isinstance(database, Postgres) else list(all_processes(database).values())
        yield Target(database.writer_url, partial(spent_s, database, pids))
    finally:
        database.stop()


def spent_s(database: Sextet | Postgres, pids: Sequence[int]) -> float:
    """PostgreSQL has a process for each client, which counts as its postmaster's once it has ended."""
    total = 0.0
    for pid in database.pids() if isinstance(database, Postgres) else pids:
        with suppress(OSError):  # a worker that has ended just now
            total += cpu_s(pid) + ended_children_cpu_s(pid)
    return total


# -- rungs


def drive(
    serve: Callable[[], AbstractContextManager[Target]],
    folder: Path,
    seconds: float,
    scale: int,
    works: Sequence[Work] = WORKS,
) -> dict[Work, Figure]:
    """All works on one server."""
    figures = {}
    with serve() as target:
        for name, clients in works:
            script = folder / f"{name}.sql"
            script.write_text(next(work.script for work in scripts.WORKS if work.name == name))
            before, client_before = target.cpu_s(), children_s()
            measured = pgbench.run(
                script, [target.url], clients=clients, seconds=seconds, scale=scale
            )
            client_s = children_s() - client_before
            time.sleep(LEFT_S)
            used_s = target.cpu_s() - before
            if measured.failed:
                print(f"{measured.failed} transactions failed", file=sys.stderr)
            cpu_us, client_us = (s / max(1, measured.count) * 1e6 for s in (used_s, client_s))
            figures[name, clients] = Figure(measured.tps, measured.latency_ms, cpu_us, client_us)
    return figures


def children_s() -> float:
    """What children of this process have used that have ended; while a server is driven, pgbench."""
    return ended_children_cpu_s(os.getpid())


def echoes(seconds: float, folder: Path | None = None) -> dict[Work, Figure]:
    found = echo.measure(seconds, folder)
    each_s = found.seconds / found.rounds
    return {ROUND: Figure(1 / each_s, each_s * 1e3, found.cpu_s / found.rounds * 1e6)}


Rungs = dict[str, Callable[[], dict[Work, Figure]]]


def ladder(folder: Path, chosen: argparse.Namespace) -> Rungs:
    """Rungs by name, from little to much; databases have been made."""

    def driven(serve: Callable[[], AbstractContextManager[Target]]) -> partial[dict[Work, Figure]]:
        return partial(drive, serve, folder, chosen.seconds, chosen.scale)

    memory = partial(one_process, "benchmarks.ladder.memory", filled_to=chosen.scale)
    rungs: Rungs = {
        "protocol": driven(partial(one_process, "benchmarks.ladder.protocol")),
        "SQL in memory": driven(memory),
        "six echoes": partial(echoes, chosen.seconds),
        "six echoes, fdatasync": partial(echoes, chosen.seconds, folder / "echoes"),
    }
    databases: list[Sextet | Postgres] = []
    if chosen.only in Sextet.name:
        (folder / "sextet").mkdir()
        databases.append(Sextet(folder / "sextet"))
    if chosen.only in THEIRS and (theirs := postgres(folder / "postgres")) is not None:
        databases.append(theirs)
    for database in databases:
        make(database, chosen.scale)
        rungs[database.name] = driven(partial(started, database))
    return {name: rung for name, rung in rungs.items() if chosen.only in name}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument(
        "--scale", type=int, default=10, help="of pgbench's tables: 100,000 accounts each"
    )
    parser.add_argument("--only", default="", metavar="NAME", help="rungs whose name contains this")
    chosen = parser.parse_args()
    if shutil.which("pgbench") is None:
        sys.exit("pgbench is missing; it drives all of them (Debian: postgresql-contrib)")
    results = Results()
    with tempfile.TemporaryDirectory(prefix="sextet-bench-") as folder:
        rungs = ladder(Path(folder), chosen)
        for number in range(chosen.rounds):
            # Who is first in one round is last in the next: a machine's speed drifts.
            for name in rungs if number % 2 == 0 else reversed(rungs):
                for work, figure in rungs[name]().items():
                    results.note(work, name, figure)
                    said = f"{name:22} {work[0]}, {work[1]}: {figure.tps:,.0f} a second"
                    print(f"round {number + 1}  {said}", file=sys.stderr, flush=True)
    print(f"{chosen.rounds} rounds of {chosen.seconds:g} s, scale {chosen.scale}\n")
    print(results.table())
    save(
        "ceiling",
        {
            "rounds": chosen.rounds,
            "seconds": chosen.seconds,
            "scale": chosen.scale,
            "cpus": os.cpu_count(),
            "figures": results.as_json(),
        },
    )


if __name__ == "__main__":
    main()
