"""Clones of volumes of several sizes, against copies of the same data.

    python -m benchmarks.clones [--sizes 10M,100M] [--changed 10]

For each size a cluster is filled with so much and then, while one client goes on inserting rows one by one,
cloned. Prints a line for each size:

- `volume`: how long the clone's volume took, which is what depends on storage; `whole`: until the clone
  answered SQL, with the start of its processes. `own`: bytes that all storage nodes together kept for it
  then.
- `file`: copying the database as one SQLite file, and fdatasync. `pg_basebackup`: of a PostgreSQL server
  with as many rows of the same size, where its programs are installed.
- `before`, `during`: rows a second that the client inserted in the seconds before, and until the volume
  stood.
- `changed`: bytes that one of the six copies had of its own once `--changed` percent of the rows had other
  contents, all written from first to last, which is as many percent of the pages.

All processes share this machine's CPUs. Nothing of it is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import psycopg

from benchmarks.bench.postgres import programs, server_user
from benchmarks.local import Cluster, cluster, save
from cluster.local.cloning import Cloned, clone_cluster
from cluster.local.folder import Folder
from cluster.local.layout import ForkSpec
from cluster.local.ports import free_ports
from cluster.local.sizes import format_size, parse_size

ROW_BYTES = 900
BATCH_ROWS = 2000
QUIET_S = 60.0
"""Redo becomes pages within ten seconds or so."""

RATE_S = 3.0


def fill(made: Cluster, size: int) -> int:
    """About so many bytes of rows; how many rows."""
    count = size // (ROW_BYTES + 30)
    with made.connect() as client:
        client.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
        client.execute("CREATE TABLE beat (id INTEGER PRIMARY KEY, v INTEGER)")
        for first in range(1, count + 1, BATCH_ROWS):
            last = min(count, first + BATCH_ROWS - 1)
            client.execute(
                f"WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
                f" INSERT INTO t SELECT i, hex(randomblob({ROW_BYTES // 2})) FROM n"
            )
    return count


@dataclass
class Beats:
    """When each row was acknowledged, by the monotonic clock."""

    at: list[float] = field(default_factory=list)

    def rate(self, start: float, end: float) -> float:
        """A second, between these."""
        return sum(start <= at < end for at in self.at) / max(1e-3, end - start)


@contextmanager
def beating(made: Cluster) -> Iterator[Beats]:
    """One client inserts as quickly as it can, and has begun."""
    beats, stop, begun = Beats(), threading.Event(), threading.Event()

    def run() -> None:
        with made.connect() as client:
            while not stop.is_set():
                client.execute("INSERT INTO beat (v) VALUES (1)")
                beats.at.append(time.monotonic())
                begun.set()

    worker = threading.Thread(target=run)
    worker.start()
    begun.wait(QUIET_S)
    try:
        yield beats
    finally:
        stop.set()
        worker.join()


def volume(made: Cluster, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made.sextet("volume", "show", name, "--json"))[0]
    return found


def until_written_down(made: Cluster, name: str, within_s: float = QUIET_S) -> None:
    """Until all redo of the cluster has become pages, which is when they are counted."""
    deadline = time.monotonic() + within_s
    behind: list[str] = []
    asked = 0
    while time.monotonic() < deadline:
        status = json.loads(made.sextet("status", "--cluster", name, "--json"))
        asked += 1
        segments = [(node["name"], s) for node in status["storage"] for s in node["segments"]]
        behind = [
            f"{node} group {s['pg']}: {s['applied']} of {s['scl']}"
            for node, s in segments
            if s["applied"] != s["scl"]
        ]
        if segments and not behind:
            return
        time.sleep(1.0)
    sys.exit(
        f"redo of {name} has not become pages after {within_s:.0f} s, looked at {asked} times; "
        f"{len(behind)} segments are behind: {', '.join(behind[:6])}"
    )


def clone(made: Cluster, name: str) -> tuple[Cloned, float, float]:
    """The clone, when it was begun (monotonic seconds), and how long it took as a whole."""

    def never(why: str) -> NoReturn:
        sys.exit(f"{name} would be a full copy: {why}")

    began = time.monotonic()
    done = clone_cluster(Folder.at(made.data), ForkSpec("main"), name, full_copy=never, readers=0)
    return done, began, time.monotonic() - began


def copy_file(made: Cluster, room: Path) -> float:
    """How long it takes to copy the database as one file, durably."""
    source, target = room / "source.db", room / "copy.db"
    made.sextet("export", source)
    began = time.perf_counter()
    shutil.copyfile(source, target)
    with target.open("rb+") as file:
        os.fdatasync(file.fileno())
    took = time.perf_counter() - began
    source.unlink()
    target.unlink()
    return took


# -- PostgreSQL


def pg_basebackup(rows: int) -> float | None:
    """How long it takes of a server with that many rows; None where there is none to be had."""
    bin_, user = programs(), server_user()
    if bin_ is None or user is None:
        return None

    def run(*command: object) -> None:
        as_user = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []
        done = subprocess.run(
            [*as_user, *map(str, command)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{command}: {done.stdout}{done.stderr}")

    with tempfile.TemporaryDirectory(prefix="sextet-bench-pg-") as folder:
        shutil.chown(folder, user)
        data, backup = Path(folder) / "data", Path(folder) / "backup"
        port = next(free_ports(29_000, taken=()))
        run(bin_ / "initdb", "-D", data, "-U", "postgres", "-A", "trust")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        run(bin_ / "pg_ctl", "-D", data, "-w", "-o", options, "-l", data / "log", "start")
        try:
            url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
            with psycopg.connect(url, autocommit=True) as client:
                client.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
                client.execute(
                    f"INSERT INTO t SELECT i, repeat(md5(random()::text), {ROW_BYTES // 32})"
                    f" FROM generate_series(1, {rows}) i"
                )
                client.execute("CHECKPOINT")
            began = time.perf_counter()
            run(bin_ / "pg_basebackup", "-d", url, "-D", backup, "-c", "fast")
            return time.perf_counter() - began
        finally:
            run(bin_ / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")


# -- one size


def measure(size: int, changed_percent: int) -> dict[str, Any]:
    """Units are in the names."""
    with cluster(readers=0) as made, tempfile.TemporaryDirectory(prefix="sextet-bench-") as room:
        rows = fill(made, size)
        until_written_down(made, "main")
        with beating(made) as beats:
            time.sleep(RATE_S)
            done, began, whole_s = clone(made, "copy")
        own = volume(made, "copy")["own_stored_bytes"]
        shared = volume(made, "copy")["shared_pages"]
        file_s = copy_file(made, Path(room))
        with psycopg.connect(done.spec.writer_url, autocommit=True) as client:
            last = rows * changed_percent // 100
            for first in range(1, last + 1, BATCH_ROWS):
                upto = min(last, first + BATCH_ROWS - 1)
                client.execute(
                    f"UPDATE t SET text = hex(randomblob({ROW_BYTES // 2}))"
                    f" WHERE id BETWEEN {first} AND {upto}"
                )
        until_written_down(made, "copy")
        after = volume(made, "copy")
    return {
        "size_bytes": shared * 4096,
        "clone_volume_s": round(done.volume_s, 3),
        "clone_whole_s": round(whole_s, 2),
        "own_stored_bytes": own,
        "file_copy_s": round(file_s, 3),
        "pg_basebackup_s": pg_basebackup(rows),
        "rows_per_s_before": round(beats.rate(began - RATE_S + 1, began)),
        "rows_per_s_during": round(beats.rate(began, began + done.volume_s)),
        "changed_percent": changed_percent,
        "changed_own_bytes": after["own_pages"] * 4096,
        "changed_own_percent": round(100 * after["own_pages"] / max(1, after["pages"]), 1),
    }


def line(found: dict[str, Any]) -> str:
    backup = found["pg_basebackup_s"]
    cells = (
        format_size(found["size_bytes"]),
        f"{found['clone_volume_s']:.2f} s",
        f"{found['clone_whole_s']:.1f} s",
        format_size(found["own_stored_bytes"]),
        f"{found['file_copy_s']:.2f} s",
        "-" if backup is None else f"{backup:.2f} s",
        f"{found['rows_per_s_before']}/s",
        f"{found['rows_per_s_during']}/s",
        f"{format_size(found['changed_own_bytes'])} ({found['changed_own_percent']} %)",
    )
    return "".join(f"{cell:>14}" for cell in cells)


HEADS = ("size", "volume", "whole", "own", "file", "pg_basebackup", "before", "during", "changed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default="10M,100M", help="comma-separated, e.g. 10M,100M,1G")
    parser.add_argument("--changed", type=int, default=10, help="percent of the rows")
    arguments = parser.parse_args()
    print("".join(f"{head:>14}" for head in HEADS), flush=True)
    results = []
    for text in arguments.sizes.split(","):
        found = measure(parse_size(text), arguments.changed)
        print(line(found), flush=True)
        results.append(found)
    save("clones", {"sizes": results})


if __name__ == "__main__":
    main()
