"""Checkers: what must hold of a run, judged after it, from what was recorded.

A checker is pure. It gets a history, or what an observer collected from the nodes, and returns a list
of violations, empty if all is well. It knows no clock, no chance and no node; it never steers. The
same input gives the same list in the same order.

Which invariant (docs/architecture.md) is proved where

| | invariant | from the clients' answers | from inside |
|---|---|---|---|
| G1 | acknowledged commits survive | `listappend` (stale-read, *-realtime), `registers` | `commits` |
| G2 | one total commit order | `listappend` (incompatible-order, G0, G1c) | `commits` |
| G3 | one writer per epoch | a second one shows as G1 or G2 | `epochs`, `commits` |
| G4 | equal bytes for one (epoch, LSN) | | `segments`, `oracle` (back-links) |
| G5 | a read is the state at one VDL | `listappend`, `bank`, `sessions` | `oracle` |
| G6 | unknown: all or nothing | `listappend` (G-single, G1b), `bank` | `commits` |
| G7 | a write succeeds after healing | `liveness` | |

Why these prove it
- `listappend` follows Elle (Kingsbury and Alvaro, VLDB 2020). Values are unique and a list shows its
  whole past, so a read tells the order of every append before it, and any execution that no serial
  order explains shows as a cycle of dependencies. Reads on replicas are nodes of the same graph: no
  cycle means that each of them saw the state at one commit of the one order. Session edges add
  "never going back", real-time edges add what the writer endpoint promises and replicas do not: a
  transaction that begins there sees everything that was acknowledged, or shown to anyone, before.
- `registers` looks for a linear order, key by key, by exhaustive search (Wing and Gong 1993, Lowe 2017).
  It shares no idea with the graph above, so a mistake in one does not hide in the other.
- `bank` is crude and blind to order, and needs no argument: money neither appears nor vanishes.
- `commits` reasons over LSNs alone and names the recovery that lost a commit.
- `oracle` replays the log into a plain SQLite file. It catches what is consistently wrong everywhere.

What they do not prove: freshness of replicas (a replica may lag as long as it likes), durability of
what was never read again (end a run with reads of everything), and anything about reads whose answer
was lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.sim.history import Transaction
from engine.types import LSN, NodeId

__all__ = ["Findings", "Violation"]

MAX_PER_KIND = 10
"""A broken run breaks the same rule thousands of times; the first few tell all."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise. `kind` is stable and short, for tables; `message` is for people."""

    checker: str
    kind: str
    message: str
    transactions: tuple[Transaction, ...] = ()
    lsns: tuple[LSN, ...] = ()
    nodes: tuple[NodeId, ...] = ()
    at: float | None = None
    """Virtual seconds: when it had certainly happened, if that is known."""

    def __str__(self) -> str:
        when = "" if self.at is None else f" at {self.at:.6f}s"
        lines = [f"{self.checker}: {self.kind}{when}: {self.message}"]
        if self.lsns:
            lines.append(f"  LSNs {', '.join(map(str, self.lsns))}")
        if self.nodes:
            lines.append(f"  nodes {', '.join(self.nodes)}")
        lines.extend(f"  {transaction}" for transaction in self.transactions)
        return "\n".join(lines)


@dataclass(slots=True)
class Findings:
    """Collects one checker's violations, the first few of each kind."""

    checker: str
    found: list[Violation] = field(default_factory=list)
    _counts: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(
        self,
        kind: str,
        message: str,
        *,
        transactions: Sequence[Transaction] = (),
        lsns: Sequence[LSN] = (),
        nodes: Sequence[NodeId] = (),
        at: float | None = None,
    ) -> None:
        self._counts[kind] += 1
        if self._counts[kind] > MAX_PER_KIND:
            return
        if at is None and transactions:
            at = max(t.completed_at for t in transactions)
        self.found.append(
            Violation(
                self.checker, kind, message, tuple(transactions), tuple(lsns), tuple(nodes), at
            )
        )
