"""Faults put into effect in a simulated world, and counted: how often each fired, and changed something.

Faults overlap. What a node suffers at any time follows from all that are active then: the end of one never
ends another, and a node that two faults keep down comes back when the second is over.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cluster.faults.catalogue import ONCE, Fault, Kind
from cluster.local.layout import AZS
from cluster.sim.network import Weather
from cluster.sim.objects import STORE
from cluster.sim.pagestore import rot_version
from cluster.sim.process import Life
from cluster.sim.world import CLUSTER, SimProcess, World
from engine.errors import ConfigError, SextetError
from engine.steps import Step

log = logging.getLogger(__name__)

Path = tuple[str, str]
"""From one host to another."""

DOWN = frozenset({Kind.KILL, Kind.POWER, Kind.AZ_DOWN, Kind.WIPE})
CUTS = frozenset({Kind.PARTITION, Kind.ONE_WAY, Kind.ISOLATE})
WEATHER = frozenset({Kind.SLOW_NET, Kind.DROP})


@dataclass(eq=False, slots=True)
class _Hit:
    """What a fault does to one process, from its beginning to its end: roles may be others' meanwhile."""

    fault: Fault
    process: SimProcess
    life: Life | None
    paths: Sequence[Path] = ()
    """That a cut has closed."""
    met_before: int = 0
    """Messages and disk operations that such a fault had met when this one began."""


@dataclass(eq=False, slots=True)
class _Active:
    """A fault that lasts."""

    fault: Fault
    hits: list[_Hit] = field(default_factory=list)


class Injector:
    """Carries a schedule out. `start` once the world runs; `heal` ends everything that lasts."""

    def __init__(self, world: World, schedule: Sequence[Fault]) -> None:
        self.fired: dict[Kind, int] = {}
        self.effective: dict[Kind, int] = {}
        self._world = world
        self._timed = [f for f in schedule if f.step is None]
        self._stepped: dict[tuple[str, Step | None], list[list[Fault | int]]] = {}
        self._to_arm = [f for f in schedule if f.step is not None]
        self._cut: dict[Path, int] = {}  # by how many active faults
        self._rng = world.rng("faults")
        self._active: list[_Active] = []
        self.quiet = False
        """Healed: nothing fires any more."""

    def start(self) -> None:
        loop = self._world.loop
        for fault in self._timed:
            loop.call_at(max(fault.at, loop.time()), self.begin, fault)
        for fault in self._to_arm:
            self.arm(fault)

    # -- step-triggered

    def arm(self, fault: Fault) -> None:
        """Let the fault begin when its step is taken."""
        if not self._stepped:
            self._world.on_step.append(self._on_step)
        self._stepped.setdefault((fault.when, fault.step), []).append([fault, fault.nth])

    def _on_step(self, when: str, step: Step, process: SimProcess) -> None:
        armed = self._stepped.get((when, step))
        if armed is None or self.quiet:
            return
        for entry in armed:
            fault, left = entry
            assert isinstance(fault, Fault)
            assert isinstance(left, int)
            if left <= 0 or self._world.loop.time() < fault.at:
                continue
            if process not in self.resolve(fault.target):
                continue
            entry[1] = left - 1
            if entry[1] == 0:
                self.begin(fault, (process,))

    # -- targets

    def resolve(self, target: str) -> tuple[SimProcess, ...]:
        """Processes that a target names now. Raises ConfigError if it names none that could exist."""
        world = self._world
        if target in world.processes:
            return (world.processes[target],)
        if target == STORE and world.store is not None:
            return (world.store,)
        if target in AZS:
            return tuple(
                p for p in world.processes.values() if p.az == target and p.kind != "control"
            )
        writer = world.writer()
        match target:
            case "writer":
                return (writer,) if writer else ()
            case "replica":
                return tuple(p for p in world.instances if p is not writer)
            case "storage":
                return tuple(world.storage)
            case "archiver":
                return tuple(world.archivers)
            case "all":
                return tuple(world.processes.values())
        raise ConfigError(
            f"there is no {target}; a target is one of {', '.join(world.processes)}, "
            f"{', '.join(AZS)}, writer, replica, storage, archiver, store or all"
        )

    # -- beginning and ending

    def begin(self, fault: Fault, processes: tuple[SimProcess, ...] | None = None) -> None:
        """Put the fault into effect now, on `processes` or on whom its target names."""
        if self.quiet:
            return
        if processes is None:
            processes = self.resolve(fault.target)
        self.fired[fault.kind] = self.fired.get(fault.kind, 0) + 1
        self._world.trace.emit("fault", fault.target, fault=fault.kind.value, phase="begin")
        active = _Active(fault, [self._hit(fault, process) for process in processes])
        if fault.kind not in ONCE:
            self._active.append(active)
        for hit in active.hits:
            if self._apply(hit):
                self._took_effect(fault.kind)
        if fault.for_s and fault.kind not in ONCE:
            self._world.loop.call_later(
                fault.for_s, self._end, active, context=self._world.network.context
            )

    def _hit(self, fault: Fault, process: SimProcess) -> _Hit:
        paths = self._paths(fault, process) if fault.kind in CUTS else ()
        hit = _Hit(fault, process, process.life, paths)
        hit.met_before = self._met(hit)
        return hit

    def _took_effect(self, kind: Kind) -> None:
        self.effective[kind] = self.effective.get(kind, 0) + 1

    def _end(self, active: _Active) -> None:
        if active not in self._active:
            return  # healed
        fault = active.fault
        self._active.remove(active)
        self._world.trace.emit("fault", fault.target, fault=fault.kind.value, phase="end")
        for hit in active.hits:
            if self._met(hit) > hit.met_before:
                self._took_effect(fault.kind)
            self._undo(hit)

    def heal(self) -> None:
        """End every fault; all processes live, all paths are open, all disks work."""
        self.quiet = True
        for active in list(self._active):
            self._end(active)
        world = self._world
        for process in world.processes.values():
            process.image.failing_syncs = process.image.misdirected_reads = 0
            process.image.lying.clear()
            if process.paused:
                world.resume(process)
            if not process.up:
                world.boot(process)

    # -- what each kind does

    def _apply(self, hit: _Hit) -> bool:
        """True if it changed something at once; what shows only later is counted then."""
        world, fault, process = self._world, hit.fault, hit.process
        image = process.image
        match fault.kind:
            case Kind.KILL:
                return self._down(process, fault.kind, power=False)
            case Kind.POWER | Kind.AZ_DOWN:
                return self._down(process, fault.kind, power=True)
            case Kind.WIPE:
                if world.bucket is not None and process is world.store:
                    was_used = bool(world.bucket.objects)
                    world.bucket.wipe()
                    return was_used
                if process.kind != "storage":
                    return False
                had_something = bool(image.files)
                process.held_down = self._is_held_down(process)
                world.wipe(process)
                return had_something
            case Kind.PAUSE:
                was_running = process.up and not process.paused
                world.pause(process)
                return was_running
            case Kind.PARTITION | Kind.ONE_WAY | Kind.ISOLATE:
                for path in hit.paths:
                    self._cut[path] = self._cut.get(path, 0) + 1
                    world.network.cut(*path)
                return False
            case Kind.RESET:
                others = self.resolve(fault.peer) if fault.peer else tuple(world.processes.values())
                return sum(world.network.reset_between(process.name, o.name) for o in others) > 0
            case Kind.SLOW_NET | Kind.DROP:
                world.network.slow(process.name, self._weather(process))
                return False
            case Kind.SLOW_DISK:
                image.slow_factor = self._slowness(process)
                return False
            case Kind.FILL_DISK:
                image.limit = 0
                return False
            case Kind.FAIL_FSYNC:
                image.failing_syncs += 1
                return False
            case Kind.LOSE_WRITES:
                image.lie(int(fault.param("syncs", 5)))
                return False
            case Kind.MISDIRECT_READ:
                image.misdirected_reads += 1
                return False
            case Kind.ROT_LOG:
                return image.rot("wal")
            case Kind.ROT_PAGE:
                return rot_version(process.memory, image, self._rng)
            case Kind.CLOCK_SKEW:
                skew_us = int(fault.param("seconds", 3600.0) * 1e6)
                process.skew_us += skew_us
                return process.up and skew_us != 0
            case Kind.FAILOVER:
                return self._failover(process)

    def _undo(self, hit: _Hit) -> None:
        """End it; its fault is not among the active ones any more."""
        world, process = self._world, hit.process
        match hit.fault.kind:
            case Kind.KILL | Kind.POWER | Kind.AZ_DOWN | Kind.WIPE:
                process.held_down = self._is_held_down(process)
                if not process.up and not process.held_down and process is not world.store:
                    world.boot(process)
            case Kind.PAUSE:
                # Whoever was killed meanwhile runs: what is stopped is a process, not a name.
                if process.life is hit.life and not self._is_paused(process):
                    world.resume(process)
            case Kind.PARTITION | Kind.ONE_WAY | Kind.ISOLATE:
                for path in hit.paths:
                    self._cut[path] -= 1
                    if self._cut[path] == 0:
                        world.network.mend(*path)
            case Kind.SLOW_NET | Kind.DROP:
                world.network.slow(process.name, self._weather(process))
            case Kind.SLOW_DISK:
                process.image.slow_factor = self._slowness(process)
            case Kind.FILL_DISK:
                if not any(self._on(process, Kind.FILL_DISK)):
                    process.image.limit = None

    # -- what all active faults together make of a process

    def _on(self, process: SimProcess, *kinds: Kind) -> Iterator[_Hit]:
        return (
            hit
            for active in self._active
            if active.fault.kind in kinds
            for hit in active.hits
            if hit.process is process
        )

    def _is_held_down(self, process: SimProcess) -> bool:
        return any(hit.fault.for_s > 0 for hit in self._on(process, *DOWN))

    def _is_paused(self, process: SimProcess) -> bool:
        return any(hit.life is process.life for hit in self._on(process, Kind.PAUSE))

    def _slowness(self, process: SimProcess) -> float:
        every = self._on(process, Kind.SLOW_DISK)
        return max((hit.fault.param("factor", 50.0) for hit in every), default=1.0)

    def _weather(self, process: SimProcess) -> Weather | None:
        faults = [hit.fault for hit in self._on(process, *WEATHER)]
        if not faults:
            return None
        latency = sum(f.param("latency_s", 0.05) for f in faults if f.kind is Kind.SLOW_NET)
        kept = math.prod(1.0 - f.param("share", 0.1) for f in faults if f.kind is Kind.DROP)
        return Weather(latency, latency / 2, 1.0 - kept)

    def _met(self, hit: _Hit) -> int:
        """Messages or disk operations so far that a fault of this kind has met."""
        network, name = self._world.network, hit.process.name
        match hit.fault.kind:
            case Kind.SLOW_NET:
                return network.delayed.get(name, 0)
            case Kind.DROP:
                return network.dropped.get(name, 0)
            case Kind.SLOW_DISK:
                return hit.process.image.effects.get("slow disk", 0)
            case Kind.FILL_DISK:
                return hit.process.image.effects.get("disk full", 0)
            case _:
                return sum(network.held.get(path, 0) for path in hit.paths)

    def _down(self, process: SimProcess, kind: Kind, *, power: bool) -> bool:
        was_up = process.up
        process.held_down = self._is_held_down(process)
        self._world.kill(process, f"fault: {kind.value}", power=power)
        return was_up

    def _paths(self, fault: Fault, process: SimProcess) -> list[tuple[str, str]]:
        names = [*self._world.processes, "endpoint", *self._world.client_hosts]
        if self._world.store is not None:
            names.append(STORE)
        if fault.kind is not Kind.ISOLATE:
            names = [p.name for p in self.resolve(fault.peer)]
        there = [(process.name, name) for name in names if name != process.name]
        if fault.kind is Kind.ONE_WAY:
            return there
        return there + [(name, source) for source, name in there]

    def _failover(self, process: SimProcess) -> bool:
        control, world = self._world.control, self._world
        if process.kind != "instance" or not control.up or control.node is None:
            return False
        if process is world.writer():
            return False
        assert control.life is not None
        node = control.node

        async def nominate() -> None:
            try:
                await node.name_writer(CLUSTER, process.name)
            except SextetError as error:
                log.warning("failover to %s: %s", process.name, error)

        control.life.spawn(nominate(), name=f"failover to {process.name}")
        return True


CAME_OF_IT = (
    "bit rot",
    "misdirected write",
    "lost write",
    "torn write",
    "unsynced bytes lost",
)
"""Told for themselves: of which fault they came is not known, or of more than one."""


def effects(world: World, injector: Injector) -> dict[str, tuple[int, int]]:
    """Per kind of fault: (times fired, on how many processes these had an effect, each once).

    Besides, what came of faults as CAME_OF_IT, which nobody fired.
    """
    effective = {kind.value: count for kind, count in injector.effective.items()}
    for process in world.processes.values():
        image = process.image
        for name, count in (
            # Each of these is used up by the operation that it changes.
            (Kind.FAIL_FSYNC.value, image.effects.get("fsync failed", 0)),
            (Kind.MISDIRECT_READ.value, image.effects.get("misdirected read", 0)),
            (Kind.LOSE_WRITES.value, len(image.liars_seen)),
            *((name, image.effects.get(name, 0)) for name in CAME_OF_IT),
        ):
            if count:
                effective[name] = effective.get(name, 0) + count
    fired = {kind.value: count for kind, count in injector.fired.items()}
    return {
        name: (fired.get(name, 0), effective.get(name, 0)) for name in sorted({*fired, *effective})
    }
