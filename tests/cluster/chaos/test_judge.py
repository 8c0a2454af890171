"""The judge: a clean history passes, and each kind of doctored one is found out."""

from __future__ import annotations

from dataclasses import replace

from cluster.chaos.judge import FinalRead, judge
from cluster.sim.history import (
    Append,
    BankRead,
    Endpoint,
    Op,
    Outcome,
    ReadList,
    Transaction,
)

ACCOUNTS = ("1", "2")


def made(
    client: str,
    seq: int,
    begins: float,
    *ops: Op,
    outcome: Outcome = Outcome.COMMITTED,
    endpoint: Endpoint = Endpoint.WRITER,
    commit_lsn: int | None = None,
) -> Transaction:
    return Transaction(
        client=client,
        seq=seq,
        session=f"{client}-1",
        instance="main-1",
        endpoint=endpoint,
        invoked_at=begins,
        completed_at=begins + 0.5,
        outcome=outcome,
        ops=ops,
        commit_lsn=commit_lsn,
    )


HISTORY = (
    made("c1", 1, 1.0, Append("x", 1), Append("y", 2), commit_lsn=10),
    made("c2", 1, 2.0, Append("x", 3), outcome=Outcome.ABORTED),
    made("c1", 2, 3.0, Append("x", 4), Append("y", 5), outcome=Outcome.UNKNOWN),
    made("c2", 2, 4.0, ReadList("x", (1,)), BankRead({"1": 60, "2": 40}), endpoint=Endpoint.READER),
    made("c1", 3, 5.0, Append("x", 6), commit_lsn=30),
)
FINAL = FinalRead(
    "main-1", {"x": (1, 4, 6), "y": (2, 5)}, {"1": 50, "2": 50}, read_lsn=30, began=9.0, ended=9.5
)
REPLICA = replace(FINAL, instance="main-2", began=7.0, ended=7.5)


def kinds(history, *finals) -> set[str]:
    found = judge(list(history), finals, total=100, accounts=ACCOUNTS).violations
    return {f"{v.checker}/{v.kind}" for v in found}


def test_a_clean_history_passes_whatever_became_of_what_was_unknown() -> None:
    assert kinds(HISTORY, FINAL, REPLICA) == set()
    without = replace(FINAL, lists={"x": (1, 6), "y": (2,)})
    assert kinds(HISTORY, without) == set()


def test_instances_may_be_read_at_the_end_in_any_order() -> None:
    assert kinds(HISTORY, FINAL, REPLICA) == kinds(HISTORY, REPLICA, FINAL) == set()


def test_a_lost_acknowledged_append_is_found() -> None:
    lost = replace(FINAL, lists={"x": (1, 4), "y": (2, 5)})
    found = judge(list(HISTORY), [lost], total=100, accounts=ACCOUNTS).violations
    told = next(v for v in found if (v.checker, v.kind) == ("chaos", "lost-append"))
    assert "c1/3" in told.message
    assert "6 of x is not there" in told.message
    assert "listappend/stale-read" in {f"{v.checker}/{v.kind}" for v in found}


def test_a_list_that_is_gone_altogether_is_found() -> None:
    gone = replace(FINAL, lists={"x": (1, 4, 6)})
    assert "chaos/lost-append" in kinds(HISTORY, gone)


def test_what_was_rolled_back_and_is_there_is_found() -> None:
    back = replace(FINAL, lists={"x": (1, 3, 4, 6), "y": (2, 5)})
    assert {"chaos/resurrected", "listappend/G1a"} <= kinds(HISTORY, back)


def test_half_of_an_unknown_transaction_is_found() -> None:
    half = replace(FINAL, lists={"x": (1, 4, 6), "y": (2,)})
    assert "chaos/torn" in kinds(HISTORY, half)


def test_instances_that_differ_are_found() -> None:
    other = replace(REPLICA, lists={"x": (1, 4), "y": (2, 5)})
    assert "chaos/differs" in kinds(HISTORY, FINAL, other)
    poorer = replace(REPLICA, balances={"1": 49, "2": 51})
    assert "chaos/differs" in kinds(HISTORY, FINAL, poorer)


def test_money_that_vanished_is_found() -> None:
    poorer = replace(FINAL, balances={"1": 50, "2": 40})
    assert "bank/total" in kinds(HISTORY, poorer)


def test_a_strong_read_of_something_old_is_found_and_one_of_a_superseded_writer_is_not() -> None:
    late = made("c3", 1, 6.0, ReadList("x", (1,)), endpoint=Endpoint.STRONG)
    assert "listappend/stale-read" in kinds((*HISTORY, late), FINAL)
    excused = replace(late, endpoint=Endpoint.SUPERSEDED)
    assert kinds((*HISTORY, excused), FINAL) == set()


def test_it_says_how_much_it_looked_at() -> None:
    checks = judge(list(HISTORY), [FINAL, REPLICA], total=100, accounts=ACCOUNTS).checks
    assert checks["appends at the end"] == 6
    assert checks["instances at the end"] == 2
    assert checks["bank"] == 3
    reads = [op for t in HISTORY for op in t.ops if isinstance(op, ReadList)]
    assert checks["listappend"] >= len(reads)
    assert judge([], [], total=100, accounts=ACCOUNTS).checks["listappend"] == 0
