"""Faults put into effect in a simulated world, and counted: how often each fired, and changed something."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from cluster.faults.catalogue import Fault, Kind
from cluster.local.layout import AZS
from cluster.sim.network import Weather
from cluster.sim.pagestore import rot_version
from cluster.sim.world import CLUSTER, SimProcess, World
from engine.errors import ConfigError, SextetError
from engine.steps import Step

log = logging.getLogger(__name__)


class Injector:
    """Carries a schedule out. `start` once the world runs; `heal` ends everything that lasts."""

    def __init__(self, world: World, schedule: Sequence[Fault]) -> None:
        self.fired: dict[Kind, int] = {}
        self.effective: dict[Kind, int] = {}
        self._world = world
        self._timed = [f for f in schedule if f.step is None]
        self._stepped: dict[tuple[str, Step | None], list[list[Fault | int]]] = {}
        self._to_arm = [f for f in schedule if f.step is not None]
        self._cuts: list[tuple[str, str]] = []
        self._rng = world.rng("faults")
        self._began: dict[Fault, tuple[SimProcess, ...]] = {}
        self._tasks: list[asyncio.Task[None]] = []
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
            case "all":
                return tuple(world.processes.values())
        raise ConfigError(
            f"there is no {target}; a target is one of {', '.join(world.processes)}, "
            f"{', '.join(AZS)}, writer, replica, storage or all"
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
        self._began[fault] = processes
        for process in processes:
            if self._apply(fault, process):
                self.effective[fault.kind] = self.effective.get(fault.kind, 0) + 1
        if fault.for_s:
            self._world.loop.call_later(
                fault.for_s, self._end, fault, context=self._world.network.context
            )

    def _end(self, fault: Fault) -> None:
        processes = self._began.pop(fault, None)
        if processes is None:
            return
        self._world.trace.emit("fault", fault.target, fault=fault.kind.value, phase="end")
        for process in processes:
            self._undo(fault, process)

    def heal(self) -> None:
        """End every fault; all processes live, all paths are open, all disks work."""
        self.quiet = True
        for fault in list(self._began):
            self._end(fault)
        world = self._world
        for source, target in list(self._cuts):
            world.network.mend(source, target)
        self._cuts.clear()
        for process in world.processes.values():
            process.held_down = False
            process.image.limit = None
            process.image.slow_factor = 1.0
            process.image.failing_syncs = process.image.lying_syncs = 0
            process.image.misdirected_reads = 0
            world.network.slow(process.name, None)
            if process.paused:
                world.resume(process)
            if not process.up:
                world.boot(process)

    # -- what each kind does

    def _apply(self, fault: Fault, process: SimProcess) -> bool:
        """True if it changed something at once; what shows only later is counted by `effects`."""
        world, image = self._world, process.image
        match fault.kind:
            case Kind.KILL:
                return self._down(fault, process, power=False)
            case Kind.POWER | Kind.AZ_DOWN:
                return self._down(fault, process, power=True)
            case Kind.WIPE:
                if process.kind != "storage":
                    return False
                process.held_down = fault.for_s > 0
                world.wipe(process)
                return True
            case Kind.PAUSE:
                was_running = process.up and not process.paused
                world.pause(process)
                return was_running
            case Kind.PARTITION | Kind.ONE_WAY | Kind.ISOLATE:
                return self._cut(fault, process)
            case Kind.RESET:
                others = self.resolve(fault.peer) if fault.peer else tuple(world.processes.values())
                return sum(world.network.reset_between(process.name, o.name) for o in others) > 0
            case Kind.SLOW_NET:
                latency = fault.param("latency_s", 0.05)
                world.network.slow(process.name, Weather(latency, latency / 2))
                return True
            case Kind.DROP:
                world.network.slow(process.name, Weather(0.0, 0.0, fault.param("share", 0.1)))
                return True
            case Kind.SLOW_DISK:
                image.slow_factor = fault.param("factor", 50.0)
                return False
            case Kind.FILL_DISK:
                image.limit = 0
                return False
            case Kind.FAIL_FSYNC:
                image.failing_syncs += 1
                return False
            case Kind.LOSE_WRITES:
                image.lying_syncs += int(fault.param("syncs", 5))
                return False
            case Kind.MISDIRECT_READ:
                image.misdirected_reads += 1
                return False
            case Kind.ROT_LOG:
                return image.rot("wal")
            case Kind.ROT_PAGE:
                return rot_version(process.memory, image, self._rng)
            case Kind.CLOCK_SKEW:
                process.skew_us += int(fault.param("seconds", 3600.0) * 1e6)
                return True
            case Kind.FAILOVER:
                return self._failover(process)

    def _undo(self, fault: Fault, process: SimProcess) -> None:
        world = self._world
        match fault.kind:
            case Kind.KILL | Kind.POWER | Kind.AZ_DOWN | Kind.WIPE:
                process.held_down = False
                if not process.up:
                    world.boot(process)
            case Kind.PAUSE:
                world.resume(process)
            case Kind.PARTITION | Kind.ONE_WAY | Kind.ISOLATE:
                for source, target in self._paths(fault, process):
                    world.network.mend(source, target)
            case Kind.SLOW_NET | Kind.DROP:
                world.network.slow(process.name, None)
            case Kind.SLOW_DISK:
                process.image.slow_factor = 1.0
            case Kind.FILL_DISK:
                process.image.limit = None
            case _:
                pass  # happened once

    def _down(self, fault: Fault, process: SimProcess, *, power: bool) -> bool:
        was_up = process.up
        process.held_down = fault.for_s > 0
        self._world.kill(process, f"fault: {fault.kind.value}", power=power)
        return was_up

    def _paths(self, fault: Fault, process: SimProcess) -> list[tuple[str, str]]:
        names = [*self._world.processes, "endpoint", *self._world.client_hosts]
        if fault.kind is not Kind.ISOLATE:
            names = [p.name for p in self.resolve(fault.peer)]
        there = [(process.name, name) for name in names if name != process.name]
        if fault.kind is Kind.ONE_WAY:
            return there
        return there + [(name, source) for source, name in there]

    def _cut(self, fault: Fault, process: SimProcess) -> bool:
        paths = self._paths(fault, process)
        for source, target in paths:
            self._world.network.cut(source, target)
            self._cuts.append((source, target))
        return bool(paths)

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


DISK_EFFECTS: dict[str, Kind] = {
    "slow disk": Kind.SLOW_DISK,
    "disk full": Kind.FILL_DISK,
    "fsync failed": Kind.FAIL_FSYNC,
    "lost write": Kind.LOSE_WRITES,
    "misdirected read": Kind.MISDIRECT_READ,
}
"""Faults of disks are counted where the disk saw them matter."""


def effects(world: World, injector: Injector) -> dict[str, tuple[int, int]]:
    """Per kind of fault: (times fired, times it changed something)."""
    effective = {kind.value: count for kind, count in injector.effective.items()}
    for process in world.processes.values():
        for what, count in process.image.effects.items():
            kind = DISK_EFFECTS.get(what)
            name = kind.value if kind is not None else what
            effective[name] = effective.get(name, 0) + count
    fired = {kind.value: count for kind, count in injector.fired.items()}
    return {
        name: (fired.get(name, 0), effective.get(name, 0)) for name in sorted({*fired, *effective})
    }
