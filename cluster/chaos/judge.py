"""The verdict over a history and the reads of everything at its end. Pure.

The simulator's checkers do most of it: reads at the end are transactions like any others, so an
acknowledged append that is missing there is a stale read, and a cycle, to them. What is added is what
people ask first, in plain words: is anything that was acknowledged gone, do all instances show the same?

Kinds of checker "chaos"
- lost-append (G1): acknowledged, and not in the list at the end.
- resurrected (G2): rolled back, and in the list at the end.
- torn (G6): of unknown outcome, and some of it is there and some is not.
- differs (G5): two instances do not show the same at the end, when nobody writes any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cluster.sim.checkers import Findings, Violation, bank, listappend, sessions
from cluster.sim.history import (
    Append,
    BankRead,
    Endpoint,
    Key,
    Op,
    Outcome,
    ReadList,
    Transaction,
    Value,
)

CHECKER = "chaos"


@dataclass(frozen=True, slots=True)
class FinalRead:
    """Everything, as one instance shows it after the end, in one strong transaction."""

    instance: str
    lists: Mapping[Key, tuple[Value, ...]]
    balances: Mapping[str, int]
    read_lsn: int
    began: float
    ended: float

    def transaction(self, keys: Iterable[Key]) -> Transaction:
        """As one more transaction of the history; a list of `keys` that is not there is empty.

        Each is its own client's first: they may have been read in any order.
        """
        ops: list[Op] = [ReadList(key, self.lists.get(key, ())) for key in sorted(keys)]
        ops.append(BankRead(self.balances))
        return Transaction(
            client=f"final-{self.instance}",
            seq=1,
            session=f"final-{self.instance}",
            instance=self.instance,
            endpoint=Endpoint.STRONG,
            invoked_at=self.began,
            completed_at=self.ended,
            outcome=Outcome.COMMITTED,
            ops=tuple(ops),
            read_lsn=self.read_lsn,
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found, and how many things each checker looked at."""

    violations: tuple[Violation, ...]
    checks: Mapping[str, int]


def judge(
    history: Sequence[Transaction],
    finals: Sequence[FinalRead],
    *,
    total: int,
    accounts: Sequence[str],
) -> Verdict:
    """`finals`: the writer's first; without any, what was never read again is not judged."""
    findings = Findings(CHECKER)
    if finals:
        _appends(history, finals[0], findings)
        _alike(finals, findings)
    keys = {op.key for t in history for op in t.ops if isinstance(op, Append)}
    keys |= {key for final in finals for key in final.lists}
    whole = [*history, *(final.transaction(keys) for final in finals)]
    found = [
        *findings.found,
        *listappend.check(whole),
        *sessions.check(whole),
        *bank.check(whole, total=total, accounts=accounts, may_be_negative=True),
    ]
    appends = sum(isinstance(op, Append) for t in history for op in t.ops)
    checks = {
        "appends at the end": appends if finals else 0,
        "instances at the end": len(finals),
        "listappend": listappend.looked_at(whole),
        "sessions": sessions.looked_at(whole),
        "bank": bank.looked_at(whole),
    }
    return Verdict(tuple(found), checks)


def _appends(history: Sequence[Transaction], final: FinalRead, findings: Findings) -> None:
    there = {(key, value) for key, values in final.lists.items() for value in values}
    for transaction in history:
        appends = [op for op in transaction.ops if isinstance(op, Append)]
        missing = [op for op in appends if (op.key, op.value) not in there]
        if not appends:
            continue
        match transaction.outcome:
            case Outcome.COMMITTED if missing:
                findings.add(
                    "lost-append",
                    f"{transaction.name} was told that it is committed, and {_these(missing)} not there"
                    f" at the end",
                    transactions=(transaction,),
                )
            case Outcome.ABORTED if len(missing) < len(appends):
                kept = [op for op in appends if op not in missing]
                findings.add(
                    "resurrected",
                    f"{transaction.name} was told that it is rolled back, and {_these(kept)} there"
                    f" at the end",
                    transactions=(transaction,),
                )
            case Outcome.UNKNOWN if 0 < len(missing) < len(appends):
                findings.add(
                    "torn",
                    f"of {transaction.name} {_these(missing)} not there at the end, and the rest is",
                    transactions=(transaction,),
                )


def _these(appends: Sequence[Append]) -> str:
    named = ", ".join(f"{op.value} of {op.key}" for op in appends[:5])
    more = f" and {len(appends) - 5} more" if len(appends) > 5 else ""
    return f"{named}{more} {'is' if len(appends) == 1 else 'are'}"


def _alike(finals: Sequence[FinalRead], findings: Findings) -> None:
    first = finals[0]
    for other in finals[1:]:
        lists = sorted(
            key
            for key in first.lists.keys() | other.lists.keys()
            if first.lists.get(key) != other.lists.get(key)
        )
        if lists or first.balances != other.balances:
            what = f"{len(lists)} lists ({', '.join(lists[:5])})" if lists else "accounts"
            findings.add(
                "differs",
                f"{first.instance} and {other.instance} do not show the same {what} at the end",
                nodes=(first.instance, other.instance),
            )
