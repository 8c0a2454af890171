"""Registers on the writer endpoint are linearizable, key by key (Wing and Gong 1993, Lowe 2017).

Each transaction is, for each key, one operation: its reads and writes of that key, in order, at one
moment between invocation and answer. The search tries all orders that real time allows and remembers
(what has been placed, value), so it never explores a situation twice.

- Aborted: the reads must fit, the writes change nothing.
- Unknown outcome: the whole may be placed at any moment after the invocation, or never; the reads that
  came before its first write were answered and must fit at some moment, whatever became of the rest.

Kinds: not-linearizable; G1a and garbage (a value that was rolled back, or that nobody wrote, read on
any endpoint); internal; undecided (the search met its bound: not a verdict, but not a pass either).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.sim.checkers import Findings, Violation
from cluster.sim.history import Key, Outcome, Read, Transaction, Value, Write

CHECKER = "registers"

SITUATIONS_MAX = 300_000
"""Per key. Histories that are linearizable need about as many as they have operations."""


@dataclass(frozen=True, slots=True)
class _Operation:
    """A transaction as one key sees it. With `blind` it does not care about the value before it."""

    transaction: Transaction
    start: float
    end: float
    """Infinity if it has none: then it need not be placed at all."""
    blind: bool
    reads: Value | None
    """What must be there before."""
    writes: Value | None
    """What is there afterwards; None if it leaves things alone. No register goes back to None."""


def check(history: Iterable[Transaction]) -> list[Violation]:
    findings = Findings(CHECKER)
    transactions = sorted(history, key=lambda t: (t.invoked_at, t.completed_at, t.client, t.seq))
    _sources(transactions, findings)
    by_key: dict[Key, list[_Operation]] = {}
    for transaction in transactions:
        if transaction.endpoint.newest:
            keys = {op.key for op in transaction.ops if isinstance(op, Read | Write)}
            for key in sorted(keys):
                by_key.setdefault(key, []).extend(_operations(transaction, key, findings))
    for key in sorted(by_key):
        _Search(key, by_key[key]).run(findings)
    return findings.found


def looked_at(history: Iterable[Transaction]) -> int:
    """How many reads and writes of registers there are to judge by."""
    return sum(isinstance(op, Read | Write) for t in history for op in t.ops)


def _sources(transactions: Sequence[Transaction], findings: Findings) -> None:
    """Every value read was written, and not only by those who rolled back."""
    writers: dict[tuple[Key, Value], list[Transaction]] = {}
    for transaction in transactions:
        for op in transaction.ops:
            if isinstance(op, Write):
                writers.setdefault((op.key, op.value), []).append(transaction)
    for transaction in transactions:
        for op in transaction.ops:
            if not isinstance(op, Read) or op.value is None:
                continue
            found = writers.get((op.key, op.value), [])
            if not found:
                findings.add(
                    "garbage",
                    f"{transaction.name} reads {op.value} from {op.key}, which nobody wrote",
                    transactions=(transaction,),
                )
            elif all(w.outcome is Outcome.ABORTED and w is not transaction for w in found):
                findings.add(
                    "G1a",
                    f"{transaction.name} reads {op.value} from {op.key}, which {found[0].name} wrote"
                    " and which was rolled back",
                    transactions=(transaction, found[0]),
                )


def _operations(transaction: Transaction, key: Key, findings: Findings) -> list[_Operation]:
    blind = True
    reads: Value | None = None
    value: Value | None = None  # as the transaction sees it
    written: Value | None = None
    for op in transaction.ops:
        if isinstance(op, Write) and op.key == key:
            value = written = op.value
        elif isinstance(op, Read) and op.key == key:
            if blind and written is None:
                blind, reads, value = False, op.value, op.value
            elif op.value != value:
                findings.add(
                    "internal",
                    f"{transaction.name} reads {op.value} from {key}, but what it had read or"
                    f" written there before is {value}",
                    transactions=(transaction,),
                )
    start, end = transaction.invoked_at, transaction.completed_at
    found = []
    if transaction.outcome is Outcome.COMMITTED:
        found.append(_Operation(transaction, start, end, blind, reads, written))
    else:
        if not blind:
            found.append(_Operation(transaction, start, end, False, reads, None))
        if transaction.outcome is Outcome.UNKNOWN and written is not None:
            found.append(_Operation(transaction, start, float("inf"), blind, reads, written))
    return found


class _Search:
    """Depth first over situations: (which are placed, value)."""

    def __init__(self, key: Key, operations: Sequence[_Operation]) -> None:
        self._key = key
        read = {op.reads for op in operations if not op.blind}
        useful = [op for op in operations if op.end < float("inf") or op.writes in read]
        useful.sort(key=lambda op: (op.end == float("inf"), op.start, op.end))
        self._operations = useful
        self._required = sum(op.end < float("inf") for op in useful)
        self._readers: dict[Value | None, int] = {}
        for index, op in enumerate(useful):
            if not op.blind:
                self._readers[op.reads] = self._readers.get(op.reads, 0) | 1 << index
        self._all = (1 << self._required) - 1

    def run(self, findings: Findings) -> None:
        start: tuple[int, Value | None] = (0, None)
        seen = {start}
        stack = [(start, 0)]  # with the first required operation that may not be placed yet
        best, stuck = -1, [start]
        while stack:
            (placed, value), first = stack.pop()
            if placed & self._all == self._all:
                return
            while placed >> first & 1:
                first += 1
            depth = (placed & self._all).bit_count()
            if depth >= best:
                stuck = [*stuck, (placed, value)] if depth == best else [(placed, value)]
                best = depth
            for following in reversed(self._next(placed, value, first)):
                if following not in seen:
                    seen.add(following)
                    stack.append((following, first))
            if len(seen) > SITUATIONS_MAX:
                findings.add(
                    "undecided",
                    f"{self._key}: no order found among {SITUATIONS_MAX} situations; "
                    f"{best} of {self._required} operations placed at best",
                    transactions=[self._operations[first].transaction],
                )
                return
        self._report(best, stuck, findings)

    def _next(self, placed: int, value: Value | None, first: int) -> list[tuple[int, Value | None]]:
        """The situations one operation further. A read that fits is taken at once: nothing is lost."""
        found: list[tuple[int, Value | None]] = []
        for index in self._candidates(placed, first):
            op = self._operations[index]
            if not op.blind and op.reads != value:
                continue
            after = placed | 1 << index
            if op.writes is None:
                return [(after, value)]
            if index >= self._required and not self._readers[op.writes] & ~placed:
                continue  # nobody is left who would see it
            found.append((after, op.writes))
        return found

    def _candidates(self, placed: int, first: int) -> list[int]:
        """Who may be next: nobody else that is not placed ended before it began."""
        found = []
        earliest_end = float("inf")
        operations = self._operations
        for index in range(first, self._required):
            op = operations[index]
            if op.start > earliest_end:
                break
            if not placed >> index & 1:
                found.append(index)
                earliest_end = min(earliest_end, op.end)
        found += range(self._required, len(operations))
        return [
            index
            for index in found
            if not placed >> index & 1 and operations[index].start <= earliest_end
        ]

    def _report(
        self, best: int, stuck: Sequence[tuple[int, Value | None]], findings: Findings
    ) -> None:
        values = sorted({v for _, v in stuck if v is not None})
        shown: list[int] = []
        for placed, _ in stuck[:3]:
            first = next(i for i in range(self._required) if not placed >> i & 1)
            shown += self._candidates(placed, first)[:4]
        waiting = [self._operations[i].transaction for i in dict.fromkeys(shown)]
        findings.add(
            "not-linearizable",
            f"{self._key}: {best} of {self._required} operations fit in some order, after which the"
            f" register holds {values or 'nothing'}; none of {', '.join(t.name for t in waiting)}"
            " can come next",
            transactions=waiting,
        )
