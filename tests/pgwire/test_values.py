"""PostgreSQL's types over SQLite's values, inferred types, and statements SQLite does not know."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import SqlError
from engine.moments import Moment
from engine.pgwire import types as t
from engine.pgwire.casts import without_casts
from engine.pgwire.infer import infer
from engine.pgwire.utility import Settings, answer, statements
from engine.sql.settings import ReadConsistency, SessionSettings
from engine.sql.statement import SqlValue

ROUND_TRIPS = {
    t.INT8: st.integers(-(2**63), 2**63 - 1),
    t.INT4: st.integers(-(2**31), 2**31 - 1),
    t.FLOAT8: st.floats(allow_nan=False),
    t.TEXT: st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    t.BYTEA: st.binary(),
    t.BOOL: st.integers(0, 1),
    t.NUMERIC: st.integers(-(2**63) + 1, 2**63 - 1),
}


@pytest.mark.parametrize("oid", ROUND_TRIPS)
@pytest.mark.parametrize("code", [0, 1])
@given(data=st.data())
def test_what_is_encoded_decodes_to_the_same(oid: int, code: int, data: st.DataObject) -> None:
    value = data.draw(ROUND_TRIPS[oid])
    assert t.decode(oid, code, t.encoder(oid, code)(value), 1) == value


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9
    )
)
def test_binary_numeric_keeps_its_digits(number: Decimal) -> None:
    encoded = t.encoder(t.NUMERIC, 1)(str(number))
    assert t.decode(t.NUMERIC, 1, encoded, 1) == pytest.approx(float(number))


@pytest.mark.parametrize(
    ("oid", "code", "value", "state"),
    [
        (t.INT8, 1, "text", "42804"),
        (t.INT8, 0, b"bytes", "42804"),
        (t.BOOL, 1, 7, "42804"),
        (t.INT4, 1, 2**31, "22003"),
        (t.FLOAT8, 1, "1.5", "42804"),
        (t.TIMESTAMP, 1, "not a time", "22007"),
    ],
)
def test_a_value_that_does_not_fit_is_an_error(
    oid: int, code: int, value: SqlValue, state: str
) -> None:
    with pytest.raises(SqlError) as error:
        t.encoder(oid, code)(value)
    assert error.value.sqlstate == state


@pytest.mark.parametrize(("code", "data", "state"), [(0, b"seven", "22P02"), (1, b"\0", "22P03")])
def test_a_malformed_parameter_names_its_number(code: int, data: bytes, state: str) -> None:
    with pytest.raises(SqlError, match=r"\$3") as error:
        t.decode(t.INT8, code, data, 3)
    assert error.value.sqlstate == state


@pytest.mark.parametrize(
    ("declared", "oid"),
    [
        ("INTEGER", t.INT8),
        ("bigint", t.INT8),
        ("varchar(20)", t.VARCHAR),
        ("DOUBLE PRECISION", t.FLOAT8),
        ("boolean", t.BOOL),
        ("BLOB", t.BYTEA),
        ("timestamp with time zone", t.TIMESTAMPTZ),
        ("numeric(10, 2)", t.NUMERIC),
        ("made up", t.TEXT),
    ],
)
def test_declared_types(declared: str, oid: int) -> None:
    assert t.oid_of_decltype(declared) == oid


# -- inference

TABLES: dict[str, Mapping[str, str | None]] = {
    "a": {"id": "INTEGER", "name": "TEXT", "price": "REAL", "data": "BLOB", "ok": "BOOLEAN"},
    "b": {"id": "INTEGER", "a_id": "INTEGER"},
}


async def column_types(table: str) -> Mapping[str, str | None] | None:
    return TABLES.get(table)


@pytest.mark.parametrize(
    ("sql", "oids"),
    [
        ("INSERT INTO a (name, price) VALUES ($1, $2)", [t.TEXT, t.FLOAT8]),
        ("INSERT INTO a VALUES ($1,$2,$3,$4,$5)", [t.INT8, t.TEXT, t.FLOAT8, t.BYTEA, t.BOOL]),
        ("SELECT * FROM a WHERE id = $1 AND name LIKE $2", [t.INT8, t.TEXT]),
        ("SELECT * FROM a WHERE id BETWEEN $1 AND $2 LIMIT $3", [t.INT8, t.INT8, t.INT8]),
        ("SELECT * FROM a WHERE id IN ($1, $2)", [t.INT8, t.INT8]),
        ("UPDATE a SET price = price + $1 WHERE id = $2", [t.FLOAT8, t.INT8]),
        ("SELECT x.price FROM a AS x JOIN b ON b.a_id = x.id WHERE x.ok = $1", [t.BOOL]),
        ("SELECT CAST($1 AS INTEGER)", [t.INT8]),
        ("DELETE FROM a WHERE id = ($1)", [t.INT8]),
        ("SELECT '$1', $1", [None]),
    ],
)
def test_parameter_types(sql: str, oids: list[int | None]) -> None:
    found = asyncio.run(infer(sql, column_types))
    assert [found.parameters.get(at) for at in range(len(oids))] == oids


@pytest.mark.parametrize(
    ("expression", "oid"),
    [
        ("count(*)", t.INT8),
        ("sum(id)", t.INT8),
        ("sum(price)", t.FLOAT8),
        ("avg(id)", t.FLOAT8),
        ("max(name)", t.TEXT),
        ("name || 'x'", t.TEXT),
        ("id + 1", t.INT8),
        ("id * price", t.FLOAT8),
        ("1", t.INT8),
        ("1.5", t.FLOAT8),
        ("'text'", t.TEXT),
        ("id > 3", t.BOOL),
        ("length(name)", t.INT8),
        ("coalesce(price, 0)", t.FLOAT8),
        ("CASE WHEN ok THEN id ELSE 0 END", t.INT8),
        ("(SELECT max(id) FROM b)", t.INT8),
        ("CAST(name AS REAL)", t.FLOAT8),
    ],
)
def test_result_types(expression: str, oid: int) -> None:
    assert asyncio.run(infer(f"SELECT {expression} FROM a", column_types)).columns == (oid,)


@pytest.mark.parametrize("sql", ["SELEC 1", "", "SELECT FROM WHERE", "((((", "\0"])
def test_what_cannot_be_parsed_is_simply_not_known(sql: str) -> None:
    assert asyncio.run(infer(sql, column_types)).parameters == {}


# -- statements that SQLite does not know


def settings() -> Settings:
    return Settings(SessionSettings(30, 0), False, "main", "me", SessionSettings(30, 0))


def test_set_show_reset() -> None:
    mine = settings()
    assert answer("SET statement_timeout = '5s'", mine) is not None
    assert mine.sql.statement_timeout_s == 5
    shown = answer("show statement_timeout", mine)
    assert shown is not None
    assert shown.rows == (("5s",),)
    answer("SET SESSION application_name TO 'me'", mine)
    assert mine.show("application_name") == "me"
    answer("RESET ALL", mine)
    assert (mine.sql.statement_timeout_s, mine.show("application_name")) == (30, "")


def test_read_consistency_is_a_setting_of_the_session() -> None:
    mine = settings()
    mine.points = lambda: {"sextet.last_commit": 41, "sextet.last_read": 42}
    assert mine.show("sextet.read_consistency") == "eventual"
    told = answer("SET sextet.wait_for = '17'", mine)
    assert told is not None
    assert "no effect" in told.notice
    answer("SET sextet.read_consistency TO Strong", mine)
    assert mine.sql.read_consistency is ReadConsistency.STRONG
    told = answer("SET sextet.wait_for = 18", mine)
    assert told is not None
    assert not told.notice
    assert mine.sql.wait_for == 18
    answer("SET LOCAL sextet.read_consistency = 'session'", mine)
    assert mine.show("sextet.read_consistency") == "session"
    mine.end_transaction()
    assert mine.show("sextet.read_consistency") == "strong"
    shown = answer("SHOW sextet.last_commit", mine)
    assert shown is not None
    assert (shown.columns, shown.rows) == (("sextet.last_commit",), (("41",),))
    assert mine.show("sextet.last_read") == "42"
    everything = answer("SHOW ALL", mine)
    assert everything is not None
    assert ("sextet.wait_for", "18") in everything.rows
    answer("RESET sextet.wait_for", mine)
    assert mine.show("sextet.wait_for") == "0"
    answer("DISCARD ALL", mine)
    assert mine.show("sextet.read_consistency") == "eventual"


def test_the_past_is_a_setting_of_the_session() -> None:
    mine = settings()
    mine.clock_us = lambda: 90_000_000
    assert (mine.show("sextet.read_as_of"), mine.show("transaction_read_only")) == ("", "off")
    answer("SET sextet.read_as_of = '1 minute ago'", mine)
    assert mine.sql.read_as_of == Moment(time_us=30_000_000)
    assert mine.show("sextet.read_as_of") == "1970-01-01T00:00:30+00:00"
    assert mine.show("transaction_read_only") == "on"
    answer("SET LOCAL sextet.read_as_of = 4711", mine)
    assert mine.show("sextet.read_as_of") == "4711"
    mine.end_transaction()
    assert mine.sql.read_as_of == Moment(time_us=30_000_000)
    answer("SET sextet.read_as_of = ''", mine)
    assert mine.sql.read_as_of.newest
    answer("SET sextet.read_as_of TO '4711'", mine)
    answer("RESET sextet.read_as_of", mine)
    assert mine.sql.read_as_of.newest


@pytest.mark.parametrize(
    ("sql", "state"),
    [
        ("SET sextet.read_as_of = 'yesterday'", "22023"),
        ("SET sextet.read_as_of = '2026-11-30T14:32:06'", "22023"),
        ("SET sextet.read_as_of = 0", "22023"),
        ("SET sextet.read_consistency = 'linear'", "22023"),
        ("SET sextet.wait_for = '-1'", "22023"),
        ("SET sextet.wait_for = '1e9'", "22023"),
        ("SET sextet.last_commit = 1", "55P02"),
        ("SET statement_timeout = 'soon'", "22023"),
        ("SHOW no_such_setting", "42704"),
        ("SET server_version = '16'", "55P02"),
        ("SET client_encoding = 'LATIN1'", "22023"),
        ("LISTEN channel", "0A000"),
        ("COPY t FROM STDIN", "0A000"),
    ],
)
def test_what_cannot_be_is_refused(sql: str, state: str) -> None:
    with pytest.raises(SqlError) as error:
        answer(sql, settings())
    assert error.value.sqlstate == state


def test_what_is_sqlites_is_left_to_it() -> None:
    for sql in ("SELECT 1", "SELECT version FROM t", "INSERT INTO t VALUES (1)", "BEGIN", ""):
        assert answer(sql, settings()) is None, sql


@pytest.mark.parametrize(
    ("sql", "parts"),
    [
        ("SELECT 1; SELECT 2", ["SELECT 1", " SELECT 2"]),
        ("SELECT ';'; ", ["SELECT ';'"]),
        (" ; ;", []),
        (
            "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; SELECT 2; END; SELECT 3",
            ["CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; SELECT 2; END", " SELECT 3"],
        ),
    ],
)
def test_a_query_string_splits_into_statements(sql: str, parts: list[str]) -> None:
    assert [part.rstrip() for part in statements(sql)] == [part.rstrip() for part in parts]


@pytest.mark.parametrize(
    ("sql", "rewritten"),
    [
        ("SELECT $1::int", "SELECT CAST($1 AS INTEGER)"),
        ("SELECT 'x'::text, f(a, 1)::float8", "SELECT CAST('x' AS TEXT), CAST(f(a, 1) AS REAL)"),
        ("SELECT (a + b)::bigint::text", "SELECT CAST(CAST((a + b) AS INTEGER) AS TEXT)"),
        ("SELECT '::int'", "SELECT '::int'"),
        (r"SELECT '\x00Ff'::bytea, '\x0'::bytea", r"SELECT x'00Ff', CAST('\x0' AS BLOB)"),
        (
            "SELECT a::varchar(10), b :: double precision",
            "SELECT CAST(a AS TEXT), CAST(b  AS REAL)",
        ),
        (
            "SELECT ((a)::int + b)::text FROM t",
            "SELECT CAST((CAST((a) AS INTEGER) + b) AS TEXT) FROM t",
        ),
        ("SELECT x IN (1)::int", "SELECT x IN CAST((1) AS INTEGER)"),
        ("SELECT a::", "SELECT a::"),
        ("::int", "::int"),
    ],
)
def test_casts(sql: str, rewritten: str) -> None:
    assert without_casts(sql) == rewritten
