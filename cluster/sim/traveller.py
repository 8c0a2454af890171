"""A client that reads the past (`SET sextet.read_as_of`) while everything goes on, in some seeds' runs.

It names a moment, an LSN or a time, and writes down which commit it was given and what it saw there. That
the commit is the right one is judged here, by the committed log; the database as of it, by the oracle.

All of it is drawn from generators of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.endpoint.balance import Kind
from cluster.sim.checkers import Findings, Violation
from cluster.sim.checkers.oracle import Observation
from cluster.sim.observer import Observer
from cluster.sim.sqlwire import Failed, SqlClient
from cluster.sim.world import World
from engine.moments import Moment
from engine.steps import Mark
from engine.types import LSN, CommitMark

SHARE = 0.25
"""Of all seeds."""

THINK_S = 0.5


def hot_window_s(seed: int) -> float:
    """A run's hot window: none, or one so short that it moves on within the run."""
    rng = random.Random(f"{seed}/hot window")
    return rng.choice((1.0, 3.0, 8.0)) if rng.random() < SHARE else 0.0


@dataclass(frozen=True, slots=True)
class Visit:
    """One read. `durable` is an LSN that was known to be durable before it was asked for."""

    moment: Moment
    durable: LSN
    seen: Observation


class Traveller:
    """`run` until `stop` is set."""

    def __init__(self, world: World, observer: Observer, stop: asyncio.Event) -> None:
        self.name = "traveller"
        self.visits: list[Visit] = []
        self._world = world
        self._observer = observer
        self._stop = stop
        self._transport = world.client_host(self.name)
        self._rng = world.rng(self.name)

    def start(self) -> asyncio.Task[None]:
        assert self._transport.life is not None
        return self._transport.life.spawn(self._run(), name=self.name)

    async def _run(self) -> None:
        while not self._stop.is_set():
            await asyncio.sleep(self._rng.expovariate(1 / THINK_S))
            kind = self._rng.choice((Kind.READER, Kind.WRITER))
            known = self._observer.durable
            client = self._world.endpoint.connect(kind, self._transport) if known else None
            if client is None:
                continue
            try:
                await self._visit(client, self._moment(known))
            except Failed as failed:
                self._tell(0, client, failed.sqlstate or "lost")
            finally:
                self._world.endpoint.disconnected(client)
                await client.close()

    def _moment(self, known: Sequence[CommitMark]) -> Moment:
        """Near a commit of the last few hundred."""
        commit = known[-1 - min(int(self._rng.expovariate(1 / 40)), len(known) - 1)]
        if self._rng.random() < 0.5:
            return Moment(lsn=commit.lsn + self._rng.choice((0, 0, 1, 5)))
        return Moment(time_us=max(1, commit.time_us + self._rng.choice((0, 0, 1, 1000))))

    async def _visit(self, client: SqlClient, moment: Moment) -> None:
        durable = self._observer.durable[-1].lsn
        await client.run(f"SET sextet.read_as_of = '{moment}'")
        await client.run("BEGIN READ ONLY")
        names = await client.run(
            "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
        )
        tables: dict[str, list[tuple[Any, ...]]] = {}
        for (name,) in names:
            rows = await client.run(f'SELECT * FROM "{name}"')
            tables[str(name)] = [tuple(row) for row in rows]
        now = self._world.loop.time()
        seen = Observation(client.read_lsn, tables, client.instance, now, whole=True)
        await client.run("COMMIT")
        self.visits.append(Visit(moment, durable, seen))
        self._tell(seen.read_lsn, client)
        if seen.read_lsn < durable:
            self._world.mark(Mark.PAST_READ, self.name)

    def _tell(self, lsn: LSN, client: SqlClient, error: str = "") -> None:
        self._world.trace.emit("past", self.name, lsn=lsn, on=client.instance, error=error)

    def check(self, commits: Sequence[CommitMark]) -> list[Violation]:
        """Kinds: past-wrong-commit: another commit than the last one at the moment was read."""
        findings = Findings("past")
        for visit in self.visits:
            read = next((c for c in commits if c.lsn == visit.seen.read_lsn), None)
            later = [
                c.lsn
                for c in commits
                if visit.seen.read_lsn < c.lsn <= visit.durable and visit.moment.admits(c)
            ]
            if read is None or not visit.moment.admits(read) or later:
                findings.add(
                    "past-wrong-commit",
                    f"as of {visit.moment} it was LSN {visit.seen.read_lsn}; later ones: {later[:5]}",
                    lsns=(visit.seen.read_lsn,),
                    nodes=(visit.seen.node,),
                    at=visit.seen.at,
                )
        return findings.found
