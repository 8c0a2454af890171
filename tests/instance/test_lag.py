"""How far a replica lags: from durable on the writer to visible here, by no wall clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cluster.endpoint.balance import Kind
from cluster.faults.catalogue import Fault
from cluster.faults.catalogue import Kind as Bad
from cluster.local.layout import DEFAULT_READER_LAG_MS
from cluster.sim.faults import Injector
from cluster.sim.sqlwire import SqlClient
from cluster.sim.transport import SimTransport
from cluster.sim.world import SimClock, World
from engine.instance.feed import Feed
from engine.instance.replica import Replica, within
from engine.net.pb import instance_pb2 as pb

SMALL_US = 20_000
UNNOTICED_S = 0.3
"""The writer says something five times a second; so much silence means nothing yet."""


class Stage:
    """A world that runs, with a writer, two replicas and a table t."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.faults = Injector(world, ())
        self.client: SimTransport
        self.writing: SqlClient

    async def set_up(self) -> None:
        await self.world.start()
        await asyncio.sleep(2.0)
        self.client = self.world.client_host("client")
        self.connect()
        await self.writing.run("CREATE TABLE t (id INTEGER PRIMARY KEY)")

    def connect(self) -> None:
        client = self.world.endpoint.connect(Kind.WRITER, self.client)
        assert client is not None
        self.writing = client

    async def insert(self) -> None:
        await self.writing.run("INSERT INTO t DEFAULT VALUES")

    def replicas(self) -> dict[str, Replica]:
        nodes = {p.name: p.node for p in self.world.instances if p.node is not None}
        return {name: n.replica for name, n in nodes.items() if n.replica is not None}

    def readers(self) -> set[str]:
        """Who gets the next clients of the reader endpoint."""
        clients = [self.world.endpoint.connect(Kind.READER, self.client) for _ in range(4)]
        for client in clients:
            assert client is not None
            self.world.endpoint.disconnected(client)
        return {client.instance for client in clients if client is not None}

    def skew(self, seconds: float) -> None:
        """The wall clocks of both replicas."""
        for name in self.replicas():
            params = (("seconds", seconds),)
            self.faults.begin(Fault(Bad.CLOCK_SKEW, name, params=params))


def play(act: Callable[[Stage], Awaitable[None]]) -> None:
    stage = Stage(World(1))

    async def whole() -> None:
        await stage.set_up()
        await act(stage)

    try:
        stage.world.loop.run_until_complete(whole())
    finally:
        stage.world.close()


async def small(stage: Stage) -> None:
    """Every replica follows closely, and readers go to all of them and to nobody else."""
    for _ in range(20):
        await stage.insert()
        await asyncio.sleep(0.03)
        for name, replica in stage.replicas().items():
            assert replica.lag_now_us() < SMALL_US, name
    assert stage.readers() == set(stage.replicas())
    assert len(stage.replicas()) == 2


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_a_wrong_wall_clock_changes_nothing(seconds: float) -> None:
    async def act(stage: Stage) -> None:
        stage.skew(seconds)
        await small(stage)

    play(act)


def test_the_clocks_of_two_processes_have_nothing_to_do_with_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not those that only go forward either; and the next writer has another one."""
    starts = {"main-1": -7e3, "main-2": -5e6, "main-3": 9e6}

    def monotonic(self: Any) -> float:
        return float(self._loop.time() + starts.get(self._process.name, 0.0))

    monkeypatch.setattr(SimClock, "monotonic", monotonic)

    async def act(stage: Stage) -> None:
        await small(stage)
        stage.faults.begin(Fault(Bad.FAILOVER, "main-2"))
        await asyncio.sleep(5.0)
        assert stage.world.endpoint.writer == "main-2"
        stage.connect()
        await small(stage)

    play(act)


@pytest.mark.parametrize("seconds", [0.0, -3600.0, 3600.0])
def test_a_slow_network_is_lag(seconds: float) -> None:
    async def act(stage: Stage) -> None:
        stage.skew(seconds)
        slow = Fault(Bad.SLOW_NET, "main-2", params=(("latency_s", 0.3),))
        stage.faults.begin(slow)
        await asyncio.sleep(2.0)  # its reports are late as well by now
        lags = []
        for _ in range(20):
            await stage.insert()
            await asyncio.sleep(0.05)
            lags.append(stage.replicas()["main-2"].lag_now_us())
        assert min(lags) >= 300_000
        assert max(lags) < 3.1 * 300_000, "there and back, each up to half as long again"
        stage.faults.heal()
        await asyncio.sleep(2.0)
        await small(stage)

    play(act)


def test_a_replica_that_hears_nothing_lags_more_and_more_and_loses_its_readers() -> None:
    async def act(stage: Stage) -> None:
        stage.faults.begin(Fault(Bad.PARTITION, "main-2", peer=stage.world.endpoint.writer))
        replica = stage.replicas()["main-2"]
        for waited in range(1, 6):
            await asyncio.sleep(0.5)
            assert replica.lag_now_us() / 1e6 == pytest.approx(0.5 * waited, abs=UNNOTICED_S)
        assert replica.lag_now_us() / 1000 > DEFAULT_READER_LAG_MS
        assert stage.readers() == {"main-3"}

    play(act)


class Gate:
    """Between the writer's feed and the network: how many more items it lets through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = True
        self.admits = 0
        passing = Feed._send

        async def send(feed: Feed, stream: Any, item: pb.FeedItem) -> None:
            while not self.open and not self.admits:
                await asyncio.sleep(0.001)
            self.admits = max(0, self.admits - 1)
            await passing(feed, stream, item)

        monkeypatch.setattr(Feed, "_send", send)


def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What every replica has taken from now on: the item's VDL, the lag right afterwards."""
    taken: list[tuple[int, int]] = []
    taking = Replica._take

    def take(replica: Replica, item: pb.FeedItem) -> None:
        taking(replica, item)
        taken.append((item.vdl, replica.lag_us))

    monkeypatch.setattr(Replica, "_take", take)
    return taken


def test_a_commit_that_waited_behind_a_blocked_send_was_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, taken = Gate(monkeypatch), shown(monkeypatch)

    async def act(stage: Stage) -> None:
        gate.open = False
        await asyncio.sleep(0.25)  # a heartbeat is stuck
        await stage.insert()
        await asyncio.sleep(0.7)
        taken.clear()
        gate.open = True
        await asyncio.sleep(0.05)
        first = next(lag for vdl, lag in taken if vdl == stage.writing.commit_lsn)
        assert 700_000 <= first < 700_000 + SMALL_US
        for replica in stage.replicas().values():
            counted = replica.counters
            assert counted[within(500)] == counted["commits_applied"] - 1
            assert counted[within(1000)] == counted["commits_applied"]
        await asyncio.sleep(0.3)
        await small(stage)

    play(act)


def test_a_late_heartbeat_does_not_hide_a_commit_that_has_not_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate(monkeypatch)

    async def act(stage: Stage) -> None:
        replicas = stage.replicas().values()
        gate.open = False
        await asyncio.sleep(0.25)  # each replica's next heartbeat is stuck
        await stage.insert()
        durable = stage.world.loop.time()
        for tick in range(80):
            if tick == 40:
                gate.admits = len(replicas)
            await asyncio.sleep(0.01)
            waited = stage.world.loop.time() - durable
            for replica in replicas:
                assert replica.pool is not None
                assert replica.pool.visible.lsn < stage.writing.commit_lsn
                assert replica.lag_now_us() >= (waited - UNNOTICED_S) * 1e6, tick
        assert gate.admits == 0

    play(act)
