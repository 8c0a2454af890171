"""Random batches in random pieces: each is answered once, and is in the database whole or not at all."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.pgwire.conftest import Connect, Served
from tests.pgwire.raw import (
    FLUSH,
    SYNC,
    bind,
    close,
    describe,
    execute,
    kinds,
    parse,
    query,
    rows,
)

INSERT = "INSERT INTO t (batch, n) VALUES ({0}, {1})"


class Batch:
    """Messages up to a Sync, or one Query, and what it must leave if it succeeds."""

    def __init__(self, rng: random.Random, number: int) -> None:
        self.rng = rng
        self.number = number
        self.inserted = 0
        self.failing = False
        self.simple = rng.random() < 0.3
        steps = rng.randrange(1, 6)
        if self.simple:
            self.messages = [query(";".join(self._sql() for _ in range(steps)))]
        else:
            self.messages = [part for _ in range(steps) for part in self._extended()] + [SYNC]

    def _insert(self) -> str:
        self.inserted += 1
        return INSERT.format(self.number, self.inserted)

    def _sql(self) -> str:
        match self.rng.randrange(12):
            case 0:
                self.failing = True
                return "INSERT INTO t VALUES (0, 0)"  # is there already
            case 1:
                return "SELECT * FROM t LIMIT 100"
            case 2:
                return "SHOW timezone"
            case 3:
                return self._insert() + " RETURNING n"
            case 4 if self.rng.random() < 0.5:
                self.failing = True
                return self.rng.choice(
                    ("SELEC", "COPY t FROM STDIN", "SAVEPOINT s", "SHOW nothing")
                )
            case 5:
                return "-- nothing\n"
            case _:
                return self._insert()

    def _extended(self) -> list[bytes]:
        portal = self.rng.choice(("", f"p{self.rng.randrange(10**9)}"))
        sql = self._sql()
        messages = [parse(sql), bind(portal=portal)]
        if self.rng.random() < 0.4:
            messages.insert(1, describe("S"))
        if self.rng.random() < 0.4:
            messages.append(describe("P", portal))
        if self.rng.random() < 0.2:
            messages += [execute(portal, 1), FLUSH]
        messages.append(execute(portal))
        if self.rng.random() < 0.3:
            messages.append(close("P", portal))
        if self.rng.random() < 0.1:
            self.failing = True
            messages.append(
                self.rng.choice((bind(statement="nobody"), bind([b"1"]), describe("S", "x")))
            )
        return messages

    def pieces(self) -> list[bytes]:
        whole = b"".join(self.messages)
        cuts = sorted(self.rng.choices(range(len(whole) + 1), k=self.rng.randrange(4)))
        return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@pytest.mark.parametrize("seed", range(25))
async def test_every_batch_is_answered_once_and_is_whole(
    pg: Served, connect: Connect, seed: int
) -> None:
    rng = random.Random(seed)
    raw, other = await connect(), await connect()
    await other.query("CREATE TABLE t (batch INTEGER, n INTEGER, PRIMARY KEY (batch, n))")
    await other.query("INSERT INTO t VALUES (0, 0)")
    for number in range(1, 25):
        batch = Batch(rng, number)
        for piece in batch.pieces():
            raw.send(piece)
            await raw.writer.drain()
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
        replies = await raw.until_ready()
        # SAVEPOINT alone, outside any transaction, and alone in its batch, fails as well
        assert ("E" in kinds(replies)) == batch.failing, (batch.messages, kinds(replies))
        assert replies[-1].body == b"I"
        found = rows(await other.query(f"SELECT count(*) FROM t WHERE batch = {number}"))
        assert found == [("0" if batch.failing else str(batch.inserted),)], batch.messages
        assert not pg.engine.lock.held
    assert pg.engine.pool.min_pinned() == pg.engine.pool.visible.lsn
    assert kinds(await raw.query("SELECT 1")) == "TDCZ", "nothing more was on its way"
