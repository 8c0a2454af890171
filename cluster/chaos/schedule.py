"""From a seed to a schedule: which faults, on whom, when, for how long. Pure.

A schedule is rounds with calm in between. All faults of a round are over or healed at its end, and the
next one begins only when everybody is well again. Within a round a few things go wrong together: single
faults drawn like cards, so that each kind comes up before any comes twice, or a *plot*, a handful of
faults that hurt only together.

Some faults take a copy away for good: a wiped disk, rot. What six copies promise holds while few are lost
at a time, so a round has one *victim*, and only its copy is ever destroyed. Everything that heals by
itself may hit anybody. Rounds do not overlap, and repair is waited for between them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.faults.catalogue import Fault, Kind
from cluster.local.layout import AZS, MAIN, READERS_MAX, STORAGE_PER_AZ
from engine.errors import ConfigError
from engine.steps import Step

CALM_S = 2.0
"""Nothing happens so soon after the start: a run begins with commits."""

ROUND_S = (8.0, 13.0)
SETTLE_S = 4.0
"""From one round to the next, at least; clients work on meanwhile."""

VERSIONS_S = 15.0
"""Before that a new cluster's storage nodes may have no page version that could rot, only log."""

SHORTEST_S = 0.5
"""No fault is shorter: processes look at the faults every 50 ms."""

SECONDS_MIN, SECONDS_MAX = 15.0, 20 * 60.0
TOGETHER_MAX = 3
PLOTS = 0.35
"""Chance of a round to be a plot."""

DESTROYING = frozenset({Kind.WIPE, Kind.ROT_LOG, Kind.ROT_PAGE})
"""They take a copy, or a part of it, away for good: it has to be made again from the others."""

STORAGE_STEPS = (Step.RECEIVE, Step.PERSIST, Step.ACK, Step.COALESCE, Step.COLLECT, Step.FENCE)
WRITER_STEPS = (Step.SEND, Step.DURABLE)
RECOVERY_STEPS = (Step.FENCED, Step.TRUNCATED, Step.REHARDENED, Step.PROMOTE)


@dataclass(frozen=True, slots=True)
class Shape:
    """Whom there is to hit."""

    storage: tuple[str, ...]
    instances: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.storage or not self.instances:
            raise ConfigError("a cluster has storage nodes and an instance")

    @classmethod
    def new(cls, replicas: int) -> Shape:
        """Of a cluster that was just made. Raises ConfigError for a number that cannot be."""
        if not 0 <= replicas <= READERS_MAX:
            raise ConfigError(f"{replicas} replicas cannot be; choose 0 to {READERS_MAX}")
        return cls(
            tuple(f"storage-{n}" for n in range(1, len(AZS) * STORAGE_PER_AZ + 1)),
            tuple(f"{MAIN}-{n}" for n in range(1, replicas + 2)),
        )


@dataclass(frozen=True, slots=True)
class Round:
    """Faults in [begins_s, ends_s), seconds since the run began; what is not over by then is healed."""

    number: int
    begins_s: float
    ends_s: float
    faults: tuple[Fault, ...]
    victim: str
    """The one storage node whose copy may be destroyed."""
    plot: str = ""
    """The plot's name, "" if the faults are drawn one by one."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """All rounds, in order."""

    seed: int
    seconds: float
    rounds: tuple[Round, ...]

    def to_json(self) -> dict[str, Any]:
        """Keys are an interface."""
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "rounds": [
                {
                    "number": r.number,
                    "begins_s": r.begins_s,
                    "ends_s": r.ends_s,
                    "plot": r.plot or None,
                    "victim": r.victim,
                    "faults": [fault.to_json() for fault in r.faults],
                }
                for r in self.rounds
            ],
        }


def label(fault: Fault) -> str:
    """The kind as people know it: a kill at a protocol step has a command of its own."""
    return "crash-at" if fault.step is not None else fault.kind.value


def draw(seed: int, seconds: float, shape: Shape) -> Schedule:
    """The same seed, time and shape give the same schedule. Raises ConfigError for a time out of bounds."""
    if not SECONDS_MIN <= seconds <= SECONDS_MAX:
        raise ConfigError(
            f"{seconds / 60:g} minutes cannot be; choose {SECONDS_MIN / 60:g} to {SECONDS_MAX / 60:g}"
        )
    rng = random.Random(f"{seed}/chaos")
    cards, plots = _Deck(rng, sorted(_SINGLE)), _Deck(rng, sorted(_plots_for(shape)))
    rounds: list[Round] = []
    begins = CALM_S
    while True:
        ends = round(begins + rng.uniform(*ROUND_S), 1)
        if ends > seconds:
            break
        rounds.append(_round(rng, len(rounds) + 1, begins, ends, shape, cards, plots))
        begins = round(ends + SETTLE_S, 1)
    return Schedule(seed, seconds, tuple(rounds))


def _round(
    rng: random.Random,
    number: int,
    begins: float,
    ends: float,
    shape: Shape,
    cards: _Deck,
    plots: _Deck,
) -> Round:
    d = _Draw(rng, begins, ends, shape, rng.choice(shape.storage))
    plot = plots.next() if rng.random() < PLOTS else ""
    if plot:
        faults = _PLOTS[plot](d)
    else:
        but = ("rot-page",) if begins < VERSIONS_S else ()
        faults = [_SINGLE[cards.next(but)](d) for _ in range(rng.randint(1, TOGETHER_MAX))]
    faults = [d.within(fault) for fault in faults]
    faults.sort(key=lambda f: (f.at, f.kind, f.target, f.peer))
    return Round(number, begins, ends, tuple(faults), d.victim, plot)


class _Deck:
    """Cards in a random order, shuffled anew when all have been drawn."""

    def __init__(self, rng: random.Random, cards: Sequence[str]) -> None:
        self._rng = rng
        self._cards = list(cards)
        self._left: list[str] = []

    def next(self, but: Collection[str] = ()) -> str:
        """The next card that is not among `but`; those stay for later."""
        if not set(self._left) - set(but):
            self._left += self._rng.sample(self._cards, len(self._cards))
        index = next(n for n, card in enumerate(self._left) if card not in but)
        return self._left.pop(index)


@dataclass(frozen=True, slots=True)
class _Draw:
    """What one round draws from."""

    rng: random.Random
    begins: float
    ends: float
    shape: Shape
    victim: str

    def when(self) -> float:
        """In the first half of the round, so that there is time for it to matter."""
        return round(self.begins + self.rng.random() * (self.ends - self.begins) / 2, 1)

    def lasting(self, longest: float) -> float:
        return round(self.rng.uniform(SHORTEST_S, longest), 1)

    def within(self, fault: Fault) -> Fault:
        """The fault, ending no later than its round."""
        if not fault.for_s or fault.step is not None:
            return fault
        left = max(SHORTEST_S, self.ends - fault.at)
        return replace(fault, for_s=round(min(fault.for_s, left), 1))

    # -- whom

    def node(self) -> str:
        return self.rng.choice(self.shape.storage)

    def nodes(self, count: int) -> list[str]:
        return self.rng.sample(self.shape.storage, min(count, len(self.shape.storage)))

    def anyone(self) -> str:
        others = ("writer", "writer", "control", "endpoint")
        return self.rng.choice((*self.shape.storage, *self.shape.instances, *others))

    def member(self) -> str:
        """A node that others send messages to."""
        return self.rng.choice((*self.shape.storage, "writer", "writer", "control"))

    def two(self) -> tuple[str, str]:
        """Two that talk with each other and are never the same node."""
        pairs = [("writer", self.node()), ("writer", "control"), ("control", self.node())]
        if len(self.shape.storage) > 1:
            one, other = self.nodes(2)
            pairs.append((one, other))
        if len(self.shape.instances) > 1:
            pairs.append(("writer", "replica"))
        return self.rng.choice(pairs)

    # -- what

    def simple(self, kind: Kind, target: str, longest: float = 0.0, **params: float) -> Fault:
        lasting = self.lasting(longest) if longest else 0.0
        return Fault(kind, target, self.when(), lasting, params=tuple(sorted(params.items())))

    def between(self, kind: Kind, longest: float) -> Fault:
        one, other = self.two()
        if self.rng.random() < 0.5:
            one, other = other, one
        return replace(self.simple(kind, one, longest), peer=other)

    def kill(self) -> Fault:
        """At once back, or down for a while."""
        longest = self.rng.choice((0.0, 5.0))
        return self.simple(Kind.KILL, self.anyone(), longest)

    def crash_at(self) -> Fault:
        """At a step that is taken all the time."""
        if self.rng.random() < 0.5:
            return self.crash(self.node(), STORAGE_STEPS, 3.0)
        return self.crash("writer", WRITER_STEPS, 3.0)

    def crash(self, target: str, steps: Sequence[Step], longest: float) -> Fault:
        fault = self.simple(Kind.KILL, target, longest)
        when, nth = self.rng.choice(("before", "after")), self.rng.choice((1, 1, 2, 5))
        return replace(fault, step=self.rng.choice(steps), when=when, nth=nth)

    # -- plots

    def az_plus_one(self) -> list[Fault]:
        """A zone and one node more are down: writes wait, reads go on. The writer may die besides."""
        at, long = self.when(), self.lasting(5.0)
        away = self.rng.choice((Kind.KILL, Kind.PAUSE, Kind.ISOLATE))
        found = [
            Fault(Kind.AZ_DOWN, self.rng.choice(AZS), at, long),
            Fault(away, self.node(), at, long),
        ]
        if self.rng.random() < 0.5:
            found.append(Fault(Kind.KILL, "writer", round(at + long / 2, 1)))
        return found

    def no_quorum(self) -> list[Fault]:
        """The writer is cut off from three or four nodes, and may die with what the others hold."""
        at, long = self.when(), self.lasting(6.0)
        lost = self.nodes(self.rng.choice((3, 4)))
        found = [Fault(Kind.PARTITION, "writer", at, long, peer=node) for node in lost]
        if self.rng.random() < 0.5:
            found.append(Fault(Kind.KILL, "writer", round(at + long / 2, 1)))
        return found

    def zombie(self) -> list[Fault]:
        """The writer is replaced and does not know: silent to the control plane, or stopped."""
        at = self.when()
        if self.rng.random() < 0.5:
            return [Fault(Kind.PARTITION, "writer", at, 6.0, peer="control")]
        return [Fault(Kind.PAUSE, "writer", at, 6.0)]

    def dying_heir(self) -> list[Fault]:
        """The writer hangs, and whoever takes over dies in the middle of recovery."""
        at = self.when()
        step = self.rng.choice(RECOVERY_STEPS)
        when = self.rng.choice(("before", "after"))
        return [
            Fault(Kind.KILL, name, at, step=step, when=when) for name in self.shape.instances
        ] + [Fault(Kind.PAUSE, "writer", round(at + 0.5, 1), 5.0)]


_SINGLE: Mapping[str, Callable[[_Draw], Fault]] = {
    "kill": lambda d: d.kill(),
    "crash-at": lambda d: d.crash_at(),
    "pause": lambda d: d.simple(Kind.PAUSE, d.anyone(), 6.0),
    "az-down": lambda d: d.simple(Kind.AZ_DOWN, d.rng.choice(AZS), 6.0),
    "partition": lambda d: d.between(Kind.PARTITION, 8.0),
    "one-way": lambda d: d.between(Kind.ONE_WAY, 8.0),
    "isolate": lambda d: d.simple(Kind.ISOLATE, d.member(), 6.0),
    "slow-net": lambda d: d.simple(
        Kind.SLOW_NET, d.member(), 6.0, latency_s=d.rng.choice((0.005, 0.05, 0.3))
    ),
    "drop": lambda d: d.simple(Kind.DROP, d.member(), 6.0, share=d.rng.choice((0.02, 0.2))),
    "slow-disk": lambda d: d.simple(
        Kind.SLOW_DISK, d.node(), 8.0, factor=float(d.rng.choice((20, 200)))
    ),
    "fill-disk": lambda d: d.simple(Kind.FILL_DISK, d.node(), 6.0),
    "fail-fsync": lambda d: d.simple(Kind.FAIL_FSYNC, d.node()),
    "clock-skew": lambda d: d.simple(
        Kind.CLOCK_SKEW, d.anyone(), 6.0, seconds=d.rng.choice((-3600.0, 3600.0))
    ),
    "wipe": lambda d: d.simple(Kind.WIPE, d.victim, 2.0),
    "rot-log": lambda d: d.simple(Kind.ROT_LOG, d.victim),
    "rot-page": lambda d: d.simple(Kind.ROT_PAGE, d.victim),
}

_PLOTS: Mapping[str, Callable[[_Draw], list[Fault]]] = {
    "az-plus-one": _Draw.az_plus_one,
    "no-quorum": _Draw.no_quorum,
    "zombie": _Draw.zombie,
    "dying-heir": _Draw.dying_heir,
}


def _plots_for(shape: Shape) -> list[str]:
    """Without a replica nobody takes over."""
    return [name for name in _PLOTS if name != "dying-heir" or len(shape.instances) > 1]
