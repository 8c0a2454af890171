"""The control plane over gRPC with real storage nodes: who may open, who keeps what, who is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.control import assign, service
from cluster.control.catalog import Catalog
from cluster.control.service import ControlPlane
from cluster.local.layout import Layout, StorageSpec
from engine.errors import ConfigError, StaleEpoch, Unavailable, VolumeFull
from engine.net.methods import (
    ADOPT_LAYOUT,
    CLUSTER_STATUS,
    FENCE,
    GROW_VOLUME,
    OPEN_VOLUME,
    REGISTER,
    STORAGE_STATUS,
    WATCH_CLUSTER,
)
from engine.net.pb import control_pb2 as pb
from engine.net.pb import storage_pb2 as spb
from engine.net.real import real_runtime
from engine.ports import Channel, Server
from engine.storage.config import StorageConfig
from engine.storage.node import StorageNode
from engine.storage.pagestore_memory import MemoryPageStore
from tests.cluster.control.test_catalog import NODES, make_layout
from tests.support.until import until

ANY_PORT = "127.0.0.1:0"


class World:
    """A control plane, and storage nodes that can be started, stopped and wiped."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layout: Layout = make_layout()
        self.config = StorageConfig()
        self.stopped: list[str] = []
        self.runtime = real_runtime(root / "control", stop_node=self.stopped.append)
        self.address = ""
        self.channel: Channel
        self.catalog: Catalog
        self._control: ControlPlane | None = None
        self._server: Server | None = None
        self._stores: dict[str, MemoryPageStore] = {}
        self._lives: dict[str, int] = {}
        self._nodes: dict[str, tuple[StorageNode, Server]] = {}

    async def start_control(self) -> None:
        self.root.joinpath("control").mkdir(exist_ok=True)
        self.catalog = await Catalog.open(self.root / "control" / "catalog.db")
        self._control = ControlPlane(self.runtime, self.catalog, layout=lambda: self.layout)
        await self._control.start()
        self._server = await self.runtime.transport.serve(
            self.address or ANY_PORT, self._control.handlers
        )
        self.address = self._server.address
        self.channel = self.runtime.transport.connect(self.address)

    async def stop_control(self) -> None:
        assert self._control is not None
        assert self._server is not None
        await self.channel.close()
        await self._server.stop(0)
        await self._control.stop()

    async def start(self, *names: str) -> None:
        for name in names:
            life = self._lives.setdefault(name, 0)
            store = self._stores.setdefault(name, MemoryPageStore())
            runtime = real_runtime(self.root / f"{name}.{life}", stop_node=self.stopped.append)
            node = StorageNode(runtime, name=name, az="az1", store=store, config=self.config)
            await node.open()
            server = await runtime.transport.serve(self.listens_at(name), node.handlers)
            node.start()
            node.register_with(self.address, address=server.address)
            self._nodes[name] = (node, server)

    def listens_at(self, _name: str) -> str:
        return ANY_PORT

    async def cut_off(self, name: str) -> Callable[[], Awaitable[None]]:
        """The node goes on and nobody reaches it, until what is returned is called."""
        node, server = self._nodes[name]
        await server.stop(0)

        async def back() -> None:
            again = await self.runtime.transport.serve(server.address, node.handlers)
            self._nodes[name] = (node, again)

        return back

    async def stop(self, *names: str) -> None:
        for name in names:
            node, server = self._nodes.pop(name)
            await server.stop(0)
            await node.stop()

    async def wipe(self, name: str) -> None:
        await self.stop(name)
        del self._stores[name]
        self._lives[name] += 1

    async def stop_all(self) -> None:
        await self.stop(*self._nodes)

    async def registered(self, *names: str) -> None:
        async def here() -> bool:
            nodes = await self.catalog.storage_nodes()
            return {n.name for n in nodes if n.address == self._at(n.name)} >= set(names)

        await until(here)

    def _at(self, name: str) -> str:
        return self._nodes[name][1].address if name in self._nodes else "never"

    async def created(self, pg: int) -> set[str]:
        return (await self.catalog.created(1)).get(pg, set())

    async def until_created(self, pg: int, names: Iterable[str]) -> None:
        async def there() -> bool:
            return await self.created(pg) == set(names)

        await until(there)

    async def open(self, instance: str = "main-1") -> pb.OpenVolumeReply:
        request = pb.OpenVolumeRequest(cluster="main", instance=instance)
        return await self.channel.call(OPEN_VOLUME, request, timeout=20)

    async def grow(self, pg: int, epoch: int = 1) -> pb.GrowVolumeReply:
        request = pb.GrowVolumeRequest(cluster="main", epoch=epoch, pg=pg)
        return await self.channel.call(GROW_VOLUME, request, timeout=20)

    async def status(self) -> pb.ClusterStatusReply:
        return await self.channel.call(
            CLUSTER_STATUS, pb.ClusterStatusRequest(cluster="main"), timeout=5
        )

    async def statuses(self, *names: str) -> list[spb.StorageStatusReply]:
        """What nodes say of themselves."""
        replies = []
        for name in names:
            channel = self.runtime.transport.connect(self._nodes[name][1].address)
            replies.append(
                await channel.call(STORAGE_STATUS, spb.StorageStatusRequest(), timeout=5)
            )
            await channel.close()
        return replies

    async def fence(self, epoch: int = 1) -> None:
        """Have every node know the volume's epoch, as its writer's recovery does."""
        for _, server in self._nodes.values():
            channel = self.runtime.transport.connect(server.address)
            await channel.call(FENCE, spb.FenceRequest(volume=1, epoch=epoch), timeout=5)
            await channel.close()

    async def segments(self, name: str) -> list[int]:
        """The groups that the node itself says it keeps."""
        _, server = self._nodes[name]
        channel = self.runtime.transport.connect(server.address)
        reply = await channel.call(STORAGE_STATUS, spb.StorageStatusRequest(), timeout=5)
        await channel.close()
        return [segment.pg for segment in reply.segments]


@pytest.fixture
async def world(tmp_path, monkeypatch) -> AsyncIterator[World]:
    monkeypatch.setattr(service, "FIRST_OPEN_WAIT_S", 0.3)
    monkeypatch.setattr(assign, "QUORUM_S", 0.5)
    monkeypatch.setattr(assign, "RETRY_LIMIT_S", 0.3)
    made = World(tmp_path)
    await made.start_control()
    yield made
    await made.stop_all()
    await made.stop_control()
    assert not made.stopped


# -- opening and growing


async def test_first_open_makes_group_0_on_all_six(world):
    await world.start(*NODES)
    reply = await world.open()
    assert (reply.volume, reply.epoch, reply.max_pages) == (1, 1, 3 * 2560)
    (membership,) = reply.memberships
    assert [m.node for m in membership.members] == NODES
    assert all(m.incarnation for m in membership.members)
    assert [await world.segments(name) for name in NODES] == [[0]] * 6


async def test_every_open_gets_a_higher_epoch(world):
    await world.start(*NODES)
    assert [(await world.open()).epoch for _ in range(3)] == [1, 2, 3]


async def test_epoch_survives_a_restart_of_the_control_plane(world):
    await world.start(*NODES)
    await world.open()
    await world.stop_control()
    await world.start_control()
    reply = await world.open()
    assert reply.epoch == 2
    assert len(reply.memberships) == 1


async def test_only_the_writer_of_the_catalog_may_open(world):
    await world.start(*NODES)
    with pytest.raises(
        ConfigError, match="main-2 may not open the volume of main: its writer is main-1"
    ):
        await world.open("main-2")


async def test_four_nodes_are_enough_and_the_others_get_theirs_later(world):
    await world.start(*NODES[:4])
    reply = await world.open()
    assert [m.node for m in reply.memberships[0].members] == NODES
    assert await world.created(0) == set(NODES[:4])
    await world.start(*NODES[4:])
    await world.until_created(0, NODES)
    assert await world.segments("storage-6") == [0]


async def test_three_nodes_are_too_few_until_the_fourth_comes(world):
    await world.start(*NODES[:3])
    with pytest.raises(Unavailable, match="does not stand on a write quorum"):
        await world.open()
    await world.start(NODES[3])
    await world.registered(NODES[3])
    assert (await world.open()).epoch == 1, "the failed try cost no epoch"


async def test_growing_is_idempotent_and_stops_at_the_maximum(world):
    await world.start(*NODES)
    await world.open()
    assert len((await world.grow(1)).memberships) == 2
    assert len((await world.grow(1)).memberships) == 2
    assert len((await world.grow(2)).memberships) == 3
    with pytest.raises(VolumeFull, match="at its maximum of 7680 pages"):
        await world.grow(3)
    assert await world.segments("storage-1") == [0, 1, 2]


async def test_growing_goes_on_once_the_limit_is_raised_and_watchers_hear_of_it(world):
    await world.start(*NODES)
    await world.open()
    await world.grow(1)
    await world.grow(2)
    with pytest.raises(VolumeFull):
        await world.grow(3)
    stream = world.channel.stream(WATCH_CLUSTER, pb.WatchClusterRequest(cluster="main"))
    try:
        assert (await stream.recv()).max_pages == 3 * 2560
        main = replace(world.layout.cluster("main"), max_storage_bytes=40 * 1024**2)
        # Without storage nodes: they listen elsewhere than a layout says.
        world.layout = replace(world.layout.with_cluster(main), storage=())
        await world.channel.call(ADOPT_LAYOUT, pb.AdoptLayoutRequest(), timeout=5)
        async with asyncio.timeout(10):
            while (await stream.recv()).max_pages != 4 * 2560:
                pass
    finally:
        stream.close()
    assert len((await world.grow(3)).memberships) == 4


async def test_growing_by_a_fenced_writer_is_refused(world):
    await world.start(*NODES)
    await world.open()
    await world.open()
    with pytest.raises(StaleEpoch):
        await world.grow(1, epoch=1)


async def test_groups_cannot_be_skipped(world):
    await world.start(*NODES)
    await world.open()
    with pytest.raises(ConfigError, match="group 2 cannot be added to a volume of 1 groups"):
        await world.grow(2)


async def test_growing_while_two_nodes_are_away_catches_up_by_retry(world):
    await world.start(*NODES)
    await world.open()
    await world.stop("storage-5", "storage-6")
    await world.grow(1)
    assert await world.created(1) == set(NODES[:4])
    await world.start("storage-5", "storage-6")
    await world.until_created(1, NODES)


async def test_who_was_not_there_when_a_group_was_made_is_asked_until_it_is(world):
    """It need not register again: it was cut off for a moment, not restarted."""
    await world.start(*NODES)
    await world.open()
    back = await world.cut_off("storage-6")
    await world.grow(1)
    assert await world.created(1) == set(NODES[:5])
    await back()
    await world.until_created(1, NODES)


# -- a wiped node


async def test_wiped_node_gets_a_new_segment_that_replaces_the_lost_one(world):
    """Not the old one again: under dual quorums, and only once it has all that the others have."""
    await world.start(*NODES)
    before = (await world.open()).memberships[0]
    await world.wipe("storage-3")
    await world.start("storage-3")
    await world.registered("storage-3")

    async def begun() -> bool:
        (membership,) = await world.catalog.memberships(1)
        return membership.replacing is not None

    async def joined() -> bool:
        (membership,) = await world.catalog.memberships(1)
        return membership.epoch == 3 and membership.replacing is None

    async def created() -> bool:
        return bool(await world.segments("storage-3"))

    await until(begun)
    await until(created)
    (during,) = await world.catalog.memberships(1)
    assert [m.incarnation for m in during.members] == [m.incarnation for m in before.members]
    (status,) = await world.statuses("storage-3")
    assert during.replacing.new.incarnation == status.incarnation
    assert status.segments[0].damaged, (
        "it has not been told of epoch 1 by a writer: it knows nothing"
    )
    await world.fence()  # as a writer does that meets a node which missed its recovery
    await until(joined)
    (after,) = await world.catalog.memberships(1)
    assert {m.node for m in after.members} == set(NODES)
    assert during.replacing.new in after.members
    (status,) = await world.statuses("storage-3")
    assert not status.segments[0].damaged


async def test_wiped_node_keeps_groups_that_are_made_afterwards(world):
    await world.start(*NODES)
    await world.open()
    await world.wipe("storage-3")
    await world.start("storage-3")
    await world.registered("storage-3")
    await world.grow(1)
    assert 1 in await world.segments("storage-3")


# -- registering, watching, status


async def test_stranger_is_adopted_once_the_layout_has_it(world):
    request = pb.RegisterRequest(
        name="storage-7", kind="storage", az="az1", address="127.0.0.1:1", incarnation="x"
    )
    with pytest.raises(ConfigError, match="no storage node storage-7 belongs"):
        await world.channel.call(REGISTER, request, timeout=5)
    world.layout = world.layout.with_storage(StorageSpec("storage-7", "az1", 99))
    await world.channel.call(REGISTER, request, timeout=5)
    assert "storage-7" in [n.name for n in await world.catalog.storage_nodes()]


@pytest.mark.parametrize(
    "request_",
    [
        pb.RegisterRequest(name="main-1", kind="printer"),
        pb.RegisterRequest(name="storage-1", kind="storage", address="127.0.0.1:1"),
        pb.RegisterRequest(name="main-9", kind="instance", address="127.0.0.1:1"),
    ],
)
async def test_registration_that_makes_no_sense_is_refused(world, request_):
    with pytest.raises(ConfigError):
        await world.channel.call(REGISTER, request_, timeout=5)


@asynccontextmanager
async def _watching(world: World, cluster: str = "main"):
    stream = world.channel.stream(WATCH_CLUSTER, pb.WatchClusterRequest(cluster=cluster))
    try:
        yield stream
    finally:
        stream.close()


async def test_watcher_gets_the_view_and_then_every_change(world):
    async with asyncio.timeout(10), _watching(world) as stream:
        first = await stream.recv()
        assert [(i.name, i.role) for i in first.instances] == [
            ("main-1", "writer"),
            ("main-2", "replica"),
            ("main-3", "replica"),
        ]
        assert first.instances[0].socket == "run/main-1.sock"
        await world.start(*NODES)
        await world.open()
        version = first.version
        while (view := await stream.recv()).volume_epoch != 1:
            assert view.version > version
            version = view.version
        assert len(view.memberships) == 1


async def test_watching_an_unknown_cluster_is_an_error(world):
    async with _watching(world, "other") as stream:
        with pytest.raises(ConfigError, match="no cluster other"):
            await stream.recv()


async def test_status_reports_who_answers_and_who_does_not(world):
    await world.start(*NODES[:5])
    await world.registered(*NODES[:5])
    status = await world.status()
    assert [report.HasField("status") for report in status.storage] == [True] * 5 + [False]
    assert status.storage[5].error
    assert all(report.error for report in status.instances), "no instance runs here"
