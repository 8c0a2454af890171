"""A graph of labelled dependencies, its strongly connected components, and short cycles in them.

Nodes are numbers. Everything is visited in the order in which it was added, so the same graph gives
the same cycles.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum


class Kind(IntEnum):
    """Why one transaction comes before another (Adya 1999; Elle §4)."""

    WW = 0
    """It wrote the version right before the other's."""
    WR = 1
    """The other read what it wrote."""
    RW = 2
    """It read a version that the other replaced: an anti-dependency."""
    SESSION = 3
    """Same session, earlier."""
    REALTIME = 4
    """It had been answered when the other began."""


@dataclass(frozen=True, slots=True)
class Edge:
    source: int
    target: int
    kind: Kind
    why: str = ""


class Graph:
    """Nodes 0..size-1; `add_node` makes more, for helpers that stand for no transaction."""

    def __init__(self, size: int) -> None:
        self._out: list[list[Edge]] = [[] for _ in range(size)]
        self._first_helper = size

    def __len__(self) -> int:
        return len(self._out)

    def add_node(self) -> int:
        self._out.append([])
        return len(self._out) - 1

    def add(self, source: int, target: int, kind: Kind, why: str = "") -> None:
        if source != target:
            self._out[source].append(Edge(source, target, kind, why))

    def edges(
        self, nodes: Iterable[int], kinds: Collection[Kind], within: Collection[int]
    ) -> list[Edge]:
        return [
            edge
            for node in nodes
            for edge in self._out[node]
            if edge.kind in kinds and edge.target in within
        ]

    def components(
        self, nodes: Sequence[int] | None = None, kinds: Collection[Kind] = frozenset(Kind)
    ) -> list[list[int]]:
        """Strongly connected components of more than one node (Tarjan 1972), each sorted.

        With `nodes` and `kinds`, those of the part of the graph that they span.
        """
        everything = nodes is None and len(kinds) == len(Kind)
        roots = range(len(self)) if nodes is None else nodes
        inside = None if everything else frozenset(roots)
        index: dict[int, int] = {}  # order of discovery
        low: dict[int, int] = {}
        on_stack: set[int] = set()
        stack: list[int] = []
        found: list[list[int]] = []
        count = 0
        for root in roots:
            if root in index:
                continue
            index[root] = low[root] = count
            count += 1
            stack.append(root)
            on_stack.add(root)
            work = [(root, iter(self._out[root]))]
            while work:
                node, edges = work[-1]
                for edge in edges:
                    if inside is not None and (edge.kind not in kinds or edge.target not in inside):
                        continue
                    target = edge.target
                    if target not in index:
                        index[target] = low[target] = count
                        count += 1
                        stack.append(target)
                        on_stack.add(target)
                        work.append((target, iter(self._out[target])))
                        break
                    if target in on_stack and index[target] < low[node]:
                        low[node] = index[target]
                else:
                    work.pop()
                    if work and low[node] < low[work[-1][0]]:
                        low[work[-1][0]] = low[node]
                    if low[node] == index[node]:
                        members = _pop_until(node, stack, on_stack)
                        if len(members) > 1:
                            found.append(sorted(members))
        found.sort()
        return found

    def sort(self, nodes: Sequence[int], kinds: Collection[Kind]) -> list[int]:
        """`nodes` so that edges of `kinds` lead forward (Kahn 1962); they must not have a cycle.

        Where there is a choice the lower number comes first, helpers made by `add_node` before all.
        """
        within = frozenset(nodes)
        waits = dict.fromkeys(nodes, 0)
        for edge in self.edges(nodes, kinds, within):
            waits[edge.target] += 1
        ready = [(node < self._first_helper, node) for node in nodes if waits[node] == 0]
        heapq.heapify(ready)
        done = []
        while ready:
            _, node = heapq.heappop(ready)
            done.append(node)
            for edge in self.edges((node,), kinds, within):
                waits[edge.target] -= 1
                if waits[edge.target] == 0:
                    heapq.heappush(ready, (edge.target < self._first_helper, edge.target))
        if len(done) != len(nodes):
            raise ValueError("there is a cycle")
        return done

    def path(
        self, source: int, target: int, kinds: Collection[Kind], within: Collection[int]
    ) -> list[Edge] | None:
        """A shortest path over edges of `kinds` between nodes of `within`; None if there is none."""
        return self.search(source, target, within, lambda _state, edge: edge.kind in kinds or None)

    def search(
        self,
        source: int,
        target: int,
        within: Collection[int],
        step: Callable[[bool, Edge], bool | None],
        *,
        start: bool = True,
        ends: Collection[bool] = (False, True),
    ) -> list[Edge] | None:
        """Breadth first over (node, state): `step` gives the state after an edge, None = not allowed.

        The path begins in state `start` and arrives in one of `ends`.
        """
        came: dict[tuple[int, bool], tuple[tuple[int, bool], Edge] | None] = {(source, start): None}
        queue = deque(came)
        while queue:
            here = queue.popleft()
            if here[0] == target and here[1] in ends:
                return _walk_back(came, here)
            for edge in self._out[here[0]]:
                if edge.target not in within:
                    continue
                state = step(here[1], edge)
                if state is None or (edge.target, state) in came:
                    continue
                came[edge.target, state] = (here, edge)
                queue.append((edge.target, state))
        return None


def _walk_back(
    came: dict[tuple[int, bool], tuple[tuple[int, bool], Edge] | None], here: tuple[int, bool]
) -> list[Edge]:
    edges = []
    while (step := came[here]) is not None:
        here, edge = step
        edges.append(edge)
    edges.reverse()
    return edges


def _pop_until(node: int, stack: list[int], on_stack: set[int]) -> list[int]:
    members = []
    while True:
        member = stack.pop()
        on_stack.discard(member)
        members.append(member)
        if member == node:
            return members
