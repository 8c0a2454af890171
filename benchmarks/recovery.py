"""Does recovery depend on how much log there is? kill -9 after 1 MB and 1 GB of redo, PostgreSQL beside it.

    python -m benchmarks.recovery [--large MB] [--kills N]

Prints for each database and amount of redo what a client saw: from the kill of the writer to the first
commit over a new connection, the restart of the process by its supervisor, or another instance taking over,
included. For Sextet also what the writer itself measured, from fencing to open. Sextet has no checkpoint
that would do away with redo, so one amount of it serves for all kills; `first` is the kill right after it
was written. PostgreSQL is a primary alone, killed with all its processes and started again at once, with
as much redo since its last checkpoint each time (`benchmarks.bench.crash`); both rewrite as many rows of
the same width.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.bench import crash
from benchmarks.bench.postgres import postgres
from benchmarks.local import Cluster, cluster, save
from cluster.local.ports import free_ports

ROW_BYTES = 3008
ROWS = 400
SMALL_MB = 1.0


def write_redo(made: Cluster, megabytes: float) -> float:
    """Rewrite a few hundred wide rows with random bytes until that much redo was shipped; MB."""
    start = made.status()["redo"]["redo_bytes"]
    done = 0.0
    with made.connect() as connection:
        connection.execute("SET statement_timeout = 0")
        while done < megabytes:
            for _ in range(max(1, min(40, round(megabytes - done)))):
                connection.execute("UPDATE wide SET bytes = randomblob(%s)", (ROW_BYTES,))
                if megabytes < 2:
                    break
            done = (made.status()["redo"]["redo_bytes"] - start) / 1e6
            print(f"\r  {done:.0f} of {megabytes:.0f} MB of redo", end="", file=sys.stderr)
    print(file=sys.stderr)
    return done


def ours(made: Cluster, megabytes: float, kills: int) -> dict[str, Any]:
    redo = write_redo(made, megabytes)
    clients, recoveries = [], []
    for _ in range(kills):
        clients.append(made.kill_writer() * 1000)
        recoveries.append(made.writer()["recovery_ms"])
    return {
        "redo_mb": round(redo, 1),
        "kills": kills,
        "recovery_ms": summary(recoveries),
        "client_gap_ms": summary(clients),
    }


def theirs(primary: crash.Primary, megabytes: float, kills: int) -> dict[str, Any]:
    redo, clients = [], []
    for _ in range(kills):
        redo.append(primary.write_redo(megabytes, ROW_BYTES))
        clients.append(primary.kill_and_start() * 1000)
    return {
        "redo_mb": round(statistics.median(redo), 1),
        "kills": kills,
        "client_gap_ms": summary(clients),
    }


def summary(values: list[float]) -> dict[str, float]:
    return {
        "first": round(values[0], 1),
        "min": round(min(values), 1),
        "median": round(statistics.median(values), 1),
        "max": round(max(values), 1),
    }


Rounds = dict[str, list[dict[str, Any]]]
"""By database: after little redo, and after much."""


def ratios(rounds: Rounds) -> dict[str, float]:
    """Of medians of what clients saw."""
    gaps = {
        name: [found["client_gap_ms"]["median"] for found in each] for name, each in rounds.items()
    }
    found = {f"{name}: much redo to little": much / little for name, (little, much) in gaps.items()}
    if len(gaps) == 2:
        (a, first), (b, second) = gaps.items()
        found[f"{a} to {b}, little redo"] = first[0] / second[0]
        found[f"{a} to {b}, much redo"] = first[1] / second[1]
    return {name: round(ratio, 2) for name, ratio in found.items()}


def line(name: str, found: dict[str, Any]) -> str:
    gap, recovery = found["client_gap_ms"], found.get("recovery_ms")
    cells = [f"{gap[key]:,.0f} ms" for key in ("median", "min", "max", "first")]
    cells.append("-" if recovery is None else f"{recovery['median']:,.1f} ms")
    return f"{name:12}{found['redo_mb']:>12,.1f} MB" + "".join(f"{cell:>14}" for cell in cells)


HEAD = f"{'':12}{'redo':>15}" + "".join(
    f"{head:>14}" for head in ("median", "min", "max", "first", "fence to open")
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--large", type=float, default=1000, help="MB of redo of the second round")
    parser.add_argument("--kills", type=int, default=5, help="after each amount of redo")
    parser.add_argument(
        "--without-postgres", action="store_true", help="measure Sextet alone, for less time"
    )
    arguments = parser.parse_args()
    amounts = (SMALL_MB, arguments.large)
    rounds: Rounds = {}
    print(HEAD, flush=True)

    def take(name: str, found: dict[str, Any]) -> None:
        print(line(name, found), flush=True)
        rounds.setdefault(name, []).append(found)

    with cluster(port=next(free_ports(26_000, taken=()))) as made:
        with made.connect() as connection:
            connection.execute("CREATE TABLE beat (id INTEGER PRIMARY KEY, t TEXT)")
            connection.execute("CREATE TABLE wide (id INTEGER PRIMARY KEY, bytes BLOB)")
            connection.execute(
                f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})"
                f" INSERT INTO wide SELECT i, randomblob({ROW_BYTES}) FROM n"
            )
        for megabytes in amounts:
            take("Sextet", ours(made, megabytes, arguments.kills))
    if not arguments.without_postgres:
        with tempfile.TemporaryDirectory(prefix="sextet-bench-") as folder:
            database = postgres(Path(folder) / "postgres", standbys=0, settings=crash.NO_CHECKPOINT)
            if database is not None:
                with crash.primary(database, ROWS, ROW_BYTES) as primary:
                    for megabytes in amounts:
                        take("PostgreSQL", theirs(primary, megabytes, arguments.kills))
    found = ratios(rounds)
    for name, ratio in found.items():
        print(f"{name}: {ratio:g}")
    save("recovery", {"rounds": rounds, "ratios": found})


if __name__ == "__main__":
    main()
