"""Two pools at work, psycopg's and asyncpg's, and everything that they were told.

Four workers each, one small insert after the other. A worker never ends by an error, whichever: it counts
it and goes on. Acks are kept by worker, because one connection that hangs is not seen in a pool of which
three others work.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

WORKERS = 4
PAUSE_S = 0.005
"""Between two transactions of one worker, and after an error."""

WAIT_S = 60.0
PSYCOPG, ASYNCPG = "psycopg pool", "asyncpg pool"
POOLS = (PSYCOPG, ASYNCPG)

EXPECTED = (
    *(psycopg.Error, PoolTimeout),
    *(asyncpg.PostgresError, asyncpg.InterfaceError, OSError),
)
"""What a client of a database that fails over has to reckon with; anything else is a bug somewhere."""

LOST = "connection lost"

NOTHING_DONE = frozenset({"25006", "40001", "53100", "55P03", "57014", "57P01", "57P03"})
"""SQLSTATEs that say that the insert has not happened (docs/testing.md; 57014 is a statement that was
cancelled and rolled back); of other errors nobody knows."""


def sqlstate(error: Exception) -> str:
    """Of a server that spoke; asyncpg's 08003 is its own and says that the connection ended."""
    state = getattr(error, "sqlstate", None)
    return LOST if state in (None, "08003") else str(state)


@dataclass
class Worker:
    """One user of a pool. `at` are the moments of its acks."""

    pool: str
    number: int
    at: list[float] = field(default_factory=list)
    acked: set[int] = field(default_factory=set)
    failed: dict[int, str] = field(default_factory=dict)
    """Keys of inserts that raised, and the SQLSTATE."""

    unexpected: Counter[str] = field(default_factory=Counter)
    alive: bool = False

    @contextmanager
    def working(self) -> Iterator[None]:
        self.alive = True
        try:
            yield
        finally:
            self.alive = False

    @contextmanager
    def insert(self, key: int) -> Iterator[None]:
        """The block inserts `key` and calls `done`; what it raises is counted."""
        try:
            yield
        except EXPECTED as error:
            self._fails(key, sqlstate(error))
        except Exception as error:
            self.unexpected[f"{type(error).__name__}: {error}"] += 1
            self._fails(key, type(error).__name__)

    def _fails(self, key: int, state: str) -> None:
        if key not in self.acked:  # else it was the handing back of the connection that failed
            self.failed[key] = state

    def done(self, key: int) -> None:
        self.acked.add(key)
        self.at.append(time.perf_counter())

    def since(self, moment: float) -> list[float]:
        """Its acks after `moment`; the newest are looked at first, for there are many."""
        return list(itertools.takewhile(lambda at: at > moment, reversed(list(self.at))))[::-1]


class Acks:
    """What all workers were told."""

    def __init__(self) -> None:
        self.workers = [Worker(pool, n) for pool in POOLS for n in range(WORKERS)]
        self.stop = threading.Event()
        self.dead: list[str] = []
        """Workers that had ended before they were told to, or could not be ended."""
        self._next = itertools.count(1)

    def key(self) -> int:
        return next(self._next)

    def of(self, pool: str) -> list[Worker]:
        return [worker for worker in self.workers if worker.pool == pool]

    def keys(self) -> set[int]:
        """Acknowledged."""
        return set().union(*(list(worker.acked) for worker in self.workers))

    def failed(self) -> dict[int, str]:
        return {k: s for worker in self.workers for k, s in list(worker.failed.items())}

    def count(self) -> int:
        return sum(len(worker.at) for worker in self.workers)

    def states(self) -> Counter[str]:
        """How many inserts failed with which SQLSTATE."""
        return Counter(self.failed().values())

    def unexpected(self) -> Counter[str]:
        return sum((worker.unexpected for worker in self.workers), Counter[str]())

    def last(self) -> float:
        """The moment of the newest ack of all; 0 if there is none."""
        return max((worker.at[-1] for worker in self.workers if worker.at), default=0.0)

    def pools_since(self, moment: float) -> bool:
        """Has each pool committed since?"""
        return all(any(w.at and w.at[-1] > moment for w in self.of(pool)) for pool in POOLS)

    def silent_since(self, moment: float) -> list[Worker]:
        return [w for w in self.workers if not w.at or w.at[-1] <= moment]

    def gap(self, pool: str, since: float) -> float:
        """The longest time in which the whole pool had no ack, from `since` to now, seconds."""
        return longest_gap((at for w in self.of(pool) for at in w.since(since)), since)

    def worker_gaps(self, pool: str, since: float) -> list[float]:
        """The same of each worker of the pool: what each client saw."""
        return [longest_gap(worker.since(since), since) for worker in self.of(pool)]


def longest_gap(moments: Iterator[float] | list[float], since: float) -> float:
    """Between `since`, moments after it and now, seconds."""
    every = [since, *sorted(moments), time.perf_counter()]
    return max(b - a for a, b in itertools.pairwise(every))


def psycopg_worker(pool: ConnectionPool[Any], acks: Acks, worker: Worker) -> None:
    with worker.working():
        while not acks.stop.is_set():
            key = acks.key()
            with worker.insert(key), pool.connection() as connection:
                connection.execute("INSERT INTO beat VALUES (%s)", (key,))
                worker.done(key)
            time.sleep(PAUSE_S)


async def asyncpg_workers(url: str, acks: Acks) -> None:
    pool = await asyncpg.create_pool(url, min_size=WORKERS, max_size=WORKERS, timeout=WAIT_S)

    async def work(worker: Worker) -> None:
        with worker.working():
            while not acks.stop.is_set():
                key = acks.key()
                with worker.insert(key):
                    async with pool.acquire() as connection:
                        await connection.execute("INSERT INTO beat VALUES ($1)", key)
                        worker.done(key)
                await asyncio.sleep(PAUSE_S)

    await asyncio.gather(*(work(worker) for worker in acks.of(ASYNCPG)))
    pool.terminate()


@contextmanager
def load(url: str) -> Iterator[Acks]:
    """Both pools at work for the length of the block, inserting into the table `beat`."""
    for pools in ("psycopg.pool", "asyncpg.pool"):
        logging.getLogger(pools).setLevel(logging.CRITICAL)  # lost connections are counted here
    acks = Acks()
    arguments = {"autocommit": True, "connect_timeout": int(WAIT_S)}
    with ConnectionPool(
        url, min_size=WORKERS, max_size=WORKERS, kwargs=arguments, timeout=WAIT_S
    ) as pool:
        threads = [
            threading.Thread(target=psycopg_worker, args=(pool, acks, worker), daemon=True)
            for worker in acks.of(PSYCOPG)
        ]
        threads.append(
            threading.Thread(target=lambda: asyncio.run(asyncpg_workers(url, acks)), daemon=True)
        )
        for thread in threads:
            thread.start()
        try:
            yield acks
        finally:
            _end(acks, threads)


def _end(acks: Acks, threads: list[threading.Thread]) -> None:
    dead = {f"{w.pool} {w.number}" for w in acks.workers if not w.alive}
    acks.stop.set()
    deadline = time.perf_counter() + WAIT_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.perf_counter()))
    stuck = {f"{w.pool} {w.number}" for w in acks.workers if w.alive}
    acks.dead = sorted(dead | stuck)


def verdict(acks: Acks, found: set[int]) -> dict[str, Any]:
    """What clients were told against the rows that are there; `wrong` must be empty."""
    acked, failed = acks.keys(), acks.failed()
    refused = {key for key, state in failed.items() if state in NOTHING_DONE}
    result = {
        "acknowledged": len(acked),
        "lost": len(acked - found),
        "failed": dict(acks.states()),
        "there_though_refused": len(found & refused),
        "there_though_never_tried": len(found - acked - failed.keys()),
        "there_of_unknown_outcome": len((found & failed.keys()) - refused),
        "dead_workers": acks.dead,
        "unexpected_errors": dict(acks.unexpected()),
    }
    wrong = ("lost", "there_though_refused", "there_though_never_tried", "dead_workers")
    return {**result, "wrong": [f"{name}: {result[name]}" for name in wrong if result[name]]}
