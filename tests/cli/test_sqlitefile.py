"""Files on their way in: 4 KiB pages without a write-ahead log, and the user's file untouched."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cluster.cli.errors import CommandFailed
from cluster.cli.sqlitefile import importable


def _make(path: Path, *pragmas: str, rows: int = 500) -> Path:
    with closing(sqlite3.connect(path)) as database:
        for pragma in pragmas:
            database.execute(f"PRAGMA {pragma}")
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
        database.executemany("INSERT INTO t (text) VALUES (?)", [("x" * 50,)] * rows)
        database.commit()
    return path


def _state(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def _rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT count(*) FROM t").fetchone()[0]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def test_file_that_fits_is_used_as_it_is(tmp_path, scratch):
    path = _make(tmp_path / "a.db", "page_size = 4096")
    with importable(path, scratch) as file:
        assert file == path


def test_file_that_fits_cannot_change_while_it_is_read(tmp_path, scratch):
    path = _make(tmp_path / "a.db", "page_size = 4096")
    with importable(path, scratch), closing(sqlite3.connect(path, timeout=0)) as other:
        other.execute("DELETE FROM t")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.commit()


@pytest.mark.parametrize(
    "pragmas",
    [("page_size = 1024",), ("page_size = 65536",), ("page_size = 4096", "journal_mode = WAL")],
)
def test_other_files_are_copied_and_left_alone(tmp_path, scratch, pragmas):
    path = _make(tmp_path / "a.db", *pragmas)
    before = _state(tmp_path)
    with importable(path, scratch) as file:
        assert file.is_relative_to(scratch)
        header = file.read_bytes()[:100]
        assert int.from_bytes(header[16:18], "big") == 4096
        assert header[18:20] == b"\1\1", "no write-ahead log"
        assert file.stat().st_size == 4096 * int.from_bytes(header[28:32], "big")
        assert _rows(file) == 500
    assert list(scratch.iterdir()) == []
    assert _state(tmp_path)["a.db"] == before["a.db"]


def test_what_is_only_in_the_write_ahead_log_comes_along(tmp_path, scratch):
    path = _make(tmp_path / "a.db", "page_size = 4096", "journal_mode = WAL")
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        writer.execute("INSERT INTO t (text) VALUES ('last')")
        writer.commit()
        with importable(path, scratch) as file:
            assert _rows(file) == 501


def test_flipped_byte_in_the_structure_is_refused(tmp_path, scratch):
    path = _make(tmp_path / "a.db", "page_size = 4096")
    content = bytearray(path.read_bytes())
    content[4096] ^= 0xFF  # the page type of the table's root
    path.write_bytes(content)
    with pytest.raises(CommandFailed, match=r"a\.db"), importable(path, scratch):
        pass


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"hello, world, this is some text", "is not a SQLite database"),
        (b"SQLite format 3\0" + b"\0" * 500, r"a\.db"),
    ],
)
def test_what_is_no_database_is_refused(tmp_path, scratch, content, says):
    path = tmp_path / "a.db"
    path.write_bytes(content)
    with pytest.raises(CommandFailed, match=says), importable(path, scratch):
        pass


def test_file_cut_short_is_refused(tmp_path, scratch):
    path = _make(tmp_path / "a.db", "page_size = 4096")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CommandFailed, match=r"a\.db"), importable(path, scratch):
        pass


def test_missing_file_and_folder_are_named(tmp_path, scratch):
    for path in (tmp_path / "absent.db", tmp_path):
        with pytest.raises(CommandFailed, match="cannot be read"), importable(path, scratch):
            pass


def test_name_with_strange_characters_is_no_problem(tmp_path, scratch):
    path = _make(tmp_path / "what? is 100% #1 .db", "page_size = 4096")
    with importable(path, scratch) as file:
        assert _rows(file) == 500
