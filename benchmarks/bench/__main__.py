"""Sextet against PostgreSQL with the same promise (`make bench`, `sextet bench`).

    python -m benchmarks.bench [--rounds 3] [--seconds 10] [--scale 10] [--only NAME] [--out FOLDER]

Sets up both from scratch in a temporary folder: Sextet as `sextet up` makes it, with two replicas;
PostgreSQL as one primary and five standbys, `ANY 3` of which must have a commit on disk. Both have
six copies of everything and acknowledge a commit at four. Then, by turns and never both at a time,
each is started, driven by pgbench with the same scripts over TCP, and stopped. Prints medians over
the rounds, their spread, the ratio and our goal, and writes `bench.json` and `bench.svg`. Without
PostgreSQL's programs it measures Sextet alone and says so.

Client and servers share this machine. Trust ratios, not absolutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg

from benchmarks.bench import pgbench, report, scripts
from benchmarks.bench.postgres import Postgres, postgres
from benchmarks.bench.report import Line, Written
from benchmarks.bench.scripts import WORKS, Work
from benchmarks.bench.sextet import Sextet
from benchmarks.local import RESULTS

LOAD_ROWS = 100_000
LOAD = "bulk load"
REDO_OF = ("simple-update, one round trip", "simple-update")
"""Each commit of the first shares its frames with others of its batch; the second has its own."""

Database = Sextet | Postgres


def databases(folder: Path) -> list[Database]:
    """Those that can be had here, ours first."""
    ours = folder / "sextet"
    ours.mkdir()
    theirs = postgres(folder / "postgres")
    return [Sextet(ours), *([theirs] if theirs is not None else [])]


class Bench:
    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.databases = databases(folder)
        self.seconds: float = arguments.seconds
        self.scale: int = arguments.scale
        self.rounds: int = arguments.rounds
        self.works = [w for w in WORKS if not arguments.only or arguments.only in w.name]
        self.whole = not arguments.only
        self.lines: dict[tuple[str, int], Line] = {}
        self._folder = folder
        self._loaded = 0

    def settings(self) -> dict[str, dict[str, str]]:
        return {database.name: database.settings() for database in self.databases}

    def run(self) -> None:
        for database in self.databases:
            database.make()
        for number in range(self.rounds):
            # Who is first in one round is last in the next: a machine's speed drifts.
            for database in self.databases if number % 2 == 0 else reversed(self.databases):
                with _running(database):
                    if number == 0:
                        self._fill(database)
                    self._round(database, number)

    def _fill(self, database: Database) -> None:
        with psycopg.connect(database.writer_url, autocommit=True) as client:
            for sql in scripts.SCHEMA:
                client.execute(sql.encode())
            for sql, _ in scripts.fill(self.scale):
                client.execute(sql.encode())
            if isinstance(database, Postgres):
                client.execute("VACUUM ANALYZE")  # as `pgbench -i` ends

    def _round(self, database: Database, number: int) -> None:
        for work in self.works:
            for clients in work.clients:
                before = database.written()
                measured = self._measure(database, work, clients)
                after = database.written()
                value = measured.latency_ms if work.latency else measured.tps
                unit = "ms" if work.latency else "tps"
                line = self._line(work.name, clients, unit, work.goal, less=work.latency)
                self._note(line, database, number, value)
                if measured.failed:
                    print(f"{measured.failed} transactions failed", file=sys.stderr)
                if work.name in REDO_OF and clients == max(work.clients) and self.whole:
                    commits = max(1, measured.count)
                    self._redo(database, number, work.name, clients, commits, (before, after))
        if self.whole:
            line = self._line(LOAD, 1, "rows/s", 1.0)
            self._note(line, database, number, self._load(database, number))

    def _redo(
        self,
        database: Database,
        number: int,
        work: str,
        clients: int,
        commits: int,
        written: tuple[Written, Written],
    ) -> None:
        """`written`: before so many commits, and after them."""
        before, after = written
        redo = after.log - before.log
        line = self._line(f"redo of a {work}", clients, "bytes", 0.5, less=True)
        self._note(line, database, number, redo / commits)
        if before.dirty_pages is not None and after.dirty_pages is not None:
            line = self._line(f"dirty pages to redo, {work}", clients, "times", 10, own=True)
            pages = after.dirty_pages - before.dirty_pages
            self._note(line, database, number, pages / max(1, redo))

    def _measure(self, database: Database, work: Work, clients: int) -> pgbench.Measured:
        script = self._folder / f"{work.name.replace(' ', '-').replace(',', '')}.sql"
        script.write_text(work.script)
        urls = database.read_urls if work.reads else [database.writer_url]
        return pgbench.run(script, urls, clients=clients, seconds=self.seconds, scale=self.scale)

    def _load(self, database: Database, number: int) -> float:
        """Rows a second, in transactions of one INSERT of a thousand rows."""
        first = number * LOAD_ROWS
        statements = [
            b"INSERT INTO bench_load VALUES "
            + ", ".join(
                f"({n}, {n * 7919 % 1000003}, 'the text of row {n}')"
                for n in range(start, start + scripts.ROWS_PER_INSERT)
            ).encode()
            for start in range(first, first + LOAD_ROWS, scripts.ROWS_PER_INSERT)
        ]
        with psycopg.connect(database.writer_url, autocommit=True) as client:
            began = time.perf_counter()
            for sql in statements:
                client.execute(sql)
            return LOAD_ROWS / (time.perf_counter() - began)

    def _line(
        self,
        name: str,
        clients: int,
        unit: str,
        goal: float,
        *,
        less: bool = False,
        own: bool = False,
    ) -> Line:
        return self.lines.setdefault((name, clients), Line(name, clients, unit, goal, less, own))

    def _note(self, line: Line, database: Database, number: int, value: float) -> None:
        line.values.setdefault(database.name, []).append(round(value, 3))
        print(
            f"round {number + 1}  {database.name:10}  {line.label}: {value:,.1f} {line.unit}",
            file=sys.stderr,
            flush=True,
        )


@contextmanager
def _running(database: Database) -> Iterator[None]:
    database.start()
    try:
        yield
    finally:
        database.stop()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument(
        "--scale", type=int, default=10, help="of pgbench's tables: 100,000 accounts each"
    )
    parser.add_argument("--only", default="", metavar="NAME", help="works whose name contains this")
    parser.add_argument("--out", type=Path, default=RESULTS, help="for bench.json and bench.svg")
    chosen = parser.parse_args(arguments)
    if shutil.which("pgbench") is None:
        sys.exit("pgbench is missing; it drives both databases (Debian: postgresql-contrib)")
    with tempfile.TemporaryDirectory(prefix="sextet-bench-") as folder:
        bench = Bench(Path(folder), chosen)
        bench.run()
        names = [database.name for database in bench.databases]
        ours, theirs = names[0], (names[1] if len(names) > 1 else "PostgreSQL")
        lines = list(bench.lines.values())
        settings = bench.settings()
    for name, values in settings.items():
        print(f"{name}: " + "; ".join(f"{key} {value}" for key, value in values.items()))
    print(f"{chosen.rounds} rounds of {chosen.seconds:g} s, scale {chosen.scale}\n")
    print(report.table(lines, ours, theirs))
    chosen.out.mkdir(parents=True, exist_ok=True)
    result = {
        "rounds": chosen.rounds,
        "seconds": chosen.seconds,
        "scale": chosen.scale,
        "settings": settings,
        "lines": report.as_json(lines, ours, theirs),
    }
    (chosen.out / "bench.json").write_text(json.dumps(result, indent=2) + "\n")
    (chosen.out / "bench.svg").write_text(report.plot(lines, ours, theirs))
    print(f"\nwritten: {chosen.out / 'bench.json'}, {chosen.out / 'bench.svg'}")


if __name__ == "__main__":
    main()
