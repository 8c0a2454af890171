"""The graph of who must come before whom, and what a cycle in it is called (Adya 1999, Elle §4).

    ww   it appended the element right before the other's
    wr   the other read what it appended, as the newest element
    rw   it read a list that did not yet have what the other appended
    session    earlier in the same session; or the same client, if the later one is on the writer
    realtime   answered before the other began, which is on the writer endpoint

Any serial order that explains the history puts all of these forward, so a cycle means that there is
none. The name says how bad it is: G0 (writes interleave), G1c (information flows in a circle),
G-single (a read misses part of a transaction that it depends on), long-fork (two commits seen in two
orders, but each reader saw a snapshot), G2 (write skew and the rest). A suffix says that the
history has a serial order, but none that respects sessions, or real time.

A transaction whose appends did not happen takes part with its reads only. One of unknown outcome that
did happen has no end: its commit may have come at any time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cluster.sim.checkers import Findings
from cluster.sim.checkers.graph import Edge, Graph, Kind
from cluster.sim.checkers.versions import Order, Versions
from cluster.sim.history import Outcome, Transaction

PAIRS_MAX = 10_000
"""Readers of a key's newest version times appends after it: beyond it one helper node joins them."""

SEARCHED_MAX = 1_000_000
"""Transactions visited in search of one kind of cycle, before a less telling one is good enough."""

COMPONENTS_MAX = 50
"""Parts of a broken history that are looked at."""

LEVELS = (
    ("", frozenset((Kind.WW, Kind.WR, Kind.RW))),
    ("-session", frozenset((Kind.WW, Kind.WR, Kind.RW, Kind.SESSION))),
    ("-realtime", frozenset(Kind)),
)


def find_cycles(versions: Versions, findings: Findings) -> None:
    """Report a short cycle, and the worst name that fits, for every part that has no order."""
    graph = Graph(len(versions.transactions))
    for key in sorted(versions.orders):
        _add_order(graph, versions.orders[key])
    _add_sessions(graph, versions)
    _add_realtime(graph, versions)
    for component in graph.components()[:COMPONENTS_MAX]:
        _judge(graph, component, versions.transactions, findings)


# -- edges


def _add_order(graph: Graph, order: Order) -> None:
    key = order.key
    previous: int | None = None
    newest_before: list[int | None] = [None]  # by length
    for writer, value in zip(order.writers, order.values, strict=True):
        if writer is not None and writer != previous:
            if previous is not None:
                graph.add(previous, writer, Kind.WW, f"{key}: {value} next")
            previous = writer
        newest_before.append(previous)
    next_after: list[tuple[int, int] | None] = [None] * len(newest_before)
    following: tuple[int, int] | None = None
    for index in range(len(order.values) - 1, -1, -1):
        writer = order.writers[index]
        if writer is not None:
            following = (writer, order.values[index])
        next_after[index] = following
    for writer in order.unseen:
        if previous is not None:
            graph.add(previous, writer, Kind.WW, f"{key}: not seen yet")
    at_end = []
    for reader, length in order.reads:
        writer = newest_before[length]
        if writer is not None:
            graph.add(writer, reader, Kind.WR, f"{key}: up to {order.values[length - 1]}")
        after = next_after[length]
        if after is not None:
            graph.add(reader, after[0], Kind.RW, f"{key}: {after[1]} missing")
        else:
            at_end.append(reader)
    _add_unseen(graph, order, at_end)


def _add_unseen(graph: Graph, order: Order, readers: Sequence[int]) -> None:
    """Whoever read all that was ever seen came before whatever was never seen."""
    unseen = frozenset(order.unseen)
    direct, others = list(readers), []
    if len(readers) * len(unseen) > PAIRS_MAX:
        others = [reader for reader in readers if reader not in unseen]
        direct = [reader for reader in readers if reader in unseen][: PAIRS_MAX // len(unseen)]
    for reader in direct:
        for writer in order.unseen:
            graph.add(reader, writer, Kind.RW, f"{order.key}: its append missing")
    if others:
        joint = graph.add_node()
        for reader in others:
            graph.add(reader, joint, Kind.RW, f"{order.key}: its append missing")
        for writer in order.unseen:
            graph.add(joint, writer, Kind.WW)


def _add_sessions(graph: Graph, versions: Versions) -> None:
    session: dict[str, int] = {}
    client: dict[str, int] = {}
    transactions = versions.transactions
    for number in sorted(
        versions.relevant, key=lambda n: (transactions[n].client, transactions[n].seq)
    ):
        transaction = transactions[number]
        before = {session.get(transaction.session)}
        if transaction.endpoint.newest:
            before.add(client.get(transaction.client))
        for earlier in sorted(b for b in before if b is not None):
            graph.add(earlier, number, Kind.SESSION)
        if _ended(versions, number):
            session[transaction.session] = client[transaction.client] = number


def _add_realtime(graph: Graph, versions: Versions) -> None:
    """Through a chain of helpers, one per moment, so that the edges are as many as transactions."""
    moments: list[tuple[float, bool, int]] = []
    for number in versions.relevant:
        transaction = versions.transactions[number]
        if transaction.endpoint.newest:
            moments.append((transaction.invoked_at, False, number))
        if _ended(versions, number):
            moments.append((transaction.completed_at, True, number))
    moments.sort()  # at the same time: beginnings first, so that a tie counts as concurrent
    last: int | None = None
    ended: list[int] = []
    for _, end, number in moments:
        if end:
            ended.append(number)
            continue
        if ended:
            joint = graph.add_node()
            for earlier in ended:
                graph.add(earlier, joint, Kind.REALTIME)
            if last is not None:
                graph.add(last, joint, Kind.REALTIME)
            last, ended = joint, []
        if last is not None:
            graph.add(last, number, Kind.REALTIME)


def _ended(versions: Versions, number: int) -> bool:
    """Whether all that the transaction did, had been done when its client was answered."""
    transaction = versions.transactions[number]
    return transaction.outcome is not Outcome.UNKNOWN or not versions.happened[number]


# -- cycles


def _judge(
    graph: Graph, component: list[int], transactions: Sequence[Transaction], findings: Findings
) -> None:
    done: set[int] = set()
    for suffix, kinds in LEVELS:
        for part in graph.components(component, kinds):
            if done.isdisjoint(part):
                done.update(part)
                name, cycle = _worst(graph, part, kinds)
                _report(name + suffix, cycle, transactions, findings)


def _worst(graph: Graph, part: list[int], kinds: frozenset[Kind]) -> tuple[str, list[Edge]]:
    """The name and a short cycle of the worst kind in a component that has no better order."""
    flows = kinds - {Kind.RW}
    for name, first, rest in (("G0", Kind.WW, flows - {Kind.WR}), ("G1c", Kind.WR, flows)):
        for smaller in graph.components(part, rest):
            cycle = _first_cycle(graph, smaller, (first,), rest)
            if cycle is not None:
                return name, cycle
    within = frozenset(part)
    position = {node: index for index, node in enumerate(graph.sort(part, flows))}
    back = [
        edge
        for edge in graph.edges(part, (Kind.RW,), within)
        if position[edge.target] < position[edge.source]
    ]  # only these can close a cycle whose other edges all lead forward
    back.sort(key=lambda edge: position[edge.source] - position[edge.target])
    limit = max(10, SEARCHED_MAX // len(part))
    for edge in back[:limit]:
        path = graph.path(edge.target, edge.source, flows, within)
        if path is not None:
            return "G-single", [edge, *path]
    for edge in back[:limit]:
        path = graph.search(
            edge.target,
            edge.source,
            within,
            lambda after_rw, e: _not_twice(after_rw, e, kinds),
            ends=(False,),
        )
        if path is not None:
            return "long-fork", [edge, *path]
    cycle = _first_cycle(graph, part, kinds, kinds)
    assert cycle is not None, "a strongly connected component has a cycle"
    return "G2", cycle


def _first_cycle(
    graph: Graph, part: list[int], first: Collection[Kind], rest: Collection[Kind]
) -> list[Edge] | None:
    """A short cycle that begins with an edge of a kind in `first`, in a component over `rest`."""
    within = frozenset(part)
    for edge in graph.edges(part, first, within):
        path = graph.path(edge.target, edge.source, rest, within)
        if path is not None:
            return [edge, *path]
    return None


def _not_twice(after_rw: bool, edge: Edge, kinds: frozenset[Kind]) -> bool | None:
    if edge.kind not in kinds or (after_rw and edge.kind is Kind.RW):
        return None
    return edge.kind is Kind.RW


def _report(
    name: str, cycle: list[Edge], transactions: Sequence[Transaction], findings: Findings
) -> None:
    count = len(transactions)
    while cycle[0].source >= count:  # begin with a transaction, not with a helper
        cycle = [*cycle[1:], cycle[0]]
    involved = [edge.source for edge in cycle if edge.source < count]
    text = [transactions[involved[0]].name]
    label = ""
    for edge in cycle:
        label = label or f"{edge.kind.name.lower()} {edge.why}".strip()
        if edge.target < count:
            text.append(f"-[{label}]-> {transactions[edge.target].name}")
            label = ""
    findings.add(
        name,
        f"no serial order has them all: {' '.join(text)}",
        transactions=[transactions[n] for n in dict.fromkeys(involved)],
    )
