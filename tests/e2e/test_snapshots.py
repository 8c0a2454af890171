"""A snapshot with real processes: it has all that was committed, and outlives its cluster and its store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.conftest import LocalCluster

pytestmark = pytest.mark.e2e

ROWS = [(1, "one"), (2, "two")]


def test_a_snapshot_outlives_its_cluster(
    new_cluster: Callable[..., LocalCluster], tmp_path: Path
) -> None:
    cluster = new_cluster("--readers", 0)
    cluster.query("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
    cluster.query("INSERT INTO note (text) VALUES ('one')")
    cluster.query("INSERT INTO note (text) VALUES ('two')")
    printed = cluster.sextet("snapshot", "create", "main", "good").stdout
    assert "snapshot good of main is made: as of LSN " in printed
    (row,) = json.loads(cluster.sextet("snapshot", "list", "--json").stdout)
    assert (row["snapshot"], row["cluster"], row["error"]) == ("good", "main", "")
    assert f"LSN {row['lsn']}, committed {row['committed']}" in printed
    cluster.query("DROP TABLE note")

    # Elsewhere, and as a plain file.
    cluster.sextet("snapshot", "copy", "good", "--to-store", tmp_path / "store", "--as", "kept")
    cluster.sextet("snapshot", "export", "good", tmp_path / "good.db")
    with closing(sqlite3.connect(tmp_path / "good.db")) as database:
        assert database.execute("SELECT * FROM note").fetchall() == ROWS

    # Beside the cluster it is of.
    said = cluster.sextet(
        "restore", "other", "no", "--snapshot", "good", "--readers", 0, check=False
    )
    assert "snapshot good is of main, not of other" in " ".join(said.stderr.split())
    cluster.sextet("restore", "main", "beside", "--snapshot", "good", "--readers", 0)
    assert cluster.query("SELECT * FROM note", of="beside") == ROWS

    # Without it, and without the first store's objects.
    cluster.sextet("cluster", "delete", "main", "--yes")
    cluster.sextet("snapshot", "delete", "good")
    cluster.sextet(
        *("snapshot", "restore", "kept", "again", "--readers", 0),
        *("--store", tmp_path / "store"),
    )
    assert cluster.query("SELECT * FROM note", of="again") == ROWS
    assert [spec.name for spec in cluster.layout.clusters] == ["beside", "again"]
