"""The control plane, killed on purpose, and how a benchmark gets along without it.

`sextet` commands fail while it is away, which is for about a second. Who is named writer is read from the
catalog's file, which is always there and costs no process.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.local.folder import Folder
from cluster.testing import ClusterDown, LocalCluster
from engine.errors import ConfigError
from engine.storage.state import STALE

POLL_S = 0.01
BACK_S = 30.0


@dataclass(frozen=True, slots=True)
class Named:
    """The writer by the catalog, and the volume's epoch."""

    writer: str
    epoch: int

    def __str__(self) -> str:
        return f"{self.writer} (epoch {self.epoch})"


def named(cluster: LocalCluster) -> Named:
    uri = f"{Folder.at(cluster.folder).catalog.as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=10)) as db:
        row = db.execute(
            "SELECT writer, epoch FROM clusters JOIN volumes USING (volume)"
        ).fetchone()
    return Named(*row)


def within(true: Callable[[], bool], seconds: float, poll_s: float = POLL_S) -> bool:
    """Whether `true()` was in time."""
    deadline = time.perf_counter() + seconds
    while not true():
        if time.perf_counter() > deadline:
            return False
        time.sleep(poll_s)
    return True


def insist(cluster: LocalCluster, *arguments: str) -> str:
    """What the command printed, once the control plane is there to answer it. Raises ClusterDown."""
    said: list[str] = []

    def done() -> bool:
        try:
            said.append(cluster.sextet(*arguments))
        except ClusterDown:
            return False
        return True

    cluster.until(done, f"sextet {' '.join(arguments)}")
    return said[-1]


def status(cluster: LocalCluster) -> dict[str, Any]:
    """As soon as there is a control plane to say it. Raises ClusterDown."""
    found: list[dict[str, Any]] = []

    def done() -> bool:
        try:
            found.append(cluster.status())
        except ClusterDown:
            return False
        return True

    cluster.until(done, "a status")
    return found[-1]


def refused_stale(storage: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many requests of older epochs storage refused, by kind (`engine.storage.state.STALE`), as far as
    the nodes that are there remember."""
    return {
        what: sum(node["counters"].get(f"refused_stale_{what}", 0) for node in storage)
        for what in STALE
    }


def open_writer(cluster: LocalCluster) -> str:
    """The name of the writer, if it says that it is available; "" if not, or if nobody can be asked."""
    try:
        rows = cluster.status()["instances"]
    except ClusterDown:
        return ""
    ready = [r["name"] for r in rows if (r["role"], r["state"]) == ("writer", "available")]
    return str(ready[0]) if len(ready) == 1 else ""


@contextmanager
def meanwhile(run: Callable[[], None] | None) -> Iterator[None]:
    """`run` in a thread during the block, if there is any; what it raises is raised at the end."""
    raised: list[Exception] = []

    def body() -> None:
        assert run is not None
        try:
            run()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=body, daemon=True)
    if run is not None:
        thread.start()
    try:
        yield
    finally:
        if run is not None:
            thread.join()
    for error in raised:
        raise error


class Killer:
    """Sends SIGKILL to the control plane and counts what hit; it may be away already, from last time."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self.kills = 0

    def strike(self) -> None:
        """Once, as soon as it runs. Raises ConfigError if it does not come back."""
        deadline = time.perf_counter() + BACK_S
        while True:
            try:
                self._cluster.fault.kill("control")
            except ConfigError:
                if time.perf_counter() > deadline:
                    raise
                time.sleep(POLL_S)
            else:
                self.kills += 1
                return

    @contextmanager
    def every(self, seconds: float) -> Iterator[None]:
        """A strike each `seconds` during the block; none for 0."""
        stop = threading.Event()

        def again_and_again() -> None:
            while not stop.wait(seconds):
                try:
                    self.strike()
                except ConfigError as error:  # go on, but do not keep it to yourself
                    print(
                        f"the control plane cannot be killed: {error}", file=sys.stderr, flush=True
                    )

        with meanwhile(again_and_again if seconds else None):
            try:
                yield
            finally:
                stop.set()
