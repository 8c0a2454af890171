"""A history and its JSON lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.sim.history import (
    Append,
    BankRead,
    Endpoint,
    History,
    Outcome,
    Read,
    ReadList,
    Transaction,
    Write,
    describe,
)
from engine.errors import FormatError

KEYS = st.text(max_size=3)
INTS = st.integers(-(2**63), 2**63)
OPS = st.one_of(
    st.builds(Append, KEYS, INTS),
    st.builds(ReadList, KEYS, st.none() | st.lists(INTS, max_size=3).map(tuple)),
    st.builds(Write, KEYS, INTS),
    st.builds(Read, KEYS, st.none() | INTS),
    st.builds(BankRead, st.dictionaries(KEYS, INTS, max_size=3)),
)
TIMES = st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)).map(sorted)


@st.composite
def transactions(draw: st.DrawFn) -> Transaction:
    invoked_at, completed_at = draw(TIMES)
    return Transaction(
        client=draw(KEYS),
        seq=draw(INTS),
        session=draw(KEYS),
        instance=draw(KEYS),
        endpoint=draw(st.sampled_from(Endpoint)),
        invoked_at=invoked_at,
        completed_at=completed_at,
        outcome=draw(st.sampled_from(Outcome)),
        ops=tuple(draw(st.lists(OPS, max_size=4))),
        commit_lsn=draw(st.none() | INTS),
        read_lsn=draw(st.none() | INTS),
        writes=draw(st.booleans()),
    )


@given(st.lists(transactions(), max_size=4))
def test_json_lines_round_trip(written: list[Transaction]) -> None:
    history = History(written)
    lines = list(history.to_lines())
    assert all("\n" not in line for line in lines)
    again = History.from_lines(lines)
    assert again == history
    assert list(again.to_lines()) == lines


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"client": "c"}', "3"])
def test_a_bad_line_is_named(line: str) -> None:
    with pytest.raises(FormatError, match="line 2"):
        History.from_lines(["", line])


def test_an_unknown_operation_is_refused() -> None:
    good = Transaction(
        "c", 1, "s", "i", Endpoint.WRITER, 0, 1, Outcome.COMMITTED, (Append("x", 1),)
    )
    (line,) = History([good]).to_lines()
    with pytest.raises(FormatError, match="is no operation"):
        History.from_lines([line.replace('"append"', '"prepend"')])


def test_time_runs_forward() -> None:
    with pytest.raises(ValueError, match="before it was invoked"):
        Transaction("c", 1, "s", "i", Endpoint.WRITER, 2, 1, Outcome.COMMITTED, ())


def test_text_says_all() -> None:
    ops = (Append("x", 1), ReadList("x", (1,)), ReadList("y", None), Read("r", None))
    txn = Transaction(
        "c", 1, "s", "i", Endpoint.WRITER, 0.5, 1, Outcome.COMMITTED, ops, commit_lsn=9, read_lsn=4
    )
    assert str(txn) == (
        "c/1 committed on i (writer, session s) 0.500000..1.000000 read@4 commit@9 "
        "append(x, 1) list(x) = [1] list(y) = ? read(r) = None"
    )
    assert describe(BankRead({"b": 1, "a": 2})) == "bank = {'a': 2, 'b': 1}"
    assert describe(Write("r", 2)) == "write(r, 2)"
