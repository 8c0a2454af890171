"""A writer is stopped, another one takes over, and the old one goes on: does anything of it get through?

    python -m benchmarks.paused_writer [--rounds N] [--readers N]

Each round, under a steady load of inserts: SIGSTOP to the writer while clients are in the middle of
transactions; another instance is named and commits; SIGCONT to the old one. Then every log file of all six
storage nodes is read from the disk. Prints how many frames of the old epoch are there that were on no
node's disk before it went on (must be 0), what storage refused of old writers, and when a client that had
an open transaction on the old writer got its error. At the end, every acknowledged row must be there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.failover import load
from benchmarks.local import save
from cluster.testing import LocalCluster
from engine.storage.walfile import Found, scan_file

Frame = tuple[int, int, int]
"""Group, first LSN, epoch."""


class OpenTransaction:
    """A client in the middle of a transaction, which it wants to commit once the writer is stopped."""

    def __init__(self, url: str, key: int) -> None:
        self._connection = psycopg.connect(url, connect_timeout=30)
        self._connection.execute("INSERT INTO open_ones VALUES (%s)", (key,))
        self._go = threading.Event()
        self.ended_at = 0.0
        self.outcome = ""
        self._thread = threading.Thread(target=self._commit)
        self._thread.start()

    def commit(self) -> None:
        self._go.set()

    def _commit(self) -> None:
        self._go.wait()
        try:
            self._connection.commit()
            self.outcome = "committed"
        except psycopg.Error as error:
            self.outcome = error.sqlstate or "connection lost"
        self.ended_at = time.perf_counter()
        self._connection.close()

    def wait(self) -> None:
        self._thread.join(60)
        if self._thread.is_alive():
            sys.exit("a client of the old writer has heard nothing for 60 s")


def on_disk(folder: Path, upto: int) -> dict[Frame, int]:
    """Frames of epochs up to `upto` in all storage nodes' log files, and on how many nodes each is."""
    held: dict[Frame, int] = {}
    for node in sorted(folder.glob("storage-*")):
        files = sorted((node / "wal").glob("*.wal"))
        for path in files:
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue  # dropped meanwhile: its pages are on the disk
            for item in scan_file(data, int(path.stem), last=path == files[-1]).items:
                if isinstance(item, Found) and item.header.epoch <= upto:
                    frame = (item.header.pg, item.header.first_lsn, item.header.epoch)
                    held[frame] = held.get(frame, 0) + 1
    return held


def instances(cluster: LocalCluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.status()["instances"]
    return found


def moved(cluster: LocalCluster, old: str) -> bool:
    return any(
        (i["role"], i["state"]) == ("writer", "available") and i["name"] != old
        for i in instances(cluster)
    )


def one_round(cluster: LocalCluster, key: int) -> dict[str, Any]:
    (writer,) = (i for i in instances(cluster) if i["role"] == "writer")
    epoch = cluster.status()["volume"]["epoch"]
    client = OpenTransaction(cluster.writer_url, key)
    stopped = time.perf_counter()
    os.kill(writer["pid"], signal.SIGSTOP)
    client.commit()
    cluster.until(lambda: moved(cluster, writer["name"]), "another writer")
    before = on_disk(cluster.folder, epoch)
    resumed = time.perf_counter()
    os.kill(writer["pid"], signal.SIGCONT)
    client.wait()
    cluster.until_healthy()
    after = on_disk(cluster.folder, epoch)
    return {
        "frames_of_the_old_epoch": len(before),
        "new_frames": len(set(after) - set(before)),
        "outcome": client.outcome,
        "error_after_stop_s": round(client.ended_at - stopped, 3),
        "error_after_resume_s": round(client.ended_at - resumed, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--readers", type=int, default=2)
    arguments = parser.parse_args()
    rounds = []
    with LocalCluster(replicas=arguments.readers) as cluster:
        with psycopg.connect(cluster.writer_url, autocommit=True) as connection:
            connection.execute("CREATE TABLE beat (id INTEGER PRIMARY KEY)")
            connection.execute("CREATE TABLE open_ones (id INTEGER PRIMARY KEY)")
        with load(cluster.writer_url) as acks:
            for n in range(arguments.rounds):
                rounds.append(one_round(cluster, n))
                print(f"{n + 1:3d} {json.dumps(rounds[-1])}", flush=True)
        with psycopg.connect(cluster.writer_url, autocommit=True) as connection:
            rows = connection.execute("SELECT id FROM beat").fetchall()
            left = connection.execute("SELECT count(*) FROM open_ones").fetchall()[0][0]
        refused = sum(
            node["counters"].get("refused_stale_epoch", 0) for node in cluster.status()["storage"]
        )
    lost = len(acks.keys - {row[0] for row in rows})
    result = {
        "rounds": rounds,
        "new_frames": sum(r["new_frames"] for r in rounds),
        "refused_of_old_writers": refused,
        "error_after_stop_s_median": statistics.median(r["error_after_stop_s"] for r in rounds),
        "error_after_stop_s_worst": max(r["error_after_stop_s"] for r in rounds),
        "open_transactions_committed_by_an_old_writer": left,
        "acknowledged": len(acks.keys),
        "lost": lost,
    }
    print(json.dumps({k: v for k, v in result.items() if k != "rounds"}, indent=2))
    save("paused_writer", result)
    if lost or left or result["new_frames"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
