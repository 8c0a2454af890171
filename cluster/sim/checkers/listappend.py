"""Lists that transactions append to and read: every isolation anomaly shows in them (Elle).

Kinds that a read alone gives away: internal, garbage, duplicate-element, G1a, G1b, dirty-update,
incompatible-order (`cluster.sim.checkers.versions`). Kinds that are cycles: G0, G1c, G-single,
long-fork, G2, each also with -session or -realtime (`cluster.sim.checkers.dependencies`). Kinds that
have a plainer name of their own, found directly here, most of them cycles as well:

- lost-update: two transactions read the same version and both appended.
- stale-read: a transaction on the writer endpoint misses an append acknowledged before it began. An
  acknowledged commit that a failover lost shows as this.
- session-regress: a session sees less than it saw before.
- lsn-order: the order that reads show is not that of the commits' LSNs.
- read-point: a read is not the state at the read point that its instance named.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from cluster.sim.checkers import Findings, Violation
from cluster.sim.checkers.dependencies import find_cycles
from cluster.sim.checkers.versions import Order, Versions
from cluster.sim.history import Append, Outcome, ReadList, Transaction
from engine.types import LSN

CHECKER = "listappend"


def check(history: Iterable[Transaction]) -> list[Violation]:
    """Raises ValueError if the workload appended one value twice to a key."""
    findings = Findings(CHECKER)
    in_time = sorted(history, key=lambda t: (t.completed_at, t.invoked_at, t.client, t.seq))
    versions = Versions(in_time, findings)
    for key in sorted(versions.orders):
        order = versions.orders[key]
        _lost_updates(versions, order, findings)
        _stale_reads(versions, order, findings)
        _regressions(versions, order, findings)
        _read_points(versions, order, findings)
    find_cycles(versions, findings)
    return findings.found


def looked_at(history: Iterable[Transaction]) -> int:
    """How many appends and answered reads of lists there are to judge by."""
    return sum(
        isinstance(op, Append) or (isinstance(op, ReadList) and op.values is not None)
        for transaction in history
        for op in transaction.ops
    )


def _lost_updates(versions: Versions, order: Order, findings: Findings) -> None:
    updated: dict[int, list[int]] = {}
    for number, length in order.reads:
        if versions.happened[number] and versions.appends(number, order.key):
            updated.setdefault(length, []).append(number)
    for length, numbers in sorted(updated.items()):
        if len(numbers) > 1:
            transactions = [versions.transactions[n] for n in numbers]
            names = " and ".join(t.name for t in transactions)
            findings.add(
                "lost-update",
                f"{names} read the same {length} elements of {order.key}, and all appended to it",
                transactions=transactions,
            )


def _stale_reads(versions: Versions, order: Order, findings: Findings) -> None:
    transactions = versions.transactions
    places = [(index, w) for index, w in enumerate(order.writers) if w is not None]
    places += [(len(order.values), w) for w in order.unseen]
    acknowledged = [
        (transactions[w].completed_at, index, w)
        for index, w in places
        if transactions[w].outcome is Outcome.COMMITTED
    ]
    acknowledged.sort()
    times = [when for when, _, _ in acknowledged]
    furthest: list[tuple[int, int]] = []
    for _, index, w in acknowledged:
        furthest.append(max(furthest[-1], (index, w)) if furthest else (index, w))
    for number, length in order.reads:
        reader = transactions[number]
        if not reader.endpoint.newest:
            continue
        before = bisect_left(times, reader.invoked_at)
        if before and furthest[before - 1][0] >= length:
            writer = transactions[furthest[before - 1][1]]
            if writer is not reader:
                findings.add(
                    "stale-read",
                    f"{reader.name} reads {length} elements of {order.key} and misses what"
                    f" {writer.name} had appended and was told is committed",
                    transactions=(writer, reader),
                )


def _regressions(versions: Versions, order: Order, findings: Findings) -> None:
    seen: dict[str, tuple[int, int]] = {}
    transactions = versions.transactions
    for number, length in sorted(order.reads, key=lambda read: transactions[read[0]].seq):
        session = transactions[number].session
        most, earlier = seen.get(session, (0, number))
        if length < most:
            findings.add(
                "session-regress",
                f"session {session} saw {most} elements of {order.key} in"
                f" {transactions[earlier].name} and then {length} in {transactions[number].name}",
                transactions=(transactions[earlier], transactions[number]),
            )
        else:
            seen[session] = (length, number)


def _read_points(versions: Versions, order: Order, findings: Findings) -> None:
    """Commit LSNs ascend along the order, and each read ends exactly at its read point."""
    transactions = versions.transactions
    newest: list[tuple[LSN, int] | None] = [None]  # by length: the newest known commit within
    for index, writer in enumerate(order.writers):
        here = newest[index]
        lsn = None if writer is None else _commit_lsn(transactions[writer])
        if writer is not None and lsn is not None:
            if here is not None and lsn < here[0]:
                findings.add(
                    "lsn-order",
                    f"{order.key} shows {transactions[writer].name} after"
                    f" {transactions[here[1]].name}, but its commit has the lower LSN",
                    transactions=(transactions[here[1]], transactions[writer]),
                    lsns=(here[0], lsn),
                )
            here = (lsn, writer)
        newest.append(here)
    missing: list[tuple[LSN, int] | None] = [None] * len(newest)  # by length: the oldest beyond
    unseen = [(lsn, w) for w in order.unseen if (lsn := _commit_lsn(transactions[w])) is not None]
    beyond = min(unseen, default=None)
    for index in range(len(order.values), -1, -1):
        missing[index] = beyond
        if index:
            writer = order.writers[index - 1]
            lsn = None if writer is None else _commit_lsn(transactions[writer])
            if writer is not None and lsn is not None:
                beyond = (lsn, writer) if beyond is None else min(beyond, (lsn, writer))
    for number, length in order.reads:
        reader = transactions[number]
        if reader.read_lsn is None:
            continue
        for found, says in ((newest[length], "shows"), (missing[length], "misses")):
            if found is None:
                continue
            lsn, writer = found
            if (lsn > reader.read_lsn) == (says == "shows"):
                findings.add(
                    "read-point",
                    f"{reader.name} read {order.key} at {reader.read_lsn} and {says} the commit of"
                    f" {transactions[writer].name} at {lsn}",
                    transactions=(transactions[writer], reader),
                    lsns=(reader.read_lsn, lsn),
                )


def _commit_lsn(transaction: Transaction) -> LSN | None:
    return transaction.commit_lsn if transaction.outcome is Outcome.COMMITTED else None
