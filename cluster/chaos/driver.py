"""Carries a schedule out on real processes: begins faults on time, notes what became of each, heals.

The fault kit waits for processes, so it is called in a thread; one call at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from cluster.chaos.schedule import Round, Schedule, label
from cluster.faults.catalogue import Fault
from cluster.faults.kit import LASTING, WAITING, FaultKit
from engine.errors import ConfigError
from engine.faults.file import ActiveFault


@dataclass(slots=True)
class Fired:
    """One fault of the schedule and what became of it. Times are seconds since the run began."""

    fault: Fault
    round: int
    began: float
    ended: float
    nodes: tuple[str, ...] = ()
    effects: int | None = None
    """How often nodes said that it changed something; None for what is done from outside, at once."""
    refused: str = ""
    """Why it could not be done."""

    @property
    def done(self) -> bool:
        return not self.refused

    def during(self, start: float, end: float) -> bool:
        return self.done and self.began < end and self.ended > start

    def to_json(self) -> dict[str, Any]:
        return {
            **self.fault.to_json(),
            "label": label(self.fault),
            "round": self.round,
            "began_s": round(self.began, 3),
            "ended_s": round(self.ended, 3),
            "nodes": list(self.nodes),
            "effects": self.effects,
            "refused": self.refused or None,
        }


@dataclass(slots=True)
class Driver:
    """`clock` gives seconds since the run began. `well` returns once everybody is well again after a heal,
    or what is missing after its patience."""

    kit: FaultKit
    clock: Callable[[], float]
    well: Callable[[], Awaitable[list[str]]]
    tell: Callable[[str], None] = lambda _text: None
    fired: list[Fired] = field(default_factory=list)
    rounds: int = 0
    """Carried out."""
    ill: list[str] = field(default_factory=list)
    """What was still missing when patience was over: no more rounds were begun."""

    async def run(self, schedule: Schedule) -> None:
        """All rounds that fit. One that had to wait for its predecessor's end moves those behind it; what
        would then end after the schedule's time is left out."""
        late = 0.0
        for one in schedule.rounds:
            late = max(late, self.clock() - one.begins_s)
            if one.ends_s + late > schedule.seconds and self.rounds:
                return
            await self._round(one, late)
            self.rounds += 1
            self.ill = await self.well()
            if self.ill:
                return

    async def _round(self, one: Round, late: float) -> None:
        """Begin each fault at its time, and end them all."""
        active: list[tuple[Fired, ActiveFault]] = []
        for fault in one.faults:
            await self._until(fault.at + late)
            self.tell(f"round {one.number}: {_short(fault)}")
            fired = Fired(fault, one.number, self.clock(), one.ends_s + late)
            self.fired.append(fired)
            try:
                begun = await asyncio.to_thread(self.kit.begin, fault)
            except ConfigError as error:
                fired.refused, fired.ended = str(error), self.clock()
                continue
            fired.nodes = begun.names
            fired.ended = self._ends(fired, begun)
            active.append((fired, begun))
        await self._until(one.ends_s + late)
        await asyncio.to_thread(self._settle, active)
        self.tell(f"round {one.number}: healed, waiting until all is well")

    def _ends(self, fired: Fired, begun: ActiveFault) -> float:
        now = self.clock()
        if fired.fault.step is not None or begun.kind in WAITING:
            return fired.ended  # whenever it gets its chance
        return min(fired.ended, now + begun.for_s) if begun.for_s else now

    def _settle(self, active: list[tuple[Fired, ActiveFault]]) -> None:
        """See what each did, then end all."""
        for fired, begun in active:
            by_itself = begun.kind in LASTING | WAITING or begun.step
            if begun.id and by_itself and begun.kind not in ("pause", "az-down"):
                fired.effects = sum(self.kit.effects(begun).values())
        self.kit.heal()

    async def _until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - self.clock()))


def _short(fault: Fault) -> str:
    step = f" {fault.when} {fault.step.value}" if fault.step is not None else ""
    peer = f" / {fault.peer}" if fault.peer else ""
    return f"{label(fault)} {fault.target}{peer}{step}"
