"""Registers: linearizability against a search that tries every order, and known histories."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.sim.checkers.registers import check, looked_at
from cluster.sim.history import Endpoint, History, Op, Outcome, Read, Transaction, Write
from tests.cluster.sim.checkers.histories import Script, a, kinds, r, rr, w
from tests.cluster.sim.checkers.model import Bug, Model


def test_reads_follow_writes() -> None:
    s = Script()
    s.add(rr("x", None), at=(0, 1))
    s.add(w("x", 1), at=(2, 3))
    s.add(rr("x", 1), at=(4, 5))
    assert check(s.history) == []


def test_an_acknowledged_write_is_gone() -> None:
    s = Script()
    s.add(w("x", 1), at=(0, 1))
    s.add(w("x", 2), at=(2, 3))
    s.add(rr("x", 1), at=(4, 5))
    (violation,) = check(s.history)
    assert violation.kind == "not-linearizable"
    assert violation.message == (
        "x: 2 of 3 operations fit in some order, after which the register holds [2];"
        " none of client of s3/3 can come next"
    )


def test_a_value_seen_is_not_unseen_again() -> None:
    s = Script()
    s.add(w("x", 1), at=(0, 10))
    s.add(rr("x", 1), at=(1, 2))
    s.add(rr("x", None), at=(3, 4))
    assert kinds(check(s.history)) == ["not-linearizable"]


def test_concurrent_operations_may_take_any_order() -> None:
    s = Script()
    s.add(w("x", 1), at=(0, 10))
    s.add(w("x", 2), at=(0, 10))
    s.add(rr("x", 2), at=(1, 2))
    s.add(rr("x", 1), at=(3, 4))
    assert check(s.history) == []
    s.add(rr("x", 2), at=(5, 6))
    assert kinds(check(s.history)) == ["not-linearizable"]


def test_an_unknown_write_may_come_late_but_only_once() -> None:
    s = Script()
    s.unknown(w("x", 1), at=(0, 1))
    s.add(rr("x", None), at=(2, 3))
    s.add(w("x", 2), at=(4, 5))
    s.add(rr("x", 1), at=(6, 7))
    assert check(s.history) == []
    s.add(w("x", 3), at=(8, 9))
    s.add(rr("x", 1), at=(10, 11))
    assert kinds(check(s.history)) == ["not-linearizable"]


def test_an_unknown_write_does_not_come_early() -> None:
    s = Script()
    s.add(rr("x", 1), at=(0, 1))
    s.unknown(w("x", 1), at=(2, 3))
    assert kinds(check(s.history)) == ["not-linearizable"]


def test_what_an_unknown_transaction_read_was_there() -> None:
    s = Script()
    s.add(w("x", 1), at=(0, 1))
    s.unknown(rr("x", None), w("x", 2), at=(2, 3))
    assert kinds(check(s.history)) == ["not-linearizable"]


def test_two_transactions_update_one_value() -> None:
    s = Script()
    s.add(rr("x", None), w("x", 1))
    s.add(rr("x", None), w("x", 2))
    assert kinds(check(s.history)) == ["not-linearizable"]


def test_a_rolled_back_write_is_seen() -> None:
    s = Script()
    s.aborted(w("x", 1), rr("x", 1))
    assert check(s.history) == []
    s.replica(rr("x", 1))
    assert kinds(check(s.history)) == ["G1a"]


def test_a_value_that_nobody_wrote() -> None:
    s = Script()
    s.replica(rr("x", 1))
    assert kinds(check(s.history)) == ["garbage"]


def test_a_transaction_forgets_its_own_write() -> None:
    for second in (None, 1):
        s = Script()
        s.add(w("x", 1))
        s.add(rr("x", 1), w("x", 2), rr("x", second))
        assert kinds(check(s.history)) == ["internal"]


def test_replicas_may_lag() -> None:
    s = Script()
    s.add(w("x", 1), at=(0, 1))
    s.replica(rr("x", None), at=(2, 3))
    assert check(s.history) == []


def test_the_search_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.sim.checkers.registers.SITUATIONS_MAX", 100)
    s = Script()
    for n in range(12):
        s.add(w("x", n))
    s.add(w("x", 99), at=(200, 201))
    s.add(rr("x", 5), at=(300, 301))
    assert kinds(check(s.history)) == ["undecided"]


def test_two_thousand_operations_over_twenty_keys() -> None:
    history = Model(1, only="r").history(clients=10, count=2000, keys=20)
    assert len(history) > 1900
    assert check(history) == []


def test_two_thousand_operations_on_one_key() -> None:
    assert check(Model(2, only="r").history(clients=10, count=2000, keys=1)) == []
    broken = Model(2, only="r", bug=Bug.LOST_COMMITS, bug_rate=0.01)
    assert "not-linearizable" in kinds(check(broken.history(clients=10, count=2000, keys=1)))


# -- against the dumbest checker there is

TIMES = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(sorted)
VALUES = st.integers(1, 2)
OPS: st.SearchStrategy[list[Op]] = st.one_of(
    VALUES.map(lambda v: [Write("x", v)]),
    (st.none() | VALUES).map(lambda v: [Read("x", v)]),
    st.tuples(st.none() | VALUES, VALUES).map(lambda v: [Read("x", v[0]), Write("x", v[1])]),
)


@st.composite
def transactions(draw: st.DrawFn) -> Transaction:
    start, end = draw(TIMES)
    outcome = draw(st.sampled_from([Outcome.COMMITTED] * 3 + [Outcome.ABORTED, Outcome.UNKNOWN]))
    return Transaction(
        "c", draw(st.integers(0, 10**6)), "s", "i", Endpoint.WRITER, start, end, outcome,
        tuple(draw(OPS)),
    )  # fmt: skip


def dumb(history: list[Transaction]) -> bool:
    """Whether some subset of the unknown writes and some order explain it all."""
    parts: list[tuple[float, float, tuple[Op, ...]]] = []
    maybe: list[tuple[float, float, tuple[Op, ...]]] = []
    for t in history:
        reads = tuple(op for op in t.ops if isinstance(op, Read))
        if t.outcome is Outcome.COMMITTED:
            parts.append((t.invoked_at, t.completed_at, t.ops))
            continue
        parts.append((t.invoked_at, t.completed_at, reads))
        if t.outcome is Outcome.UNKNOWN:
            maybe.append((t.invoked_at, float("inf"), t.ops))
    for chosen in range(1 << len(maybe)):
        those = parts + [m for i, m in enumerate(maybe) if chosen >> i & 1]
        if any(explains(order) for order in permutations(those)):
            return True
    return False


def explains(order: tuple[tuple[float, float, tuple[Op, ...]], ...]) -> bool:
    for i, (_, end, _) in enumerate(order):
        if any(order[j][1] < order[i][0] for j in range(i + 1, len(order))) or end < 0:
            return False
    value: int | None = None
    for _, _, ops in order:
        for op in ops:
            if isinstance(op, Write):
                value = op.value
            elif isinstance(op, Read) and op.value != value:
                return False
    return True


@given(st.lists(transactions(), max_size=5))
@example([])
def test_agrees_with_trying_every_order(history: list[Transaction]) -> None:
    found = set(kinds(check(History(history))))
    assert dumb(history) == ("not-linearizable" not in found)


def test_what_was_looked_at_is_reads_and_writes_of_registers() -> None:
    s = Script()
    s.add(w("x", 1), rr("x", 1))
    s.replica(rr("x", None))
    s.add(a("l", 1), r("l", 1))
    assert looked_at(s.history) == 3
