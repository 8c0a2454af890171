"""Short ways to write histories down."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.sim.checkers import Violation
from cluster.sim.history import (
    Append,
    Endpoint,
    History,
    Op,
    Outcome,
    Read,
    ReadList,
    Transaction,
    Write,
)


def a(key: str, value: int) -> Append:
    return Append(key, value)


def r(key: str, *values: int) -> ReadList:
    return ReadList(key, values)


def w(key: str, value: int) -> Write:
    return Write(key, value)


def rr(key: str, value: int | None) -> Read:
    return Read(key, value)


class Script:
    """Builds a history. By default every transaction is concurrent with every other one, committed,
    on the writer endpoint, by a client of its own."""

    def __init__(self) -> None:
        self.history = History()

    def add(
        self,
        *ops: Op,
        at: tuple[float, float] = (0.0, 100.0),
        outcome: Outcome = Outcome.COMMITTED,
        session: str | None = None,
        client: str | None = None,
        endpoint: Endpoint = Endpoint.WRITER,
        commit_lsn: int | None = None,
        read_lsn: int | None = None,
    ) -> Transaction:
        number = len(self.history) + 1
        name = session or f"s{number}"
        transaction = Transaction(
            client=client or f"client of {name}",
            seq=number,
            session=name,
            instance="main-1" if endpoint is Endpoint.WRITER else "main-2",
            endpoint=endpoint,
            invoked_at=at[0],
            completed_at=at[1],
            outcome=outcome,
            ops=ops,
            commit_lsn=commit_lsn,
            read_lsn=read_lsn,
            writes=commit_lsn is not None or any(isinstance(op, Append | Write) for op in ops),
        )
        self.history.append(transaction)
        return transaction

    def aborted(self, *ops: Op, at: tuple[float, float] = (0.0, 100.0)) -> Transaction:
        return self.add(*ops, at=at, outcome=Outcome.ABORTED)

    def unknown(self, *ops: Op, at: tuple[float, float] = (0.0, 100.0)) -> Transaction:
        return self.add(*ops, at=at, outcome=Outcome.UNKNOWN)

    def replica(
        self,
        *ops: Op,
        at: tuple[float, float] = (0.0, 100.0),
        session: str | None = None,
        read_lsn: int | None = None,
    ) -> Transaction:
        return self.add(*ops, at=at, session=session, endpoint=Endpoint.READER, read_lsn=read_lsn)


def kinds(violations: Iterable[Violation]) -> list[str]:
    return sorted({v.kind for v in violations})
