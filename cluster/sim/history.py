"""What clients saw: the transactions of one run, in the order in which they ended.

Recorders append to a `History` while a run goes on; checkers (`cluster.sim.checkers`) read it
afterwards. Nothing in it steers the run, and nothing in it comes from inside the database except the
LSNs, which an instance tells where it knows them.

A *session* is one connection to one instance; a client that reconnects gets a new session, perhaps
on another instance, and the promises per session (G5) begin anew.

On disk a history is JSON lines, one transaction a line:

    {"client": "c1", "seq": 4, "session": "c1-2", "instance": "main-1", "endpoint": "writer",
     "invoked_at": 1.5, "completed_at": 1.75, "outcome": "committed", "commit_lsn": 40,
     "read_lsn": 31, "writes": true, "ops": [["append", "x", 7], ["list", "x", [3, 7]], ["list", "y", null],
     ["write", "r", 5], ["read", "r", null], ["bank", {"a": 60, "b": 40}]]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias, assert_never

from engine.errors import FormatError
from engine.types import LSN, NodeId

Key: TypeAlias = str
Value: TypeAlias = int


class Endpoint(StrEnum):
    """Through which door a session came in. The reader endpoint falls back to the writer instance."""

    WRITER = "writer"
    READER = "reader"
    STRONG = "strong"
    """Either endpoint's, in a session whose reads are strong: they must be of the newest state."""
    SUPERSEDED = "superseded"
    """The writer endpoint's, but when the transaction ended a newer writer had opened the volume
    already. An instance that is cut off cannot know, so its reads promise one state, not the newest;
    what it writes is refused all the same."""

    @property
    def newest(self) -> bool:
        """Whether a read must see everything that was acknowledged before it began."""
        return self in (Endpoint.WRITER, Endpoint.STRONG)


class Outcome(StrEnum):
    """What the client was told of a transaction's end."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    """Certainly without effect: rolled back, refused, or failed before it asked to commit."""
    UNKNOWN = "unknown"
    """SQLSTATE 08007, or the connection was lost before the answer to a commit: all of it took
    effect, or will, or none of it (G6)."""


@dataclass(frozen=True, slots=True)
class Append:
    """A value put at the end of a key's list. Within one history a key gets no value twice."""

    key: Key
    value: Value


@dataclass(frozen=True, slots=True)
class ReadList:
    """A key's whole list; empty if the key was never appended to, None if the answer was lost."""

    key: Key
    values: tuple[Value, ...] | None


@dataclass(frozen=True, slots=True)
class Write:
    """A register's new value. Checkers see more if values are not written twice."""

    key: Key
    value: Value


@dataclass(frozen=True, slots=True)
class Read:
    """A register's value, None if it was never written. A read without an answer is not recorded."""

    key: Key
    value: Value | None


@dataclass(frozen=True, slots=True)
class BankRead:
    """All accounts' balances in one statement. A read without an answer is not recorded."""

    balances: Mapping[str, int]


Op: TypeAlias = Append | ReadList | Write | Read | BankRead


@dataclass(frozen=True, slots=True)
class Transaction:
    """One transaction of one client: its micro-operations in order, and how it ended.

    Times are virtual seconds: `invoked_at` is before the first statement was sent, `completed_at`
    after the last answer (or error) came. Reads that were answered count whatever the outcome.
    """

    client: str
    seq: int
    """Grows with each transaction of its client; a retry is a new transaction."""
    session: str
    """Unique in the history: one connection."""
    instance: NodeId
    endpoint: Endpoint
    invoked_at: float
    completed_at: float
    outcome: Outcome
    ops: tuple[Op, ...]
    commit_lsn: LSN | None = None
    """The CPL of an acknowledged commit that wrote something, if known."""
    read_lsn: LSN | None = None
    """The read point of its snapshot, if known."""
    writes: bool = False
    """It set out to write, whether or not it came to that: known before its first statement."""

    def __post_init__(self) -> None:
        if self.completed_at < self.invoked_at:
            raise ValueError(f"transaction {self.name} completed before it was invoked")

    @property
    def name(self) -> str:
        return f"{self.client}/{self.seq}"

    @property
    def wrote(self) -> bool:
        """It is known to have changed something. Not all that set out to write find anything to change."""
        left = self.commit_lsn is not None or any(isinstance(op, Append | Write) for op in self.ops)
        return left and self.outcome is Outcome.COMMITTED

    def __str__(self) -> str:
        parts = [
            f"{self.name} {self.outcome.value} on {self.instance} ({self.endpoint.value},"
            f" session {self.session}) {self.invoked_at:.6f}..{self.completed_at:.6f}"
        ]
        if self.read_lsn is not None:
            parts.append(f"read@{self.read_lsn}")
        if self.commit_lsn is not None:
            parts.append(f"commit@{self.commit_lsn}")
        return " ".join((*parts, *(describe(op) for op in self.ops)))


class History:
    """The transactions of one run, in the order in which recorders appended them."""

    __slots__ = ("_transactions",)

    def __init__(self, transactions: Iterable[Transaction] = ()) -> None:
        self._transactions: list[Transaction] = list(transactions)

    def append(self, transaction: Transaction) -> None:
        self._transactions.append(transaction)

    def __len__(self) -> int:
        return len(self._transactions)

    def __iter__(self) -> Iterator[Transaction]:
        return iter(self._transactions)

    def __getitem__(self, index: int) -> Transaction:
        return self._transactions[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, History):
            return NotImplemented
        return self._transactions == other._transactions

    def to_lines(self) -> Iterator[str]:
        """One JSON object per transaction, without the newline; the same history, the same bytes."""
        for transaction in self._transactions:
            yield json.dumps(_encode(transaction), separators=(",", ":"), ensure_ascii=True)

    @classmethod
    def from_lines(cls, lines: Iterable[str]) -> History:
        """The inverse of `to_lines`; empty lines are skipped. Raises FormatError with the line."""
        history = cls()
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                history.append(_decode(json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise FormatError(f"line {number} is no transaction: {error!r}") from error
        return history


def describe(op: Op) -> str:
    """A micro-operation as people write it."""
    match op:
        case Append():
            return f"append({op.key}, {op.value})"
        case ReadList():
            values = "?" if op.values is None else list(op.values)
            return f"list({op.key}) = {values}"
        case Write():
            return f"write({op.key}, {op.value})"
        case Read():
            return f"read({op.key}) = {op.value}"
        case BankRead():
            return f"bank = {dict(sorted(op.balances.items()))}"
        case _:
            assert_never(op)


# -- JSON


def _encode(transaction: Transaction) -> dict[str, Any]:
    return {
        "client": transaction.client,
        "seq": transaction.seq,
        "session": transaction.session,
        "instance": transaction.instance,
        "endpoint": transaction.endpoint.value,
        "invoked_at": transaction.invoked_at,
        "completed_at": transaction.completed_at,
        "outcome": transaction.outcome.value,
        "commit_lsn": transaction.commit_lsn,
        "read_lsn": transaction.read_lsn,
        "writes": transaction.writes,
        "ops": [_encode_op(op) for op in transaction.ops],
    }


def _encode_op(op: Op) -> list[Any]:
    match op:
        case Append():
            return ["append", op.key, op.value]
        case ReadList():
            return ["list", op.key, None if op.values is None else list(op.values)]
        case Write():
            return ["write", op.key, op.value]
        case Read():
            return ["read", op.key, op.value]
        case BankRead():
            return ["bank", dict(sorted(op.balances.items()))]
        case _:
            assert_never(op)


def _decode(fields: dict[str, Any]) -> Transaction:
    return Transaction(
        client=fields["client"],
        seq=fields["seq"],
        session=fields["session"],
        instance=fields["instance"],
        endpoint=Endpoint(fields["endpoint"]),
        invoked_at=fields["invoked_at"],
        completed_at=fields["completed_at"],
        outcome=Outcome(fields["outcome"]),
        ops=tuple(_decode_op(op) for op in fields["ops"]),
        commit_lsn=fields.get("commit_lsn"),
        read_lsn=fields.get("read_lsn"),
        writes=fields.get("writes", False),
    )


def _decode_op(op: Sequence[Any]) -> Op:
    match op:
        case ["append", key, value]:
            return Append(key, value)
        case ["list", key, values]:
            return ReadList(key, None if values is None else tuple(values))
        case ["write", key, value]:
            return Write(key, value)
        case ["read", key, value]:
            return Read(key, value)
        case ["bank", balances]:
            return BankRead(dict(balances))
        case _:
            raise ValueError(f"{op!r} is no operation")
