"""Plots: a few faults that hurt only together, in an order and at distances that chance seldom finds.

Single faults drawn at random meet one another now and then. What the protocol is really for are pairs
and triples of them: a writer that lives on without knowing that it was replaced, a recovery that dies
in the middle of another, a zone down and one node more. A swarm run draws some of these besides.

Nothing here destroys more than single faults may (`cluster.sim.swarm`): rot and lies stay on the nodes
given.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from cluster.faults.catalogue import Fault, Kind
from cluster.local.layout import AZS
from engine.steps import Step

_CALM_S = 1.0
_TAIL_S = 4.0
"""A plot begins early enough to be over, mostly, when the faults end."""

ENABLED = 0.5
"""Chance that a run has plots at all."""

_RECOVERY = (Step.FENCED, Step.TRUNCATED, Step.REHARDENED)


class _Plots:
    def __init__(
        self,
        rng: random.Random,
        storage: Sequence[str],
        instances: Sequence[str],
        rotten: Sequence[str],
        liar: str,
        safety_s: float,
    ) -> None:
        self._rng = rng
        self._storage = storage
        self._instances = instances
        self._rotten = rotten
        self._liar = liar
        self._last = max(_CALM_S, safety_s - _TAIL_S)

    def _when(self) -> float:
        return self._rng.uniform(_CALM_S, self._last)

    def zombie(self) -> list[Fault]:
        """The writer does not hear that another one is named, and works on."""
        at, rng = self._when(), self._rng
        heir = rng.choice(self._instances)
        return [
            Fault(Kind.PARTITION, "writer", at, rng.uniform(2.0, 8.0), peer="control"),
            Fault(Kind.FAILOVER, heir, at + rng.uniform(0.05, 1.0)),
        ]

    def az_plus_one(self) -> list[Fault]:
        """A zone is down and one node more; the writer may die meanwhile, or right afterwards."""
        at, rng = self._when(), self._rng
        long = rng.uniform(0.5, 4.0)
        more = Fault(
            rng.choice((Kind.KILL, Kind.POWER, Kind.ISOLATE, Kind.PAUSE)),
            rng.choice(self._storage),
            at + rng.uniform(0.0, 0.5),
            long,
        )
        found = [Fault(Kind.AZ_DOWN, rng.choice(AZS), at, long + rng.uniform(0.0, 1.0)), more]
        if rng.random() < 0.7:
            found.append(Fault(Kind.KILL, "writer", at + rng.uniform(0.0, long + 1.5)))
        return found

    def minority(self) -> list[Fault]:
        """The writer is cut off from three or four nodes, at once or from one after the other.

        It dies with what the others hold, or the cut outlasts its statements' time. If nobody else
        reaches those nodes either, it stays the writer, and what it had given up comes true.
        """
        at, rng = self._when(), self._rng
        lost = rng.sample(self._storage, rng.choice((3, 3, 4)))
        outlasts = rng.random() < 0.4
        long = rng.uniform(6.0, 9.0) if outlasts else rng.uniform(0.3, 3.0)
        if outlasts and rng.random() < 0.5:
            return [Fault(Kind.ISOLATE, node, at, long) for node in lost]
        apart = rng.choice((0.0, 0.0, 0.06))
        cut = [
            Fault(Kind.PARTITION, "writer", at + apart * n, long - apart * n, peer=node)
            for n, node in enumerate(lost)
        ]
        if outlasts:
            return cut
        return [*cut, Fault(Kind.KILL, "writer", at + rng.uniform(0.1, 1.1 * long))]

    def left_behind(self) -> list[Fault]:
        """Two nodes alone hold a dead writer's last redo, and miss the recovery that annuls it."""
        at, rng = self._when(), self._rng
        two = rng.sample(self._storage, 2)
        long = rng.uniform(0.2, 1.0)
        rest = [node for node in self._storage if node not in two]
        away = rng.choice((Kind.ISOLATE, Kind.KILL, Kind.POWER, Kind.PAUSE))
        return [
            *(Fault(Kind.PARTITION, "writer", at, long + 0.2, peer=node) for node in rest),
            *(Fault(away, node, at + long - 0.01, rng.uniform(0.8, 3.0)) for node in two),
            Fault(Kind.KILL, "writer", at + long),
        ]

    def blackout(self) -> list[Fault]:
        """Everything loses power at once, on slow disks or not."""
        at, rng = self._when(), self._rng
        found = [Fault(Kind.POWER, "all", at, rng.uniform(0.05, 1.0))]
        if rng.random() < 0.5:
            for node in rng.sample(self._storage, 4):
                params = (("factor", rng.choice((20.0, 200.0))),)
                found.append(Fault(Kind.SLOW_DISK, node, at - 0.7, 1.0, params=params))
        return found

    def recoveries(self) -> list[Fault]:
        """One recovery after the other, each dying at some step; storage restarts in between."""
        at, rng = self._when(), self._rng
        found = [Fault(Kind.KILL, "writer", at)]
        for _ in range(rng.randint(1, 3)):
            when = rng.choice(("before", "after"))
            found.append(Fault(Kind.KILL, "all", at, step=rng.choice(_RECOVERY), when=when))
        if rng.random() < 0.6:
            later = at + rng.uniform(0.2, 2.0)
            found += [
                Fault(rng.choice((Kind.KILL, Kind.POWER)), node, later + rng.uniform(0.0, 0.3))
                for node in self._storage
            ]
            found.append(Fault(Kind.KILL, "writer", later + rng.uniform(0.0, 0.5)))
        return found

    def rot_and_restart(self) -> list[Fault]:
        """The log rots in several places, and its node and the writer restart together."""
        if not self._rotten:
            return []
        at, rng = self._when(), self._rng
        node = rng.choice(self._rotten)
        return [
            *(Fault(Kind.ROT_LOG, node, at - 0.02 * n) for n in range(4)),
            Fault(Kind.KILL, node, at + 0.01),
            Fault(Kind.KILL, "writer", at + rng.uniform(0.0, 0.1)),
        ]

    def damaged_quorum(self) -> list[Fault]:
        """Two damaged nodes are among the four that a recovery fences; the other two of those did not
        hear the writer's last words, and who did besides the damaged is away. So it has to wait."""
        hurt = [*self._rotten, *([self._liar] if self._liar else [])]
        if len(hurt) < 2:
            return []
        at = self._when()
        return [f for n in range(2) for f in self._damaged_quorum(at + 4.0 * n, hurt)]

    def _damaged_quorum(self, at: float, hurt: Sequence[str]) -> list[Fault]:
        rng = self._rng
        whole = [node for node in self._storage if node not in hurt]
        away = rng.sample(whole, 2)
        deaf = [node for node in whole if node not in away]
        found: list[Fault] = []
        for node in hurt:
            if node == self._liar:  # a hole is seen if something follows it
                found.append(Fault(Kind.LOSE_WRITES, node, at - 0.8, params=(("syncs", 2),)))
                found.append(Fault(Kind.POWER, node, at + 0.02))
            else:
                found += [Fault(Kind.ROT_LOG, node, at + 0.0005 * n) for n in range(30)]
                found.append(Fault(Kind.KILL, node, at + 0.02))
        return [
            *found,
            *(Fault(Kind.PARTITION, "writer", at - 0.4, 0.7, peer=node) for node in deaf),
            *(Fault(Kind.ISOLATE, node, at + 0.01, rng.uniform(1.0, 3.0)) for node in away),
            Fault(Kind.KILL, "writer", at + 0.2),  # by then the damaged are back
        ]

    def half_a_transaction(self) -> list[Fault]:
        """The writer dies between two batches; with small frames a transaction needs several."""
        at, rng = self._when(), self._rng
        when = rng.choice(("before", "after"))
        return [
            Fault(
                rng.choice((Kind.KILL, Kind.KILL, Kind.PAUSE)),
                "writer",
                at + 0.8 * n,
                rng.choice((0.0, 2.0)),
                step=Step.SEND,
                when=when,
                nth=rng.randint(1, 12),
            )
            for n in range(rng.randint(1, 4))
        ]

    def half_a_batch(self) -> list[Fault]:
        """Every node dies with the same part of a batch in its log, and then the writer does.

        Slow disks let several transactions gather in a batch. Where one of them reaches further groups
        than the one before it, the cut falls between the two: in the middle of a frame.
        """
        at, rng = self._when(), self._rng
        nth = rng.choice((1, 2, 2, 3, 5))
        slow = (("factor", rng.choice((50.0, 200.0, 500.0))),)
        return [
            *(Fault(Kind.SLOW_DISK, node, at - 0.9, 2.0, params=slow) for node in self._storage),
            *(
                Fault(Kind.KILL, node, at, 1.5, step=Step.RECEIVE, when="after", nth=nth)
                for node in self._storage
            ),
            Fault(Kind.KILL, "writer", at + rng.uniform(0.5, 1.2)),
        ]

    def held_reader(self) -> list[Fault]:
        """A replica stops and holds its read point; where commits are rare, storage makes pages and
        collects garbage when only one has followed."""
        at, rng = self._when(), self._rng
        replica = rng.choice(self._instances[1:])
        return [Fault(Kind.PAUSE, replica, at, rng.uniform(1.5, 3.0))]

    def lie_after_lie(self) -> list[Fault]:
        """A disk loses redo that it called durable, again and again, while pages are built from it."""
        if not self._liar:
            return []
        at, rng = self._when(), self._rng
        found = []
        for n in range(rng.randint(2, 4)):
            lie = at + 1.5 * n
            syncs = (("syncs", rng.choice((1, 2, 5, 20))),)
            found += [
                Fault(Kind.LOSE_WRITES, self._liar, lie, params=syncs),
                Fault(Kind.POWER, self._liar, lie + rng.uniform(0.05, 1.2), rng.uniform(0.0, 0.3)),
            ]
        return found

    def lie_and_recovery(self) -> list[Fault]:
        """Between a lie and the power loss that shows it a recovery has the node write down how far it
        stands; the next recovery asks it again."""
        if not self._liar:
            return []
        at, rng = self._when(), self._rng
        dark = at + rng.uniform(0.26, 0.5)
        return [
            Fault(Kind.LOSE_WRITES, self._liar, at - 0.5, params=(("syncs", 60),)),
            Fault(Kind.KILL, "writer", at),
            Fault(Kind.POWER, self._liar, dark),
            Fault(Kind.KILL, "writer", dark + rng.uniform(0.0, 0.2)),
        ]

    def nothing_durable(self) -> list[Fault]:
        """A writer opens and makes nothing durable: two nodes alone get its redo, not even by
        gossip others, and the recovery from its death does not meet them. Then they come back."""
        at, rng = self._when(), self._rng
        two = rng.sample(self._storage, 2)
        rest = [node for node in self._storage if node not in two]
        long = rng.uniform(0.6, 1.6)
        return [
            Fault(Kind.KILL, "writer", at),
            *(Fault(Kind.PARTITION, "all", at + 0.01, long, node, Step.SEND) for node in rest),
            *(Fault(Kind.PARTITION, node, at, long + 2.5, peer="storage") for node in two),
            *(Fault(Kind.ISOLATE, node, at + long - 0.02, 2.5) for node in two),
            Fault(Kind.KILL, "writer", at + long - 0.01),
            *(Fault(Kind.KILL, node, at + long) for node in rest),  # else the cut's end brings it
        ]

    def dead_recovery(self) -> list[Fault]:
        """A recovery dies when two near nodes have its truncation and the others have not, and the next
        one does not meet those two: what they were told never counted."""
        at, rng = self._when(), self._rng
        near = rng.sample(self._storage, 2)
        slow = (("latency_s", 0.25),)
        dies = at + rng.uniform(0.5, 1.5)
        return [
            *(
                Fault(Kind.SLOW_NET, node, at, 3.0, params=slow)
                for node in self._storage
                if node not in near
            ),
            Fault(Kind.KILL, "writer", at + 0.1),
            Fault(Kind.KILL, "writer", dies),
            *(Fault(Kind.ISOLATE, node, dies - 0.01, 2.5) for node in near),
        ]

    def draw(self) -> list[Fault]:
        every: tuple[Callable[[], list[Fault]], ...] = (
            self.zombie,
            self.az_plus_one,
            self.minority,
            self.left_behind,
            self.blackout,
            self.recoveries,
            self.rot_and_restart,
            self.half_a_transaction,
            self.half_a_batch,
            self.lie_after_lie,
            self.dead_recovery,
            self.damaged_quorum,
            self.lie_and_recovery,
            self.nothing_durable,
        )
        return [f for _ in range(self._rng.randint(1, 4)) for f in self._one(every)]

    def _one(self, every: Sequence[Callable[[], list[Fault]]]) -> list[Fault]:
        """One of them that can be played in this run."""
        while not (found := self._rng.choice(every)()):
            pass
        return found


def plots(
    seed: int,
    *,
    storage: Sequence[str],
    instances: Sequence[str],
    rotten: Sequence[str],
    liar: str,
    safety_s: float,
    crowded: bool,
    sparse: bool,
) -> list[Fault]:
    """A run's plots, often none. Drawn on their own: they change nothing else of the run."""
    rng = random.Random(f"{seed}/plots")
    every = _Plots(rng, storage, instances, rotten, liar, safety_s)
    if crowded:  # only many clients make batches that can be halved
        return [f for _ in range(3) for f in every.half_a_batch()]
    if sparse:
        return [f for _ in range(3) for f in every.held_reader()]
    return every.draw() if rng.random() < ENABLED else []
