"""A dropped table is undone in place, with real processes."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cluster.cli.archives import find, opened
from cluster.cli.backtracking import BacktrackOptions, HotWindow, backtrack
from cluster.cli.errors import CommandFailed
from cluster.faults.kit import FaultKit
from cluster.local.change import change_layout, layout_turn
from engine.archive.catalogue import Target
from engine.errors import ConfigError
from engine.steps import Step
from tests.e2e.conftest import LocalCluster

pytestmark = pytest.mark.e2e

ROWS = [(1, "one"), (2, "two")]

ARCHIVED_S = 20.0
"""The archive has what was committed a moment ago by then, however busy the machine is."""


def restored(cluster: LocalCluster, lsn: int, path: Path) -> list[tuple[Any, ...]]:
    """What `sextet restore --to-lsn` would find; the tables, and the rows of `note`."""

    async def fetch() -> None:
        async with opened(cluster.folder, None) as objects:
            archive = await find(cluster.folder, objects, "main")
            await archive.restore(await archive.plan(Target(lsn=lsn)), path)

    deadline = time.monotonic() + ARCHIVED_S
    while True:
        try:
            asyncio.run(fetch())
            break
        except ConfigError as error:
            if "later than what archive" not in str(error) or time.monotonic() > deadline:
                raise
    with closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        return found + (database.execute("SELECT * FROM note").fetchall() if found else [])


def until_cold(cluster: LocalCluster, moment: datetime) -> None:
    """Until storage nodes do not serve that moment any more."""
    layout = cluster.layout
    hot = HotWindow(cluster.folder, layout, layout.cluster("main"))
    target = Target(time_us=int(moment.timestamp() * 1e6))

    def gone() -> bool:
        try:
            asyncio.run(hot.last(target))
        except ConfigError:
            return True
        return False

    cluster.until(gone, "the hot window has passed")


def test_a_dropped_table_is_back_and_forward_again(
    new_cluster: Callable[..., LocalCluster], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = new_cluster(
        "--readers", 1, "--backtrack-window", "24h", "--hot-window", 4, "--archive-every", 0.2
    )
    cluster.query("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
    cluster.query("INSERT INTO note (text) VALUES ('one'), ('two')")
    good = datetime.now(UTC)
    connections = [cluster.connect(reader=reader) for reader in (False, True)]
    for connection in connections:
        connection.execute("SELECT 1")
    connections[0].execute("DROP TABLE note")

    # Back, by time, and everybody's connection is closed.
    said = cluster.sextet("backtrack", "main", "--to-time", good.isoformat(), "--yes").stdout
    assert "cluster main is as it was at LSN " in said
    assert "the last commit at or before then" in said
    for connection in connections:
        with closing(connection), pytest.raises(psycopg.OperationalError) as closed:
            connection.execute("SELECT 1")
        assert closed.value.sqlstate in ("57P01", None), "None: the socket was closed before"
    for reader in (False, True):
        assert cluster.query("SELECT * FROM note", reader=reader) == ROWS
    events = [event for event in cluster.events() if "backtracked to LSN" in event]
    assert len(events) == 1
    cluster.query("INSERT INTO note (text) VALUES ('three')")
    assert cluster.query("PRAGMA integrity_check") == [("ok",)]

    # Forward again, as it says; and back from the archive, when storage nodes have let go of it.
    words, lsn = said.splitlines()[-1].split(), int(said.split()[-1])
    assert words[1:] == ["backtrack", "main", "--to-lsn", str(lsn)]
    again = cluster.sextet("backtrack", "main", "--to-lsn", lsn, "--yes").stdout
    assert f"cluster main is as it was at LSN {lsn}, committed 20" in again
    for reader in (False, True):
        assert cluster.query("SELECT name FROM sqlite_schema", reader=reader) == []
    until_cold(cluster, good)
    to_good = BacktrackOptions(good.isoformat(), None, yes=True)
    backtrack(cluster.folder, "main", to_good)
    for reader in (False, True):
        assert cluster.query("SELECT * FROM note", reader=reader) == ROWS
    capsys.readouterr()
    backtrack(cluster.folder, "main", to_good)
    assert ": nothing differs" in capsys.readouterr().out

    # The archive has one history: before, between and after.
    newest = cluster.status()["volume"]["vdl"]
    for to_lsn, expected in (
        (lsn, []),
        (lsn - 1, [("note",), *ROWS]),
        (newest, [("note",), *ROWS]),
    ):
        assert restored(cluster, to_lsn, tmp_path / f"{to_lsn}.db") == expected

    # A writer that dies on the way leaves it absent, and the same command does it.
    FaultKit(cluster.folder).crash_at("writer", Step.BACKTRACK)
    to_lsn = BacktrackOptions(None, lsn, yes=True)
    with pytest.raises(
        CommandFailed, match=f"The same again with `--to-lsn {lsn}` does it, or says"
    ):
        backtrack(cluster.folder, "main", to_lsn)
    cluster.until_sql("SELECT * FROM note", ROWS)
    cluster.until(lambda: cluster.status()["state"] == "available", "somebody is writer")
    backtrack(cluster.folder, "main", to_lsn)
    assert cluster.query("SELECT name FROM sqlite_schema") == []

    # What cannot be.
    now = datetime.now(UTC)
    newest = cluster.status()["volume"]["vdl"]
    window = "main can be backtracked to any moment of the last 24h, from 20"
    for options, said in (
        (BacktrackOptions((now + timedelta(hours=1)).isoformat(), None), f"yet to come: {window}"),
        (BacktrackOptions(None, newest + 1), f"LSN {newest + 1} is yet to come: {window}"),
        (BacktrackOptions("25 hours ago", None), f"that is too long ago: {window}"),
        (BacktrackOptions("23 hours ago", None), f"nothing was in main yet at that mo.*{window}"),
    ):
        with pytest.raises(ConfigError, match=said):
            backtrack(cluster.folder, "main", replace(options, yes=True))
    with pytest.raises(CommandFailed, match=r"changes main in place .*; say so"):
        backtrack(cluster.folder, "main", BacktrackOptions("1 s ago", None))
    assert cluster.status()["volume"]["vdl"] == newest
    assert cluster.status()["backtrack_window_s"] == 86400
    with layout_turn(cluster.folder):
        change_layout(
            cluster.folder,
            lambda old: old.with_cluster(replace(old.cluster("main"), backtrack_window_s=0)),
        )
    with pytest.raises(ConfigError, match="has to be enabled when a cluster is made"):
        backtrack(cluster.folder, "main", BacktrackOptions("1 s ago", None))
