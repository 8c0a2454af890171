"""What a cluster takes before anybody uses it: memory, and time until it answers; PostgreSQL beside it.

    python -m benchmarks.footprint [--starts 5] [--idle 10]

Both as `make bench` has them: Sextet as `sextet up` makes it, with two replicas; PostgreSQL as one primary
and five standbys. Prints

- `first SQL`, `first commit`: seconds on the clock from calling `sextet up`, or from the first of six
  `pg_ctl start`, which do not wait for one another, to the answer of a SELECT, and of a statement that
  commits; a client tries to connect every 10 ms. Sextet in a new data folder (`new`) and on data that is
  there (`again`), PostgreSQL on data that is there: making six copies of an empty one is `initdb`'s and
  `pg_basebackup`'s work. Median, least and most of `--starts` starts.
- memory after `--idle` seconds in which nobody was connected, process by process: `Pss`, in which what
  processes share is divided among them, and `RSS`, in which each has the whole; so only `Pss` adds up. And
  the share of one CPU that the process used meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.bench.postgres import Postgres, postgres
from benchmarks.bench.sextet import Sextet
from benchmarks.local import save
from benchmarks.procfs import Memory, cpu_s, memory
from benchmarks.profile import processes

GOAL_S = 5.0
"""To the first SQL of a cluster."""

POLL_S = 0.01
ARCHIVER = "archive-main"
START_S = 120.0

MAKE = b"CREATE TABLE IF NOT EXISTS started (v INTEGER)"
WRITE = b"INSERT INTO started VALUES (1)"


@dataclass
class Starts:
    """Seconds, one of each start."""

    first_sql: list[float] = field(default_factory=list)
    first_commit: list[float] = field(default_factory=list)

    def take(self, start: Callable[[], object], url: str, commit: bytes) -> None:
        """Call `start`, which may well return later than the database answers, and try meanwhile."""
        began = time.perf_counter()
        answered = None
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(start)
            while time.perf_counter() - began < START_S:
                with (
                    suppress(psycopg.OperationalError),
                    psycopg.connect(url, autocommit=True, connect_timeout=30) as client,
                ):
                    client.execute("SELECT 1")
                    answered = answered or time.perf_counter() - began
                    client.execute(commit)
                    self.first_commit.append(time.perf_counter() - began)
                    self.first_sql.append(answered)
                    break
                if starting.done():
                    starting.result()  # raises what it failed of
                time.sleep(POLL_S)
            else:
                raise SystemExit(f"{url} does not commit {START_S:.0f} s after its start")
            starting.result()

    def as_json(self) -> dict[str, Any]:
        return {
            "first_sql_s": [round(value, 3) for value in self.first_sql],
            "first_commit_s": [round(value, 3) for value in self.first_commit],
        }


@dataclass(frozen=True, slots=True)
class Idle:
    """A process that nobody has asked for anything. `cpu` is the share of one CPU."""

    memory: Memory
    cpu: float


def idle(pids: Mapping[str, int], seconds: float) -> dict[str, Idle]:
    """Of those that live through all of it: PostgreSQL has workers that come and go."""
    before = {}
    for name, pid in pids.items():
        with suppress(OSError):
            before[name] = cpu_s(pid)
    time.sleep(seconds)
    found = {}
    for name, spent in before.items():
        with suppress(OSError):
            found[name] = Idle(memory(pids[name]), (cpu_s(pids[name]) - spent) / seconds)
    return found


def total(found: Mapping[str, Idle]) -> Idle:
    whole = sum((one.memory for one in found.values()), Memory(0, 0))
    return Idle(whole, sum(one.cpu for one in found.values()))


# -- the two


def all_processes(database: Sextet) -> dict[str, int]:
    """Once the archiver is there too: it is the last, and nobody waits for it."""
    began = time.perf_counter()
    while ARCHIVER not in (pids := processes(database.cluster)):
        if time.perf_counter() - began > START_S:
            raise SystemExit(f"{ARCHIVER} does not start")
        time.sleep(POLL_S)
    return pids


def of_sextet(
    folder: Path, starts: int, idle_s: float
) -> tuple[Starts, Starts, dict[str, Idle], str]:
    """New, again, processes, version."""
    new, again = Starts(), Starts()
    for number in range(starts):
        room = folder / f"sextet-{number}"
        room.mkdir()
        database = Sextet(room)
        database.make()
        try:
            new.take(database.start, database.writer_url, MAKE)
            if number == starts - 1:
                found = idle(all_processes(database), idle_s)
                version = database.settings()["version"]
            database.stop()
            again.take(database.start, database.writer_url, WRITE)
        finally:
            database.stop()
    return new, again, found, version


def of_postgres(database: Postgres, starts: int, idle_s: float) -> tuple[Starts, dict[str, Idle]]:
    database.make()
    found: dict[str, Idle] = {}
    again = Starts()
    try:
        Starts().take(database.launch, database.writer_url, MAKE)
        found = idle({str(pid): pid for pid in database.pids()}, idle_s)
        for _ in range(starts):
            database.stop()
            again.take(database.launch, database.writer_url, WRITE)
    finally:
        database.stop()
    return again, found


# -- report


def seconds(values: list[float]) -> str:
    return f"{statistics.median(values):6.2f} s ({min(values):.2f} to {max(values):.2f})"


def show_starts(name: str, starts: Starts) -> None:
    print(f"{name:20}{seconds(starts.first_sql):>26}{seconds(starts.first_commit):>26}")


def show_idle(name: str, one: Idle) -> None:
    mib = [f"{value / 2**20:.1f} MiB" for value in (one.memory.pss, one.memory.rss)]
    print(f"{name:26}{mib[0]:>14}{mib[1]:>14}{100 * one.cpu:>9.1f} %")


def json_of(found: Mapping[str, Idle]) -> dict[str, dict[str, float]]:
    return {
        name: {"pss": one.memory.pss, "rss": one.memory.rss, "cpu": round(one.cpu, 4)}
        for name, one in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--starts", type=int, default=5, help="of each kind")
    parser.add_argument("--idle", type=float, default=10, help="seconds before memory is looked at")
    arguments = parser.parse_args()
    if arguments.starts < 1:
        parser.error("--starts must be at least 1")
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="sextet-bench-") as folder:
        new, again, ours, version = of_sextet(Path(folder), arguments.starts, arguments.idle)
        print(f"{version}\n\n{'':20}{'first SQL':>26}{'first commit':>26}")
        show_starts("Sextet, new", new)
        show_starts("Sextet, again", again)
        result["Sextet"] = {"new": new.as_json(), "again": again.as_json(), "idle": json_of(ours)}
        database = postgres(Path(folder) / "postgres")
        theirs: dict[str, Idle] = {}
        if database is not None:
            started, theirs = of_postgres(database, arguments.starts, arguments.idle)
            show_starts("PostgreSQL, again", started)
            result[database.name] = {"again": started.as_json(), "idle": json_of(theirs)}
    slowest = max(statistics.median(starts.first_sql) for starts in (new, again))
    verdict = "reached" if slowest <= GOAL_S else "missed"
    print(f"\nfirst SQL of Sextet within {GOAL_S:g} s: {verdict}")
    print(f"\n{'':26}{'Pss':>14}{'RSS':>14}{'idle CPU':>11}")
    for name, one in ours.items():
        show_idle(name, one)
    show_idle(f"Sextet, all {len(ours)}", total(ours))
    if theirs:
        show_idle(f"PostgreSQL, all {len(theirs)}", total(theirs))
    save("footprint", result)


if __name__ == "__main__":
    main()
