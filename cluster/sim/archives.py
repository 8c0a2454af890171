"""Some seeds' runs have an archive: how it is tuned, and what its archivers and its store suffer.

All of it is drawn from generators of its own. A run without an archive knows nothing of it, and what else
happens in a run with one, happens as it would without.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from cluster.faults.catalogue import STEPS, Fault, Kind
from cluster.sim.objects import STORE
from cluster.sim.world import ARCHIVER, Shape
from engine.archive.archiver import ArchiveConfig

SHARE = 0.25
"""Of all seeds."""

CALM_S = 1.0
LOST = 0.25
"""Chance that such a run's store is another one all of a sudden, and empty."""

HOUR_S = 3600.0

AT_STEP = (Kind.KILL, Kind.KILL, Kind.PAUSE, Kind.ISOLATE)


def archived(seed: int) -> bool:
    return random.Random(f"{seed}/archived").random() < SHARE


def settings(seed: int) -> dict[str, Any]:
    """Fields of `Shape`. Chunks and windows so small that there are several in a run, and hot logs so small
    that they have forgotten what an archive lacks."""
    rng = random.Random(f"{seed}/archive shape")
    storage = Shape().storage
    if rng.random() < 0.5:
        storage = replace(storage, wal_file_bytes=4096, frame_cache_bytes=4096)
    return {
        "archive": True,
        "archivers": rng.choice((1, 2)),
        "storage": storage,
        "archiver": ArchiveConfig(
            round_s=rng.choice((0.3, 0.6)),
            chunk_bytes_max=rng.choice((4, 16, 64)) * 1024,
            idle_s=rng.choice((0.5, 2.0)),
            base_bytes_min=rng.choice((4, 16, 64)) * 1024,
            base_volume_share=rng.choice((0.05, 0.3)),
            pages_per_read=rng.choice((1, 16, 64)),
            retention_s=rng.choice((1.5, 5.0, 24 * HOUR_S)),
            retire_every_s=rng.choice((2.0, 10.0)),
            backoff_limit_s=rng.choice((1.0, 4.0)),
        ),
    }


class _Draw:
    def __init__(self, rng: random.Random, archivers: int, safety_s: float) -> None:
        self._rng = rng
        self._names = [ARCHIVER, *(f"{ARCHIVER}-{n + 2}" for n in range(archivers - 1))]
        self._safety_s = safety_s

    def _when(self) -> float:
        return round(self._rng.uniform(CALM_S, max(CALM_S, self._safety_s)), 3)

    def _lasting(self) -> float:
        return round(min(6.0, self._rng.expovariate(0.6)), 3)

    def _fault(self, kind: Kind, target: str, *, peer: str = "", **params: float) -> Fault:
        lasting = 0.0 if kind is Kind.CLOCK_SKEW else self._lasting()
        given = tuple(sorted(params.items()))
        return Fault(kind, target, self._when(), lasting, peer=peer, params=given)

    def one(self) -> Fault:
        """An archiver is killed, stopped, cut off; or the store is away, slow or full, or an answer of it
        is lost while the request arrives."""
        rng = self._rng
        archiver = rng.choice(self._names)
        match rng.randrange(13):
            case 0 | 1:
                return self._fault(Kind.KILL, archiver)
            case 2:
                return self._fault(Kind.PAUSE, archiver)
            case 3:
                return self._fault(Kind.ISOLATE, archiver)
            case 4:
                peer = rng.choice(("storage", "control", "writer"))
                return self._fault(Kind.PARTITION, archiver, peer=peer)
            case 5:
                hours = rng.choice((-30, -1, 1, 30))
                return self._fault(Kind.CLOCK_SKEW, archiver, seconds=hours * HOUR_S)
            case 6 | 7:
                return self._fault(Kind.ISOLATE, STORE)
            case 8:
                return self._fault(Kind.SLOW_NET, STORE, latency_s=rng.choice((0.05, 0.4, 1.0)))
            case 9:
                return self._fault(Kind.FILL_DISK, STORE)
            case 10 | 11:
                return self._fault(Kind.ONE_WAY, STORE, peer=archiver)
            case _:
                return self._fault(Kind.ONE_WAY, archiver, peer=STORE)

    def at_step(self) -> Fault:
        rng = self._rng
        return Fault(
            rng.choice(AT_STEP),
            "archiver",
            self._when(),
            self._lasting(),
            step=rng.choice(sorted(STEPS["archiver"])),
            when=rng.choice(("before", "after")),
            nth=rng.choice((1, 1, 2, 5)),
        )

    def lost_store(self) -> list[Fault]:
        """While nobody archives, another store takes the place of the one there was."""
        at = self._rng.uniform(CALM_S, max(CALM_S, self._safety_s - 2.0))
        long = self._rng.uniform(0.3, 1.5)
        return [
            Fault(Kind.KILL, "archiver", at, long),
            Fault(Kind.WIPE, STORE, at + long / 2),
        ]


def faults(seed: int, archivers: int, safety_s: float) -> list[Fault]:
    """What happens to the archivers and the store of a run."""
    rng = random.Random(f"{seed}/archive faults")
    draw = _Draw(rng, archivers, safety_s)
    found = [draw.one() for _ in range(rng.choice((0, 1, 3, 6)))]
    if rng.random() < 0.5:
        found += [draw.at_step() for _ in range(rng.randint(1, 4))]
    if rng.random() < LOST:
        found += draw.lost_store()
    return found
