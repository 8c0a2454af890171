"""Losing nodes under a steady load of inserts: what is acknowledged stays, the rest is whole or absent.

The supervisor restarts what dies, so a test that wants nodes to stay dead pauses the supervisor.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from cluster.local.state import load_state

pytestmark = pytest.mark.e2e

PAUSE_S = 0.01
"""Between two transactions: more of them show no more, and take the CPU from those who are to recover."""


class Load:
    """A client that inserts (k, part) pairs of rows, two in each transaction, until told to stop.

    Remembers of every transaction whether it was acknowledged, refused or left in the dark.
    """

    def __init__(self, url: str, *, timeout_ms: int, start: int = 0) -> None:
        self.acknowledged: set[int] = set()
        self.unknown: set[int] = set()
        self.refused: set[int] = set()
        self.states: list[str] = []
        self._url = f"{url}?options=-c%20statement_timeout%3D{timeout_ms}"
        self._next = start
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.progress = threading.Condition()

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        connection: psycopg.Connection | None = None
        while not self._stop.wait(PAUSE_S):
            try:
                if connection is None or connection.closed:
                    connection = psycopg.connect(self._url, autocommit=True, connect_timeout=20)
            except psycopg.OperationalError:
                continue  # nothing was sent
            self._one(connection)
        if connection is not None:
            connection.close()

    def _one(self, connection: psycopg.Connection) -> None:
        key = self._next
        self._next += 1
        try:
            connection.execute("INSERT INTO load VALUES (%s, 1), (%s, 2)", (key, key))
        except psycopg.Error as error:
            state = error.sqlstate or "lost"
            self.states.append(state)
            # 57014 and 55P03 say for certain that it is not there; a cut connection says nothing.
            (self.refused if state in ("57014", "55P03") else self.unknown).add(key)
        else:
            self.acknowledged.add(key)
        with self.progress:
            self.progress.notify_all()

    def wait_for(self, true: Callable[[], bool], what: str) -> None:
        with self.progress:
            assert self.progress.wait_for(true, timeout=60), f"{what}; saw {self.states[-5:]}"

    def wait_for_more(self, count: int) -> None:
        before = len(self.acknowledged)
        self.wait_for(lambda: len(self.acknowledged) >= before + count, f"{count} more commits")


@contextmanager
def nobody_restarts(cluster) -> Iterator[None]:
    """The supervisor is paused: what is killed stays dead until the end of the block."""
    state = load_state(cluster.folder)
    assert state is not None
    supervisor = state.process
    assert supervisor.send(signal.SIGSTOP)
    try:
        yield
    finally:
        assert supervisor.send(signal.SIGCONT)


def check_rows(cluster, load: Load) -> None:
    """Exactly the acknowledged, plus of the unknown ones some, whole; nothing refused; on both."""
    total = cluster.query("SELECT count(*) FROM load")
    cluster.until_sql("SELECT count(*) FROM load", total, reader=True)
    for reader in (False, True):
        rows = cluster.query("SELECT k, count(*), sum(part) FROM load GROUP BY k", reader=reader)
        found = {k for k, _, _ in rows}
        assert all((count, total) == (2, 3) for _, count, total in rows), "half a transaction"
        assert load.acknowledged <= found, "an acknowledged row is lost"
        assert found <= load.acknowledged | load.unknown, "a row that nobody inserted"
    assert cluster.query("PRAGMA integrity_check") == [("ok",)]


def test_a_zone_down_no_write_fails_a_third_node_down_writes_wait_and_reads_go_on(new_cluster):
    cluster = new_cluster()
    cluster.query("CREATE TABLE load (k INTEGER, part INTEGER, PRIMARY KEY (k, part))")
    with Load(cluster.url(), timeout_ms=1000) as load:
        load.wait_for_more(50)
        with nobody_restarts(cluster):
            cluster.kill("storage-1")
            cluster.kill("storage-2")
            load.wait_for_more(100)
            assert not load.states, "a write failed with one zone down"
            with cluster.connect() as writer, cluster.connect(reader=True) as replica:
                cluster.kill("storage-3")
                load.wait_for(lambda: "08007" in load.states, "writes answer 08007")
                acknowledged = len(load.acknowledged)
                for failures in range(len(load.states), len(load.states) + 3):
                    for reads in (writer, replica):
                        row = reads.execute("SELECT count(*) >= 150 FROM load").fetchone()
                        assert row == (True,)
                    load.wait_for(lambda n=failures: len(load.states) > n, "writes go on failing")
                for reader in (False, True):  # those who connect only now can read as well
                    known = cluster.query("SELECT count(*) >= 150 FROM load", reader=reader)
                    assert known == [(True,)]
                assert len(load.acknowledged) == acknowledged, "acknowledged by three nodes of six"
                assert not any(pg["write_quorum"] for pg in cluster.status()["groups"])
        load.wait_for_more(100)
    assert set(load.states) <= {"08007", "57014", "55P03"}
    check_rows(cluster, load)
    cluster.until(
        lambda: all(pg["write_quorum"] for pg in cluster.status()["groups"]),
        "every group has its write quorum again",
    )


@pytest.mark.long
def test_the_writer_killed_ten_times_under_load_loses_nothing_acknowledged(new_cluster):
    cluster = new_cluster()
    cluster.query("CREATE TABLE load (k INTEGER, part INTEGER, PRIMARY KEY (k, part))")
    with Load(cluster.url(), timeout_ms=5000) as load:
        for _ in range(10):
            load.wait_for_more(20)
            # After some of these in a row it counts as a crash loop, and another one takes over.
            name = next(i["name"] for i in cluster.status()["instances"] if i["role"] == "writer")
            old = cluster.kill(name)
            cluster.until_restarted(name, old)
        load.wait_for_more(20)
    check_rows(cluster, load)
    assert cluster.status()["volume"]["epoch"] >= 11, "each of them came back as a new epoch"


@pytest.mark.long
def test_killed_storage_nodes_in_turn_under_load(new_cluster):
    cluster = new_cluster()
    cluster.query("CREATE TABLE load (k INTEGER, part INTEGER, PRIMARY KEY (k, part))")
    with Load(cluster.url(), timeout_ms=10_000) as load:
        for number in (1, 4, 6, 2):
            load.wait_for_more(20)
            old = cluster.kill(f"storage-{number}")
            cluster.until_restarted(f"storage-{number}", old)
        load.wait_for_more(20)
    assert not load.states
    check_rows(cluster, load)
    cluster.until(lambda: _all_equal(cluster.status()), "six equal SCLs in every group")


def _all_equal(status) -> bool:
    by_group: dict[int, set[int]] = {}
    for node in status["storage"]:
        for segment in node["segments"]:
            by_group.setdefault(segment["pg"], set()).add(segment["scl"])
    return all(len(scls) == 1 for scls in by_group.values())
