"""Writer and replica instances over six real storage nodes, in one process, over gRPC."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.config import InstanceConfig
from engine.errors import CommitUnknown, ReadOnly, SextetError, StaleEpoch, Unavailable
from engine.instance.node import Instance, InstanceIdentity
from engine.instance.replica import FeedGap
from engine.log.frame import build_frame, encode_record
from engine.net.clock import LoopClock
from engine.net.disk import OsDisk
from engine.net.grpc_transport import GrpcTransport
from engine.net.pb import instance_pb2 as pb
from engine.pgwire.handover import CUT_OFF, OPEN_WRITER
from engine.ports import Runtime, Server
from engine.sql.errors import SessionClosed
from engine.sql.session import Session
from engine.steps import OFF, Steps
from engine.types import CommitMark
from tests.support.catalog import Catalog
from tests.support.fleet import Fleet

WAIT_S = 20.0


@dataclass
class Running:
    instance: Instance
    server: Server
    ended: list[str]

    def session(self) -> Session:
        assert self.instance.engine is not None
        return self.instance.engine.session()

    async def status(self) -> pb.InstanceStatusReply:
        return await self.instance._status(pb.InstanceStatusRequest())

    async def stop(self) -> None:
        await self.server.stop(0)
        await self.instance.stop()


class Cluster:
    def __init__(self, fleet: Fleet, catalog: Catalog, root: Path) -> None:
        self.fleet = fleet
        self.catalog = catalog
        self.root = root
        self.running: list[Running] = []

    async def start(
        self,
        name: str,
        config: InstanceConfig | None = None,
        *,
        wait: bool = True,
        steps: Steps = OFF,
    ) -> Running:
        ended: list[str] = []
        runtime = Runtime(
            clock=LoopClock(),
            disk=OsDisk(self.root / name),
            transport=GrpcTransport(),
            rng=random.Random(name),
            stop_node=ended.append,
            steps=steps,
        )
        identity = InstanceIdentity(name, "main", "az1", self.catalog.address)
        instance = Instance(runtime, identity, instance_config=config)
        server = await runtime.transport.serve("127.0.0.1:0", instance.handlers)
        await instance.start(server.address)
        running = Running(instance, server, ended)
        self.running.append(running)
        if wait:
            async with asyncio.timeout(WAIT_S):
                await instance.ready.wait()
        return running


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    fleet = Fleet(tmp_path)
    await fleet.start()
    catalog = Catalog(fleet)
    await catalog.start()
    await catalog.name_writer("main-1")
    made = Cluster(fleet, catalog, tmp_path)
    yield made
    for running in made.running:
        await running.stop()
    await catalog.stop()
    await fleet.stop()


async def run(session: Session, sql: str) -> list[tuple[Any, ...]]:
    cursor = await session.execute(await session.prepare(sql))
    return await cursor.fetch()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not true():
            await asyncio.sleep(0.01)


def caught_up(replica: Running, writer: Running) -> Callable[[], bool]:
    def check() -> bool:
        assert replica.instance.pool is not None
        assert writer.instance.pool is not None
        return replica.instance.pool.visible == writer.instance.pool.visible

    return check


async def fill(session: Session, rows: int) -> None:
    await run(session, "CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
    for _ in range(rows):
        await run(session, "INSERT INTO t (text) VALUES (hex(randomblob(200)))")


async def test_replica_shows_what_the_writer_committed_and_refuses_writes(cluster: Cluster) -> None:
    writer = await cluster.start("main-1")
    replica = await cluster.start("main-2")
    session, reading = writer.session(), replica.session()
    await fill(session, 50)
    await until(caught_up(replica, writer))
    everything = "SELECT id, text FROM t ORDER BY id"
    assert await run(reading, everything) == await run(session, everything)
    with pytest.raises(ReadOnly):
        await run(reading, "INSERT INTO t (text) VALUES ('no')")
    assert await run(reading, "PRAGMA integrity_check") == [("ok",)]


async def test_a_snapshot_on_a_replica_stays_while_the_writer_goes_on(cluster: Cluster) -> None:
    writer = await cluster.start("main-1")
    replica = await cluster.start("main-2", InstanceConfig(pool_pages=8))
    session, reading = writer.session(), replica.session()
    await fill(session, 100)
    await until(caught_up(replica, writer))
    await run(reading, "BEGIN")
    before = await run(reading, "SELECT count(*), sum(length(text)) FROM t")
    for _ in range(30):
        await run(session, "UPDATE t SET text = 'x' WHERE id % 30 = 1")
        await run(session, "INSERT INTO t (text) VALUES ('more')")
    await until(caught_up(replica, writer))
    assert await run(reading, "SELECT count(*), sum(length(text)) FROM t") == before
    await run(reading, "COMMIT")
    assert await run(reading, "SELECT count(*) FROM t") == [(130,)]


async def test_the_next_writer_fences_the_first_and_the_replica_follows_it(
    cluster: Cluster,
) -> None:
    old = await cluster.start("main-1")
    replica = await cluster.start("main-3")
    session = old.session()
    await fill(session, 20)
    await cluster.catalog.name_writer("main-2")
    new = await cluster.start("main-2")
    with pytest.raises(SextetError) as refused:
        await run(session, "INSERT INTO t (text) VALUES ('too late')")
    assert isinstance(refused.value, CommitUnknown) or refused.value.sqlstate in ("57P01", "08007")
    assert old.ended, "a fenced writer must end itself"
    again = new.session()
    assert await run(again, "SELECT count(*) FROM t") == [(20,)]
    await run(again, "INSERT INTO t (text) VALUES ('next epoch')")
    await until(caught_up(replica, new))
    assert await run(replica.session(), "SELECT count(*) FROM t") == [(21,)]


async def test_a_replica_that_is_named_becomes_the_writer_in_place(cluster: Cluster) -> None:
    """Nothing of what it had as a replica is left: sessions, cache, read points."""
    writer = await cluster.start("main-1")
    replica = await cluster.start("main-2")
    other = await cluster.start("main-3")
    session, reading, idle = writer.session(), replica.session(), replica.session()
    await fill(session, 20)
    await until(caught_up(replica, writer))
    await run(reading, "BEGIN")
    assert await run(reading, "SELECT count(*) FROM t") == [(20,)]
    before = replica.instance.engine
    dismissed: list[str] = []

    async def dismiss(why: str) -> None:
        assert why == "this replica becomes the writer"
        assert replica.instance.replica is None
        dismissed.append(replica.instance.role)

    replica.instance.dismiss_clients = dismiss
    await cluster.catalog.name_writer("main-2")
    await until(lambda: replica.instance.writer is not None)
    assert not replica.ended
    await until(lambda: "role changes from writer to replica" in writer.ended)
    assert dismissed == ["writer"]
    await until(lambda: before is not None and before.sessions == 0)
    for ended in (reading, idle):
        with pytest.raises(SessionClosed):
            await run(ended, "SELECT count(*) FROM t")
    again = replica.session()
    await run(again, "INSERT INTO t (text) VALUES ('next epoch')")
    assert await run(again, "SELECT count(*) FROM t") == [(21,)]
    status = await replica.status()
    assert (status.role, status.state, status.epoch) == ("writer", "available", 2)
    await until(caught_up(other, replica))
    assert await run(other.session(), "SELECT count(*) FROM t") == [(21,)]


class Slow:
    """The receiving end of an export that takes one chunk and waits."""

    def __init__(self) -> None:
        self.took = asyncio.Event()
        self.go_on = asyncio.Event()

    async def send(self, _chunk: pb.ExportChunk) -> None:
        self.took.set()
        await self.go_on.wait()


async def test_an_export_from_a_replica_that_becomes_the_writer_fails_at_once(
    cluster: Cluster,
) -> None:
    writer = await cluster.start("main-1")
    replica = await cluster.start("main-2", InstanceConfig(pool_pages=8))
    await fill(writer.session(), 100)
    await until(caught_up(replica, writer))
    slow = Slow()
    export = asyncio.create_task(replica.instance._export(pb.ExportRequest(), slow))  # type: ignore[arg-type]
    await slow.took.wait()
    await cluster.catalog.name_writer("main-2")
    await until(lambda: replica.instance.writer is not None)
    slow.go_on.set()
    async with asyncio.timeout(5.0):  # of the thirty seconds that a read may take
        with pytest.raises(Unavailable, match="becomes the writer"):
            await export


async def test_a_replica_that_has_never_joined_becomes_the_writer_in_place(
    cluster: Cluster,
) -> None:
    replica = await cluster.start("main-2", wait=False)
    await until(lambda: replica.instance.replica is not None)
    assert not replica.instance.ready.is_set()
    assert replica.instance.serving_state() == CUT_OFF
    await cluster.catalog.name_writer("main-2")
    async with asyncio.timeout(WAIT_S):
        await replica.instance.ready.wait()
    assert not replica.ended
    assert replica.instance.serving_state() == OPEN_WRITER
    await fill(replica.session(), 1)


async def test_a_replica_that_is_named_and_passed_over_while_it_opens_starts_again(
    cluster: Cluster,
) -> None:
    """It may have fenced everybody already, or not: a new process asks what it is."""
    await cluster.start("main-1")
    replica = await cluster.start("main-2")
    await cluster.fleet.stop("storage-1", "storage-2", "storage-3")
    await cluster.catalog.name_writer("main-2")
    await until(lambda: replica.instance.role == "writer")
    assert (await replica.status()).state == "recovering"
    assert replica.instance.serving_state() == CUT_OFF
    await cluster.catalog.name_writer("main-1")
    await until(lambda: bool(replica.ended))
    assert replica.ended == ["role changes from writer to replica"]
    assert replica.instance.writer is None


async def test_a_replica_that_cannot_keep_up_is_let_go_and_joins_again(cluster: Cluster) -> None:
    writer = await cluster.start("main-1", InstanceConfig(follower_queue_bytes_max=20_000))
    replica = await cluster.start("main-2")
    session = writer.session()
    await fill(session, 3)
    await until(caught_up(replica, writer))
    await run(
        session,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)"
        " INSERT INTO t (text) SELECT hex(randomblob(100)) FROM n",
    )
    await until(caught_up(replica, writer))
    assert replica.instance.replica is not None
    assert replica.instance.replica.counters["joins"] >= 2
    assert await run(replica.session(), "SELECT count(*) FROM t") == [(2003,)]


async def test_a_gap_in_the_feed_is_noticed(cluster: Cluster) -> None:
    writer = await cluster.start("main-1")
    replica = await cluster.start("main-2")
    await fill(writer.session(), 3)
    await until(caught_up(replica, writer))
    follower = replica.instance.replica
    assert follower is not None
    assert writer.instance.pool is not None
    beyond = writer.instance.pool.visible.lsn + 5
    with pytest.raises(FeedGap, match=str(beyond)):
        follower._take(pb.FeedItem(vdl=beyond))


async def test_a_busy_feed_is_not_taken_for_a_transaction_too_large(cluster: Cluster) -> None:
    """Under load some redo is above VDL at every moment; what was applied no longer counts."""
    writer = await cluster.start("main-1")
    replica = await cluster.start("main-2", InstanceConfig(replica_pending_bytes_max=20_000))
    await fill(writer.session(), 3)
    await until(caught_up(replica, writer))
    follower = replica.instance.replica
    assert follower is not None
    assert follower.pool is not None
    last = follower.pool.visible.lsn
    for lsn in range(last + 1, last + 51):  # each comes before the VDL of the one before it
        follower._take(pb.FeedItem(frames=[commit_frame(lsn)], vdl=lsn - 1))
    follower._take(pb.FeedItem(vdl=last + 49))
    assert follower.pool.visible.lsn == last + 49


def commit_frame(lsn: int) -> bytes:
    """One MTR of one record of 1,000 bytes; its predecessor is the LSN before."""
    record = encode_record(
        lsn=lsn,
        prev_lsn=lsn - 1,
        prev_pg_lsn=lsn - 1,
        page=1,
        full=False,
        moves=(),
        ranges=((0, random.Random(lsn).randbytes(1000)),),
        commit=CommitMark(lsn, 0, 3),
    )
    return build_frame(
        volume=1, pg=0, epoch=1, prev_pg_lsn=lsn - 1, first_lsn=lsn, last_lsn=lsn, records=[record]
    )


async def test_a_replica_does_not_go_back_to_a_writer_that_is_over(cluster: Cluster) -> None:
    writer = await cluster.start("main-1")
    replica = await cluster.start("main-2")
    await fill(writer.session(), 3)
    await until(caught_up(replica, writer))
    follower = replica.instance.replica
    assert follower is not None
    assert follower.pool is not None
    seen = follower.pool.visible
    for base in (
        pb.FeedBase(epoch=follower.epoch - 1, vdl={"lsn": seen.lsn + 9}),
        pb.FeedBase(epoch=follower.epoch, vdl={"lsn": seen.lsn - 1}),
    ):
        with pytest.raises(StaleEpoch, match=str(seen.lsn)):
            follower._join(base)
    assert follower.pool.visible == seen


async def test_an_idle_writer_learns_that_it_was_superseded(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the simulator (seed 1001): it had nothing to send, so nobody could refuse it, and it
    served reads from the past for as long as nobody wrote to it."""
    monkeypatch.setattr("engine.instance.feed.LINGER_S", 0.0)
    writer = await cluster.start("main-1")
    await fill(writer.session(), 1)
    assert writer.instance.writer is not None
    volume = writer.instance.writer.volume
    told = (volume.vdl.lsn, volume.vdl.lsn)
    await until(lambda: volume._points_sent == told and not volume.in_flight)
    other = await cluster.fleet.open_writer()  # the catalog says nothing of it
    await until(lambda: bool(writer.ended))
    await other.close()


async def test_a_writer_that_missed_another_ones_epoch_ends_even_if_it_is_named_again(
    cluster: Cluster,
) -> None:
    """Found by the simulator (seed 1001): it heard of neither change, only of the second view."""
    writer = await cluster.start("main-1")
    view = writer.instance.view
    assert view is not None
    assert writer.instance.writer is not None
    view.volume_epoch = writer.instance.writer.volume.epoch
    writer.instance._take_view(view)
    assert not writer.ended
    view.volume_epoch += 1
    writer.instance._take_view(view)
    assert writer.ended
