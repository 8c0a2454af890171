"""A zone is lost, then a zone and one node more, under load; nobody lifts a finger.

    python -m benchmarks.losses [--seconds N] [--patience N] [--kill-control]

1. Zone az2 (two storage nodes, a replica) is down for `--seconds` while two pools insert, psycopg's and
   asyncpg's. Not one write may fail.
2. Three spare storage nodes join. A zone and one node more are lost for good as far as anybody knows: three
   copies of six are left, reads go on, writes wait or fail cleanly. After `--patience` seconds the repair
   begins by itself. Prints how long writes were away, which SQLSTATEs clients saw, and reads meanwhile.
3. The lost nodes come back. Six copies must be equal, and the rows exactly those acknowledged, plus some of
   which a client was not told the outcome.

With `--kill-control` the control plane gets SIGKILL every few seconds from beginning to end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from benchmarks.failover import load
from benchmarks.local import save
from cluster.testing import ClusterDown, LocalCluster

WITHIN_S = 180.0
SPARES = ("az1", "az2", "az3")
KILL_EVERY_S = 4.0


class Reads:
    """A client that counts rows on the reader endpoint, again and again."""

    def __init__(self, url: str) -> None:
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self.gap_s = 0.0
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Reads:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        connection: psycopg.Connection[Any] | None = None
        last = time.perf_counter()
        while not self._stop.is_set():
            try:
                if connection is None or connection.closed:
                    connection = psycopg.connect(self._url, autocommit=True, connect_timeout=10)
                connection.execute("SELECT max(id) FROM beat")
            except psycopg.Error as error:
                self.failed[error.sqlstate or "connection lost"] += 1
            else:
                self.answered += 1
                self.gap_s = max(self.gap_s, time.perf_counter() - last)
                last = time.perf_counter()
            time.sleep(0.01)
        if connection is not None:
            connection.close()


@contextmanager
def control_dies(cluster: LocalCluster, wanted: bool) -> Iterator[None]:
    """The control plane is killed again and again for the length of the block, if `wanted`."""
    stop = threading.Event()

    def killing() -> None:
        while not stop.wait(KILL_EVERY_S):
            cluster.fault.kill("control")

    thread = threading.Thread(target=killing)
    if wanted:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if wanted:
            thread.join()


def insist(cluster: LocalCluster, *arguments: str) -> str:
    """What the command printed, once the control plane is there to answer it."""
    said: list[str] = []

    def done() -> bool:
        try:
            said.append(cluster.sextet(*arguments))
        except ClusterDown:
            return False
        return True

    cluster.until(done, f"sextet {' '.join(arguments)}")
    return said[-1]


def fleet(cluster: LocalCluster) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(insist(cluster, "storage", "list", "--json"))
    return found


def equal(cluster: LocalCluster) -> bool:
    now = fleet(cluster)
    if now["replacements"] or any(node["state"] == "repairing" for node in now["nodes"]):
        return False
    try:
        found = json.loads(cluster.sextet("storage", "verify", "--json"))
    except ClusterDown:
        return False  # they differ still, or the control plane is away
    return bool(found["equal"]) and all(len(group["copies"]) == 6 for group in found["groups"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the zone is down")
    parser.add_argument("--patience", type=float, default=10.0, help="seconds until repair begins")
    parser.add_argument("--kill-control", action="store_true")
    arguments = parser.parse_args()
    os.environ["SEXTET_REPLACE_AFTER"] = str(arguments.patience)
    result: dict[str, Any] = {"patience_s": arguments.patience}
    with LocalCluster(replicas=2) as cluster, control_dies(cluster, arguments.kill_control):
        with psycopg.connect(cluster.writer_url, autocommit=True) as connection:
            connection.execute("CREATE TABLE beat (id INTEGER PRIMARY KEY)")
        with load(cluster.writer_url) as acks, Reads(cluster.reader_url) as reads:
            result["zone_down"] = zone_down(cluster, acks, arguments.seconds)
            for az in SPARES:
                insist(cluster, "storage", "add", "--az", az)
            result["zone_and_one_down"] = zone_and_one(cluster, acks, reads)
            cluster.until(lambda: equal(cluster), "six equal copies", timeout_s=WITHIN_S)
        with psycopg.connect(cluster.writer_url, autocommit=True) as connection:
            found = {row[0] for row in connection.execute("SELECT id FROM beat").fetchall()}
    result |= {
        "acknowledged": len(acks.keys),
        "lost": len(acks.keys - found),
        "rows_of_unknown_outcome_that_are_there": len(found - acks.keys),
        "failed_writes": acks.errors,
        "reads": reads.answered,
        "failed_reads": dict(reads.failed),
        "longest_time_without_a_read_s": round(reads.gap_s, 2),
    }
    print(json.dumps(result, indent=2))
    save("losses-control-killed" if arguments.kill_control else "losses", result)
    if result["lost"] or result["zone_down"]["failed_writes"]:
        sys.exit(1)


def zone_down(cluster: LocalCluster, acks: Any, seconds: float) -> dict[str, Any]:
    errors, acked, began = acks.errors, len(acks.keys), time.perf_counter()
    cluster.fault.az_down("az2")
    time.sleep(seconds)
    result = {
        "seconds": seconds,
        "writes": len(acks.keys) - acked,
        "failed_writes": acks.errors - errors,
        "longest_gap_s": {c: round(acks.gap(c, began), 3) for c in acks.at},
    }
    cluster.fault.az_up("az2")
    cluster.until_healthy(WITHIN_S)
    print(json.dumps(result), flush=True)
    return result


def zone_and_one(cluster: LocalCluster, acks: Any, reads: Reads) -> dict[str, Any]:
    segments = {node["name"]: node["segments"] for node in fleet(cluster)["nodes"]}
    lost = [n for n in ("storage-3", "storage-4", "storage-5") if segments[n]]
    began, errors, read = time.perf_counter(), acks.errors, reads.answered
    before = acks.last()
    for name in lost:
        cluster.fault.kill(name, hold=True)
    lost_at = time.perf_counter()
    time.sleep(0.5)  # what was in flight is over; from here on an ack means that writes are back
    quiet = acks.last()
    read_meanwhile = 0

    def writing() -> bool:
        nonlocal read_meanwhile
        read_meanwhile = reads.answered - read
        return acks.last() > max(quiet, lost_at + 0.5)

    cluster.until(writing, "writes are back", timeout_s=WITHIN_S)
    back = acks.last()
    result = {
        "lost": lost,
        "writes_away_s": round(max(acks.gap(c, began) for c in acks.at), 2),
        "failed_writes": acks.errors - errors,
        "sqlstates": dict(acks.states),
        "reads_meanwhile": read_meanwhile,
        "last_ack_before_s": round(lost_at - before, 3),
        "first_ack_after_s": round(back - lost_at, 2),
    }
    print(json.dumps(result), flush=True)
    cluster.fault.heal()
    cluster.until_healthy(WITHIN_S)
    return result


if __name__ == "__main__":
    main()
