from __future__ import annotations

import pytest

from engine.errors import FeatureNotSupported, SqlError
from engine.sql.transaction import Control, Verb, recognise

BEGIN = Control(Verb.BEGIN, "BEGIN")


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("BEGIN", BEGIN),
        ("begin work;", BEGIN),
        ("Begin Transaction", BEGIN),
        ("BEGIN DEFERRED", BEGIN),
        ("BEGIN IMMEDIATE TRANSACTION", Control(Verb.BEGIN, "BEGIN", locks=True)),
        ("BEGIN EXCLUSIVE", Control(Verb.BEGIN, "BEGIN", locks=True)),
        ("START TRANSACTION", Control(Verb.BEGIN, "START TRANSACTION")),
        (
            "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY, DEFERRABLE",
            Control(Verb.BEGIN, "START TRANSACTION", read_only=True),
        ),
        (
            "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE NOT DEFERRABLE",
            Control(Verb.BEGIN, "BEGIN", read_only=False),
        ),
        ("BEGIN READ ONLY", Control(Verb.BEGIN, "BEGIN", read_only=True)),
        ("COMMIT", Control(Verb.COMMIT, "COMMIT")),
        ("END TRANSACTION", Control(Verb.COMMIT, "COMMIT")),
        ("commit work and no chain", Control(Verb.COMMIT, "COMMIT")),
        ("ROLLBACK", Control(Verb.ROLLBACK, "ROLLBACK")),
        ("ABORT WORK", Control(Verb.ROLLBACK, "ROLLBACK")),
        ("SAVEPOINT s1", Control(Verb.SAVEPOINT, "SAVEPOINT", name="s1")),
        ('SAVEPOINT "a b"', Control(Verb.SAVEPOINT, "SAVEPOINT", name='"a b"')),
        ("RELEASE s1", Control(Verb.RELEASE, "RELEASE", name="s1")),
        ("RELEASE SAVEPOINT s1", Control(Verb.RELEASE, "RELEASE", name="s1")),
        ("ROLLBACK TO s1", Control(Verb.ROLLBACK_TO, "ROLLBACK", name="s1")),
        (
            "ROLLBACK WORK TO SAVEPOINT s1",
            Control(Verb.ROLLBACK_TO, "ROLLBACK", name="s1"),
        ),
        ("/* hi */ BEGIN -- there", BEGIN),
        (" ; ;BEGIN", BEGIN),
    ],
)
def test_recognises(sql: str, expected: Control) -> None:
    found = recognise(sql)
    assert found is not None
    assert found[0] == expected


@pytest.mark.parametrize(
    "sql", ["", "  ", "-- begin", "select 1", "'begin'", '"BEGIN"', "beginning", "; select 1;begin"]
)
def test_leaves_everything_else_alone(sql: str) -> None:
    assert recognise(sql) is None


def test_says_where_the_next_statement_starts() -> None:
    sql = "begin; insert into t values (';')"
    found = recognise(sql)
    assert found is not None
    assert sql[found[1] :] == " insert into t values (';')"


@pytest.mark.parametrize(
    ("sql", "position"),
    [
        ("BEGIN NOW", 7),
        ("BEGIN READ", 0),
        ("BEGIN ISOLATION LEVEL SOMETIMES", 23),
        ("BEGIN READ ONLY,", 0),
        ("START", 0),
        ("START ENGINE", 7),
        ("COMMIT 1", 8),
        ("SAVEPOINT", 0),
        ("SAVEPOINT 1", 11),
        ("RELEASE a b", 11),
        ("ROLLBACK TO", 0),
        ("ABORT TO s", 7),
        ("COMMIT AND", 0),
    ],
)
def test_syntax_errors_have_a_place(sql: str, position: int) -> None:
    with pytest.raises(SqlError) as caught:
        recognise(sql)
    assert (caught.value.sqlstate, caught.value.position) == ("42601", position)


@pytest.mark.parametrize("sql", ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "COMMIT PREPARED 'x'"])
def test_what_is_not_supported_is_said(sql: str) -> None:
    with pytest.raises(FeatureNotSupported):
        recognise(sql)
