"""From a seed to a run: which faults, when, on whom, and what clients do meanwhile (swarm testing).

Each seed draws its own mix. A run in which everything goes wrong at once shows less than many runs in
each of which a few things go wrong often: rare faults hide one another.

Some faults destroy a copy for good: a wiped disk, rot, a disk that lies. What six copies promise holds
while few of them are lost at a time, so a run spends them within a budget: `_Budget` gives at most two
nodes to them, and writes that the disk lies about to one. Everything that heals by itself may hit anybody,
all six at once included.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from cluster.control.repairing import RepairConfig
from cluster.faults.catalogue import STEPS, UNSIMULATED, Fault, Kind
from cluster.local.layout import AZS
from cluster.sim import archives
from cluster.sim.plots import plots
from cluster.sim.run import Plan
from cluster.sim.traveller import hot_window_s
from cluster.sim.workload import Mix
from cluster.sim.world import Shape
from engine.config import InstanceConfig, VolumeConfig
from engine.sql.settings import SqlSettings
from engine.steps import Step

STORAGE = tuple(f"storage-{n}" for n in range(1, 7))
SAFETY_S = (8.0, 8.0, 12.0, 20.0)
"""Virtual seconds of faults in a default run, one of these."""

CALM_S = 1.0
"""Nothing happens so soon after the start."""

ENABLED = 0.4
"""Chance that a run has a certain kind of fault at all."""

CROWDED = 0.04
"""Chance of a run with many clients on few pages, whose commits share batches; it costs as much as five."""

SPARSE = 0.06
"""Chance of a run with few transactions on many small groups, and readers that hold on to what they see:
there a group's last record may be the very next after a read point. Such runs cost next to nothing."""

AT_STEP = (Kind.KILL, Kind.KILL, Kind.POWER, Kind.POWER, Kind.PAUSE, Kind.FAIL_FSYNC, Kind.ISOLATE)

FLEET_STEPS = tuple(step for step in Step if step not in STEPS["archiver"] | UNSIMULATED)
"""Every run's processes take these; `cluster.sim.archives` has the others."""

TRANSACTIONS_PER_S = (5, 12, 30)
"""Of all clients together, if nothing held them up. Faults meet what is in flight: with ten times as many
transactions a run takes ten times as long and hardly finds more."""


class _Budget:
    """Which storage nodes may lose what they hold."""

    def __init__(self, rng: random.Random) -> None:
        first, second = rng.sample(STORAGE, 2)
        self.wiped = first if rng.random() < 0.3 else ""
        self.liar = second if rng.random() < 0.5 else ""
        self.rotten = [n for n in (first, second) if n not in (self.wiped, self.liar)]


class _Draw:
    def __init__(self, seed: int, safety_s: float, spares: int) -> None:
        self.rng = random.Random(f"{seed}/swarm")
        self.safety_s = safety_s
        self.storage = STORAGE + tuple(f"storage-{n}" for n in range(7, 7 + spares))
        self.budget = _Budget(self.rng)
        self.replicas = self.rng.choice((0, 1, 2, 2, 3))
        self.instances = tuple(f"main-{n + 1}" for n in range(1 + self.replicas))

    def when(self) -> float:
        return CALM_S + self.rng.random() * (self.safety_s - CALM_S)

    def lasting(self, longest: float) -> float:
        """Seconds: mostly short, sometimes as long as the keepalive and beyond."""
        return round(min(longest, self.rng.expovariate(2.5 / longest)), 3)

    def node(self) -> str:
        return self.rng.choice(self.storage)

    def anyone(self) -> str:
        return self.rng.choice((*self.storage, *self.instances, "writer", "writer", "control"))

    def two(self) -> tuple[str, str]:
        one = self.anyone()
        while (other := self.anyone()) == one:
            pass
        return one, other

    # -- kinds

    def fault(self, kind: Kind) -> Fault | None:
        make: Mapping[Kind, Callable[[], Fault | None]] = {
            Kind.KILL: lambda: self.simple(kind, self.anyone(), 4.0),
            Kind.POWER: lambda: self.simple(kind, self.node(), 4.0),
            Kind.AZ_DOWN: lambda: self.simple(kind, self.rng.choice(AZS), 6.0),
            Kind.PAUSE: lambda: self.simple(kind, self.anyone(), 20.0),
            Kind.PARTITION: lambda: self.between(kind, 20.0),
            Kind.ONE_WAY: lambda: self.between(kind, 20.0),
            Kind.ISOLATE: lambda: self.simple(kind, self.anyone(), 12.0),
            Kind.RESET: lambda: self.between(kind, 0.0),
            Kind.SLOW_NET: lambda: self.simple(
                kind, self.anyone(), 6.0, latency_s=self.rng.choice((0.005, 0.05, 0.4))
            ),
            Kind.DROP: lambda: self.simple(
                kind, self.anyone(), 6.0, share=self.rng.choice((0.02, 0.2))
            ),
            Kind.SLOW_DISK: lambda: self.simple(
                kind, self.node(), 8.0, factor=self.rng.choice((20, 200, 2000))
            ),
            Kind.FILL_DISK: lambda: self.simple(kind, self.node(), 6.0),
            Kind.FAIL_FSYNC: lambda: self.simple(kind, self.node(), 0.0),
            Kind.CLOCK_SKEW: lambda: self.simple(
                kind, self.anyone(), 0.0, seconds=self.rng.choice((-3600, 3600, 0.2))
            ),
            Kind.MISDIRECT_READ: lambda: self.simple(kind, self.node(), 0.0),
            Kind.FAILOVER: lambda: self.simple(kind, self.rng.choice(self.instances), 0.0),
            Kind.WIPE: lambda: self.owned(kind, self.budget.wiped, 3.0),
            Kind.ROT_LOG: lambda: self.owned(kind, self.rotten(), 0.0),
            Kind.ROT_PAGE: lambda: self.owned(kind, self.rotten(), 0.0),
            Kind.LOSE_WRITES: lambda: self.owned(kind, self.budget.liar, 0.0),
        }
        return make[kind]()

    def simple(self, kind: Kind, target: str, longest: float, **params: float) -> Fault:
        lasting = self.lasting(longest) if longest else 0.0
        return Fault(
            kind, target, round(self.when(), 3), lasting, params=tuple(sorted(params.items()))
        )

    def between(self, kind: Kind, longest: float) -> Fault:
        one, other = self.two()
        return replace(self.simple(kind, one, longest), peer=other)

    def rotten(self) -> str:
        return self.rng.choice(self.budget.rotten) if self.budget.rotten else ""

    def owned(self, kind: Kind, target: str, longest: float) -> Fault | None:
        return self.simple(kind, target, longest) if target else None

    # -- at protocol steps

    def at_step(self) -> Fault:
        """A crash, a pause or a failure right before or after something matters."""
        step = self.rng.choice(FLEET_STEPS)
        kind = self.rng.choice(AT_STEP)
        return Fault(
            kind,
            "all",
            round(self.when(), 3),
            self.lasting(4.0),
            step=step,
            when=self.rng.choice(("before", "after")),
            nth=self.rng.choice((1, 1, 2, 5)),
        )


def draw(seed: int, *, safety_s: float | None = None) -> Plan:
    """The default swarm's run for a seed, of its own length or of `safety_s` virtual seconds."""
    if safety_s is None:
        safety_s = random.Random(f"{seed}/length").choice(SAFETY_S)
    fleet = _fleet(seed)
    d = _Draw(seed, safety_s, fleet["spares"])
    rng = d.rng
    enabled = [kind for kind in Kind if rng.random() < ENABLED]
    busy = rng.choice((2.0, 5.0, 10.0))
    faults: list[Fault] = []
    for kind in enabled:
        for _ in range(1 + int(rng.expovariate(1 / busy) / len(enabled) * 3)):
            fault = d.fault(kind)
            if fault is not None:
                faults.append(fault)
    faults += [  # a lie is found out by a power loss only
        Fault(Kind.POWER, fault.target, fault.at + rng.random() * 2, 0.3)
        for fault in faults
        if fault.kind is Kind.LOSE_WRITES
    ]
    if rng.random() < 0.5:
        faults += [d.at_step() for _ in range(rng.randint(1, 6))]
    crowded = rng.random() < CROWDED
    sparse = not crowded and random.Random(f"{seed}/sparse").random() < SPARSE
    faults += plots(
        seed,
        storage=STORAGE,
        instances=d.instances,
        rotten=d.budget.rotten,
        liar=d.budget.liar,
        safety_s=safety_s,
        crowded=crowded,
        sparse=sparse and d.replicas > 0,
    )
    archive = archives.settings(seed) if archives.archived(seed) else {}
    if archive:
        faults += archives.faults(seed, archive["archivers"], safety_s)
    faults.sort(key=lambda f: (f.at, f.kind, f.target))
    shape, mix = _shape(rng, d.replicas), _mix(rng)
    if crowded:
        shape, mix = _crowd(shape)
    if sparse:
        shape, mix = _sparse(shape)
    instance = replace(shape.instance, hot_window_s=hot_window_s(seed))
    shape = replace(shape, **fleet, **archive, sql=_sql(seed), instance=instance)
    mix = replace(mix, strong_share=random.Random(f"{seed}/strong").choice((0.0, 0.0, 0.0, 0.3)))
    return Plan(
        seed=seed,
        shape=shape,
        mix=mix,
        schedule=tuple(faults),
        safety_s=safety_s,
    )


def _shape(rng: random.Random, replicas: int) -> Shape:
    """Bounds so small that they are met, in some runs."""
    groups = rng.choice((4, 16, 64, 2560))
    return Shape(
        replicas=replicas,
        group_pages=groups,
        max_pages=groups * rng.choice((16, 32, 64)) if groups < 100 else groups,
        instance=InstanceConfig(
            pool_pages=rng.choice((16, 64, 1024)),
            follower_queue_bytes_max=rng.choice((8 * 1024, 256 * 1024)),
            replica_pending_bytes_max=rng.choice((16 * 1024, 1024 * 1024)),
        ),
        volume=VolumeConfig(
            unacked_bytes_max=rng.choice((4 * 1024, 64 * 1024, 1024 * 1024)),
            frame_bytes_max=rng.choice((2 * 1024, 16 * 1024, 1024 * 1024)),
            batches_in_flight_max=rng.choice((1, 4)),
            link_queue_bytes_max=rng.choice((16 * 1024, 1024 * 1024)),
        ),
    )


def _fleet(seed: int) -> dict[str, Any]:
    """Spare nodes, in some runs, and how soon one that is silent is replaced by one of them."""
    rng = random.Random(f"{seed}/fleet")
    patience = RepairConfig(check_s=0.4, busy_s=0.1, gone_s=rng.choice((0.5, 2.0, 10.0)))
    return {"spares": rng.choice((0, 0, 1, 3)), "repair": patience}


def _sql(seed: int) -> SqlSettings:
    """Some runs' commits do not wait out an outage: their clients never learn what came of them."""
    return SqlSettings(
        statement_timeout_s=random.Random(f"{seed}/sql").choice((5.0, 5.0, 5.0, 1.5))
    )


def _mix(rng: random.Random) -> Mix:
    """Some kinds of transaction, never none that writes and is checked."""
    base = Mix()
    weights = {kind: w for kind, w in base.weights.items() if rng.random() < 0.7}
    weights["append"] = base.weights["append"]
    weights["lists"] = base.weights["lists"]
    clients = rng.choice((2, 4, 6))
    return replace(
        base,
        clients=clients,
        think_s=clients / rng.choice(TRANSACTIONS_PER_S),
        weights=weights,
        big_rows=rng.choice((20, 60, 200)),
    )


def _sparse(shape: Shape) -> tuple[Shape, Mix]:
    """A transaction a second or so, most of them on the schema's page and one more of another group."""
    mix = Mix(clients=2, think_s=1.0, weights={"transfer": 4, "append": 1, "lists": 1, "bank": 1})
    return replace(shape, group_pages=4, max_pages=256), mix


def _crowd(shape: Shape) -> tuple[Shape, Mix]:
    """Groups so small, and clients so many, that one batch carries several commits to several groups."""
    volume = replace(shape.volume, batches_in_flight_max=1, frame_bytes_max=16 * 1024)
    weights = {"register-write": 4, "wide": 2, "lists": 1, "append": 0.5}
    mix = Mix(clients=12, think_s=0.05, weights=weights)
    return replace(shape, group_pages=6, max_pages=384, volume=volume), mix
