from __future__ import annotations

import pytest

from engine.errors import SqlError
from engine.sql.statement import Statement, check_values, tag_of, verb_of


@pytest.mark.parametrize(
    ("sql", "verb"),
    [
        ("", ""),
        ("-- nothing", ""),
        (";;", ""),
        ("select 1", "SELECT"),
        ("; select 1", "SELECT"),
        ("VALUES (1)", "SELECT"),
        ("insert into t values (1)", "INSERT"),
        ("replace into t values (1)", "INSERT"),
        ("with a as (select 1) select * from a", "SELECT"),
        ("with recursive a(x) as (values(1) union select x from a) delete from t", "DELETE"),
        ("with a as (select 1), b as (select 2) insert into t select * from a", "INSERT"),
        ("with a as not materialized (select 1) update t set x = 1", "UPDATE"),
        ("create table t(a)", "CREATE TABLE"),
        ("create temp table t(a)", "CREATE TABLE"),
        ("create unique index i on t(a)", "CREATE INDEX"),
        ("create virtual table v using fts5(x)", "CREATE TABLE"),
        ("create trigger r after insert on t begin select 1; end", "CREATE TRIGGER"),
        ("drop view if exists v", "DROP VIEW"),
        ("alter table t add b", "ALTER TABLE"),
        ("explain query plan select 1", "EXPLAIN"),
        ("pragma table_info(t)", "PRAGMA"),
        ("vacuum", "VACUUM"),
        ("analyze", "ANALYZE"),
        ("reindex", "REINDEX"),
        ("create", "CREATE"),
    ],
)
def test_verb(sql: str, verb: str) -> None:
    assert verb_of(sql) == verb


def test_tags_are_postgresqls() -> None:
    assert tag_of("INSERT", 3) == "INSERT 0 3"
    assert tag_of("UPDATE", 0) == "UPDATE 0"
    assert tag_of("DELETE", 7) == "DELETE 7"
    assert tag_of("SELECT", 5) == "SELECT 5"
    assert tag_of("CREATE TABLE", 5) == "CREATE TABLE"


STATEMENT = Statement("select $1", 1, (), True, "SELECT", "")


@pytest.mark.parametrize("value", [None, 0, -(2**63), 2**63 - 1, 1.5, "é", b"\x00", True])
def test_values_that_sqlite_stores(value: object) -> None:
    check_values((value,), STATEMENT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "sqlstate"),
    [((), "08P01"), ((1, 2), "08P01"), (([],), "42804"), ((float("nan"),), "22003")],
)
def test_values_that_it_does_not(values: tuple[object, ...], sqlstate: str) -> None:
    with pytest.raises(SqlError) as caught:
        check_values(values, STATEMENT)  # type: ignore[arg-type]
    assert caught.value.sqlstate == sqlstate
