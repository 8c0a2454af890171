"""From a run that fails to the shortest one that still does.

Delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002): leave
out parts of the fault schedule, larger ones first, and keep what still fails, until every single fault is
needed. Then the rest of the plan is made smaller: shorter faults, fewer clients, kinds of transaction and
replicas, a shorter run.

The search is pure. It asks an oracle which of several candidates still fails, so that the oracle may run
some of them at once; the first in order counts, so the answer does not depend on how many it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

from cluster.faults.catalogue import Fault, Kind
from cluster.sim.run import Plan

T = TypeVar("T")

First = Callable[[Sequence[T]], int | None]
"""Which candidate, counted from 0, is the first that still fails; None if none does."""

TRIES = 150
"""Runs that one search may take."""

SAFETY_MARGIN_S = 2.0
"""What is left of the safety phase after the last fault, for what comes of it."""

SAFETY_MIN_S = 1.0

AT_ONCE = frozenset({Kind.KILL, Kind.POWER, Kind.AZ_DOWN, Kind.WIPE})
"""With these, lasting 0 s means that the process starts again at once; with others, until healing."""

SHORT_S = 0.2


@dataclass(frozen=True, slots=True)
class Shrunk:
    """`plan` fails as the one at the beginning did. Unless `gave_up`, each of its faults is needed."""

    plan: Plan
    tries: int
    gave_up: bool


def ddmin(items: Sequence[T], first: First[tuple[T, ...]]) -> tuple[T, ...]:
    """A part of `items`, in order, that still fails and of which no single item can be left out.

    `items` themselves must fail; whether nothing at all fails too is asked first.
    """
    if not items or first([()]) is not None:
        return ()
    kept = tuple(items)
    parts = 2
    while len(kept) >= 2:
        chunks = _split(kept, parts)
        rests = [sum((c for c in chunks if c is not chunk), ()) for chunk in chunks]
        candidates = chunks if parts == 2 else [*chunks, *rests]
        found = first(candidates)
        if found is not None:
            kept = candidates[found]
            parts = 2 if found < len(chunks) else max(2, parts - 1)
        elif parts < len(kept):
            parts = min(len(kept), 2 * parts)
        else:
            break
    return kept


def _split(items: tuple[T, ...], parts: int) -> list[tuple[T, ...]]:
    """`parts` chunks of nearly equal size, none empty."""
    bounds = [len(items) * n // parts for n in range(parts + 1)]
    return [items[a:b] for a, b in pairwise(bounds) if a < b]


class _Counted:
    """The oracle with a bound: when it is used up, nothing fails any more, and the search ends."""

    def __init__(self, first: First[Plan], tries: int) -> None:
        self._first = first
        self.left = tries
        self.refused = False

    def __call__(self, plans: Sequence[Plan]) -> int | None:
        if len(plans) > self.left:
            self.refused = True
        asked = plans[: self.left]
        self.left -= len(asked)
        return self._first(asked) if asked else None


def shrink(plan: Plan, first: First[Plan], *, tries: int = TRIES) -> Shrunk:
    """The smallest plan found. `first` says which of some plans fails as `plan` does."""
    counted = _Counted(first, tries)

    def of_faults(candidates: Sequence[tuple[Fault, ...]]) -> int | None:
        return counted([replace(plan, schedule=c) for c in candidates])

    plan = replace(plan, schedule=ddmin(plan.schedule, of_faults))
    changed = True
    while changed:
        changed = False
        for smaller in (
            _fewer_replicas,
            _fewer_clients,
            _fewer_kinds,
            _shorter_run,
            _simpler_faults,
        ):
            while (found := _first_of(list(smaller(plan)), counted)) is not None:
                plan = found
                changed = True
    return Shrunk(plan, tries - counted.left, counted.refused)


def _first_of(candidates: list[Plan], counted: _Counted) -> Plan | None:
    found = counted(candidates) if candidates else None
    return None if found is None else candidates[found]


# -- what could be smaller; the boldest first


def _fewer_replicas(plan: Plan) -> Iterator[Plan]:
    named = {t for f in plan.schedule for t in (f.target, f.peer)}
    for count in range(plan.shape.replicas):
        gone = {f"main-{n + 1}" for n in range(1 + count, 1 + plan.shape.replicas)}
        if not gone & named:
            yield replace(plan, shape=replace(plan.shape, replicas=count))


def _fewer_clients(plan: Plan) -> Iterator[Plan]:
    for count in sorted({1, 2, plan.mix.clients // 2}):
        if 0 < count < plan.mix.clients:
            readers = min(plan.mix.readers, count - 1)
            yield replace(plan, mix=replace(plan.mix, clients=count, readers=readers))


def _fewer_kinds(plan: Plan) -> Iterator[Plan]:
    weights = plan.mix.weights
    for leaving in (set(weights) - {"append"}, *({kind} for kind in sorted(weights))):
        kept = {kind: weight for kind, weight in weights.items() if kind not in leaving}
        if leaving and sum(kept.values()) > 0:
            yield replace(plan, mix=replace(plan.mix, weights=kept))


def _shorter_run(plan: Plan) -> Iterator[Plan]:
    last = max((f.at + f.for_s for f in plan.schedule), default=0.0)
    for seconds in (last + SAFETY_MARGIN_S, plan.safety_s / 2):
        if SAFETY_MIN_S <= seconds < 0.9 * plan.safety_s:
            yield replace(plan, safety_s=round(seconds, 3))


def _simpler_faults(plan: Plan) -> Iterator[Plan]:
    for n, fault in enumerate(plan.schedule):
        if fault.for_s and fault.kind in AT_ONCE:
            yield _with(plan, n, replace(fault, for_s=0.0))
        if fault.for_s > SHORT_S:
            yield _with(plan, n, replace(fault, for_s=round(fault.for_s / 2, 2)))
        if fault.nth > 1:
            yield _with(plan, n, replace(fault, nth=1))
        for at in (float(round(fault.at)), round(fault.at, 1)):
            if at != fault.at and len(str(at)) < len(str(fault.at)):
                yield _with(plan, n, replace(fault, at=at))


def _with(plan: Plan, n: int, fault: Fault) -> Plan:
    return replace(plan, schedule=(*plan.schedule[:n], fault, *plan.schedule[n + 1 :]))
