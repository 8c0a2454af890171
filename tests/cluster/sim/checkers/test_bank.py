"""Money neither appears nor vanishes."""

from __future__ import annotations

from cluster.sim.checkers.bank import check, looked_at
from cluster.sim.history import BankRead
from tests.cluster.sim.checkers.histories import Script, a, kinds


def test_the_total_is_always_the_same() -> None:
    s = Script()
    s.add(BankRead({"a": 60, "b": 40}))
    s.replica(BankRead({"a": 0, "b": 100}))
    s.aborted(BankRead({"a": 100, "b": 0}))
    assert check(s.history, total=100, accounts=["b", "a"]) == []


def test_money_vanishes() -> None:
    s = Script()
    s.replica(BankRead({"a": 50, "b": 40}), at=(1, 2))
    (violation,) = check(s.history, total=100)
    assert str(violation).startswith(
        "bank: total at 2.000000s: client of s1/1 sees 90 in all accounts together, not 100\n"
        "  client of s1/1 committed on main-2"
    )


def test_an_account_is_missing() -> None:
    s = Script()
    s.add(BankRead({"a": 100}))
    assert kinds(check(s.history, total=100, accounts=("a", "b"))) == ["accounts"]
    assert check(s.history, total=100) == []


def test_an_account_is_overdrawn() -> None:
    s = Script()
    s.unknown(BankRead({"a": 101, "b": -1}))
    assert kinds(check(s.history, total=100)) == ["negative"]
    assert check(s.history, total=100, may_be_negative=True) == []


def test_what_was_looked_at_is_totals() -> None:
    s = Script()
    s.add(BankRead({"a": 60, "b": 40}), BankRead({"a": 60, "b": 40}))
    s.add(a("x", 1), commit_lsn=3)
    assert looked_at(s.history) == 2
