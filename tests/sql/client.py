"""Short words for tests that talk to a session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import NamedTuple, TypeVar

import pytest

from engine.errors import SqlError
from engine.sql.session import Session
from engine.sql.statement import Row, SqlValue

T = TypeVar("T")


class Result(NamedTuple):
    tag: str
    rows: list[Row]


async def run(session: Session, sql: str, *params: SqlValue) -> Result:
    """Prepare, execute, fetch everything."""
    cursor = await session.execute(await session.prepare(sql), params)
    rows = await cursor.fetch()
    return Result(cursor.tag, rows)


async def rows(session: Session, sql: str, *params: SqlValue) -> list[Row]:
    return (await run(session, sql, *params)).rows


async def fails(session: Session, sql: str, *params: SqlValue) -> SqlError:
    """The error that `sql` ends with."""
    with pytest.raises(SqlError) as caught:
        await run(session, sql, *params)
    return caught.value


async def settle(turns: int = 20) -> None:
    """Let every task run until it waits for something that only the test can provide."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def parked(awaitable: Awaitable[T]) -> asyncio.Task[T]:
    """A task for `awaitable` that is waiting now."""
    task = asyncio.ensure_future(awaitable)
    await settle()
    assert not task.done(), task
    return task
