"""The order of every list's versions, as far as reads tell it, and what a read alone gives away.

A list shows its whole past. All reads of a key must therefore be prefixes of the longest of them, and
that one is the order in which the key's appends were committed. What was appended and never seen
comes after it, in an order that nobody knows.

Reads count whatever became of their transaction: even one that aborted must have seen the state at
one commit (G5). Appends count if their transaction committed, or if its outcome is unknown and
somebody saw any of them; then all of them happened (G6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.sim.checkers import Findings
from cluster.sim.history import Append, Key, Outcome, ReadList, Transaction, Value

Values = tuple[Value, ...]


@dataclass(slots=True)
class Order:
    """One key. Transactions are numbered as in the history."""

    key: Key
    values: Values = ()
    """The longest read."""
    writers: Sequence[int | None] = ()
    """Who appended each of `values`; None for what must not be there (an abort's, a repetition)."""
    reads: Sequence[tuple[int, int]] = ()
    """(transaction, how many values it saw), only of reads that fit the order; one per transaction."""
    unseen: Sequence[int] = ()
    """Transactions that certainly appended something that no read has shown."""

    def writer_before(self, length: int) -> int | None:
        """Who wrote the newest proper version within the first `length`."""
        for index in range(length - 1, -1, -1):
            if (writer := self.writers[index]) is not None:
                return writer
        return None

    def writer_after(self, length: int) -> int | None:
        """Who wrote the first proper version that is not within the first `length`."""
        for index in range(length, len(self.writers)):
            if (writer := self.writers[index]) is not None:
                return writer
        return None


class Versions:
    """Everything about lists that needs no graph. Raises ValueError for a value appended twice."""

    def __init__(self, transactions: Sequence[Transaction], findings: Findings) -> None:
        self.transactions = transactions
        self._findings = findings
        self._appended: dict[Key, dict[Value, int]] = {}
        self._mine: dict[tuple[int, Key], list[Value]] = {}
        self._reads: dict[Key, list[tuple[int, Values]]] = {}
        self.happened: list[bool] = [t.outcome is Outcome.COMMITTED for t in transactions]
        """Whether the transaction's appends took effect, for all that is known."""
        self.relevant: list[int] = []
        """Transactions that have anything to do with lists."""
        self.orders: dict[Key, Order] = {}
        for number, transaction in enumerate(transactions):
            self._collect(number, transaction)
        for key in sorted(self._reads):
            self._see(key)
        for key in sorted(self._appended.keys() | self._reads.keys()):
            self.orders[key] = self._order(key)

    def appends(self, number: int, key: Key) -> Sequence[Value]:
        """What a transaction appended to a key, in order, whether it took effect or not."""
        return self._mine.get((number, key), ())

    # -- one transaction

    def _collect(self, number: int, transaction: Transaction) -> None:
        """Note its appends and its first read of each key; check what it must see of its own."""
        expected: dict[Key, Values] = {}  # what the next read of the key has to show
        relevant = False
        for op in transaction.ops:
            if isinstance(op, Append):
                relevant = True
                by_value = self._appended.setdefault(op.key, {})
                if by_value.setdefault(op.value, number) != number or op.value in self.appends(
                    number, op.key
                ):
                    raise ValueError(f"{op.value} was appended twice to {op.key}")
                self._mine.setdefault((number, op.key), []).append(op.value)
                if op.key in expected:
                    expected[op.key] += (op.value,)
            elif isinstance(op, ReadList) and op.values is not None:
                relevant = True
                if (known := expected.get(op.key)) is None:
                    self._first_read(number, transaction, op.key, op.values)
                elif known != op.values:
                    self._findings.add(
                        "internal",
                        f"{transaction.name} reads {list(op.values)} from {op.key}, but after what"
                        f" it had read and appended before it must be {list(known)}",
                        transactions=(transaction,),
                    )
                expected[op.key] = op.values
        if relevant:
            self.relevant.append(number)

    def _first_read(self, number: int, transaction: Transaction, key: Key, values: Values) -> None:
        own = tuple(self.appends(number, key))
        if own and values[-len(own) :] != own:
            self._findings.add(
                "internal",
                f"{transaction.name} has appended {list(own)} to {key}, but then reads {list(values)}",
                transactions=(transaction,),
            )
            return
        before = values[: len(values) - len(own)]
        self._reads.setdefault(key, []).append((number, before))

    # -- one key

    def _see(self, key: Key) -> None:
        """Whoever was seen, happened. Aborts that were seen stay aborts and are reported."""
        appended = self._appended.get(key, {})
        longest = max((v for _, v in self._reads[key]), key=lambda v: (len(v), v))
        others = (v for _, v in self._reads[key] if longest[: len(v)] != v)
        for values in (longest, *others):
            for value in values:
                writer = appended.get(value)
                if writer is not None and self._outcome(writer) is Outcome.UNKNOWN:
                    self.happened[writer] = True

    def _outcome(self, number: int) -> Outcome:
        return self.transactions[number].outcome

    def _order(self, key: Key) -> Order:
        reads = self._reads.get(key, [])
        appended = self._appended.get(key, {})
        reader, longest = max(reads, key=lambda read: (len(read[1]), read[1]), default=(None, ()))
        if reader is not None:
            self._judge_elements(key, reader, longest)
        first = {value: index for index, value in reversed(list(enumerate(longest)))}
        writers = [
            self._proper(appended.get(value)) if first[value] == index else None
            for index, value in enumerate(longest)
        ]
        fitting = []
        for number, values in reads:
            if longest[: len(values)] == values:
                fitting.append((number, len(values)))
                self._judge_end(key, number, values)
            else:
                self._incompatible(key, number, values, reader, longest)
        unseen = sorted({w for v, w in appended.items() if v not in first and self.happened[w]})
        return Order(key, longest, writers, fitting, unseen)

    def _proper(self, writer: int | None) -> int | None:
        return writer if writer is not None and self.happened[writer] else None

    def _judge_elements(self, key: Key, reader: int, values: Values) -> None:
        appended = self._appended.get(key, {})
        transaction = self.transactions[reader]
        if len(frozenset(values)) != len(values):
            twice = sorted({v for v in values if values.count(v) > 1})
            self._findings.add(
                "duplicate-element",
                f"{transaction.name} reads {twice} more than once from {key}: {list(values)}",
                transactions=(transaction,),
            )
        aborted: int | None = None
        for value in values:
            writer = appended.get(value)
            if writer is None:
                self._findings.add(
                    "garbage",
                    f"{transaction.name} reads {value} from {key}, which nobody appended",
                    transactions=(transaction,),
                )
            elif self._outcome(writer) is Outcome.ABORTED:
                aborted = writer
                self._findings.add(
                    "G1a",
                    f"{transaction.name} reads {value} from {key}, which {self._name(writer)}"
                    " appended and which was rolled back",
                    transactions=(transaction, self.transactions[writer]),
                )
            elif aborted is not None:
                self._findings.add(
                    "dirty-update",
                    f"{self._name(writer)} appended {value} to {key} on top of what"
                    f" {self._name(aborted)} had rolled back",
                    transactions=(self.transactions[writer], self.transactions[aborted]),
                )
                aborted = None

    def _judge_end(self, key: Key, reader: int, values: Values) -> None:
        """G1b: the newest value that it saw is not the last of the transaction that appended it."""
        if not values:
            return
        writer = self._appended.get(key, {}).get(values[-1])
        if writer is None or writer == reader:
            return
        last = self.appends(writer, key)[-1]
        if last != values[-1]:
            self._findings.add(
                "G1b",
                f"{self._name(reader)} reads {key} up to {values[-1]}, in the middle of"
                f" {self._name(writer)}, whose last append there is {last}",
                transactions=(self.transactions[reader], self.transactions[writer]),
            )

    def _incompatible(
        self, key: Key, number: int, values: Values, other: int | None, longest: Values
    ) -> None:
        assert other is not None
        transaction, second = self.transactions[number], self.transactions[other]
        appended = self._appended.get(key, {})
        for value in values:
            writer = appended.get(value)
            if writer is not None and self._outcome(writer) is Outcome.ABORTED:
                self._findings.add(
                    "G1a",
                    f"{transaction.name} reads {value} from {key}, which {self._name(writer)}"
                    " appended and which was rolled back",
                    transactions=(transaction, self.transactions[writer]),
                )
            elif writer is None:
                self._findings.add(
                    "garbage",
                    f"{transaction.name} reads {value} from {key}, which nobody appended",
                    transactions=(transaction,),
                )
        self._findings.add(
            "incompatible-order",
            f"{transaction.name} reads {list(values)} from {key}, but {second.name} reads"
            f" {list(longest)}: neither is the other's past",
            transactions=(transaction, second),
        )

    def _name(self, number: int) -> str:
        return self.transactions[number].name
