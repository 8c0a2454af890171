"""What simulated clients do: transactions over SQL through both endpoints, recorded as they saw them.

Everything is written so that a checker can tell from the answers alone what must have happened: values
appended to lists are unique, money is only moved, registers get values that were never used before.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from cluster.endpoint.balance import Kind
from cluster.sim.history import (
    Append,
    BankRead,
    Endpoint,
    History,
    Op,
    Outcome,
    Read,
    ReadList,
    Transaction,
    Write,
)
from cluster.sim.sqlwire import Failed, SqlClient
from cluster.sim.transport import SimTransport
from cluster.sim.world import World
from engine.steps import Mark

ACCOUNTS = 6
BALANCE = 100
KEYS = 8

SETUP = (
    "CREATE TABLE IF NOT EXISTS lists (k TEXT PRIMARY KEY, v TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS registers (k TEXT PRIMARY KEY, v INTEGER)",
    "CREATE TABLE IF NOT EXISTS accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS big (id INTEGER PRIMARY KEY, filler TEXT)",
    "INSERT OR IGNORE INTO accounts VALUES "
    + ", ".join(f"({n}, {BALANCE})" for n in range(1, ACCOUNTS + 1)),
)

READ_ONLY = {"lists", "bank"}
"""One snapshot, which any instance has: these may go through the reader endpoint."""

RETRIED = {"40001", "57P01", "57P03", "08006", "25006", ""}
"""What was aborted with one of these may be made again: somebody else was faster, or there is no writer
here any more. "" is a lost connection."""

TRIES_MAX = 4
AGAIN = "append-again"
"""What a client does that does not know what came of its append: look, and append unless it is there."""

WRITES_NOTHING = {*READ_ONLY, "register-read"}
NEVER_COMMITS = {"rollback"}


@dataclass(frozen=True, slots=True)
class Mix:
    """How many clients there are, how long they think, and how often they do what (weights)."""

    clients: int = 4
    readers: int = 0
    """So many of them only read, and only through the reader endpoint."""
    think_s: float = 0.08
    reader_share: float = 0.3
    """Of transactions that only read, how many go through the reader endpoint."""
    strong_share: float = 0.0
    """Of sessions at the reader endpoint, in how many every read must be of the newest state."""
    retry_share: float = 0.5
    """Of clients, how many try again what failed."""
    weights: Mapping[str, float] = field(
        default_factory=lambda: {
            "append": 8,
            "lists": 4,
            "register-write": 3,
            "register-read": 3,
            "transfer": 3,
            "bank": 2,
            "rollback": 1,
            "savepoint": 1,
            "ddl": 0.3,
            "big": 0.2,
            "wide": 1,
        }
    )
    big_rows: int = 60

    def commits_writes(self) -> bool:
        """Whether any client ever commits something that it wrote."""
        return bool(self._kinds() - WRITES_NOTHING - NEVER_COMMITS)

    def endpoints(self) -> list[Endpoint]:
        """Those at which some client ever has a transaction that may be committed."""
        kinds = self._kinds() - NEVER_COMMITS
        spread = bool(kinds & READ_ONLY)
        asked = {
            Endpoint.WRITER: bool(kinds - READ_ONLY) or (spread and self.reader_share < 1),
            Endpoint.READER: self.readers > 0 or (spread and self.reader_share > 0),
        }
        return [endpoint for endpoint, ever in asked.items() if ever]

    def _kinds(self) -> set[str]:
        """What clients do that are no readers."""
        if self.readers >= self.clients:
            return set()
        return {kind for kind, weight in self.weights.items() if weight > 0}


class Workload:
    """All clients of a run. `stop` is set when they should come to an end."""

    def __init__(self, world: World, mix: Mix) -> None:
        self.world = world
        self.mix = mix
        self.history = History()
        self.stop = asyncio.Event()
        self.committed: dict[str, list[float]] = {}
        """When each client's writing transactions were acknowledged."""
        self._values = 0
        self._clients: list[Client] = []

    def next_value(self) -> int:
        self._values += 1
        return self._values

    async def set_up(self, deadline_s: float) -> None:
        """Make the tables; the cluster may still be starting."""
        client = Client(self, "setup")
        async with asyncio.timeout(deadline_s):
            for sql in SETUP:
                await client.insist(sql)
        await client.disconnect()

    def start(self) -> list[asyncio.Task[None]]:
        tasks = []
        for number in range(1, self.mix.clients + 1):
            only_reads = number > self.mix.clients - self.mix.readers
            client = Client(self, f"c{number}", only_reads=only_reads)
            self._clients.append(client)
            assert client.transport.life is not None
            tasks.append(client.transport.life.spawn(client.run(), name=client.name))
        return tasks

    def record(self, transaction: Transaction, *, wrote: bool) -> None:
        self.history.append(transaction)
        if transaction.outcome is Outcome.COMMITTED and wrote:
            self.committed.setdefault(transaction.client, []).append(transaction.completed_at)
        self.world.trace.emit(
            "complete",
            transaction.client,
            transaction=transaction.name,
            outcome=transaction.outcome.value,
            commit_lsn=transaction.commit_lsn or 0,
        )


@dataclass(frozen=True, slots=True)
class _Ended:
    outcome: Outcome
    again: bool
    """It may be of use to try again."""


class Client:
    """One client: connects, runs one transaction after the other, connects again when it must."""

    def __init__(self, workload: Workload, name: str, *, only_reads: bool = False) -> None:
        self.name = name
        self.only_reads = only_reads
        self.workload = workload
        self.world = workload.world
        self.transport: SimTransport = self.world.client_host(name)
        self._rng: random.Random = self.world.rng(f"client {name}")
        self._strong_rng: random.Random = self.world.rng(f"client {name} strong")
        self._retries = self.world.rng(f"client {name} retries").random() < workload.mix.retry_share
        self._connections: dict[Kind, SqlClient | None] = dict.fromkeys(Kind)
        self._sessions: dict[Kind, str] = {}
        self._made = 0
        self._seq = 0
        self._ops: list[Op] = []

    async def run(self) -> None:
        mix = self.workload.mix
        kinds = sorted(mix.weights)
        if self.only_reads:
            kinds = sorted(READ_ONLY)
        weights = [mix.weights.get(kind, 1.0) for kind in kinds]
        while not self.workload.stop.is_set():
            await asyncio.sleep(self._rng.expovariate(1 / mix.think_s))
            (what,) = self._rng.choices(kinds, weights)
            share = 1.0 if self.only_reads else mix.reader_share
            reads = what in READ_ONLY and self._rng.random() < share
            await self._do(what, Kind.READER if reads else Kind.WRITER)
        await self.disconnect()

    async def _do(self, what: str, kind: Kind) -> None:
        """One piece of work, and again what failed, a few times, if this is a client that does so.

        Each try is a transaction of its own that makes the same choices, but no value is used twice, as
        checkers tell by it whose it is. An append of unknown outcome is looked for before it is made
        again, as an application with idempotency keys would.
        """
        choices = self._rng.getrandbits(64)
        unknown: list[Sequence[Append]] = []
        for number in range(TRIES_MAX):
            if number:
                if self.workload.stop.is_set():
                    return
                await asyncio.sleep(self._rng.expovariate(1 / self.workload.mix.think_s))
            script = partial(_append_again, before=unknown) if unknown else SCRIPTS[what]
            name = AGAIN if unknown else what
            ended = await self.transact(name, kind, script, random.Random(choices))
            if not self._retries or (ended is not None and not ended.again):
                return
            if ended is not None and ended.outcome is Outcome.UNKNOWN:
                if what != "append":
                    return
                appended = tuple(op for op in self._ops if isinstance(op, Append))
                if appended:
                    unknown.append(appended)

    # -- connections

    async def _connected(self, kind: Kind) -> SqlClient | None:
        connection = self._connections[kind]
        if connection is None:
            connection = self._connections[kind] = self.world.endpoint.connect(kind, self.transport)
            if connection is None:
                await asyncio.sleep(0.05)
                return None
            self._made += 1
            self._sessions[kind] = f"{self.name}-{self._made}"
            strong = self._strong_rng.random() < self.workload.mix.strong_share
            if kind is Kind.READER and strong and not await self._become_strong(connection):
                return None
        return connection

    async def _become_strong(self, connection: SqlClient) -> bool:
        try:
            await connection.run("SET sextet.read_consistency = 'strong'")
        except Failed:
            await self._drop(Kind.READER)
            return False
        connection.strong = True
        return True

    async def _drop(self, kind: Kind) -> None:
        connection, self._connections[kind] = self._connections[kind], None
        if connection is not None:
            self.world.endpoint.disconnected(connection)
            await connection.close()

    async def disconnect(self) -> None:
        for kind in Kind:
            await self._drop(kind)

    async def insist(self, sql: str) -> None:
        """Run it, again and again if need be; the caller bounds the time."""
        while True:
            connection = await self._connected(Kind.WRITER)
            if connection is not None:
                try:
                    await connection.run(sql)
                    return
                except Failed:
                    await self._drop(Kind.WRITER)
                    await asyncio.sleep(0.1)

    # -- one transaction

    async def transact(
        self, what: str, kind: Kind, work: Callable[[_Script], Awaitable[None]], rng: random.Random
    ) -> _Ended | None:
        """How it ended; None if nobody took it."""
        connection = await self._connected(kind)
        if connection is None:
            return None
        self._seq += 1
        self._ops = []
        began = self.world.loop.time()
        before = connection.commit_lsn
        name = f"{self.name}/{self._seq}"
        self.world.trace.emit(
            "invoke", self.name, transaction=name, what=what, on=connection.instance
        )
        script = _Script(connection, rng, self._ops, self.workload)
        outcome = Outcome.COMMITTED
        again = False
        try:
            await work(script)
            if script.rolled_back:
                outcome = Outcome.ABORTED
        except Failed as failed:
            uncertain = failed.unknown or (failed.lost and script.deciding)
            outcome = Outcome.UNKNOWN if uncertain else Outcome.ABORTED
            again = uncertain or failed.sqlstate in RETRIED
            if failed.lost or (script.open and not await self._rolled_back(connection)):
                await self._drop(kind)
            if kind is Kind.WRITER and failed.sqlstate in ("25006", "57P01", "57P03"):
                await self._drop(kind)
        committed = outcome is Outcome.COMMITTED and connection.commit_lsn != before
        endpoint = Endpoint(kind.value)
        if 0 < connection.epoch < self.world.epoch_open and not committed:
            endpoint = Endpoint.SUPERSEDED
        if connection.strong:
            endpoint = Endpoint.STRONG
        if outcome is Outcome.UNKNOWN:
            self.world.mark(Mark.OUTCOME_UNKNOWN, self.name)
        self.workload.record(
            Transaction(
                client=self.name,
                seq=self._seq,
                session=self._sessions[kind],
                instance=connection.instance,
                endpoint=endpoint,
                invoked_at=began,
                completed_at=self.world.loop.time(),
                outcome=outcome,
                ops=tuple(self._ops),
                commit_lsn=connection.commit_lsn if committed else None,
                read_lsn=script.read_lsn if script.only_reads and script.read_lsn else None,
                writes=what not in WRITES_NOTHING,
            ),
            wrote=committed,
        )
        return _Ended(outcome, again)

    async def _rolled_back(self, connection: SqlClient) -> bool:
        try:
            await connection.run("ROLLBACK")
        except Failed:
            return False
        return True


class _Script:
    """One transaction's statements, and what is known of it if one of them fails."""

    def __init__(
        self, connection: SqlClient, rng: random.Random, ops: list[Op], workload: Workload
    ) -> None:
        self.rng = rng
        self.ops = ops
        self.workload = workload
        self.open = False
        self.deciding = False
        """The statement under way may commit: losing its answer leaves the outcome open."""
        self.rolled_back = False
        self.only_reads = False
        self.read_lsn = 0
        self._connection = connection

    async def run(self, sql: str, *params: object, writes: bool = True) -> list[list[object]]:
        self.deciding = not self.open and writes
        rows = await self._connection.run(sql, params)
        self.deciding = False
        return rows

    async def begin(self, *, reads: bool = False) -> None:
        self.only_reads = reads
        how = "" if reads or self.rng.random() < 0.5 else " IMMEDIATE"
        await self._connection.run(f"BEGIN{how}" if not reads else "BEGIN READ ONLY")
        self.open = True

    async def commit(self) -> None:
        self.read_lsn = self._connection.read_lsn
        self.deciding = not self.only_reads
        await self._connection.run("COMMIT")
        self.open = self.deciding = False

    async def roll_back(self) -> None:
        await self._connection.run("ROLLBACK")
        self.open = False
        self.rolled_back = True

    # -- operations

    def key(self, prefix: str) -> str:
        return f"{prefix}{self.rng.randrange(KEYS)}"

    async def append(self, *, kept: bool = True, key: str = "") -> None:
        key, value = key or self.key("l"), self.workload.next_value()
        if kept:
            self.ops.append(Append(key, value))
        await self.run(
            "INSERT INTO lists VALUES ($1, $2)"
            " ON CONFLICT (k) DO UPDATE SET v = v || ',' || excluded.v",
            key,
            str(value),
        )

    async def read_list(self, key: str = "") -> tuple[int, ...]:
        key = key or self.key("l")
        rows = await self.run("SELECT v FROM lists WHERE k = $1", key, writes=False)
        values = tuple(int(v) for v in str(rows[0][0]).split(",")) if rows else ()
        self.ops.append(ReadList(key, values))
        return values


async def _append(t: _Script) -> None:
    count = t.rng.choice((1, 1, 2, 3, 4))
    if count == 1:
        await t.append()
        return
    await t.begin()
    for _ in range(count):
        await (t.append() if t.rng.random() < 0.6 else t.read_list())
    await t.commit()


async def _append_again(t: _Script, *, before: Sequence[Sequence[Append]]) -> None:
    """Append as one of the tries before, each of unknown outcome, unless one of those is there."""
    await t.begin()
    for tried in before:
        if tried[0].value in await t.read_list(tried[0].key):
            break
    else:
        for one in before[0]:
            await t.append(key=one.key)
    await t.commit()


async def _lists(t: _Script) -> None:
    await t.begin(reads=True)
    for _ in range(t.rng.randint(1, 4)):
        await t.read_list()
    await t.commit()


async def _register_write(t: _Script) -> None:
    key, value = t.key("r"), t.workload.next_value()
    t.ops.append(Write(key, value))
    await t.run(
        "INSERT INTO registers VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = excluded.v",
        key,
        value,
    )


async def _register_read(t: _Script) -> None:
    key = t.key("r")
    rows = await t.run("SELECT v FROM registers WHERE k = $1", key, writes=False)
    t.ops.append(Read(key, int(str(rows[0][0])) if rows else None))


async def _transfer(t: _Script) -> None:
    source, target = t.rng.sample(range(1, ACCOUNTS + 1), 2)
    amount = t.rng.randint(1, 10)
    await t.begin()
    await t.run("UPDATE accounts SET balance = balance - $1 WHERE id = $2", amount, source)
    await t.run("UPDATE accounts SET balance = balance + $1 WHERE id = $2", amount, target)
    await t.commit()


async def _bank(t: _Script) -> None:
    await t.begin(reads=True)
    rows = await t.run("SELECT id, balance FROM accounts ORDER BY id", writes=False)
    t.ops.append(BankRead({str(row[0]): int(str(row[1])) for row in rows}))
    await t.commit()


async def _rollback(t: _Script) -> None:
    await t.begin()
    await t.append()
    await t.read_list()
    await t.roll_back()


async def _savepoint(t: _Script) -> None:
    await t.begin()
    await t.append()
    await t.run("SAVEPOINT s")
    await t.append(kept=False)
    await t.run("ROLLBACK TO s")
    await t.append()
    await t.commit()


async def _ddl(t: _Script) -> None:
    number = t.rng.randrange(4)
    await t.begin()
    if t.rng.random() < 0.5:
        await t.run(f"CREATE TABLE IF NOT EXISTS side{number} (a INTEGER PRIMARY KEY, b TEXT)")
        await t.run(f"CREATE INDEX IF NOT EXISTS side{number}_b ON side{number} (b)")
        await t.run(f"INSERT INTO side{number} (b) VALUES ($1)", "x" * t.rng.randint(1, 200))
    else:
        await t.run(f"DROP TABLE IF EXISTS side{number}")
    await t.append()
    await t.commit()


async def _big(t: _Script) -> None:
    rows = t.rng.randint(1, t.workload.mix.big_rows)
    width = t.rng.randint(100, 3000)
    await t.begin()
    if t.rng.random() < 0.3:
        await t.run("DELETE FROM big WHERE id % 3 = $1", t.rng.randrange(3))
    # Redo of padded numbers is deflated; random digits come through as large as they are.
    text = f"printf('%0{width}d', i)" if t.rng.random() < 0.2 else f"hex(randomblob({width // 2}))"
    await t.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)"
        f" INSERT INTO big (filler) SELECT {text} FROM n",
        rows,
    )
    await t.append()
    await t.commit()


async def _wide(t: _Script) -> None:
    """One statement, one row of up to four pages: it commits in the same loop turn as others' do."""
    await t.run(
        "INSERT OR REPLACE INTO big VALUES ($1, $2)",
        10_000 + t.rng.randrange(40),
        t.rng.randbytes(t.rng.randint(50, 6_000)).hex(),
    )


SCRIPTS: Mapping[str, Callable[[_Script], Awaitable[None]]] = {
    "append": _append,
    "lists": _lists,
    "register-write": _register_write,
    "register-read": _register_read,
    "transfer": _transfer,
    "bank": _bank,
    "rollback": _rollback,
    "savepoint": _savepoint,
    "ddl": _ddl,
    "big": _big,
    "wide": _wide,
}
