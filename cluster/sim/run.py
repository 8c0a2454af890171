"""One run: a world, clients, faults; then healing, then what must be true afterwards.

start      boot, make the tables; no faults yet
safety     clients work while the schedule's faults happen
heal       every fault ends, every process lives
liveness   writes and reads must succeed again, replicas and segments must catch up
judge      the checkers read what was recorded
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import IO, Any, TypeVar

from cluster.endpoint.balance import Kind
from cluster.faults.catalogue import Fault
from cluster.sim import restores
from cluster.sim.checkers import (
    Findings,
    Violation,
    bank,
    listappend,
    liveness,
    oracle,
    registers,
    sessions,
)
from cluster.sim.checkers.oracle import Observation, Oracle
from cluster.sim.faults import Injector, effects
from cluster.sim.history import BankRead, History
from cluster.sim.invariants import Invariants
from cluster.sim.loop import Stalled
from cluster.sim.observer import Observer, quiet
from cluster.sim.points import Points
from cluster.sim.sqlwire import Failed
from cluster.sim.traveller import Traveller
from cluster.sim.workload import ACCOUNTS, BALANCE, Mix, Workload
from cluster.sim.world import CLUSTER, Shape, World
from engine.steps import Mark, Step

T = TypeVar("T")

SETUP_S = 60.0
OBSERVATIONS_MAX = 25
"""Reads with a known read point that are compared with the oracle, besides the final ones."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides a run. Equal plans give equal traces."""

    seed: int
    shape: Shape = field(default_factory=Shape)
    mix: Mix = field(default_factory=Mix)
    schedule: tuple[Fault, ...] = ()
    safety_s: float = 20.0
    liveness_s: float = 40.0
    """Bound on healing: by then both endpoints serve and everybody has caught up."""


@dataclass
class Result:
    """What a run showed."""

    plan: Plan
    violations: list[Violation]
    digest: str
    virtual_s: float
    wall_s: float
    events: int
    trace_events: int
    transactions: dict[str, int]
    commits: int
    recoveries: int
    faults: dict[str, tuple[int, int]]
    marks: dict[Mark, int]
    steps: dict[tuple[str, Step], int]
    checks: dict[str, int]
    writers: tuple[str, ...] = ()
    """Who opened the volume, epoch by epoch."""
    healed_at: float | None = None
    history: History = field(default_factory=History)
    recent: list[tuple[float, str, str, dict[str, Any]]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.violations

    @property
    def failovers(self) -> int:
        """How often another instance than before became the writer."""
        return sum(one != other for one, other in pairwise(self.writers))


def run(plan: Plan, *, out: IO[str] | None = None) -> Result:
    """Carry the plan out and judge it."""
    started = time.perf_counter()
    world = World(plan.seed, plan.shape, out=out)
    story = Story(world, plan)
    try:
        try:
            world.loop.run_until_complete(story.tell())
        except Stalled as error:
            story.findings.add("stalled", str(error), at=world.loop.time())
        violations = story.judge()
        for violation in violations:
            world.trace.emit("violation", "", checker=violation.checker, message=violation.message)
        return Result(
            plan=plan,
            violations=violations,
            digest=world.trace.digest,
            virtual_s=world.loop.time(),
            wall_s=time.perf_counter() - started,
            events=world.loop.events,
            trace_events=world.trace.count,
            transactions=story.outcomes(),
            commits=story.observer.commits,
            recoveries=len(story.observer.recoveries),
            faults=effects(world, story.injector),
            marks=dict(sorted(world.marks.items())),
            steps=dict(sorted(world.steps.items())),
            checks=story.checks,
            writers=story.observer.writers,
            healed_at=story.healed_at,
            history=story.workload.history,
            recent=list(world.trace.recent) if violations else [],
        )
    finally:
        world.close()


class Story:
    """One run in its parts: `tell` is all of it, or `begin`, whatever one does in between, `finish`.

    `judge` at the end, outside of the loop.
    """

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.findings = Findings("run")
        self.checks: dict[str, int] = {}
        self.points = Points(world)
        self.observer = Observer(world)
        self.invariants = Invariants(world)
        self.workload = Workload(world, plan.mix)
        self.traveller = (
            Traveller(world, self.observer, self.workload.stop)
            if plan.shape.instance.hot_window_s
            else None
        )
        self.injector = Injector(world, plan.schedule)
        self.healed_at: float | None = None
        self.final: list[Observation] = []
        self._clients: list[asyncio.Task[None]] = []

    def _phase(self, name: str) -> None:
        self.world.trace.emit("phase", "", phase=name)

    # -- what happens

    async def tell(self) -> None:
        if not await self.begin():
            return
        await asyncio.sleep(self.plan.safety_s)
        await self.finish()

    async def begin(self) -> bool:
        """Start everything; clients work and the schedule's faults happen from here on."""
        self._phase("start")
        await self.world.start()
        try:
            await self.workload.set_up(SETUP_S)
        except TimeoutError:
            now = self.world.loop.time()
            self.findings.add("no-start", f"no SQL within {SETUP_S:.0f} s", at=now)
            return False
        self._phase("safety")
        self.injector.start()
        self._clients = self.workload.start()
        if self.traveller is not None:
            self._clients.append(self.traveller.start())
        return True

    async def finish(self) -> None:
        """Heal, and see that everything works and catches up."""
        world, plan = self.world, self.plan
        self._phase("heal")
        self.injector.heal()
        self.healed_at = world.loop.time()
        self._phase("liveness")
        await self._served(plan.liveness_s)
        self.workload.stop.set()
        _, hanging = await asyncio.wait(self._clients, timeout=plan.liveness_s)
        if hanging:
            names = ", ".join(sorted(task.get_name() for task in hanging))
            self.findings.add("client-hangs", f"no answer for {names}", at=world.loop.time())
        missing = await quiet(world, plan.liveness_s)
        if missing:
            self.findings.add("not-quiet", f"after healing: {missing}", at=world.loop.time())
        await self._read_everything()
        self._phase("end")

    async def _served(self, within_s: float) -> None:
        """Until what clients ask for has been served to one that asked after healing, or the time is up."""
        deadline = self.world.loop.time() + within_s
        assert self.healed_at is not None
        while self.world.loop.time() < deadline:
            if not self._not_served(within_s):
                return
            await asyncio.sleep(0.1)

    def _not_served(self, within_s: float) -> list[Violation]:
        assert self.healed_at is not None
        return liveness.check(
            self.workload.history,
            healed_at=self.healed_at,
            within_s=within_s,
            writes=self.plan.mix.commits_writes(),
            endpoints=self.plan.mix.endpoints(),
        )

    async def _read_everything(self) -> None:
        """Every table on every instance, at a read point that is known."""
        transport = self.world.client_host("auditor")
        for process in self.world.instances:
            kind = Kind.WRITER if process is self.world.writer() else Kind.READER
            client = self.world.endpoint.connect_to(process.name, transport)
            try:
                async with asyncio.timeout(30.0):
                    await client.run("BEGIN READ ONLY")
                    names = await client.run(
                        "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
                    )
                    tables = {
                        str(name): [
                            tuple(row) for row in await client.run(f'SELECT * FROM "{name}"')
                        ]
                        for (name,) in names
                    }
                    self.final.append(
                        Observation(
                            client.read_lsn,
                            tables,
                            process.name,
                            self.world.loop.time(),
                            whole=True,
                        )
                    )
            except (Failed, TimeoutError) as error:
                if not self.findings.found:  # else it is clear why
                    self.findings.add(
                        "not-read",
                        f"{kind.value} {process.name}: {error}",
                        at=self.world.loop.time(),
                    )
            await client.close()

    # -- what must be true of it

    def judge(self) -> list[Violation]:
        history = list(self.workload.history)
        found = self.findings.found
        for error in self.world.errors:
            self.findings.add("internal-error", error)
        log_findings = Findings("oracle")
        log = self.observer.log(log_findings)
        found += log_findings.found
        if self.healed_at is not None:
            asked = self.plan.mix.commits_writes() + len(self.plan.mix.endpoints())
            found += self._count("liveness", self._not_served(self.plan.liveness_s), asked)
        found += self._count("invariants", self.invariants.check(), self.invariants.checks)
        found += self._count("observer", self.observer.check(log), len(self.observer.openings))
        found += self._count("listappend", listappend.check(history), listappend.looked_at(history))
        found += self._count("registers", registers.check(history), registers.looked_at(history))
        found += self._count("sessions", sessions.check(history), sessions.looked_at(history))
        accounts = [str(n) for n in range(1, ACCOUNTS + 1)]
        money = bank.check(
            history, total=ACCOUNTS * BALANCE, accounts=accounts, may_be_negative=True
        )
        found += self._count("bank", money, bank.looked_at(history))
        seen = [*self._observations(), *self.final]
        if self.traveller is not None:
            visits = self.traveller.visits
            found += self._count("past", self.traveller.check(log.commits), len(visits))
            seen += [visit.seen for visit in _some(visits)]
        found += self._count("oracle", oracle.check(Oracle(log), seen), len(seen))
        if self.world.bucket is not None:
            points = restores.points(log.commits, self.world.rng("restore points"))
            wrong, restored = restores.check(
                self.world.bucket, CLUSTER, Oracle(log), points, told=self.observer.archived()
            )
            found += self._count("archive", wrong, restored)
        return found

    def _count(self, checker: str, violations: list[Violation], things: int) -> list[Violation]:
        self.checks[checker] = things
        return violations

    def _observations(self) -> Sequence[Observation]:
        known = [
            Observation(
                t.read_lsn,
                {"accounts": [(int(name), balance) for name, balance in op.balances.items()]},
                t.instance,
                t.completed_at,
            )
            for t in self.workload.history
            for op in t.ops
            if isinstance(op, BankRead) and t.read_lsn
        ]
        return _some(known)

    def outcomes(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for transaction in self.workload.history:
            counts[transaction.outcome.value] = counts.get(transaction.outcome.value, 0) + 1
        return dict(sorted(counts.items()))


def _some(found: Sequence[T]) -> Sequence[T]:
    return found[:: max(1, len(found) // OBSERVATIONS_MAX)]


def without(plan: Plan, kept: Sequence[Fault]) -> Plan:
    """The same run with fewer faults."""
    return replace(plan, schedule=tuple(kept))
