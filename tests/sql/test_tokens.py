from __future__ import annotations

import pytest

from engine.sql.tokens import number_parameters, tokens


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select $1", "select ?1"),
        ("select $1,$12, $3", "select ?1,?12, ?3"),
        ("select '$1'", "select '$1'"),
        ("select 'it''s $1', $2", "select 'it''s $1', ?2"),
        ('select "$1", `$2`, [$3], $4', 'select "$1", `$2`, [$3], ?4'),
        ("select 1 -- $1\n, $2", "select 1 -- $1\n, ?2"),
        ("select /* $1 */ $2 /* $3", "select /* $1 */ ?2 /* $3"),
        ("select x'00', $1", "select x'00', ?1"),
        ("select a$1 from t where b=$1", "select a$1 from t where b=?1"),
        ("select $1::int", "select ?1::int"),
        ("select $name, :x, @y, ?1, ?", "select $name, :x, @y, ?1, ?"),
        ("select $1a", "select $1a"),
        ("select 'unterminated $1", "select 'unterminated $1"),
        ("select 1$1", "select 1$1"),
        ("(($1)+$2)", "((?1)+?2)"),
        ("sélect $1 from ünïcode$1", "sélect ?1 from ünïcode$1"),
    ],
)
def test_only_real_parameters_are_numbered(sql: str, expected: str) -> None:
    assert number_parameters(sql) == expected
    assert len(expected) == len(sql)


def test_tokens_have_kinds_and_places() -> None:
    found = [(t.kind, t.text, t.start) for t in tokens("SELECT a.b, 'c''d' /*x*/ + 1.5e3 --y")]
    assert found == [
        ("word", "SELECT", 0),
        ("word", "a", 7),
        ("other", ".", 8),
        ("word", "b", 9),
        ("other", ",", 10),
        ("string", "'c''d'", 12),
        ("other", "+", 25),
        ("number", "1.5e3", 27),
    ]
