"""How much redo does a one-row update ship, against the pages it dirties? From the cluster's counters.

python -m benchmarks.redo_bytes [--updates N]
"""

from __future__ import annotations

import argparse
import random

from benchmarks.local import cluster, save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=1000)
    updates = parser.parse_args().updates
    rng = random.Random(6)
    with cluster() as made, made.connect() as connection:
        connection.execute(
            "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, filler TEXT)"
        )
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
            " INSERT INTO account SELECT i, 0, 'filler to make the row 100 bytes wide' FROM n"
        )
        before = made.status()["redo"]
        for _ in range(updates):
            connection.execute(
                "UPDATE account SET balance = balance + 1 WHERE id = %s",
                (rng.randrange(1, 100001),),
            )
        after = made.status()["redo"]
    per = {
        key: round((after[key] - before[key]) / updates, 2)
        for key in ("redo_bytes", "dirty_page_bytes", "records", "commits")
    }
    per["ratio"] = round(per["dirty_page_bytes"] / per["redo_bytes"], 1)
    print(
        f"a one-row update: {per['redo_bytes']} bytes of redo for {per['dirty_page_bytes']} bytes of "
        f"dirty pages, 1 : {per['ratio']}"
    )
    save("redo_bytes", {"updates": updates, "per_update": per})


if __name__ == "__main__":
    main()
