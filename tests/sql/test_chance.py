from __future__ import annotations

import random

import apsw
import pytest

from engine.sql.chance import seed_sqlite
from tests.sql.client import rows, run
from tests.sql.local_volume import LocalVolume

CHANCE = "select random(), hex(randomblob(8)), (select min(a) from t)"


async def draw(seed: int) -> list[object]:
    """Everything of chance that a fresh engine gives: functions, and a rowid when the last is taken."""
    engine = LocalVolume(seed=seed).writer()
    session = engine.session()
    await run(session, "create table t (a integer primary key)")
    await run(session, "insert into t values (9223372036854775807)")
    await run(session, "insert into t default values")
    drawn = [*await rows(session, CHANCE), *await rows(session, "select random()")]
    await engine.close()
    return drawn


async def test_sqlites_chance_is_the_runtimes() -> None:
    first = await draw(1)
    assert await draw(1) == first
    assert await draw(2) != first
    assert len({str(row) for row in first}) == len(first)


def test_seeding_leaves_the_default_vfs_as_it_was() -> None:
    before = apsw.vfs_names()
    seed_sqlite(random.Random(3))
    assert apsw.vfs_names() == before


async def test_two_engines_in_one_process_do_not_meet() -> None:
    first, second = LocalVolume(), LocalVolume()
    engines = [first.writer(), second.writer()]
    assert engines[0].vfs.vfs_name != engines[1].vfs.vfs_name
    for number, engine in enumerate(engines):
        await run(engine.session(), "create table t (a)")
        await run(engine.session(), "insert into t values ($1)", number)
    assert [await rows(engine.session(), "select a from t") for engine in engines] == [
        [(0,)],
        [(1,)],
    ]
    for engine in engines:
        await engine.close()


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("select unixepoch('now'), unixepoch()", (1_700_000_000, 1_700_000_000)),
        ("select current_timestamp, current_date", ("2023-11-14 22:13:20", "2023-11-14")),
        ("select datetime('now', '+1 day'), strftime('%s')", ("2023-11-15 22:13:20", "1700000000")),
        ("select julianday() = julianday(1700000000, 'unixepoch')", (1,)),
    ],
)
async def test_every_clock_is_the_runtimes(sql: str, value: tuple[object, ...]) -> None:
    engine = LocalVolume().writer()
    assert await rows(engine.session(), sql) == [value]
    await engine.close()
