"""A bank: transfers move money between accounts, so every look at all of them shows the same total.

Blind to order, but nothing needs to be known about the other transactions: it holds on every
endpoint, at every moment, whatever the outcome of the transaction that looked.

Kinds: total, negative, accounts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from cluster.sim.checkers import Findings, Violation
from cluster.sim.history import BankRead, Transaction

CHECKER = "bank"


def check(
    history: Iterable[Transaction],
    *,
    total: int,
    accounts: Collection[str] | None = None,
    may_be_negative: bool = False,
) -> list[Violation]:
    """`accounts`: all that exist, if they never change. The opening must be durable before the run."""
    findings = Findings(CHECKER)
    names = None if accounts is None else sorted(accounts)
    for transaction in history:
        for op in transaction.ops:
            if isinstance(op, BankRead):
                _judge(transaction, op, total, names, may_be_negative, findings)
    return findings.found


def looked_at(history: Iterable[Transaction]) -> int:
    """How many totals there are to judge by; transfers leave nothing that could be judged."""
    return sum(isinstance(op, BankRead) for t in history for op in t.ops)


def _judge(
    transaction: Transaction,
    op: BankRead,
    total: int,
    names: list[str] | None,
    may_be_negative: bool,
    findings: Findings,
) -> None:
    balances = dict(sorted(op.balances.items()))
    if names is not None and list(balances) != names:
        findings.add(
            "accounts",
            f"{transaction.name} sees the accounts {list(balances)}, not {names}",
            transactions=(transaction,),
        )
    elif sum(balances.values()) != total:
        findings.add(
            "total",
            f"{transaction.name} sees {sum(balances.values())} in all accounts together, not {total}",
            transactions=(transaction,),
        )
    overdrawn = [name for name, balance in balances.items() if balance < 0]
    if overdrawn and not may_be_negative:
        findings.add(
            "negative",
            f"{transaction.name} sees {overdrawn[0]} at {balances[overdrawn[0]]}",
            transactions=(transaction,),
        )
