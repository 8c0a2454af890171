"""A database of more than 20 MB that another program made, in by import, out by export, equal."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from contextlib import closing

import pytest

from tests.e2e.unicode_db import build

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def digest(rows: Iterable[tuple]) -> tuple[int, str]:
    """Count and hash over all rows; booleans are 0 and 1 in SQLite."""
    found = hashlib.sha256()
    count = 0
    for row in rows:
        found.update(repr(tuple(int(v) if isinstance(v, bool) else v for v in row)).encode())
        count += 1
    return count, found.hexdigest()


def test_the_unicode_character_database_goes_in_and_comes_out_equal(new_cluster, tmp_path):
    source, copy = tmp_path / "unicode.db", tmp_path / "copy.db"
    build(source)
    assert source.stat().st_size > 20_000_000
    cluster = new_cluster("--readers", 1)
    cluster.sextet("import", source)
    cluster.sextet("export", copy)
    with closing(sqlite3.connect(source)) as original, closing(sqlite3.connect(copy)) as exported:
        schema = "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"
        assert exported.execute(schema).fetchall() == original.execute(schema).fetchall()
        tables = [name for kind, name, _ in original.execute(schema) if kind == "table"]
        assert len(tables) == 4
        for table in tables:
            every = f"SELECT * FROM {table} ORDER BY 1, 2"
            expected = digest(original.execute(every))
            assert digest(exported.execute(every)) == expected
            for reader in (False, True):
                with cluster.connect(reader=reader) as connection:
                    connection.execute("SET statement_timeout = 0")
                    assert digest(connection.execute(every)) == expected, (table, reader)
    for reader in (False, True):
        with cluster.connect(reader=reader) as connection:
            connection.execute("SET statement_timeout = 0")
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
