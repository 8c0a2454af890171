"""One chaos run from beginning to end, on an installation that runs and allows faults.

set up      two tables of its own, made anew
disturb     clients work while the driver goes through the schedule; after each round all is healed and
            well again before the next
end         faults healed, clients stopped, all well, everything read on every instance, six copies compared
judge       the history and the final reads against what was promised

Nothing here waits without a bound, and whatever happens the faults are healed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.chaos.clients import (
    ACCOUNT_COUNT,
    CLEAN_UP,
    SETUP,
    TOTAL,
    Client,
    Doors,
)
from cluster.chaos.driver import Driver, Fired
from cluster.chaos.final import read_everything
from cluster.chaos.judge import CHECKER, FinalRead, judge
from cluster.chaos.recorder import Recorder, longest_gap
from cluster.chaos.schedule import Schedule, Shape
from cluster.chaos.well import missing
from cluster.chaos.wire import Failed, Wire
from cluster.cli.failover import Happened, events
from cluster.cli.status import gather
from cluster.cli.storage import compare_copies
from cluster.faults.kit import FaultKit
from cluster.local.folder import Folder
from cluster.local.layout import MAIN, Layout
from cluster.sim.checkers import Findings, Violation
from engine.errors import ConfigError, SextetError

CLIENTS = 6
SETUP_S = 60.0
WELL_S = 60.0
"""So long a healed cluster may take until all is well."""

READ_S = 60.0
EQUAL_S = 60.0
POLL_S = 0.3
EVENTS_MAX = 10_000

Tell = Callable[[str], None]


@dataclass(slots=True)
class Result:
    """What a run showed. Times are seconds since it began."""

    schedule: Schedule
    recorder: Recorder
    worked_s: float = 0.0
    """So long clients worked."""
    began_s: float = 0.0
    """When they began to."""
    fired: list[Fired] = field(default_factory=list)
    rounds: int = 0
    happened: list[Happened] = field(default_factory=list)
    """The control plane's events of this time, oldest first."""
    finals: list[FinalRead] = field(default_factory=list)
    groups: int = 0
    """Protection groups whose copies were compared."""
    checks: Mapping[str, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)

    @property
    def gap(self) -> tuple[float, float]:
        """The longest time without an acknowledged commit, (from, to)."""
        end = self.began_s + self.worked_s
        return longest_gap(self.recorder.acknowledged, self.began_s, end)

    @property
    def gap_faults(self) -> list[Fired]:
        """What was going on in it."""
        return [fired for fired in self.fired if fired.during(*self.gap)]

    @property
    def failovers(self) -> list[Happened]:
        return [one for one in self.happened if one.what.startswith("failover to ")]


def shape_of(layout: Layout) -> Shape:
    """Whom a schedule for this installation may hit."""
    main = layout.cluster(MAIN)
    return Shape(tuple(node.name for node in layout.storage), tuple(i.name for i in main.instances))


def doors_of(layout: Layout) -> Doors:
    main = layout.cluster(MAIN)
    return Doors(main.writer_url, main.reader_url, {i.number: i.name for i in main.instances})


class Run:
    """Make one and await `go`."""

    def __init__(self, folder: Folder, layout: Layout, schedule: Schedule) -> None:
        self._folder = folder
        self._doors = doors_of(layout)
        self._schedule = schedule
        self._tell: Tell = lambda _text: None
        self._start = time.monotonic()
        self._findings = Findings(CHECKER)
        self.result = Result(schedule, Recorder(self.clock))

    def clock(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._start

    async def go(self, tell: Tell) -> Result:
        """`tell` hears what is going on. Raises ConfigError, NotRunning if the run cannot be made."""
        result, self._tell = self.result, tell
        self._tell("waiting until all is well")
        if ill := await self._well(since=None):
            raise ConfigError(f"the cluster is not well to begin with: {'; '.join(ill[:3])}")
        before = await events(self._folder, EVENTS_MAX)
        await self._run_all(SETUP)
        self._start = time.monotonic()
        await self._disturb()
        await self._end()
        result.happened = new_events(before, await self._events_at_end())
        self._tell("judging")
        verdict = await asyncio.to_thread(
            judge,
            list(result.recorder.history),
            result.finals,
            total=TOTAL,
            accounts=[str(n) for n in range(1, ACCOUNT_COUNT + 1)],
        )
        result.checks = {**verdict.checks, "groups compared": result.groups}
        result.violations = [*self._findings.found, *verdict.violations]
        if not result.violations:
            await self._run_all(CLEAN_UP)
        return result

    # -- clients and faults

    async def _disturb(self) -> None:
        result, stop = self.result, asyncio.Event()
        kit = FaultKit(self._folder)
        driver = Driver(
            kit, self.clock, lambda: self._well(since=self.clock()), self._tell, result.fired
        )
        result.began_s = self.clock()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(1, CLIENTS + 1):
                    name = f"c{number}"
                    rng = random.Random(f"{self._schedule.seed}/{name}")
                    client = Client(name, self._doors, result.recorder, rng, stop)
                    group.create_task(client.run(), name=name)
                try:
                    await driver.run(self._schedule)
                    if not driver.ill:
                        self._tell("calm until the end")
                        await asyncio.sleep(max(0.0, self._schedule.seconds - self.clock()))
                finally:
                    stop.set()
                    result.worked_s = self.clock() - result.began_s
        except ExceptionGroup as group:
            raise plainly(group) from group
        finally:
            await asyncio.to_thread(kit.heal)
        result.rounds = driver.rounds
        for what in driver.ill:
            self._findings.add(
                "not-well", f"after healing and {WELL_S:.0f} s: {what}", at=self.clock()
            )

    # -- the end

    async def _end(self) -> None:
        result = self.result
        self._tell("waiting until all is well")
        if not self._findings.found:
            for what in await self._well(since=None):
                self._findings.add("not-well", f"{WELL_S:.0f} s after the end: {what}")
        self._tell("reading everything on every instance")
        try:
            report = await gather(self._folder, MAIN)
        except SextetError as error:
            self._findings.add("not-read", f"nobody knows who the writer is: {error}")
            return
        roles = {row["name"]: row["role"] for row in report["instances"]}
        writer = next((name for name, role in roles.items() if role == "writer"), "")
        replicas = [name for name in roles if name != writer]
        result.finals, absent = await read_everything(
            self._doors, writer, replicas, self.clock, READ_S
        )
        for what in absent:
            self._findings.add("not-read", what)
        self._tell("comparing six copies of everything")
        await self._compare()

    async def _compare(self) -> None:
        """Rot that nobody has read is found by scrubbing, so equality may take a while."""
        deadline = time.monotonic() + EQUAL_S
        while True:
            try:
                verdicts = await compare_copies(self._folder, MAIN)
                unequal = [verdict for verdict in verdicts if not verdict.equal]
                why = [
                    f"group {v.pg} at {v.lsn}: "
                    + (
                        "; ".join(f"{n}: {e}" for n, e in sorted(v.errors.items()))
                        or "hashes differ"
                    )
                    for v in unequal
                ]
                self.result.groups = len(verdicts)
            except SextetError as error:
                why = [str(error)]
            if not why:
                return
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL_S)
        for what in why:
            self._findings.add("copies-differ", what)

    async def _events_at_end(self) -> list[Happened]:
        try:
            return await events(self._folder, EVENTS_MAX)
        except SextetError as error:
            self._findings.add("not-well", f"the control plane tells no events: {error}")
            return []

    # -- waiting

    async def _well(self, since: float | None) -> list[str]:
        """What keeps the cluster from being well, if it is not within WELL_S.

        With `since` a write must have been acknowledged after that moment (G7).
        """

        async def look() -> list[str]:
            try:
                found = missing(await gather(self._folder, MAIN))
            except SextetError as error:
                return [str(error)]
            acknowledged = self.result.recorder.acknowledged
            if since is not None and (not acknowledged or acknowledged[-1] < since):
                found.append("no write has been acknowledged since the faults ended")
            return found

        return await _until_none(look, WELL_S)

    async def _run_all(self, statements: Sequence[str]) -> None:
        """On the writer. Raises ConfigError if that is not done within SETUP_S."""

        async def once() -> list[str]:
            try:
                wire = await Wire.open(self._doors.writer, "setup")
            except Failed as failed:
                return [failed.message]
            try:
                for sql in statements:
                    await wire.run(sql)
            except Failed as failed:
                return [failed.message]
            finally:
                await wire.close()
            return []

        if why := await _until_none(once, SETUP_S):
            raise ConfigError(f"the tables could not be made or dropped: {why[0]}")


def plainly(group: ExceptionGroup) -> Exception:
    """The first error of a group of only those that a command explains in one line; or else the group.

    Somebody stopped the cluster under us, say: then all tasks fail, and one of them says why.
    """
    known, others = group.split((SextetError, OSError))
    return group if known is None or others is not None else known.exceptions[0]


async def _until_none(look: Callable[[], Awaitable[list[str]]], within_s: float) -> list[str]:
    """What `look` still finds after that time; empty as soon as it finds nothing."""
    deadline = time.monotonic() + within_s
    while True:
        found = await look()
        if not found or time.monotonic() > deadline:
            return found
        await asyncio.sleep(POLL_S)


def new_events(before: Sequence[Happened], after: Sequence[Happened]) -> list[Happened]:
    """Events of `after` that are not in `before`, in the order in which they were written down: clocks
    may have been wrong meanwhile."""
    known = Counter(before)
    fresh = []
    for one in after:
        if known[one]:
            known[one] -= 1
        else:
            fresh.append(one)
    return fresh
