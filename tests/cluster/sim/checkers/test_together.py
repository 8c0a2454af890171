"""All checkers of client histories over a model's: silent about right ones, loud about wrong ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.sim.checkers import Violation, bank, listappend, registers, sessions
from cluster.sim.history import History, Outcome, ReadList, Transaction
from tests.cluster.sim.checkers.model import ACCOUNTS, TOTAL, Bug, Model

SEEDS = 60
UNSEEN_BY_REGISTERS = (Bug.REPLICA_BACK, Bug.HALF_UNKNOWN)  # writer only; one key at a time


def check(history: History) -> list[Violation]:
    return [
        *listappend.check(history),
        *registers.check(history),
        *sessions.check(history),
        *bank.check(history, total=TOTAL, accounts=ACCOUNTS, may_be_negative=True),
    ]


@given(
    st.integers(0, 2**32),
    st.integers(1, 8),
    st.integers(0, 120),
    st.integers(1, 5),
    st.sampled_from(("lrb", "l", "r")),
    st.booleans(),
)
def test_a_right_history_is_left_alone(
    seed: int, clients: int, count: int, keys: int, only: str, final_reads: bool
) -> None:
    model = Model(seed, only=only)
    history = model.history(clients=clients, count=count, keys=keys, final_reads=final_reads)
    assert check(history) == []


@pytest.mark.parametrize(
    ("only", "bug", "part"),
    [
        *(("l", bug, 0.95) for bug in sorted(Bug)),
        *(("r", bug, 0.9) for bug in sorted(Bug) if bug not in UNSEEN_BY_REGISTERS),
        ("b", Bug.HALF_UNKNOWN, 1.0),
        *(("lrb", bug, 0.85) for bug in sorted(Bug)),
    ],
    ids=lambda value: value.name.lower() if isinstance(value, Bug) else str(value),
)
def test_bugs_are_seen_by_what_clients_read(only: str, bug: Bug, part: float) -> None:
    seen = fired = 0
    for seed in range(SEEDS):
        model = Model(seed, bug=bug, only=only)
        history = model.history(clients=6, count=200)
        if model.took_effect:
            fired += 1
            seen += bool(check(history))
    assert fired > SEEDS / 2
    assert seen >= part * fired, f"{seen} of {fired}"


@given(st.integers(0, 2**32), st.data())
def test_a_changed_answer_is_seen(seed: int, data: st.DataObject) -> None:
    """Drop, repeat or swap elements of one long list that was read: never a list that could be."""
    history = list(Model(seed, only="l").history(clients=4, count=120))
    places = [
        (n, i)
        for n, t in enumerate(history)
        for i, op in enumerate(t.ops)
        if isinstance(op, ReadList) and op.values is not None and len(op.values) > 2
    ]
    if not places:
        return
    number, index = data.draw(st.sampled_from(places))
    old = history[number].ops[index]
    assert isinstance(old, ReadList)
    assert old.values is not None
    v = old.values
    new = data.draw(
        st.sampled_from([(*v[1:],), (v[1], v[0], *v[2:]), (*v, v[0]), (*v, -1), v[:1] + v[2:]])
    )
    history[number] = _with(history[number], index, ReadList(old.key, new))
    assert check(History(history))


@given(st.integers(0, 2**32), st.data())
def test_an_acknowledged_commit_turned_abort_is_seen(seed: int, data: st.DataObject) -> None:
    """The other way round: the database has it, and the client was told that it was rolled back."""
    history = list(Model(seed, only="l").history(clients=4, count=60))
    shown = {
        value
        for t in history
        for op in t.ops
        if isinstance(op, ReadList) and op.values and not _appends(t)
        for value in op.values
    }
    places = [
        n
        for n, t in enumerate(history)
        if t.outcome is Outcome.COMMITTED and shown.intersection(_appends(t))
    ]
    if not places:
        return
    number = data.draw(st.sampled_from(places))
    old = history[number]
    history[number] = Transaction(
        old.client, old.seq, old.session, old.instance, old.endpoint,
        old.invoked_at, old.completed_at, Outcome.ABORTED, old.ops,
    )  # fmt: skip
    assert "G1a" in {violation.kind for violation in check(History(history))}


def _appends(transaction: Transaction) -> set[int]:
    return {op.value for op in transaction.ops if hasattr(op, "value")}


def _with(old: Transaction, index: int, op: ReadList) -> Transaction:
    ops = (*old.ops[:index], op, *old.ops[index + 1 :])
    return Transaction(
        old.client, old.seq, old.session, old.instance, old.endpoint,
        old.invoked_at, old.completed_at, old.outcome, ops, old.commit_lsn, old.read_lsn,
    )  # fmt: skip
