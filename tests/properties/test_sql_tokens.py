"""Parameters are found exactly where SQLite's own tokenizer would find them."""

from __future__ import annotations

import apsw
import hypothesis.strategies as st
import pytest
from hypothesis import given

from engine.errors import SextetError
from engine.sql.tokens import number_parameters, tokens
from engine.sql.transaction import recognise

_INNER = st.text(alphabet="$1?'\"`]x-*/\n ab;é", max_size=8)

_PIECES = st.one_of(
    _INNER.map(lambda s: ("'" + s.replace("'", "''") + "'", False)),
    _INNER.map(lambda s: ('"' + s.replace('"', '""') + '"', False)),
    _INNER.map(lambda s: ("`" + s.replace("`", "``") + "`", False)),
    _INNER.map(lambda s: ("[" + s.replace("]", "") + "]", False)),
    _INNER.map(lambda s: ("/*" + s.replace("*/", "") + "*/", False)),
    _INNER.map(lambda s: ("--" + s.replace("\n", "") + "\n", False)),
    st.sampled_from(["a$1", "$name", ":x1", "x'00'", "1.5e3", "::", "(", ")", "?"]).map(
        lambda s: (s, False)
    ),
    st.integers(1, 9).map(lambda n: (f"${n}", True)),
)


@given(st.lists(_PIECES, max_size=12))
def test_only_pieces_that_are_parameters_change(pieces: list[tuple[str, bool]]) -> None:
    sql = " ".join(text for text, _ in pieces)
    expected = " ".join("?" + text[1:] if real else text for text, real in pieces)
    assert number_parameters(sql) == expected


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), _INNER)
def test_sqlite_numbers_them_as_written(numbers: list[int], noise: str) -> None:
    text = noise.replace("'", "''")
    sql = "select " + ", ".join(f"'{text}', ${n}" for n in numbers)
    values = tuple(range(100, 100 + max(numbers)))
    db = apsw.Connection(":memory:")
    (row,) = db.execute(number_parameters(sql), values).fetchall()
    db.close()
    assert row == tuple(v for n in numbers for v in (noise, values[n - 1]))


@given(st.text(alphabet="$1'\"`[]xX-*/\n ab;.e+:@#?é\0", max_size=40))
def test_any_text_is_covered_and_keeps_its_length(sql: str) -> None:
    assert len(number_parameters(sql)) == len(sql)
    end = 0
    for token in tokens(sql):
        assert token.start >= end
        assert sql[token.start : token.start + len(token.text)] == token.text
        end = token.start + len(token.text)


_TEXT = (
    "BEGIN START TRANSACTION COMMIT ROLLBACK TO SAVEPOINT RELEASE s READ ONLY WRITE ISOLATION LEVEL"
    " SERIALIZABLE AND NO CHAIN WORK , ; 'x' IMMEDIATE"
)
_WORDS = st.sampled_from(_TEXT.split())


@given(st.lists(_WORDS, max_size=8))
def test_transaction_statements_are_recognised_or_refused_never_a_crash(words: list[str]) -> None:
    try:
        found = recognise(" ".join(words))
    except SextetError as error:
        refused = error.sqlstate
    else:
        refused = ""
        assert found is None or found[0].tag
    assert refused in ("", "42601", "0A000")


@pytest.mark.parametrize("name", ["$1", "?1"])
def test_why_the_rewriting_is_needed(name: str) -> None:
    """SQLite takes `$2` for a name and numbers it by appearance."""
    db = apsw.Connection(":memory:")
    swapped = name.replace("1", "2")
    row = db.execute(f"select {swapped}, {name}", (1, 2)).fetchall()[0]
    db.close()
    assert row == ((1, 2) if name == "$1" else (2, 1))
