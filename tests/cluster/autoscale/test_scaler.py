"""Carrying decisions out, with a control plane that says what a test wants and a layout on disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.autoscale import rates, scaler
from cluster.autoscale.scaler import Autoscaler
from cluster.local.folder import Folder
from cluster.local.layout import InstanceSpec, Layout, load, save
from cluster.local.policy import AutoscalePolicy
from engine.net.methods import ADOPT_LAYOUT, CLUSTER_STATUS, RECORD_EVENT
from engine.net.pb import control_pb2 as pb
from engine.net.pb import instance_pb2 as ipb
from engine.net.real import real_runtime
from engine.ports import Server
from tests.cluster.control.test_catalog import make_layout
from tests.support.until import until

POLICY = AutoscalePolicy("connections", 2, 1, 4, out_cooldown_s=0, in_cooldown_s=0)


class World:
    """The layout's instances, each of which says that it has so many clients."""

    def __init__(self, root: Path) -> None:
        self.runtime = real_runtime(root)
        self.folder = Folder.at(root / "data")
        self.folder.make()
        self.writer = "main-1"
        self.clients: dict[str, int] = {}
        self.statements: dict[str, int] = {}
        self.silent: set[str] = set()
        self.events: list[str] = []
        self.adopted = 0
        self.asked = 0
        self.server: Server | None = None
        self._work: asyncio.Task[None] | None = None

    async def start(self, policy: AutoscalePolicy, *, auto: tuple[str, ...] = ()) -> None:
        handlers = {
            CLUSTER_STATUS: self._status,
            RECORD_EVENT: self._record,
            ADOPT_LAYOUT: self._adopt,
        }
        self.server = await self.runtime.transport.serve("127.0.0.1:0", handlers)
        port = int(self.server.address.rpartition(":")[2])
        layout = replace(make_layout(), control_port=port)
        main = layout.cluster("main")
        instances = tuple(replace(i, auto=i.name in auto) for i in main.instances)
        main = replace(main, instances=instances, autoscale=policy)
        save(self.folder.data, layout.with_cluster(main))
        self._work = asyncio.create_task(Autoscaler(self.runtime, self.folder, "main").run())

    async def stop(self) -> None:
        assert self._work is not None
        assert self.server is not None
        self._work.cancel()
        await asyncio.wait({self._work})
        assert self._work.cancelled(), self._work
        await self.server.stop(0)

    @property
    def layout(self) -> Layout:
        layout = load(self.folder.data)
        assert layout is not None
        return layout

    @property
    def instances(self) -> dict[str, InstanceSpec]:
        return {i.name: i for i in self.layout.cluster("main").instances}

    async def looked(self) -> None:
        """It has asked twice more: what it knew before is acted upon."""
        asked = self.asked
        await until(lambda: self.asked >= asked + 2)

    async def _status(self, _request: pb.ClusterStatusRequest) -> pb.ClusterStatusReply:
        self.asked += 1
        reply = pb.ClusterStatusReply()
        for name in self.instances:
            role = "writer" if name == self.writer else "replica"
            view = pb.InstanceView(name=name, role=role)
            reply.cluster.instances.append(view)
            report = reply.instances.add(view=view)
            if name not in self.silent:
                status = ipb.InstanceStatusReply(pid=7, connections=self.clients.get(name, 0))
                self.statements.setdefault(name, 0)
                status.counters["statements"] = self.statements[name]
                report.status.CopyFrom(status)
        return reply

    async def _record(self, request: pb.RecordEventRequest) -> pb.RecordEventReply:
        self.events.append(f"{request.subject}: {request.what}")
        return pb.RecordEventReply()

    async def _adopt(self, _request: pb.AdoptLayoutRequest) -> pb.AdoptLayoutReply:
        self.adopted += 1
        return pb.AdoptLayoutReply()


@pytest.fixture
async def world(tmp_path, monkeypatch) -> AsyncIterator[World]:
    monkeypatch.setattr(scaler, "TICK_S", 0.02)
    monkeypatch.setattr(rates, "WINDOW_S", 0.2)
    made = World(tmp_path)
    yield made
    await made.stop()


async def test_replicas_are_added_to_the_layout_until_the_average_is_at_the_target(world):
    world.clients = {"main-1": 50, "main-2": 5, "main-3": 3}  # the writer's do not count
    await world.start(POLICY)
    await until(lambda: len(world.instances) == 5)
    await world.looked()
    assert list(world.instances) == [f"main-{n}" for n in range(1, 6)]
    added = world.instances["main-4"]
    assert (added.auto, added.tier, added.size) == (True, 15, "medium")
    assert world.events == [
        "main: auto-scaling adds main-4: 8 connections on 2 replicas, the target is 2 each",
        "main: auto-scaling adds main-5: 8 connections on 3 replicas, the target is 2 each",
    ]
    assert world.adopted == 2


async def test_what_it_added_goes_again_unless_it_has_become_the_writer(world):
    world.writer = "main-3"
    await world.start(POLICY, auto=("main-2", "main-3"))
    await until(lambda: "main-2" not in world.instances)
    await world.looked()
    assert list(world.instances) == ["main-1", "main-3"]
    assert world.events == [
        "main: auto-scaling removes main-2: 0 connections on 2 replicas, the target is 2 each"
    ]


async def test_who_becomes_writer_between_decision_and_deed_is_not_removed(world, monkeypatch):
    await world.start(replace(POLICY, in_cooldown_s=0.3), auto=("main-2",))
    remove = scaler.scaling.remove_instance

    async def late(*arguments, **named):
        world.writer = "main-2"
        return await remove(*arguments, **named)

    monkeypatch.setattr(scaler.scaling, "remove_instance", late)
    await until(lambda: bool(world.events))
    assert world.events == [
        "main: auto-scaling could not change the number of replicas: main-2 has become the writer"
    ]
    assert "main-2" in world.instances


async def test_load_is_statements_a_second_of_each_replica(world):
    await world.start(AutoscalePolicy("load", 1000, 1, 4, 0, 0))
    await world.looked()
    assert len(world.instances) == 3

    async def busy() -> bool:
        world.statements["main-2"] = world.statements.get("main-2", 0) + 1000
        await asyncio.sleep(0.02)
        return len(world.instances) == 5

    await until(busy)
    assert "statements/s on 2 replicas, the target is 1000 each" in world.events[0]


async def test_a_replica_that_says_nothing_keeps_the_others(world):
    world.silent = {"main-2"}
    await world.start(POLICY, auto=("main-3",))
    await world.looked()
    assert "main-3" in world.instances
    world.silent = set()
    await until(lambda: "main-3" not in world.instances)


async def test_a_change_by_a_user_begins_a_cool_down_too(world, monkeypatch):
    seen: list[tuple[int, float]] = []
    monkeypatch.setattr(
        scaler, "decide", lambda _policy, found, since: seen.append((len(found), since))
    )
    await world.start(POLICY)
    await until(lambda: bool(seen) and seen[-1][1] > 0.3)
    save(world.folder.data, world.layout.without_instance("main-2"))
    await until(lambda: seen[-1][0] == 1)
    assert next(since for count, since in seen if count == 1) == 0.0


async def test_without_a_control_plane_nothing_is_decided_and_it_goes_on_afterwards(world):
    world.clients = {"main-2": 9}
    await world.start(replace(POLICY, out_cooldown_s=0.5))
    await world.looked()
    address = world.server.address
    await world.server.stop(0)
    handlers = {CLUSTER_STATUS: world._status, RECORD_EVENT: world._record}
    assert len(world.instances) == 3
    world.server = await world.runtime.transport.serve(address, handlers)
    await until(lambda: len(world.instances) > 3)
    assert world.adopted == 0, "it adopts when it is told later"
