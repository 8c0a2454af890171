"""Failover by the control plane of a simulated cluster: the real code on virtual time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import pytest

from cluster.control.catalog import Catalog
from cluster.control.health import REST_FIRST_S, REST_LIMIT_S
from cluster.control.rows import InstanceRow
from cluster.endpoint.balance import Kind as Client
from cluster.faults.catalogue import Fault, Kind
from cluster.local.layout import ClusterState
from cluster.sim.faults import Injector
from cluster.sim.world import Shape, World
from engine.errors import ConfigError, Unavailable
from engine.net.methods import ADOPT_LAYOUT, FAILOVER, LIST_EVENTS
from engine.net.pb import control_pb2 as pb
from engine.steps import Mark, Step

pytestmark = pytest.mark.sim


class Cluster:
    """A world and what an operator does with it."""

    def __init__(self, *, replicas: int = 2, tiers: tuple[int, ...] = ()) -> None:
        self.world = World(1, Shape(replicas=replicas))
        if tiers:
            (main,) = self.world.layout.clusters
            instances = zip(main.instances, tiers, strict=True)
            main = replace(main, instances=tuple(replace(i, tier=t) for i, t in instances))
            self.world.layout = replace(self.world.layout, clusters=(main,))
        self.faults = Injector(self.world, ())
        self._operator = self.world.client_host("operator")

    def run(self, story: Callable[[], Awaitable[None]]) -> None:
        async def whole() -> None:
            await self.world.start()
            await self.until_open(1)
            await asyncio.sleep(1.0)  # until everyone has been looked at
            await story()

        self.world.loop.run_until_complete(whole())

    def fault(self, kind: Kind, target: str, for_s: float = 0.0, peer: str = "") -> None:
        now = self.world.loop.time()
        self.faults.begin(Fault(kind, target, now, for_s, peer=peer))

    async def until(self, true: Callable[[], bool], seconds: float = 30.0) -> None:
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.01)

    async def until_open(self, epoch: int) -> None:
        await self.until(lambda: self.world.epoch_open >= epoch)

    async def failover(self, to: str = "") -> pb.FailoverReply:
        control = self._operator.connect(self.world.layout.control_address)
        try:
            request = pb.FailoverRequest(cluster="main", to=to)
            return await control.call(FAILOVER, request, timeout=40.0)
        finally:
            await control.close()

    async def wish(self, state: ClusterState) -> None:
        """As `sextet cluster stop` and `start` tell the control plane."""
        self.world.layout = self.world.layout.with_state("main", state)
        control = self._operator.connect(self.world.layout.control_address)
        try:
            await control.call(ADOPT_LAYOUT, pb.AdoptLayoutRequest(), timeout=5.0)
        finally:
            await control.close()

    async def events(self) -> list[str]:
        control = self._operator.connect(self.world.layout.control_address)
        try:
            reply = await control.call(LIST_EVENTS, pb.ListEventsRequest(), timeout=5.0)
        finally:
            await control.close()
        return [f"{event.subject}: {event.what}" for event in reply.events]

    @property
    def writer(self) -> str:
        return self.world.endpoint.writer

    @property
    def by_itself(self) -> int:
        return self.world.marks.get(Mark.FAILED_OVER, 0)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.world.close()


def test_on_purpose_it_says_who_and_how_long_and_so_do_the_events(cluster):
    async def story() -> None:
        reply = await cluster.failover("main-3")
        assert (reply.writer, reply.instead_of, reply.epoch) == ("main-3", "main-1", 2)
        assert 0 < reply.duration_us < 2_000_000
        assert (await cluster.failover()).writer in ("main-1", "main-2")
        events = await cluster.events()
        assert "main: failover from main-1 to main-3 started: on purpose" in events
        assert any(e.startswith("main: failover to main-3 finished after 0.") for e in events)
        assert "main: main-3 opens the volume under epoch 2" in events
        assert cluster.by_itself == 0

    cluster.run(story)


def test_on_purpose_it_is_refused_for_a_reason(cluster):
    async def story() -> None:
        with pytest.raises(ConfigError, match="main has no instance main-9; it has main-1, main-2"):
            await cluster.failover("main-9")
        with pytest.raises(ConfigError, match="main-1 is the writer of main already"):
            await cluster.failover("main-1")
        cluster.fault(Kind.PAUSE, "main-2", 20.0)
        await asyncio.sleep(2.0)
        with pytest.raises(ConfigError, match="main-2 cannot take over: it does not answer"):
            await cluster.failover("main-2")
        cluster.fault(Kind.KILL, "main-3", 20.0)
        await asyncio.sleep(2.0)
        with pytest.raises(ConfigError, match="no replica of main can take over"):
            await cluster.failover()
        assert cluster.writer == "main-1"

    cluster.run(story)


def test_stopped_cluster_is_left_alone_until_it_is_started(cluster):
    async def story() -> None:
        await cluster.wish(ClusterState.STOPPED)
        cluster.fault(Kind.KILL, "main-1", 60.0)
        before = await cluster.events()
        assert before[-1] == "main: is stopped"
        await asyncio.sleep(20.0)
        assert await cluster.events() == before
        with pytest.raises(ConfigError, match="cluster main is stopped"):
            await cluster.failover("main-2")
        assert (cluster.writer, cluster.by_itself) == ("main-1", 0)
        await cluster.wish(ClusterState.RUNNING)
        await cluster.until_open(2)
        assert cluster.by_itself == 1

    cluster.run(story)


def test_what_was_read_before_somebody_was_named_does_not_put_the_old_writer_back(
    cluster, monkeypatch
):
    quick = Catalog.instances

    async def slow(catalog: Catalog, name: str) -> list[InstanceRow]:
        rows = await quick(catalog, name)
        await asyncio.sleep(0.5)
        return rows

    async def story() -> None:
        monkeypatch.setattr(Catalog, "instances", slow)
        first = asyncio.create_task(cluster.failover("main-2"))
        await asyncio.sleep(0.02)
        second = asyncio.create_task(cluster.failover("main-2"))  # reads while the first one names
        assert (await first).writer == "main-2"
        with pytest.raises(ConfigError, match="another writer of main was named just now"):
            await second

    cluster.run(story)


@pytest.mark.parametrize("kind", [Kind.KILL, Kind.PAUSE, Kind.ISOLATE])
def test_the_lowest_tier_takes_over_from_a_writer_that_is_gone(kind):
    cluster = Cluster(replicas=3, tiers=(0, 5, 2, 2))

    async def story() -> None:
        cluster.fault(kind, "main-1", 15.0)
        await cluster.until_open(2)
        assert cluster.writer == "main-3"
        assert cluster.world.loop.time() < 4.0, "it took longer than the table in health says"
        await asyncio.sleep(20.0)
        assert (cluster.writer, cluster.by_itself) == ("main-3", 1), "it stays where it is"

    try:
        cluster.run(story)
    finally:
        cluster.world.close()


def test_a_writer_that_its_supervisor_has_back_stays_the_writer(cluster):
    async def story() -> None:
        for n in range(5):
            cluster.fault(Kind.KILL, "main-1")
            await cluster.until_open(2 + n)
            await asyncio.sleep(2.5)
        assert (cluster.writer, cluster.by_itself) == ("main-1", 0)

    cluster.run(story)


def test_a_writer_in_a_crash_loop_is_replaced(cluster):
    """It is back each time before anybody loses patience, and dies as soon as it has opened."""

    async def story() -> None:
        while cluster.by_itself == 0:
            assert cluster.world.loop.time() < 120
            cluster.fault(Kind.KILL, "main-1", 0.9)
            await asyncio.sleep(1.6)
        assert cluster.writer != "main-1"
        events = await cluster.events()
        assert any("works for moments only" in event for event in events)

    cluster.run(story)


def test_with_no_replica_the_writer_is_waited_for():
    cluster = Cluster(replicas=0)

    async def story() -> None:
        cluster.fault(Kind.KILL, "main-1", 6.0)
        await asyncio.sleep(5.0)
        events = await cluster.events()
        assert sum("nobody can take over" in event for event in events) == 1
        await cluster.until_open(2)
        await asyncio.sleep(1.0)
        assert "main-1: the writer works, epoch 2" in await cluster.events()

    try:
        cluster.run(story)
    finally:
        cluster.world.close()


@pytest.mark.parametrize(("kind", "advised"), [(Kind.PAUSE, True), (Kind.KILL, False)])
def test_with_no_replica_a_hung_writer_is_an_event_that_says_what_to_do(kind, advised):
    cluster = Cluster(replicas=0)

    async def story() -> None:
        cluster.fault(kind, "main-1", 6.0)
        await asyncio.sleep(5.0)
        (event,) = (e for e in await cluster.events() if "nobody can take over" in e)
        assert ("`sextet fault resume main-1`" in event) is advised
        assert ("if it hangs, its supervisor ends it after 10 s" in event) is advised

    try:
        cluster.run(story)
    finally:
        cluster.world.close()


def test_without_storage_nobody_is_blamed(cluster):
    """Three nodes of six are gone and then the writer restarts: no other writer would fare better."""

    async def story() -> None:
        for n in (1, 2, 3):
            cluster.fault(Kind.KILL, f"storage-{n}", 40.0)
        await asyncio.sleep(10.0)
        cluster.fault(Kind.KILL, "main-1")
        await asyncio.sleep(25.0)
        assert (cluster.writer, cluster.by_itself) == ("main-1", 0)
        await cluster.until_open(2)

    cluster.run(story)


def test_a_disk_that_is_stuck_is_not_the_writers_fault(cluster):
    """Four nodes of six are left, one of which takes seconds for an fdatasync: any writer would wait."""

    async def story() -> None:
        for n in (1, 2):
            cluster.fault(Kind.ISOLATE, f"storage-{n}", 60.0)
        client = cluster.world.endpoint.connect(Client.WRITER, cluster.world.client_host("client"))
        await client.run("CREATE TABLE t (n INTEGER)")
        now = cluster.world.loop.time()
        stuck = (("factor", 10_000.0),)
        cluster.faults.begin(Fault(Kind.SLOW_DISK, "storage-3", now, 1.0, params=stuck))
        await client.run("INSERT INTO t VALUES (1)")
        assert cluster.world.loop.time() - now > 4.0, "it waited for the fourth node"
        assert (cluster.writer, cluster.by_itself) == ("main-1", 0)
        assert await client.run("SELECT n FROM t") == [[1]]

    cluster.run(story)


def test_a_control_plane_killed_at_any_moment_of_a_failover_ends_it_after_its_restart(cluster):
    """State comes from the catalog and from asking, so no moment is a wrong one."""
    moments = [
        (when, step)
        for step in (Step.NAME_WRITER, Step.ADVANCE_EPOCH)
        for when in ("before", "after")
    ]

    async def story() -> None:
        for n, (when, step) in enumerate(moments):
            writer, epoch = cluster.writer, cluster.world.epoch_open
            cluster.faults.arm(Fault(Kind.KILL, "control", 0.0, 0.5, step=step, when=when))
            cluster.fault(Kind.PAUSE, writer, 12.0)
            await cluster.until_open(epoch + 1)
            assert cluster.writer != writer
            assert cluster.world.control.lives == 2 + n, "it was killed"
            await asyncio.sleep(15.0)

    cluster.run(story)


@pytest.mark.long
def test_cuts_that_last_for_ever_cost_a_bounded_number_of_epochs(cluster):
    """No instance reaches a write quorum, the control plane does, and everyone answers it."""

    async def story() -> None:
        for instance in ("main-1", "main-2", "main-3"):
            for n in (1, 2, 3):
                cluster.fault(Kind.ONE_WAY, instance, 1000.0, peer=f"storage-{n}")
        for process in cluster.world.instances:
            cluster.world.kill(process)
        await asyncio.sleep(300.0)
        named = cluster.world.steps["after", Step.NAME_WRITER]
        doublings = math.log2(REST_LIMIT_S / REST_FIRST_S) + 1
        assert 1 <= named <= doublings + 300 / REST_LIMIT_S
        cluster.faults.heal()
        before = cluster.world.epoch_open
        await cluster.until_open(before + 1)

    cluster.run(story)


def test_a_cut_between_writer_and_control_plane_alone_costs_one_failover_and_no_more(cluster):
    async def story() -> None:
        cluster.fault(Kind.ONE_WAY, "control", 100.0, peer="main-1")
        await asyncio.sleep(4.0)
        assert cluster.writer == "main-1", "the replicas hear it"
        await asyncio.sleep(56.0)
        assert cluster.by_itself == 1
        with pytest.raises(ConfigError, match="main-1 cannot take over"):
            await cluster.failover("main-1")

    cluster.run(story)


def test_a_control_plane_that_sees_nobody_does_nothing(cluster):
    async def story() -> None:
        cluster.fault(Kind.ISOLATE, "control", 30.0)
        await asyncio.sleep(35.0)
        assert (cluster.writer, cluster.by_itself, cluster.world.epoch_open) == ("main-1", 0, 1)

    cluster.run(story)


def test_nobody_to_ask_is_an_error_of_its_own(cluster):
    async def story() -> None:
        cluster.fault(Kind.KILL, "control", 5.0)
        with pytest.raises(Unavailable):
            await cluster.failover()

    cluster.run(story)
