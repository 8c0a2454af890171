"""The shell's small decisions: when Enter runs, what helpers mean, how values are printed."""

from __future__ import annotations

import datetime
import io
import sqlite3

import pytest
from rich.console import Console

from cluster.cli import results
from cluster.cli.log import commit_text, ranges_text, record_to_json
from cluster.cli.prompt import is_complete
from cluster.cli.results import _field, json_rows, plain
from cluster.cli.sql import helper_sql
from engine.log.record import Record
from engine.types import CommitMark


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("", True),
        ("SELECT 1", False),
        ("SELECT 1;", True),
        ("SELECT ';", False),
        ("SELECT 1; -- done", True),
        ("CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b;", False),
        ("CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b; END;", True),
        ("\\q", True),
        (".tables", True),
        ("quit", True),
        ("SELECT\n\\q", True),
        ("SELECT 'a\n\\q is text'", False),
    ],
)
def test_enter_runs_only_what_is_complete(text, complete):
    assert is_complete(text) is complete


@pytest.fixture
def database():
    with sqlite3.connect(":memory:") as made:
        made.executescript(
            "CREATE TABLE it_s (a); CREATE VIEW v AS SELECT 1; CREATE INDEX i ON it_s (a);"
        )
        yield made
    made.close()


def test_helpers_are_sql_that_works(database):
    assert database.execute(helper_sql(".tables")).fetchall() == [("table", "it_s"), ("view", "v")]
    assert database.execute(helper_sql("\\dt")).fetchall() == [("table", "it_s"), ("view", "v")]
    assert len(database.execute(helper_sql(".schema")).fetchall()) == 3
    assert database.execute(helper_sql("\\d IT_S;")).fetchall() == [
        ("CREATE TABLE it_s (a);",),
        ("CREATE INDEX i ON it_s (a);",),
    ]
    assert database.execute(helper_sql(".schema it's")).fetchall() == []
    assert helper_sql("\\?") is None


@pytest.mark.parametrize(
    ("value", "text", "field"),
    [
        (None, "", "\\N"),
        (1, "1", "1"),
        (True, "t", "t"),
        (b"\x00\xff", "\\x00ff", "\\x00ff"),
        ("tab\tand\nline\\", "tab\tand\nline\\", "tab\\tand\\nline\\\\"),
    ],
)
def test_values_for_people_and_programs(value, text, field):
    assert plain(value) == text
    assert _field(value) == field


def shown(names, rows, width, monkeypatch) -> str:
    screen = Console(width=width, file=io.StringIO(), highlight=False)
    monkeypatch.setattr(results, "out", screen)
    results.print_rows(names, rows)
    return screen.file.getvalue()


def test_a_table_that_fits_is_one(monkeypatch):
    text = shown(["id", "name"], [(1, None), (22, "[/b] \x1b[2J")], 60, monkeypatch)
    assert "│ 22 │ [/b] \\x1b[2J │" in text
    assert "NULL" in text


def test_long_values_are_folded_and_nothing_is_cut(monkeypatch):
    text = shown(["id", "long"], [(1, "x" * 500)], 60, monkeypatch)
    assert text.count("x") == 500
    assert max(map(len, text.splitlines())) <= 60


def test_too_many_columns_are_shown_row_by_row(monkeypatch):
    names = [f"column_{n:02}" for n in range(30)]
    text = shown(names, [tuple(range(100, 130)), (None,) * 30], 60, monkeypatch)
    assert all(
        f"{name} │ {number} " in text for name, number in zip(names, range(100, 130), strict=True)
    )
    assert text.count("NULL") == 30
    assert "row 2" in text
    assert "…" not in text


def test_rows_as_json():
    day = datetime.date(2026, 1, 2)
    assert json_rows(["a", "b", "c"], [(1, None, b"\x00"), (1.5, day, "x")]) == [
        {"a": 1, "b": None, "c": {"base64": "AA=="}},
        {"a": 1.5, "b": "2026-01-02", "c": "x"},
    ]


def test_record_as_a_line_of_the_log():
    ranges = ((0, b"ab"), (10, b"c"), (20, b"d"), (30, b"ef"))
    record = Record(9, 8, 5, 2, 3, False, ranges, CommitMark(9, 1_700_000_000_123_456, 12))
    assert ranges_text(record) == "0+2 10+1 20+1 … 1 more"
    assert commit_text(record) == "22:13:20.123Z, 12"
    assert record_to_json(record) == {
        "lsn": 9,
        "prev_lsn": 8,
        "prev_pg_lsn": 5,
        "epoch": 2,
        "page": 3,
        "full": False,
        "moves": [],
        "ranges": [[0, 2], [10, 1], [20, 1], [30, 2]],
        "bytes": 6,
        "commit": {"time_us": 1_700_000_000_123_456, "pages": 12},
    }
    moved = record._replace(moves=((100, 40, 98),))
    assert ranges_text(moved) == "100+40<98 0+2 10+1 20+1 … 1 more"
    assert record_to_json(moved)["moves"] == [[100, 40, 98]]
    whole = Record(9, 8, 5, 2, 3, True, ranges[:1])
    assert (ranges_text(whole), commit_text(whole)) == ("all: 0+2", "")
