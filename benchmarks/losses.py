"""A zone is lost, then a zone and one node more, under load; nobody lifts a finger.

    python -m benchmarks.losses [--seconds N] [--patience N] [--rows N] [--kill-control]

A table of `--rows` old rows, one a page, is read all the time on the reader endpoint: in random order, each
row once before any is read again, and compared with what was written.

1. Zone az2 (two storage nodes, a replica) is down for `--seconds` while two pools insert, psycopg's and
   asyncpg's. Not one write may fail, then or while the zone comes back. The reads lose one connection.
2. Three spare storage nodes join. A zone and one node more are lost for good as far as anybody knows: three
   copies of six are left, reads go on, writes wait or fail with an SQLSTATE that says what happened.
   A new replica joins now and is read as well: it has nothing in its cache, so every row comes from the
   copies that are left. No read may fail. After `--patience` seconds the repair begins by itself.
3. Writes are back, and then the lost nodes. No write and no read may fail. Six copies must be equal, and
   the rows exactly those acknowledged, plus some of which a client was not told the outcome.

With `--kill-control` the control plane gets SIGKILL all the time, each `--patience` + 5 seconds. Its
patience with a silent node begins anew with every start: one that lives shorter would never repair.

Exit status 1, with all that is wrong, if any of this does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import psycopg

from benchmarks.control import Killer, insist, named, status, within
from benchmarks.load import POOLS, Acks, load, longest_gap, sqlstate, verdict
from benchmarks.local import save
from cluster.testing import ClusterDown, LocalCluster

WITHIN_S = 180.0
ZONE, ONE_MORE = "az2", "storage-5"
SPARES = ("az1", "az2", "az3")
COLD_AZ = "az1"

COMES_BACK_S = 5.0
"""A killed control plane has the whole patience and so much more, to start and to begin a repair."""

WITHOUT_QUORUM = frozenset({"08007", "57014", "55P03"})
"""What a write may be told while there is no write quorum: outcome unknown, statement_timeout, lock_timeout
(docs/testing.md, `engine.errors`). The writer lives all the while, so no connection may be lost."""

BATCH = 100


def body(number: int) -> str:
    """Of an old row; so long that a page has room for one."""
    return f"{number:08d}" * 300


def fill(cluster: LocalCluster, rows: int) -> None:
    with psycopg.connect(cluster.writer_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE beat (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE old (id INTEGER PRIMARY KEY, body TEXT)")
        for first in range(0, rows, BATCH):
            some = range(first, min(first + BATCH, rows))
            values = ", ".join(["(%s, %s)"] * len(some))
            numbers = [value for n in some for value in (n, body(n))]
            connection.execute(f"INSERT INTO old VALUES {values}", numbers)


class Reads:
    """A client that reads old rows, each once in random order, and then all over again."""

    def __init__(self, url: str, rows: int, seed: int) -> None:
        self.at: list[float] = []
        """Moments at which a right row came."""
        self.failed: Counter[str] = Counter()
        self.began = 0.0
        self._url = url
        self._order = random.Random(seed).sample(range(rows), rows)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._connection: psycopg.Connection[Any] | None = None

    def __enter__(self) -> Reads:
        self.began = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        if self._thread.is_alive():
            self.failed["still waits for an answer"] += 1

    def _run(self) -> None:
        turn = 0
        while not self._stop.is_set():
            number = self._order[turn % len(self._order)]
            try:
                self._read(number)
            except psycopg.Error as error:
                self.failed[sqlstate(error)] += 1
            except (
                Exception
            ) as error:  # a reader that ends in silence would pass for one without errors
                self.failed[f"{type(error).__name__}: {error}"] += 1
            else:
                self.at.append(time.perf_counter())
                turn += 1
            time.sleep(0.01)
        if self._connection is not None:
            self._connection.close()

    def _read(self, number: int) -> None:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=10)
        cursor = self._connection.execute("SELECT body FROM old WHERE id = %s", (number,))
        if cursor.fetchall() != [(body(number),)]:
            raise ValueError(f"row {number} is not what was written")

    def between(self, begin: float, end: float) -> list[float]:
        return [at for at in list(self.at) if begin < at <= end]

    def gap(self, since: float) -> float:
        """The longest time without an answer since then, or since it began, seconds."""
        begin = max(since, self.began)
        return longest_gap(self.between(begin, time.perf_counter()), begin)


class Phase:
    """What clients were told from here on."""

    def __init__(self, cluster: LocalCluster, acks: Acks, reads: Sequence[Reads]) -> None:
        self.began = time.perf_counter()
        self._cluster, self._named = cluster, named(cluster)
        self._acks, self._reads = acks, reads
        self._count, self._states = acks.count(), acks.states()
        self._failed = self._failed_reads()

    def _failed_reads(self) -> Counter[str]:
        return sum((reads.failed for reads in self._reads), Counter[str]())

    def end(self) -> dict[str, Any]:
        now = time.perf_counter()
        states = self._acks.states() - self._states
        reads = [len(some.between(self.began, now)) for some in self._reads]
        return {
            "lasted_s": round(now - self.began, 1),
            "writes": self._acks.count() - self._count,
            "failed_writes": states.total(),
            "sqlstates": dict(states),
            "longest_gap_s": {p: round(self._acks.gap(p, self.began), 2) for p in POOLS},
            "reads": sum(reads),
            "failed_reads": dict(self._failed_reads() - self._failed),
            "longest_time_without_a_read_s": round(max(r.gap(self.began) for r in self._reads), 2),
            # None of this is a reason for a failover; one that happened explains what failed.
            "writer": f"{self._named} -> {named(self._cluster)}",
        }


def fleet(cluster: LocalCluster) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(insist(cluster, "storage", "list", "--json"))
    return found


def repaired(cluster: LocalCluster) -> bool:
    now = fleet(cluster)
    return not now["replacements"] and all(node["state"] != "repairing" for node in now["nodes"])


def equal(cluster: LocalCluster) -> bool:
    try:
        found = json.loads(cluster.sextet("storage", "verify", "--json"))
    except ClusterDown:
        return False  # they differ still, or the control plane is away
    return bool(found["equal"]) and all(len(group["copies"]) == 6 for group in found["groups"])


def pages_read(cluster: LocalCluster) -> Counter[str]:
    """How many pages each storage node has given to instances since it started."""
    return Counter(
        {n["name"]: n["counters"].get("pages_read", 0) for n in status(cluster)["storage"]}
    )


def zone_down(cluster: LocalCluster, acks: Acks, reads: Reads, seconds: float) -> dict[str, Any]:
    phase = Phase(cluster, acks, [reads])
    cluster.fault.az_down(ZONE)
    time.sleep(seconds)
    return phase.end()


def zone_back(cluster: LocalCluster, acks: Acks, reads: Reads) -> dict[str, Any]:
    phase = Phase(cluster, acks, [reads])
    cluster.fault.az_up(ZONE)
    cluster.until_healthy(WITHIN_S)
    for az in SPARES:
        insist(cluster, "storage", "add", "--az", az)
    return phase.end()


def nodes_to_lose(cluster: LocalCluster) -> list[str]:
    """A zone's and one more, all of which keep copies of everything."""
    nodes = fleet(cluster)["nodes"]
    lost = [
        n["name"] for n in nodes if n["segments"] and (n["az"] == ZONE or n["name"] == ONE_MORE)
    ]
    if len(lost) != 3:
        sys.exit(f"not a zone and one more, but {lost} would be lost")
    return lost


def cold_endpoint(cluster: LocalCluster) -> str:
    """The URL of an endpoint for instances that are not there yet."""
    there = ",".join(row["name"] for row in status(cluster)["instances"])
    insist(cluster, "endpoint", "add", "cold", "--exclude", there)
    rows = json.loads(insist(cluster, "endpoint", "list", "--json"))
    return next(str(row["url"]) for row in rows if row["name"] == "cold")


def zone_and_one(
    cluster: LocalCluster, acks: Acks, warm: Reads, cold: Reads, begin_cold: Callable[[], object]
) -> dict[str, Any]:
    """`cold` begins to read as soon as there is a replica for it."""
    lost = nodes_to_lose(cluster)
    pages = pages_read(cluster)
    before = acks.last()
    phase = Phase(cluster, acks, [warm, cold])
    for name in lost:
        cluster.fault.kill(name, hold=True)
    lost_at = time.perf_counter()
    time.sleep(0.5)  # what was in flight is over; from here on an ack means that writes are back
    quiet = time.perf_counter()
    insist(cluster, "instance", "add", "--az", COLD_AZ)
    joined = time.perf_counter()
    begin_cold()
    cluster.until(lambda: acks.last() > quiet, "writes are back", timeout_s=WITHIN_S)
    back = min(at for worker in acks.workers for at in worker.since(quiet))
    return {
        "lost": lost,
        **phase.end(),
        "writes_away_s": round(back - before, 2),
        "first_write_after_loss_s": round(back - lost_at, 2),
        "warm_reads_meanwhile": len(warm.between(lost_at, back)),
        "cold_replica_joined_after_s": round(joined - lost_at, 2),
        "cold_reads_meanwhile": len(cold.between(joined, back)),
        "pages_read_from_storage": (pages_read(cluster) - pages).total(),
    }


def nodes_back(cluster: LocalCluster, acks: Acks, reads: Sequence[Reads]) -> dict[str, Any]:
    phase = Phase(cluster, acks, reads)
    cluster.fault.heal()
    cluster.until_healthy(WITHIN_S)
    cluster.until(lambda: repaired(cluster), "no replacement under way", timeout_s=WITHIN_S)
    return phase.end()


def wrong_in(phases: dict[str, dict[str, Any]]) -> list[str]:
    """What must not be, by phase."""
    wrong: list[str] = []
    for name, phase in phases.items():
        allowed = WITHOUT_QUORUM if name == "zone_and_one_down" else frozenset()
        if strange := {s: n for s, n in phase["sqlstates"].items() if s not in allowed}:
            wrong.append(f"{name}: failed writes {strange}")
        breaks = (
            1 if name == "zone_down" else 0
        )  # the reader is on the replica that goes with the zone
        if sum(phase["failed_reads"].values()) > breaks:
            wrong.append(f"{name}: failed reads {phase['failed_reads']}")
        if not phase["reads"]:
            wrong.append(f"{name}: no reads")
    without = phases["zone_and_one_down"]
    needed = ("warm_reads_meanwhile", "cold_reads_meanwhile", "pages_read_from_storage")
    wrong += [f"zone_and_one_down: no {what}" for what in needed if not without[what]]
    return wrong


def measure(cluster: LocalCluster, seconds: float, rows: int) -> dict[str, Any]:
    phases: dict[str, dict[str, Any]] = {}

    def note(name: str, phase: dict[str, Any]) -> None:
        phases[name] = phase
        print(f"{name}: {json.dumps(phase)}", flush=True)

    fill(cluster, rows)
    writer = named(cluster).writer
    if any(r["name"] == writer and r["az"] == ZONE for r in status(cluster)["instances"]):
        sys.exit(
            f"the writer is in {ZONE}: its loss would be a failover, which is not measured here"
        )
    warm, cold = (
        Reads(cluster.reader_url, rows, seed=1),
        Reads(cold_endpoint(cluster), rows, seed=2),
    )
    with load(cluster.writer_url) as acks, warm, ExitStack() as late:
        cluster.until(lambda: acks.pools_since(0.0) and bool(warm.at), "work has begun")
        note("zone_down", zone_down(cluster, acks, warm, seconds))
        note("zone_back", zone_back(cluster, acks, warm))
        down = zone_and_one(cluster, acks, warm, cold, lambda: late.enter_context(cold))
        note("zone_and_one_down", down)
        note("nodes_back", nodes_back(cluster, acks, [warm, cold]))
    with psycopg.connect(cluster.writer_url, autocommit=True) as connection:
        found = {row[0] for row in connection.execute("SELECT id FROM beat").fetchall()}
    # Without load: under it a copy drops versions that the comparison has not come to yet.
    same = within(lambda: equal(cluster), WITHIN_S, poll_s=1.0)
    judged = verdict(acks, found)
    wrong = [*judged["wrong"], *wrong_in(phases)]
    if not same:
        wrong.append(f"no six equal copies within {WITHIN_S:.0f} s")
    return {"phases": phases, "rows": judged, "six_equal_copies": same, "wrong": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the zone is down")
    parser.add_argument("--patience", type=float, default=10.0, help="seconds until repair begins")
    parser.add_argument("--rows", type=int, default=4000, help="old rows, a page each")
    parser.add_argument("--kill-control", action="store_true")
    arguments = parser.parse_args()
    os.environ["SEXTET_REPLACE_AFTER"] = str(arguments.patience)
    with LocalCluster(replicas=2) as cluster:
        killer = Killer(cluster)
        with killer.every(arguments.patience + COMES_BACK_S if arguments.kill_control else 0):
            found = measure(cluster, arguments.seconds, arguments.rows)
    result = {"patience_s": arguments.patience, **found, "control_kills": killer.kills}
    if arguments.kill_control and not killer.kills:
        result["wrong"].append("the control plane was never killed")
    print(json.dumps({k: v for k, v in result.items() if k != "phases"}, indent=2))
    save("losses-control-killed" if arguments.kill_control else "losses", result)
    if result["wrong"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
