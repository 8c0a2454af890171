"""Does recovery depend on how much log there is? kill -9 the writer after 1 MB and after 500 MB of redo.

    python -m benchmarks.recovery [--large MB] [--kills N]

Prints, for each size, what the writer measured (fence to open) and what a client saw (kill to the first
commit over a new connection, the supervisor's restart of the process included).
"""

from __future__ import annotations

import argparse
import statistics
import sys

from benchmarks.local import Cluster, cluster, save

ROW_BYTES = 3000
ROWS = 400


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


def measure(made: Cluster, megabytes: float, kills: int) -> dict[str, object]:
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


def summary(values: list[float]) -> dict[str, float]:
    return {
        "min": round(min(values), 1),
        "median": round(statistics.median(values), 1),
        "max": round(max(values), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", type=float, default=500, help="MB of redo of the second round")
    parser.add_argument("--kills", type=int, default=5)
    arguments = parser.parse_args()
    rounds = []
    with cluster() as made:
        with made.connect() as connection:
            connection.execute("CREATE TABLE beat (id INTEGER PRIMARY KEY, t TEXT)")
            connection.execute("CREATE TABLE wide (id INTEGER PRIMARY KEY, bytes BLOB)")
            connection.execute(
                f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})"
                f" INSERT INTO wide SELECT i, randomblob({ROW_BYTES}) FROM n"
            )
        for megabytes in (1.0, arguments.large):
            found = measure(made, megabytes, arguments.kills)
            rounds.append(found)
            print(
                f"{found['redo_mb']} MB of redo: recovery {found['recovery_ms']} ms, "
                f"kill to first commit {found['client_gap_ms']} ms"
            )
    save("recovery", {"rounds": rounds})


if __name__ == "__main__":
    main()
