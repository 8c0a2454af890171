"""The rungs of `benchmarks.ceiling` that need no cluster do what they are compared for."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import psycopg
import pytest

from benchmarks import ceiling, procfs
from benchmarks.ceiling import ROUND, THEIRS, Figure, Results
from benchmarks.ladder import echo


def test_a_server_without_sql_gives_ready_made_answers() -> None:
    before = procfs.children(os.getpid())
    with (
        ceiling.one_process("benchmarks.ladder.protocol") as target,
        psycopg.connect(target.url, autocommit=True) as client,
    ):
        for _ in range(2):
            found = client.execute("SELECT abalance FROM nowhere WHERE aid = %s", [1], prepare=True)
            assert found.fetchall() == [(4711,)]
            assert client.execute("UPDATE nowhere SET a = %s", [1], prepare=True).rowcount == 1
    assert procfs.children(os.getpid()) == before


def test_an_engine_in_memory_commits_at_once() -> None:
    with ceiling.one_process("benchmarks.ladder.memory") as target:
        with psycopg.connect(target.url, autocommit=True) as client:
            client.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b INTEGER)")
            client.execute("INSERT INTO t VALUES (1, 10), (2, 20)")
            assert client.execute("UPDATE t SET b = b + 1 WHERE a = 1").rowcount == 1
        with psycopg.connect(target.url) as client:
            assert client.execute("SELECT * FROM t").fetchall() == [(1, 11), (2, 20)]


def test_a_round_is_on_four_disks_when_it_ends(tmp_path: Path) -> None:
    before = procfs.children(os.getpid())
    found = echo.measure(0.2, tmp_path)
    written = sorted(log.stat().st_size // echo.FRAME_BYTES for log in tmp_path.glob("*/log"))
    assert len(written) == echo.NODES
    assert written[-echo.QUORUM] >= found.rounds + echo.WARM_UP_ROUNDS > echo.WARM_UP_ROUNDS
    assert found.seconds >= 0.2
    assert found.cpu_s > 0
    assert procfs.children(os.getpid()) == before


@pytest.mark.skipif(shutil.which("pgbench") is None, reason="pgbench is missing")
def test_a_rung_is_driven_and_its_cpu_counted(tmp_path: Path) -> None:
    serve = partial(ceiling.one_process, "benchmarks.ladder.protocol")
    works = (("update", 2), ("select-only", 2))
    found = ceiling.drive(serve, tmp_path, 1, 1, works)
    assert list(found) == list(works)
    for figure in found.values():
        assert figure.tps > 100
        assert 1 < figure.cpu_us < 10_000
        assert 1 < figure.client_us < 10_000


def test_ratios_are_to_postgresql_in_the_same_run() -> None:
    results = Results()
    for tps in (100, 300, 500):
        results.note(("update", 1), THEIRS, Figure(tps, 1000 / tps, 50))
    results.note(("update", 1), "protocol", Figure(600, 2, 10))
    results.note(ROUND, "six echoes", Figure(450, 2.2, 3000))
    results.note(("update", 16), "protocol", Figure(1000, 16, 10, 7))
    assert results.ratio(("update", 1), "protocol") == 2
    assert results.ratio(ROUND, "six echoes") == 1.5  # to a commit of one client
    assert results.ratio(("update", 16), "protocol") is None
    rows = [line.split() for line in results.table().splitlines()]
    assert rows[1][:3] == ["quorum", "round,", "1"]
    assert rows[2] == ["update,", "1", "client", "PostgreSQL", "300", "3.33", "50", "-", "1.00"]
    assert rows[-1] == ["update,", "16", "clients", "protocol", "1,000", "16.00", "10", "7", "-"]
