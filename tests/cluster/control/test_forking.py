"""Clones made by a control plane, with real storage nodes and writers, over gRPC in one process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cluster.control import assign, forking, service
from cluster.control.assign import Assigner
from cluster.local.layout import ClusterState, address
from cluster.local.ports import is_free
from engine.config import InstanceConfig
from engine.errors import ConfigError, Unavailable
from engine.instance.node import Instance, InstanceIdentity
from engine.net.methods import FORK_POINT, FORK_VOLUME, HOLD_READ_POINT, LIST_VOLUMES, OPEN_VOLUME
from engine.net.pb import control_pb2 as pb
from engine.net.pb import storage_pb2 as spb
from engine.net.real import real_runtime
from engine.ports import Server
from engine.storage.config import StorageConfig
from tests.cluster.control.test_catalog import NODES, make_layout
from tests.cluster.control.test_forktable import clone_spec
from tests.cluster.control.test_service import World
from tests.support.until import until

BUSY = StorageConfig(
    gossip_s=0.05, coalesce_s=0.05, coalesce_rounds=1, coalesce_busy_rounds=1, scrub_s=5.0
)
"""What can go goes at once."""


@dataclass
class Writer:
    instance: Instance
    server: Server

    async def run(self, sql: str) -> list[tuple[Any, ...]]:
        assert self.instance.engine is not None
        session = self.instance.engine.session()
        try:
            cursor = await session.execute(await session.prepare(sql))
            return await cursor.fetch()
        finally:
            await session.close()

    @property
    def commit(self) -> int:
        assert self.instance.writer is not None
        return self.instance.writer.volume.vdl.lsn

    async def stop(self) -> None:
        await self.server.stop(0)
        await self.instance.stop()


def free_base() -> int:
    """The control plane's port in a layout; the next hundred are free, too."""
    while True:
        base = random.randrange(10_000, 19_000)
        if all(is_free(port) for port in range(base, base + 100)):
            return base


class Town(World):
    """With writers."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.layout = make_layout(free_base())
        self.instance_config = InstanceConfig()
        self.writers: dict[str, Writer] = {}

    def listens_at(self, name: str) -> str:
        """As the layout says: the catalog takes that over whenever something is wished for."""
        storage = {node.name: node.port for node in self.layout.storage}
        instances = {i.name: i.port for c in self.layout.clusters for i in c.instances}
        return address((storage | instances)[name])

    async def open_writer(self, cluster: str = "main") -> Writer:
        self.writers[cluster] = await self.open_instance(cluster, f"{cluster}-1")
        return self.writers[cluster]

    async def open_instance(self, cluster: str, name: str) -> Writer:
        """Writer or replica, as the catalog says; the caller stops it."""
        runtime = real_runtime(self.root / f"{name}", stop_node=self.stopped.append)
        identity = InstanceIdentity(name, cluster, "az1", self.address)
        instance = Instance(runtime, identity, instance_config=self.instance_config)
        server = await runtime.transport.serve(self.listens_at(name), instance.handlers)
        await instance.start(server.address)
        async with asyncio.timeout(20):
            await instance.ready.wait()
        return Writer(instance, server)

    async def close_writer(self, cluster: str = "main") -> None:
        await self.writers.pop(cluster).stop()

    async def wish(self, name: str, state: ClusterState, source: str = "main") -> None:
        """As a command would have it."""
        known = {c.name for c in self.layout.clusters}
        spec = (
            self.layout.cluster(name)
            if name in known
            else clone_spec(name, source, port=self.layout.control_port + 20 * len(known))
        )
        self.layout = self.layout.with_cluster(replace(spec, state=state))
        await self.catalog.adopt(self.layout)
        assert self._control is not None
        self._control._notify()

    async def fork(self, name: str, **at: int) -> pb.ForkVolumeReply:
        request = pb.ForkVolumeRequest(cluster=name, **at)
        return await self.channel.call(FORK_VOLUME, request, timeout=30)

    async def clone(self, name: str, source: str = "main", **at: int) -> pb.ForkVolumeReply:
        await self.wish(name, ClusterState.CLONING, source)
        return await self.fork(name, **at)

    async def opened(self, name: str) -> Writer:
        """Its writer, once it is made."""
        await self.wish(name, ClusterState.RUNNING)
        return await self.open_writer(name)

    async def floors(self, lsn: int) -> list[int]:
        found = []
        for name in NODES:
            channel = self.runtime.transport.connect(self._at(name))
            reply = await channel.call(
                FORK_POINT, spb.ForkPointRequest(volume=1, lsn=lsn), timeout=5
            )
            await channel.close()
            found += [group.floor for group in reply.groups]
        return found


@pytest.fixture
async def town(tmp_path, monkeypatch) -> AsyncIterator[Town]:
    monkeypatch.setattr(service, "FIRST_OPEN_WAIT_S", 0.3)
    monkeypatch.setattr(assign, "RETRY_LIMIT_S", 0.3)
    made = Town(tmp_path)
    await made.start_control()
    yield made
    for cluster in list(made.writers):
        await made.close_writer(cluster)
    await made.stop_all()
    await made.stop_control()


async def filled(town: Town, rows: int = 20) -> Writer:
    await town.start(*NODES)
    writer = await town.open_writer()
    await writer.run("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
    for _ in range(rows):
        await insert(writer)
    return writer


async def insert(writer: Writer) -> None:
    await writer.run("INSERT INTO t (text) VALUES (hex(randomblob(200)))")


async def rows(writer: Writer) -> list[tuple[Any, ...]]:
    return await writer.run("SELECT id, text FROM t ORDER BY id")


async def test_a_clone_has_what_was_committed_and_both_go_on_apart(town: Town) -> None:
    main = await filled(town)
    reply = await town.clone("copy")
    assert (reply.volume, reply.commit.lsn, reply.copy) == (2, main.commit, "")
    before = await rows(main)
    await main.run("DELETE FROM t WHERE id > 5")
    copy = await town.opened("copy")
    assert await rows(copy) == before
    await copy.run("UPDATE t SET text = 'of the copy'")
    await insert(main)
    assert len(await rows(main)) == 6
    assert {text for _, text in await rows(copy)} == {"of the copy"}
    again = await town.clone("again", "copy")
    assert again.commit.lsn == copy.commit
    assert await rows(await town.opened("again")) == await rows(copy)
    listed = await town.channel.call(LIST_VOLUMES, pb.ListVolumesRequest(), timeout=5)
    assert [(v.cluster, v.parent, v.made) for v in listed.volumes] == [
        ("main", 0, True),
        ("copy", 1, True),
        ("again", 2, True),
    ]


async def test_what_a_stopped_source_acknowledged_last_is_in_its_clone(town: Town) -> None:
    main = await filled(town)
    last = main.commit
    await town.close_writer()  # perhaps before any node has heard that it is durable
    await town.wish("main", ClusterState.STOPPED)
    assert (await town.clone("copy")).commit.lsn == last
    assert (await town.clone("more")).commit.lsn == last
    await town.wish("main", ClusterState.RUNNING)
    main, copy = await town.open_writer(), await town.opened("copy")
    assert await rows(copy) == await rows(main)
    assert len(await rows(main)) == 20


async def test_nobody_opens_a_clone_that_is_not_made(town: Town) -> None:
    await filled(town, 1)
    await town.wish("copy", ClusterState.CLONING)
    for state in (ClusterState.CLONING, ClusterState.CREATING):
        await town.wish("copy", state)
        with pytest.raises(ConfigError, match="cluster copy is being cloned"):
            await town.channel.call(
                OPEN_VOLUME, pb.OpenVolumeRequest(cluster="copy", instance="copy-1"), timeout=5
            )
    assert await town.catalog.memberships(2) == []
    await town.wish("third", ClusterState.CLONING, "copy")
    with pytest.raises(ConfigError, match="copy is being cloned itself"):
        await town.fork("third")
    with pytest.raises(ConfigError, match="main is no clone"):
        await town.fork("main")


async def test_an_empty_cluster_can_be_cloned(town: Town) -> None:
    await town.start(*NODES)
    await town.open_writer()
    assert (await town.clone("copy")).commit.lsn == 0
    copy = await town.opened("copy")
    await copy.run("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    await town.close_writer()
    await town.wish("main", ClusterState.STOPPED)
    assert (await town.clone("more")).commit.lsn == 0


async def test_asked_twice_at_once_one_clone_is_made(town: Town) -> None:
    await filled(town)
    await town.wish("copy", ClusterState.CLONING)
    one, two = await asyncio.gather(town.fork("copy"), town.fork("copy"))
    assert one == two
    assert one == await town.fork("copy")
    assert list(await town.catalog.volumes()) == [1, 2]


async def test_a_plan_that_a_control_plane_left_behind_is_carried_out_by_the_next(
    town: Town, monkeypatch
) -> None:
    main = await filled(town)
    before = await rows(main)
    planned = await left_planned(town, monkeypatch)
    await town.stop_control()
    await town.start_control()
    reply = await town.fork("copy")
    assert (reply.volume, reply.commit.lsn) == (2, planned)
    await insert(main)
    assert await rows(await town.opened("copy")) == before


async def left_planned(town: Town, monkeypatch) -> int:
    """A clone whose segments nobody has been told of; the LSN of its fork."""

    async def nobody(_self: Assigner, _nodes: object, **_: float) -> None: ...

    with monkeypatch.context() as patched:
        patched.setattr(forking, "STAND_S", 0.1)
        patched.setattr(Assigner, "ask_all", nobody)
        with pytest.raises(
            Unavailable, match="group 0 of the clone does not stand on a write quorum"
        ):
            await town.clone("copy")
    fork = (await town.catalog.cluster("copy")).fork
    assert fork is not None
    assert not fork.made
    return fork.commit.lsn


async def test_a_commit_that_nodes_have_let_go_of_is_followed_by_a_newer_one(
    town: Town, monkeypatch
) -> None:
    town.config = BUSY
    main = await filled(town)
    planned = await left_planned(town, monkeypatch)

    async def gone() -> bool:
        await insert(main)
        return min(await town.floors(planned)) > planned

    await until(gone)
    reply = await town.fork("copy")
    assert (reply.volume, reply.commit.lsn) == (3, main.commit)
    assert await town.catalog.volumes() == {1: False, 2: True, 3: False}
    assert await rows(await town.opened("copy")) == await rows(main)


async def test_it_is_not_tried_for_ever(town: Town, monkeypatch) -> None:
    await filled(town)

    def let_go(_point: object, _lsn: int) -> None:
        raise forking._LetGo("they have")

    monkeypatch.setattr(forking, "_require_served", let_go)
    with pytest.raises(Unavailable, match="let go of 3 commits of main, one after another"):
        await town.clone("copy")
    assert len(await town.catalog.volumes()) == 2, "nothing was planned that had to be given up"


async def test_the_read_point_is_held_while_nodes_are_asked(town: Town, monkeypatch) -> None:
    town.config = BUSY
    main = await filled(town)
    newest = main.commit
    known = forking.Forker._known_point

    async def later(self: forking.Forker, *of: Any) -> Any:
        for _ in range(10):
            await insert(main)
        assert main.instance.writer is not None
        assert main.instance.writer.pool.min_pinned() == newest
        return await known(self, *of)

    monkeypatch.setattr(forking.Forker, "_known_point", later)
    assert (await town.clone("copy")).commit.lsn == newest
    await until(lambda: main.instance.writer.pool.min_pinned() == main.commit)
    assert len(await rows(await town.opened("copy"))) == 20


async def test_a_read_point_is_not_held_for_ever(town: Town, monkeypatch) -> None:
    monkeypatch.setattr("engine.instance.transfer.HOLD_S", 0.2)
    main = await filled(town, 3)
    channel = town.runtime.transport.connect(main.server.address)
    stream = channel.stream(HOLD_READ_POINT)
    held = await stream.recv()
    assert held is not None
    assert held.commit.lsn == main.commit
    await insert(main)
    await until(lambda: main.instance.writer.pool.min_pinned() > held.commit.lsn)
    assert await stream.recv() is None
    await channel.close()


async def test_a_moment_that_nodes_still_serve(town: Town) -> None:
    main = await filled(town, 5)
    at, before = main.commit, await rows(main)
    await main.run("DROP TABLE t")
    reply = await town.clone("copy", at_lsn=at + 1 if main.commit > at + 1 else at)
    assert reply.commit.lsn == at
    by_time = await town.clone("timed", at_time_us=reply.commit.time_us)
    assert by_time.commit.lsn == at
    assert await rows(await town.opened("copy")) == before


async def test_a_moment_that_they_have_let_go_of_is_named_with_what_there_is(town: Town) -> None:
    town.config = BUSY
    main = await filled(town, 5)
    old = main.commit

    async def gone() -> bool:
        await insert(main)
        return min(await town.floors(old)) > old

    await until(gone)
    for at in ({"at_lsn": old}, {"at_time_us": 1}):
        await town.wish("copy", ClusterState.CLONING)
        with pytest.raises(ConfigError, match=r"still have the states from LSN \d+ \(.*Z\) on"):
            await town.fork("copy", **at)
    assert await town.catalog.memberships(2) == [], "nothing is begun"


async def test_four_nodes_make_a_clone_and_the_others_fill_themselves_later(town: Town) -> None:
    main = await filled(town)
    await town.stop("storage-5", "storage-6")
    reply = await town.clone("copy")
    copy = await town.opened("copy")
    assert await rows(copy) == await rows(main)
    await town.start("storage-5", "storage-6")

    async def whole() -> bool:
        there = await town.statuses(*NODES)
        found = [s for status in there for s in status.segments if s.volume == reply.volume]
        return len(found) == 6 and all(s.scl >= copy_tail(found) and not s.damaged for s in found)

    await until(whole, seconds=20)
    await town.stop("storage-1", "storage-2")
    await insert(copy)
    assert len(await rows(copy)) == 21


async def test_late_members_do_not_need_the_source_nor_all_who_made_the_clone(town: Town) -> None:
    main = await filled(town)
    before = await rows(main)
    await town.stop("storage-5", "storage-6")
    await town.clone("copy")
    copy = await town.opened("copy")
    await town.close_writer()
    await town.wish("main", ClusterState.DELETING)
    await town.stop("storage-1")
    writing = asyncio.ensure_future(insert(copy))  # three of six have the clone
    await town.start("storage-5", "storage-6")
    await asyncio.wait_for(writing, 30)
    assert (await rows(copy))[:20] == before


def copy_tail(segments: list[spb.SegmentStatus]) -> int:
    return max(segment.scl for segment in segments)


async def test_too_few_nodes_make_none_and_the_same_call_does_later(
    town: Town, monkeypatch
) -> None:
    monkeypatch.setattr(forking, "STAND_S", 0.3)
    await filled(town)
    await town.stop(*NODES[3:])
    with pytest.raises(Unavailable, match="does not stand on a write quorum"):
        await town.clone("copy")
    await town.start("storage-4")
    await town.registered("storage-4")
    monkeypatch.setattr(forking, "STAND_S", 8.0)
    assert (await town.fork("copy")).volume == 2


async def test_a_source_that_nobody_writes_to_now_is_waited_for_a_while(
    town: Town, monkeypatch
) -> None:
    monkeypatch.setattr(forking, "SOURCE_S", 0.3)
    await filled(town)
    await town.close_writer()
    with pytest.raises(Unavailable, match="the newest commit of main cannot be told now"):
        await town.clone("copy")
