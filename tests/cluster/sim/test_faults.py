"""Faults that overlap: a node suffers from all that are active, and each is counted if it mattered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from cluster.endpoint.balance import Kind as Endpoint
from cluster.faults.catalogue import Fault, Kind
from cluster.sim.faults import Injector, effects
from cluster.sim.world import World

Act = Callable[[World, Injector], Awaitable[None]]


def play(act: Act) -> dict[str, tuple[int, int]]:
    """Let `act` happen in a world that runs; what fired and took effect once everything is healed."""
    world = World(1)
    injector = Injector(world, ())

    async def whole() -> None:
        await world.start()
        await asyncio.sleep(1.0)
        await act(world, injector)
        injector.heal()

    try:
        world.loop.run_until_complete(whole())
        return effects(world, injector)
    finally:
        world.close()


def test_a_node_that_two_faults_keep_down_comes_back_after_the_second() -> None:
    async def act(world: World, injector: Injector) -> None:
        node = world.processes["storage-1"]
        injector.begin(Fault(Kind.KILL, "storage-1", for_s=5.0))
        injector.begin(Fault(Kind.POWER, "storage-1", for_s=1.0))
        injector.begin(Fault(Kind.KILL, "storage-1"))  # not for long, but it is down already
        await asyncio.sleep(4.9)
        assert not node.up
        await asyncio.sleep(0.2)
        assert node.up

    assert play(act)["kill"] == (2, 1)


def test_equal_faults_are_two() -> None:
    async def act(world: World, injector: Injector) -> None:
        fault = Fault(Kind.PAUSE, "storage-1", for_s=2.0)
        injector.begin(fault)
        await asyncio.sleep(1.0)
        injector.begin(fault)
        await asyncio.sleep(1.5)
        assert world.processes["storage-1"].paused
        await asyncio.sleep(1.0)
        assert not world.processes["storage-1"].paused

    assert play(act)["pause"] == (2, 1)


def test_a_pause_ends_with_the_process_that_it_stopped() -> None:
    async def act(world: World, injector: Injector) -> None:
        node = world.processes["storage-1"]
        injector.begin(Fault(Kind.PAUSE, "storage-1", for_s=9.0))
        injector.begin(Fault(Kind.KILL, "storage-1", for_s=1.0))
        await asyncio.sleep(1.5)
        assert node.up and not node.paused  # noqa: PT018
        injector.begin(Fault(Kind.PAUSE, "storage-1", for_s=1.0))
        await asyncio.sleep(1.1)
        assert not node.paused

    play(act)


def test_a_path_that_two_cuts_close_opens_with_the_second_and_who_was_meant_stays_meant() -> None:
    async def act(world: World, injector: Injector) -> None:
        writer = world.writer()
        assert writer is not None
        injector.begin(Fault(Kind.PARTITION, "storage-2", for_s=4.0, peer="writer"))
        injector.begin(Fault(Kind.ISOLATE, "storage-2", for_s=1.0))
        await asyncio.sleep(1.5)
        for pair in (("storage-2", writer.name), (writer.name, "storage-2")):
            assert world.network.blocked(*pair)
        assert not world.network.blocked("storage-2", "storage-1")
        injector.begin(Fault(Kind.KILL, writer.name, for_s=60.0))
        await asyncio.sleep(3.0)
        assert world.writer() is not writer
        assert not world.network.blocked("storage-2", writer.name)

    counted = play(act)
    assert counted["partition"] == counted["isolate"] == (1, 1)


def test_weather_adds_up_and_the_slower_disk_counts() -> None:
    async def act(world: World, injector: Injector) -> None:
        image = world.processes["storage-3"].image
        for factor, long in ((200.0, 1.0), (20.0, 2.0)):
            params = (("factor", factor),)
            injector.begin(Fault(Kind.SLOW_DISK, "storage-3", for_s=long, params=params))
        for kind, name, value, long in (
            (Kind.SLOW_NET, "latency_s", 0.4, 2.0),
            (Kind.SLOW_NET, "latency_s", 0.1, 1.0),
            (Kind.DROP, "share", 0.5, 1.0),
        ):
            injector.begin(Fault(kind, "storage-3", for_s=long, params=((name, value),)))
        injector.begin(Fault(Kind.FILL_DISK, "storage-3", for_s=2.0))
        injector.begin(Fault(Kind.FILL_DISK, "storage-3", for_s=1.0))
        assert image.slow_factor == 200.0
        assert world.network.delay("storage-3", "control") >= 0.5
        await asyncio.sleep(1.5)
        assert (image.slow_factor, image.limit) == (20.0, 0)
        assert 0.4 <= world.network.delay("storage-3", "control") < 0.7
        await asyncio.sleep(1.0)
        assert (image.slow_factor, image.limit) == (1.0, None)
        assert world.network.delay("storage-3", "control") < 0.1

    counted = play(act)
    assert counted["slow-net"] == (2, 2)
    assert counted["drop"] == (1, 1)


def test_a_fault_counts_once_for_each_process_however_many_operations_it_met() -> None:
    async def act(world: World, injector: Injector) -> None:
        injector.begin(Fault(Kind.SLOW_DISK, "storage", for_s=2.0))
        injector.begin(Fault(Kind.FILL_DISK, "storage-1", for_s=2.0))
        injector.begin(Fault(Kind.FILL_DISK, "control", for_s=2.0))
        client = world.endpoint.connect(Endpoint.WRITER, world.client_host("c1"))
        assert client is not None
        await client.run("CREATE TABLE t (a)")
        await client.run("INSERT INTO t VALUES (1)")
        await asyncio.sleep(2.0)
        assert world.processes["storage-2"].image.effects["slow disk"] > 1
        assert world.processes["storage-1"].image.effects["disk full"] > 1

    counted = play(act)
    assert counted["fill-disk"] == (2, 1)
    assert counted["slow-disk"][0] == 1
    assert counted["slow-disk"][1] in (5, 6)


def test_what_changes_nothing_is_not_counted() -> None:
    async def act(world: World, injector: Injector) -> None:
        injector.begin(Fault(Kind.KILL, "storage-4", for_s=60.0))
        await asyncio.sleep(0.1)
        for fault in (
            Fault(Kind.CLOCK_SKEW, "storage-4"),
            Fault(Kind.CLOCK_SKEW, "storage-1", params=(("seconds", 0.0),)),
            Fault(Kind.SLOW_NET, "storage-1", for_s=1.0, params=(("latency_s", 0.0),)),
            Fault(Kind.DROP, "storage-1", for_s=1.0, params=(("share", 0.0),)),
            Fault(Kind.WIPE, "main-1"),
            Fault(Kind.PARTITION, "main-1", for_s=1.0, peer="main-1"),
            Fault(Kind.PAUSE, "storage-4", for_s=1.0),
        ):
            injector.begin(fault)
        await asyncio.sleep(2.0)

    for kind, (fired, took_effect) in play(act).items():
        assert kind == "kill" or (fired and not took_effect), kind


def test_healing_ends_everything_at_once() -> None:
    async def act(world: World, injector: Injector) -> None:
        for kind in (Kind.KILL, Kind.PAUSE, Kind.ISOLATE, Kind.SLOW_NET, Kind.FILL_DISK):
            injector.begin(Fault(kind, "storage-5", for_s=100.0))
            injector.begin(Fault(kind, "storage-6"))
        await asyncio.sleep(0.5)
        injector.heal()
        for name in ("storage-5", "storage-6"):
            node = world.processes[name]
            assert node.up and not node.paused  # noqa: PT018
            assert node.image.limit is None
            assert not world.network.blocked(name, "main-1")
            assert world.network.delay(name, "main-1") < 0.1

    play(act)
