"""Read points and commit LSNs, as instances told them, against what sessions are promised (G5).

Needs no knowledge of what was read, so it holds for any SQL.

Kinds
- read-point-regress: a session's read point is older than one before it in the same session.
- stale-read-point: on the writer endpoint, older than a commit acknowledged before it began, or than
  a read point that somebody had been served before it began.
- commit-below-read-point: a commit at or below the read point of its own transaction.
- lsn-reused: two acknowledged commits with one LSN.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from cluster.sim.checkers import Findings, Violation
from cluster.sim.history import Endpoint, Outcome, Transaction
from engine.types import LSN

CHECKER = "sessions"


def check(history: Iterable[Transaction]) -> list[Violation]:
    findings = Findings(CHECKER)
    transactions = sorted(history, key=lambda t: (t.client, t.seq))
    _commits(transactions, findings)
    _regressions(transactions, findings)
    _stale(transactions, findings)
    return findings.found


def looked_at(history: Iterable[Transaction]) -> int:
    """How many transactions have an LSN that is compared with those of others."""
    return sum(_shown(t) is not None or _must_be_newest(t) for t in history)


def _commits(transactions: list[Transaction], findings: Findings) -> None:
    owners: dict[LSN, Transaction] = {}
    for transaction in transactions:
        lsn = transaction.commit_lsn
        if lsn is None or transaction.outcome is not Outcome.COMMITTED:
            continue
        if transaction.read_lsn is not None and lsn <= transaction.read_lsn:
            findings.add(
                "commit-below-read-point",
                f"{transaction.name} read at {transaction.read_lsn} and committed at {lsn}",
                transactions=(transaction,),
                lsns=(transaction.read_lsn, lsn),
            )
        other = owners.setdefault(lsn, transaction)
        if other is not transaction:
            findings.add(
                "lsn-reused",
                f"{other.name} and {transaction.name} were both committed at {lsn}",
                transactions=(other, transaction),
                lsns=(lsn,),
            )


def _regressions(transactions: list[Transaction], findings: Findings) -> None:
    newest: dict[str, Transaction] = {}
    for transaction in transactions:
        if (lsn := _read_point(transaction)) is None:
            continue
        before = newest.setdefault(transaction.session, transaction)
        assert before.read_lsn is not None
        if lsn < before.read_lsn:
            findings.add(
                "read-point-regress",
                f"session {transaction.session} read at {before.read_lsn} and then at {lsn}",
                transactions=(before, transaction),
                lsns=(before.read_lsn, lsn),
            )
        else:
            newest[transaction.session] = transaction


def _stale(transactions: list[Transaction], findings: Findings) -> None:
    shown = sorted(
        (t.completed_at, lsn, index)
        for index, t in enumerate(transactions)
        if (lsn := _shown(t)) is not None
    )
    times = [when for when, _, _ in shown]
    highest: list[tuple[LSN, int]] = []
    for _, lsn, index in shown:
        highest.append(max(highest[-1], (lsn, index)) if highest else (lsn, index))
    for transaction in transactions:
        if transaction.read_lsn is None or not _must_be_newest(transaction):
            continue
        before = bisect_left(times, transaction.invoked_at)
        if before and highest[before - 1][0] > transaction.read_lsn:
            lsn, index = highest[before - 1]
            findings.add(
                "stale-read-point",
                f"{transaction.name} read at {transaction.read_lsn} after {transactions[index].name}"
                f" had been answered from {lsn}",
                transactions=(transactions[index], transaction),
                lsns=(transaction.read_lsn, lsn),
            )


def _must_be_newest(transaction: Transaction) -> bool:
    return transaction.endpoint.newest and transaction.read_lsn is not None


def _read_point(transaction: Transaction) -> LSN | None:
    """A read point that its client was answered from.

    A writing transaction works on the newest commit, durable or not, and is answered once that is
    durable. If it failed, the commit that it worked on may never have become durable.
    """
    reads = transaction.endpoint in (Endpoint.READER, Endpoint.STRONG)
    if transaction.outcome is Outcome.COMMITTED or reads:
        return transaction.read_lsn
    return None


def _shown(transaction: Transaction) -> LSN | None:
    """The newest state that somebody knows to be durable by this transaction's answer."""
    if transaction.outcome is Outcome.COMMITTED and transaction.commit_lsn is not None:
        return transaction.commit_lsn
    return _read_point(transaction)
