"""A writer is stopped, another one takes over, and the old one goes on: does anything of it get through?

    python -m benchmarks.paused_writer [--rounds N] [--readers N] [--kill-control]

Each round, under a steady load of inserts: the writer is paused (`sextet fault pause`: SIGSTOP, and its
supervisor leaves it alone) while four clients are in the middle of transactions, one of which has written;
another instance is named and commits; the old one is resumed. The log files of all storage nodes are
read from the disk before it goes on and after. Of the old epoch there must not be, afterwards,

- a frame that was on no node's disk before;
- a frame on one node more than before, if it reaches above where the new writer cut the log off. What is
  below that is part of the volume's history, and gossip may bring it to who has missed it.

All four clients ask for their commit while the writer is stopped, and each must get an error: one that is
told "committed", or hears nothing for a minute, fails the run, and a row that was told committed and is not
there is named. At the end every acknowledged row must be there and none that was refused.

Prints how many frames there are of each sort, what storage refused of older epochs by kind, and how long
after the stop, and after another writer was named, the four had their errors: median and worst.

With `--kill-control` the control plane gets SIGKILL together with the SIGSTOP.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.control import Killer, named, refused_stale, status, within
from benchmarks.load import Acks, load, sqlstate, verdict
from benchmarks.local import save
from cluster.testing import LocalCluster
from engine.storage.walfile import Found, scan_file

Frame = tuple[int, int, int]
"""Group, first LSN, epoch: a frame that a truncation has cut keeps them."""

Copy = tuple[Frame, int, str]
"""A frame, its last LSN, and the node that has it."""


READERS = 3
"""Clients in the middle of a transaction besides the one that has the write lock."""

HEARD_S = 60.0
COMMITTED, NOTHING = "committed", f"nothing heard for {HEARD_S:.0f} s"
NO_ERROR = frozenset({COMMITTED, NOTHING})


class OpenTransaction:
    """A client in the middle of a transaction, which it wants to commit once the writer is stopped.

    It has inserted `key`, or has only read if that is None.
    """

    def __init__(self, url: str, key: int | None = None) -> None:
        self.key = key
        self._connection = psycopg.connect(url, connect_timeout=30)
        if key is None:
            self._connection.execute("SELECT count(*) FROM open_ones").fetchall()
        else:
            self._connection.execute("INSERT INTO open_ones VALUES (%s)", (key,))
        self._go = threading.Event()
        self.ended_at = 0.0
        self.outcome = NOTHING
        self._thread = threading.Thread(target=self._commit, daemon=True)
        self._thread.start()

    def commit(self) -> None:
        self._go.set()

    def _commit(self) -> None:
        self._go.wait()
        try:
            self._connection.commit()
            outcome = COMMITTED
        except psycopg.Error as error:
            outcome = sqlstate(error)
        self.ended_at, self.outcome = time.perf_counter(), outcome
        self._connection.close()

    def wait(self, deadline: float) -> None:
        self._thread.join(max(0.0, deadline - time.perf_counter()))

    def error_after(self, moment: float) -> float | None:
        """Seconds; None if it got no error."""
        return None if self.outcome in NO_ERROR else round(self.ended_at - moment, 3)


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


def until_taken_over(cluster: LocalCluster, acks: Acks, old: str) -> float:
    """Until both pools were told of a commit which can only be another writer's; when that was named.

    No command is run for that: the old writer is to go on while its connections are still there.
    """
    if not within(lambda: named(cluster).writer != old, HEARD_S, poll_s=0.002):
        sys.exit(f"nobody was named in the place of {old} within {HEARD_S:.0f} s")
    moment = time.perf_counter()
    cluster.until(lambda: acks.pools_since(moment), "both pools commit again")
    return moment


def one_round(cluster: LocalCluster, acks: Acks, key: int, killer: Killer | None) -> dict[str, Any]:
    old = named(cluster)
    # The one that takes the write lock comes last, for the load has to wait for it.
    clients = [OpenTransaction(cluster.writer_url) for _ in range(READERS)]
    clients.append(OpenTransaction(cluster.writer_url, key))
    stopped = time.perf_counter()
    pause = cluster.fault.pause(old.writer)
    try:
        if killer is not None:
            killer.strike()
        for client in clients:
            client.commit()
        moment = until_taken_over(cluster, acks, old.writer)
        cut = cut_at(cluster.folder, old.epoch)
        before = on_disk(cluster.folder, old.epoch)
    finally:
        resumed = time.perf_counter()
        cluster.fault.heal(pause.id)
    for client in clients:
        client.wait(resumed + HEARD_S)
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
        "named_after_stop_s": round(moment - stopped, 3),
        "resumed_after_stop_s": round(resumed - stopped, 3),
        "outcomes": dict(Counter(client.outcome for client in clients)),
        "told_committed": [c.key for c in clients if c.outcome == COMMITTED and c.key is not None],
        "errors_after_stop_s": errors_after(clients, stopped),
        "errors_after_naming_s": errors_after(clients, moment),
    }


def errors_after(clients: Sequence[OpenTransaction], moment: float) -> list[float]:
    return [s for client in clients if (s := client.error_after(moment)) is not None]


def median_and_worst(rounds: Sequence[dict[str, Any]], name: str) -> dict[str, float | None]:
    """Of every client in every round; None if none got an error."""
    every = [seconds for r in rounds for seconds in r[name]]
    return {
        "median": round(statistics.median(every), 3) if every else None,
        "worst": max(every, default=None),
    }


def wrong_in(rounds: Sequence[dict[str, Any]], left: set[int]) -> list[str]:
    """What became of the clients that were in the middle of a transaction and must not have."""
    wrong = []
    for number, r in enumerate(rounds, 1):
        wrong += [
            f"round {number}: {count} clients of the old writer got no error but {outcome!r}"
            for outcome, count in r["outcomes"].items()
            if outcome in NO_ERROR
        ]
        wrong += [
            f"round {number}: row {key} was told committed and is lost"
            for key in set(r["told_committed"]) - left
        ]
    return wrong


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
        left = {row[0] for row in connection.execute("SELECT id FROM open_ones").fetchall()}
    result = {
        "rounds": rounds,
        "new_frames": sum(r["new_frames"] for r in rounds),
        "spread_above_the_cut": sum(r["spread_above_the_cut"] for r in rounds),
        "refused_stale": refused_stale(status(cluster)["storage"]),
        "outcomes": dict(sum((Counter(r["outcomes"]) for r in rounds), Counter[str]())),
        "error_after_stop_s": median_and_worst(rounds, "errors_after_stop_s"),
        "error_after_naming_s": median_and_worst(rounds, "errors_after_naming_s"),
        "open_transactions_committed_by_an_old_writer": len(left),
        "rows": verdict(acks, {row[0] for row in rows}),
        "control_kills": killer.kills,
    }
    bad = ("new_frames", "spread_above_the_cut", "open_transactions_committed_by_an_old_writer")
    found = [f"{k}: {result[k]}" for k in bad if result[k]]
    result["wrong"] = [*result["rows"]["wrong"], *found, *wrong_in(rounds, left)]
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
