"""The oracle replays what a real SQL engine committed, and tells right from wrong."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from cluster.sim.checkers import Findings
from cluster.sim.checkers.oracle import (
    CommittedLog,
    Observation,
    Oracle,
    Row,
    check,
    digest,
    read_tables,
    sort_rows,
)
from engine.log.frame import build_frame, encode_record
from engine.log.record import Record
from engine.sql.session import Session
from engine.types import Truncation
from tests.cluster.sim.checkers.histories import kinds
from tests.sql.local_volume import LocalVolume

SCRIPT = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)",
    "INSERT INTO t VALUES (1, 'one'), (2, NULL)",
    "CREATE INDEX by_v ON t (v)",
    'CREATE TABLE "odd "" name" (a, b BLOB, PRIMARY KEY (a)) WITHOUT ROWID',
    "INSERT INTO \"odd \"\" name\" VALUES (1.5, x'00ff'), ('s', 3)",
    "WITH RECURSIVE n(i) AS (VALUES (3) UNION ALL SELECT i + 1 FROM n WHERE i < 400)"
    " INSERT INTO t SELECT i, hex(i * i) FROM n",
    "UPDATE t SET v = v || '!' WHERE id % 3 = 0",
    "DELETE FROM t WHERE id > 50",
    "VACUUM",
    "INSERT INTO t VALUES (1000, 'after')",
)


async def run(volume: LocalVolume) -> list[tuple[int, dict[str, list[Row]]]]:
    """The script's commits, and what the session saw after each."""
    session: Session = volume.writer().session()
    seen = []
    for sql in SCRIPT:
        await session.execute(await session.prepare(sql))
        tables = {}
        names = ["t"] if len(seen) < 3 else ["t", 'odd " name']
        for name in names:
            quoted = name.replace('"', '""')
            cursor = await session.execute(await session.prepare(f'SELECT * FROM "{quoted}"'))
            tables[name] = sort_rows(await cursor.fetch())
        seen.append((volume.vdl.lsn, tables))
    await session.close()
    return seen


async def test_every_commit_of_a_real_engine_is_what_its_session_saw(tmp_path: Path) -> None:
    volume = LocalVolume()
    seen = await run(volume)
    oracle = Oracle(CommittedLog(volume.log))
    observations = [Observation(lsn, tables, "main-1", whole=True) for lsn, tables in seen]
    observations += [
        Observation(lsn, {name: digest(rows) for name, rows in tables.items()})
        for lsn, tables in reversed(seen)
    ]
    assert check(oracle, observations) == []
    lsn, tables = seen[-1]
    assert oracle.image(lsn) == volume.database(volume.vdl)
    assert oracle.image(seen[2][0]) == volume.database(volume.commits[3])  # backwards
    path = tmp_path / "copy.db"
    path.write_bytes(oracle.image(lsn))
    with sqlite3.connect(path) as connection:
        assert read_tables(connection) == tables
    connection.close()
    assert oracle.tables(0) == {}
    assert oracle.problems(0) == []


async def test_frames_give_the_same_log() -> None:
    volume = LocalVolume()
    await run(volume)
    frames = []
    for record in volume.log:
        body = encode_record(
            lsn=record.lsn,
            prev_lsn=record.prev_lsn,
            prev_pg_lsn=record.lsn - 1,
            page=record.page,
            full=record.full,
            moves=record.moves,
            ranges=record.ranges,
            commit=record.commit,
        )
        frames.append(
            build_frame(
                volume=1, pg=0, epoch=1, prev_pg_lsn=record.lsn - 1, first_lsn=record.lsn,
                last_lsn=record.lsn, records=[body],
            )
        )  # fmt: skip
    log = CommittedLog.from_frames([*reversed(frames), *frames])
    assert [r.lsn for r in log.records] == [r.lsn for r in volume.log]
    end = volume.vdl.lsn
    assert Oracle(log).image(end) == Oracle(CommittedLog(volume.log)).image(end)


async def test_wrong_contents_are_told_apart() -> None:
    volume = LocalVolume()
    seen = await run(volume)
    oracle = Oracle(CommittedLog(volume.log))
    lsn, tables = seen[1]
    wrong = [
        Observation(lsn, {"t": [(1, "one")]}, "main-2", at=3.0),
        Observation(lsn, {"t": [(1, "one"), (2, "x")]}),
        Observation(lsn, {"t": digest([(1, "one"), (2, 0)])}),
        Observation(lsn, {"t": tables["t"], "u": []}),
        Observation(lsn, {}, whole=True),
        Observation(seen[0][0], {"t": tables["t"]}),
        Observation(10**6, {}),
    ]
    for observation in wrong:
        (violation,) = check(oracle, [observation])
        assert violation.kind == "content"
    first = check(oracle, wrong[:1])[0]
    assert first.message == (
        "table t has 1 rows where the log has 2; only seen [], only in the log [(2, None)]"
    )
    assert (first.nodes, first.at) == (("main-2",), 3.0)
    assert check(oracle, [Observation(lsn, {"t": reversed(tables["t"])})]) == []  # type: ignore[dict-item]


async def test_damage_is_found() -> None:
    volume = LocalVolume()
    seen = await run(volume)
    lsn = seen[5][0]
    index = max(i for i, r in enumerate(volume.log) if r.lsn <= lsn and r.page != 0)
    spoilt = list(volume.log)
    spoilt[index] = spoilt[index]._replace(full=True, ranges=())
    oracle = Oracle(CommittedLog(spoilt))
    assert oracle.problems(lsn)
    assert kinds(check(oracle, [Observation(lsn, seen[5][1])])) == ["integrity"]
    header = spoilt[0]._replace(ranges=((0, b"no SQLite"),))
    broken = Oracle(CommittedLog([header, *spoilt[1:2]]))
    assert broken.problems(broken.log.commits[0].lsn)


async def test_a_log_with_a_gap_or_two_truths() -> None:
    volume = LocalVolume()
    await run(volume)
    findings = Findings("oracle")
    CommittedLog([*volume.log[:3], *volume.log[4:]], findings=findings)
    CommittedLog([*volume.log, volume.log[0]._replace(ranges=())], findings=findings)
    assert kinds(findings.found) == ["log-differs", "log-gap"]
    with pytest.raises(ValueError, match="follows"):
        CommittedLog(volume.log[1:])


def test_what_a_recovery_annulled_is_left_out() -> None:
    kept = Record(1, 0, 0, 1, 0, True, ((0, b"a"),))
    annulled = Record(2, 1, 1, 1, 0, False, ((0, b"b"),))
    after = Record(12, 1, 1, 2, 0, False, ((1, b"c"),))
    log = CommittedLog([annulled, after, kept], [Truncation(2, 1, 11)])
    assert log.records == [kept, after]
    assert log.commits == []


def test_rows_sort_whatever_their_types() -> None:
    rows: list[Row] = [(b"x",), ("x",), (2,), (1.5,), (None,), (2.0,)]
    assert sort_rows(rows) == [(None,), (1.5,), (2.0,), (2,), ("x",), (b"x",)]
    assert digest(rows) == digest(rows[::-1])
    assert digest([(1,)]) != digest([(1.0,)])
