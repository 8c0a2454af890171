"""Clients of a chaos run: transactions over PostgreSQL's wire, through both endpoints, each written down.

As in the simulator's workload, a checker can tell from the answers alone what must have happened: values
appended to lists are unique and money is only moved. Clients do what docs/testing.md tells applications to
do: connect again, repeat what certainly did not happen, and leave alone what may have.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from cluster.chaos.recorder import Recorder
from cluster.chaos.wire import Failed, Wire
from cluster.sim.history import Append, BankRead, Endpoint, Op, Outcome, ReadList, Transaction

LISTS, ACCOUNTS = "chaos_lists", "chaos_accounts"
ACCOUNT_COUNT = 6
BALANCE = 100
TOTAL = ACCOUNT_COUNT * BALANCE

SETUP = (
    f"DROP TABLE IF EXISTS {LISTS}",
    f"DROP TABLE IF EXISTS {ACCOUNTS}",
    f"CREATE TABLE {LISTS} (k TEXT PRIMARY KEY, v TEXT NOT NULL)",
    f"CREATE TABLE {ACCOUNTS} (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)",
    f"INSERT INTO {ACCOUNTS} VALUES "
    + ", ".join(f"({n}, {BALANCE})" for n in range(1, ACCOUNT_COUNT + 1)),
)
CLEAN_UP = SETUP[:2]

REPEAT = frozenset({"40001", "40P01", "55P03", "57P01", "57P03"})
"""The server says that it is not done: the transaction may simply run again."""

TRIES = 4
"""Of one piece of work, the first included."""

THINK_S = 0.1
"""Mean time between two pieces of work of one client."""

PAUSE_S = (0.05, 1.0)
"""After a failure, growing from the first to the second."""

STRONG = 0.5
"""Of sessions, so many read strongly: each of their reads must be of the newest state."""

WEIGHTS: Mapping[str, float] = {"append": 8, "lists": 5, "transfer": 4, "bank": 3}
READ_ONLY = frozenset({"lists", "bank"})
READER = 0.5
"""Of transactions that only read, so many come by the reader endpoint."""


@dataclass(frozen=True, slots=True)
class Doors:
    """URLs of the two endpoints, and instances' names by number."""

    writer: str
    reader: str
    instances: Mapping[int, str]

    def url(self, endpoint: Endpoint) -> str:
        return self.reader if endpoint is Endpoint.READER else self.writer


class Client:
    """Runs one transaction after the other until `stop` is set or the history is full."""

    def __init__(
        self, name: str, doors: Doors, recorder: Recorder, rng: random.Random, stop: asyncio.Event
    ) -> None:
        self.name = name
        self._doors = doors
        self._recorder = recorder
        self._rng = rng
        self._stop = stop
        self._wires: dict[Endpoint, Wire] = {}
        self._made = 0
        self._seq = 0
        self._pause = PAUSE_S[0]

    async def run(self) -> None:
        kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
        try:
            while not self._stop.is_set() and not self._recorder.full:
                await self._rest(self._rng.expovariate(1 / THINK_S))
                (what,) = self._rng.choices(kinds, weights)
                reads = what in READ_ONLY and self._rng.random() < READER
                await self._work(what, Endpoint.READER if reads else Endpoint.WRITER)
        finally:
            for endpoint in list(self._wires):
                await self._drop(endpoint)

    async def _rest(self, seconds: float) -> None:
        """That long, or until the run is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    async def _work(self, what: str, endpoint: Endpoint) -> None:
        """Until it is done, or may have been done, or has failed TRIES times."""
        for _ in range(TRIES):
            if self._recorder.full:
                return
            error = await self._transact(what, endpoint)
            if not error:
                self._pause = PAUSE_S[0]
                return
            if error not in REPEAT or self._stop.is_set():
                return
            await self._rest(self._pause * (0.5 + self._rng.random()))
            self._pause = min(PAUSE_S[1], 2 * self._pause)

    # -- connections

    async def _wire(self, endpoint: Endpoint) -> Wire:
        """Raises Failed."""
        wire = self._wires.get(endpoint)
        if wire is None:
            self._made += 1
            wire = await Wire.open(
                self._doors.url(endpoint),
                f"{self.name}-{self._made}",
                strong=self._rng.random() < STRONG,
            )
            self._wires[endpoint] = wire
        return wire

    async def _drop(self, endpoint: Endpoint) -> None:
        wire = self._wires.pop(endpoint, None)
        if wire is not None:
            await wire.close()

    # -- one transaction

    async def _transact(self, what: str, endpoint: Endpoint) -> str:
        """ "" if it is over; else the SQLSTATE it failed with, or what stands for one."""
        try:
            wire = await self._wire(endpoint)
        except Failed as failed:
            self._recorder.refused += 1
            await self._rest(self._pause * (0.5 + self._rng.random()))
            self._pause = min(PAUSE_S[1], 2 * self._pause)
            return failed.sqlstate or "lost"
        self._seq += 1
        began = self._recorder.clock()
        script = Script(wire, self._rng, self._recorder)
        outcome, error = Outcome.COMMITTED, ""
        try:
            await SCRIPTS[what](script)
        except Failed as failed:
            outcome, error = outcome_of(failed, deciding=script.deciding), failed.sqlstate or "lost"
        completed = self._recorder.clock()
        wrote = outcome is Outcome.COMMITTED and what not in READ_ONLY
        commit_lsn = None
        if error:
            await self._leave(wire, endpoint, error, open_=script.open)
        elif wrote:
            commit_lsn = await self._commit_lsn(wire, endpoint)
        self._recorder.record(
            Transaction(
                client=self.name,
                seq=self._seq,
                session=wire.name,
                instance=self._doors.instances.get(
                    wire.instance_number, f"instance {wire.instance_number}"
                ),
                endpoint=promised(endpoint, strong=wire.strong and what in READ_ONLY, wrote=wrote),
                invoked_at=began,
                completed_at=completed,
                outcome=outcome,
                ops=tuple(script.ops),
                commit_lsn=commit_lsn,
                read_lsn=script.read_lsn,
                writes=what not in READ_ONLY,
            ),
            wrote=wrote,
            error=error,
        )
        return error

    async def _commit_lsn(self, wire: Wire, endpoint: Endpoint) -> int | None:
        """None if the instance cannot say any more; the commit stands all the same."""
        try:
            return await wire.show("sextet.last_commit")
        except Failed:
            await self._drop(endpoint)
            return None

    async def _leave(self, wire: Wire, endpoint: Endpoint, error: str, *, open_: bool) -> None:
        """After a failure: nothing of the transaction is left open, and a bad connection is given up."""
        if error in ("25006", "57P01", "57P03") or error.startswith("08") or error == "lost":
            await self._drop(endpoint)
            return
        if open_:
            try:
                await wire.run("ROLLBACK")
            except Failed:
                await self._drop(endpoint)


def outcome_of(failed: Failed, *, deciding: bool) -> Outcome:
    """What is known of a transaction that failed; `deciding`: the statement that failed would commit it.

    A server that answers with an SQLSTATE says what is true of the commit, 08007 that nobody knows.
    """
    uncertain = failed.unknown or (deciding and (not failed.sqlstate or failed.sqlstate == "08006"))
    return Outcome.UNKNOWN if uncertain else Outcome.ABORTED


def promised(endpoint: Endpoint, *, strong: bool, wrote: bool) -> Endpoint:
    """How new the reads of a transaction must be.

    A writer that was superseded and cut off cannot know it: what it reads without being strong is one
    state and maybe not the newest. What it writes is refused, so a commit proves that it was the writer.
    `strong`: only of a transaction that does not write, for one that does takes the snapshot at hand.
    """
    if endpoint is Endpoint.WRITER and wrote:
        return Endpoint.WRITER
    if strong:
        return Endpoint.STRONG
    return Endpoint.READER if endpoint is Endpoint.READER else Endpoint.SUPERSEDED


class Script:
    """One transaction's statements, and what is known of it if one of them fails."""

    def __init__(self, wire: Wire, rng: random.Random, recorder: Recorder) -> None:
        self.rng = rng
        self.ops: list[Op] = []
        self.open = False
        self.deciding = False
        """The statement under way may commit: losing its answer leaves the outcome open."""
        self.read_lsn: int | None = None
        self._wire = wire
        self._recorder = recorder

    async def begin(self, mode: str) -> None:
        await self._wire.run(f"BEGIN {mode}".strip())
        self.open = True

    async def commit(self, *, reads: bool = False) -> None:
        if reads:
            self.read_lsn = await self._wire.show("sextet.last_read")
        self.deciding = not reads
        await self._wire.run("COMMIT")
        self.open = self.deciding = False

    async def begin_to_write(self) -> None:
        await self.begin(self.rng.choice(("", "IMMEDIATE")))

    async def append(self) -> None:
        """Alone it is a transaction of its own."""
        key, value = self._recorder.key(self.rng), self._recorder.value()
        self.ops.append(Append(key, value))
        self.deciding = not self.open
        await self._wire.run(
            f"INSERT INTO {LISTS} VALUES (%s, %s)"
            " ON CONFLICT (k) DO UPDATE SET v = v || ',' || excluded.v",
            (key, str(value)),
        )
        self.deciding = False

    async def read_list(self) -> None:
        key = self._recorder.key(self.rng)
        rows = await self._wire.run(f"SELECT v FROM {LISTS} WHERE k = %s", (key,))
        self.ops.append(ReadList(key, parse_list(rows[0][0]) if rows else ()))

    async def move(self, source: int, target: int, amount: int) -> None:
        for account, change in ((source, -amount), (target, amount)):
            await self._wire.run(
                f"UPDATE {ACCOUNTS} SET balance = balance + %s WHERE id = %s", (change, account)
            )

    async def count_money(self) -> None:
        rows = await self._wire.run(f"SELECT id, balance FROM {ACCOUNTS}")
        self.ops.append(BankRead({str(row[0]): int(row[1]) for row in rows}))


def parse_list(text: object) -> tuple[int, ...]:
    return tuple(int(value) for value in str(text).split(","))


async def _append(t: Script) -> None:
    count = t.rng.choice((1, 1, 2, 3, 4))
    if count == 1:
        await t.append()
        return
    await t.begin_to_write()
    await t.append()
    for _ in range(count - 1):
        await (t.append() if t.rng.random() < 0.6 else t.read_list())
    await t.commit()


async def _lists(t: Script) -> None:
    await t.begin("READ ONLY")
    for _ in range(t.rng.randint(1, 4)):
        await t.read_list()
    await t.commit(reads=True)


async def _transfer(t: Script) -> None:
    source, target = t.rng.sample(range(1, ACCOUNT_COUNT + 1), 2)
    await t.begin_to_write()
    await t.move(source, target, t.rng.randint(1, 10))
    await t.commit()


async def _bank(t: Script) -> None:
    await t.begin("READ ONLY")
    await t.count_money()
    await t.commit(reads=True)


SCRIPTS: Mapping[str, Callable[[Script], Awaitable[None]]] = {
    "append": _append,
    "lists": _lists,
    "transfer": _transfer,
    "bank": _bank,
}
