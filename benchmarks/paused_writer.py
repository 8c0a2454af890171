"""A writer is stopped, another one takes over, and the old one goes on: does anything of it get through?

    python -m benchmarks.paused_writer [--rounds N] [--readers N] [--kill-control]

Each round, under a steady load of inserts: SIGSTOP to the writer while clients are in the middle of
transactions; another instance is named and commits; SIGCONT to the old one. The log files of all storage
nodes are read from the disk before it goes on and after. Of the old epoch there must not be, afterwards,

- a frame that was on no node's disk before;
- a frame on one node more than before, if it reaches above where the new writer cut the log off. What is
  below that is part of the volume's history, and gossip may bring it to who has missed it.

Prints how many there are of each, what storage refused of older epochs (redo, greetings and fences: it
does not count them apart), and when a client that had an open transaction on the old writer got its error.
At the end every acknowledged row must be there and none that was refused.

With `--kill-control` the control plane gets SIGKILL together with the SIGSTOP.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import statistics
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.control import Killer, named, status
from benchmarks.load import Acks, load, sqlstate, verdict
from benchmarks.local import save
from cluster.testing import LocalCluster
from engine.storage.walfile import Found, scan_file

Frame = tuple[int, int, int]
"""Group, first LSN, epoch: a frame that a truncation has cut keeps them."""

Copy = tuple[Frame, int, str]
"""A frame, its last LSN, and the node that has it."""


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
            self.outcome = sqlstate(error)
        self.ended_at = time.perf_counter()
        self._connection.close()

    def wait(self) -> None:
        self._thread.join(60)
        if self._thread.is_alive():
            sys.exit("a client of the old writer has heard nothing for 60 s")


def on_disk(folder: Path, upto: int) -> set[Copy]:
    """Every frame of epochs up to `upto` in all storage nodes' log files."""
    held: set[Copy] = set()
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
                    held.add((frame, item.header.last_lsn, node.name))
    return held


def cut_at(folder: Path, epoch: int) -> int:
    """The LSN above which the writers after `epoch` have annulled what it wrote.

    The newest recovery's list is the one in force (`engine.volume.recovery`).
    """
    lists = []
    for node in sorted(folder.glob("storage-*")):
        with closing(sqlite3.connect(f"{(node / 'node.db').as_uri()}?mode=ro", uri=True)) as db:
            lists.append(db.execute("SELECT epoch, low FROM truncation ORDER BY epoch").fetchall())
    newest = max(lists, key=lambda ranges: ranges[-1][0] if ranges else 0)
    lows = [int(low) for by, low in newest if by > epoch]
    if not lows:
        sys.exit(f"no storage node knows where epoch {epoch} was cut off")
    return min(lows)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What has changed on the disks between two looks; all are copies of an old epoch's frames."""

    new: set[Copy]
    """Of frames that nobody had."""

    spread_above: set[Copy]
    """Of annulled frames, on nodes that did not have them."""

    spread_below: set[Copy]
    """Of frames that count; gossip's work."""


def compare(before: set[Copy], after: set[Copy], cut: int) -> Comparison:
    frames = {frame for frame, _, _ in before}
    places = {(frame, node) for frame, _, node in before}
    new = {copy for copy in after if copy[0] not in frames}
    spread = {copy for copy in after - new if (copy[0], copy[2]) not in places}
    above = {copy for copy in spread if copy[1] > cut}
    return Comparison(new, above, spread - above)


def until_taken_over(cluster: LocalCluster, acks: Acks, old: str) -> None:
    """Until both pools were told of a commit which can only be another writer's.

    No command is run for that: the old writer is to go on while its connections are still there.
    """
    cluster.until(lambda: named(cluster).writer != old, "another writer is named")
    moment = time.perf_counter()
    cluster.until(lambda: acks.pools_since(moment), "both pools commit again")


def one_round(cluster: LocalCluster, acks: Acks, key: int, killer: Killer | None) -> dict[str, Any]:
    old = named(cluster)
    pid = next(i["pid"] for i in status(cluster)["instances"] if i["name"] == old.writer)
    client = OpenTransaction(cluster.writer_url, key)
    stopped = time.perf_counter()
    os.kill(pid, signal.SIGSTOP)
    try:
        if killer is not None:
            killer.strike()
        client.commit()
        until_taken_over(cluster, acks, old.writer)
        cut = cut_at(cluster.folder, old.epoch)
        before = on_disk(cluster.folder, old.epoch)
    finally:
        resumed = time.perf_counter()
        os.kill(pid, signal.SIGCONT)
    client.wait()
    cluster.until_healthy()
    found = compare(before, on_disk(cluster.folder, old.epoch), cut)
    return {
        "old": old.writer,
        "new": named(cluster).writer,
        "frames_of_the_old_epoch": len({frame for frame, _, _ in before}),
        "annulled_copies": sum(last > cut for _, last, _ in before),
        "new_frames": len(found.new),
        "spread_above_the_cut": len(found.spread_above),
        "spread_below_the_cut": len(found.spread_below),
        "outcome": client.outcome,
        "error_after_stop_s": round(client.ended_at - stopped, 3),
        "error_after_resume_s": round(client.ended_at - resumed, 3),
    }


def measure(cluster: LocalCluster, count: int, *, kill: bool) -> dict[str, Any]:
    killer = Killer(cluster)
    rounds: list[dict[str, Any]] = []
    with psycopg.connect(cluster.writer_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE beat (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE open_ones (id INTEGER PRIMARY KEY)")
    with load(cluster.writer_url) as acks:
        for n in range(count):
            rounds.append(one_round(cluster, acks, n, killer if kill else None))
            print(f"{n + 1:3d} {json.dumps(rounds[-1])}", flush=True)
    with psycopg.connect(cluster.writer_url, autocommit=True) as connection:
        rows = connection.execute("SELECT id FROM beat").fetchall()
        left = connection.execute("SELECT count(*) FROM open_ones").fetchall()[0][0]
    storage = status(cluster)["storage"]
    result = {
        "rounds": rounds,
        "new_frames": sum(r["new_frames"] for r in rounds),
        "spread_above_the_cut": sum(r["spread_above_the_cut"] for r in rounds),
        "refused_stale_epoch": sum(n["counters"].get("refused_stale_epoch", 0) for n in storage),
        "error_after_stop_s_median": statistics.median(r["error_after_stop_s"] for r in rounds),
        "error_after_stop_s_worst": max(r["error_after_stop_s"] for r in rounds),
        "open_transactions_committed_by_an_old_writer": left,
        "rows": verdict(acks, {row[0] for row in rows}),
        "control_kills": killer.kills,
    }
    bad = ("new_frames", "spread_above_the_cut", "open_transactions_committed_by_an_old_writer")
    result["wrong"] = result["rows"]["wrong"] + [f"{k}: {result[k]}" for k in bad if result[k]]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--kill-control", action="store_true")
    arguments = parser.parse_args()
    if arguments.readers < 1:
        parser.error("without a replica nobody can take over")
    with LocalCluster(replicas=arguments.readers) as cluster:
        result = measure(cluster, arguments.rounds, kill=arguments.kill_control)
    print(json.dumps({k: v for k, v in result.items() if k != "rounds"}, indent=2))
    save("paused_writer-control-killed" if arguments.kill_control else "paused_writer", result)
    if result["wrong"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
