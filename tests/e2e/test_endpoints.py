"""Endpoints in front of real processes: whom a new writer cuts off, what an endpoint's death costs."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import threading
import time

import psycopg
import pytest

from tests.e2e.conftest import LocalCluster

pytestmark = pytest.mark.e2e


def name_writer(cluster: LocalCluster, name: str) -> None:
    """As an operator at the catalog: another writer is named, and the control plane starts again."""
    old = cluster.kill("control", signal.SIGSTOP)
    with sqlite3.connect(cluster.folder.catalog) as catalog:
        catalog.execute("UPDATE clusters SET writer = ?", (name,))
        catalog.execute("UPDATE revision SET version = version + 1")
    catalog.close()
    old.send(signal.SIGKILL)
    cluster.until_restarted("control", old)


def _until_ended(idle: psycopg.Connection) -> None:
    """The client's socket reads the end, whatever its writer does."""
    with socket.socket(fileno=os.dup(idle.fileno())) as raw:
        raw.settimeout(30)
        assert raw.recv(1) == b""


def _blocked(connection: psycopg.Connection, failed: list[float]) -> threading.Thread:
    """A thread that waits for an answer to an INSERT; when it is told of the end is noted."""

    def work() -> None:
        try:
            connection.execute("INSERT INTO hung VALUES (2, 'while the writer is stopped')")
        except psycopg.OperationalError:
            failed.append(time.monotonic())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_clients_of_a_hanging_writer_are_cut_off_when_another_is_named(new_cluster) -> None:
    cluster = new_cluster("--readers", 1)
    cluster.query("CREATE TABLE hung (id INTEGER PRIMARY KEY, what TEXT)")
    idle, busy = cluster.connect(), cluster.connect()
    idle.execute("INSERT INTO hung VALUES (1, 'before')")
    cluster.until(lambda: cluster.query("SELECT 1", reader=True) == [(1,)], "the replica serves")
    old = cluster.kill("main-1", signal.SIGSTOP)
    failed: list[float] = []
    thread = _blocked(busy, failed)
    try:
        assert failed == []
        name_writer(cluster, "main-2")
        thread.join(30)
        assert failed, "the blocked client was not told"
        _until_ended(idle)
        assert cluster.process("main-1") == old, "all this while the old writer was stopped"
        cluster.until_sql("SELECT id FROM hung", [(1,)])
        cluster.query("INSERT INTO hung VALUES (3, 'on the new writer')")
    finally:
        old.send(signal.SIGCONT)
    cluster.until_restarted("main-1", old)
    cluster.until_sql("SELECT id FROM hung ORDER BY id", [(1,), (3,)])
    cluster.until_sql("SELECT id FROM hung ORDER BY id", [(1,), (3,)], reader=True)
    for connection in (idle, busy):
        connection.close()


def test_clients_of_a_killed_endpoint_go_on_and_are_known_to_the_next_one(new_cluster) -> None:
    cluster = new_cluster("--readers", 1)
    with cluster.connect() as kept:
        kept.execute("CREATE TABLE kept (id INTEGER PRIMARY KEY)")
        old = cluster.kill("endpoint-main")
        cluster.until_restarted("endpoint-main", old)
        kept.execute("INSERT INTO kept VALUES (1)")
        cluster.until_sql("SELECT id FROM kept", [(1,)])
        old = cluster.kill("main-1", signal.SIGSTOP)  # so that it closes nothing by itself
        try:
            name_writer(cluster, "main-2")
            _until_ended(kept)
        finally:
            old.send(signal.SIGCONT)
    cluster.until_sql("SELECT id FROM kept", [(1,)])
