"""The way to a simulated object store: what is sent may arrive late, for a dead sender, or unanswered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest

from cluster.faults.catalogue import Fault, Kind
from cluster.sim import archives, swarm
from cluster.sim.faults import Injector
from cluster.sim.objects import ANSWER_S, ARRIVES_WITHIN_S, STORE, Bucket, SimObjects, Way
from cluster.sim.process import Life
from cluster.sim.run import Plan
from cluster.sim.schedule import check
from cluster.sim.world import ARCHIVER, Shape, World
from engine.errors import ConfigError, DiskFull, Unavailable


@dataclass
class Shop:
    """Nothing runs in the world; `life` is who uses the store."""

    world: World
    injector: Injector
    bucket: Bucket
    life: Life
    store: SimObjects

    def do(self, *faults: Fault) -> None:
        for fault in faults:
            self.injector.begin(fault)


def visit(act: Callable[[Shop], Awaitable[None]]) -> Shop:
    world = World(1, Shape(archive=True))
    assert world.bucket is not None
    life = world.new_life(ARCHIVER, 1)
    store = SimObjects(world.bucket, Way(world.network, ARCHIVER, life))
    shop = Shop(world, Injector(world, ()), world.bucket, life, store)
    try:
        world.loop.run_until_complete(act(shop))
    finally:
        world.close()
    return shop


def test_what_was_sent_arrives_after_its_senders_death() -> None:
    async def act(shop: Shop) -> None:
        shop.life.spawn(shop.store.create("a", b"x"), name="create")
        await asyncio.sleep(0)
        shop.life.die("killed")
        assert "a" not in shop.bucket.objects
        await asyncio.sleep(1.0)
        assert shop.bucket.objects == {"a": b"x"}

    visit(act)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Kind.ONE_WAY, STORE, peer=ARCHIVER),
        Fault(Kind.ONE_WAY, STORE, for_s=2 * ANSWER_S, peer="archiver"),
    ],
    ids=str,
)
def test_an_answer_that_does_not_come_is_no_answer(fault: Fault) -> None:
    async def act(shop: Shop) -> None:
        shop.do(fault)
        with pytest.raises(Unavailable, match="has not answered"):
            await shop.store.create("a", b"x")
        assert shop.bucket.objects == {"a": b"x"}

    visit(act)


@pytest.mark.parametrize(
    ("kind", "target", "peer"),
    [(Kind.ISOLATE, STORE, ""), (Kind.PARTITION, ARCHIVER, STORE), (Kind.ISOLATE, ARCHIVER, "")],
)
@pytest.mark.parametrize("long", [ANSWER_S + 1, ARRIVES_WITHIN_S + 1])
def test_a_request_arrives_when_the_cut_ends_or_never(
    kind: Kind, target: str, peer: str, long: float
) -> None:
    async def act(shop: Shop) -> None:
        shop.do(Fault(kind, target, for_s=long, peer=peer))
        with pytest.raises(Unavailable):
            await shop.store.create("a", b"x")
        assert not shop.bucket.objects
        await asyncio.sleep(long)
        assert bool(shop.bucket.objects) == (long < ARRIVES_WITHIN_S)
        await shop.store.create("b", b"y")

    assert visit(act).injector.effective == {kind: 1}


def test_a_full_store_takes_nothing_and_gives_what_it_has() -> None:
    async def act(shop: Shop) -> None:
        await shop.store.create("a", b"x")
        shop.do(Fault(Kind.FILL_DISK, STORE, for_s=1.0))
        with pytest.raises(DiskFull):
            await shop.store.create("b", b"y")
        assert await shop.store.read("a") == b"x"
        await shop.store.delete("a")
        await asyncio.sleep(1.0)
        await shop.store.create("b", b"y")

    assert visit(act).injector.effective == {Kind.FILL_DISK: 1}


def test_a_wiped_store_is_empty_and_takes_everything() -> None:
    async def act(shop: Shop) -> None:
        await shop.store.create("a/b", b"x")
        shop.do(Fault(Kind.WIPE, STORE))
        assert await shop.store.keys() == []
        await shop.store.create("a", b"x")

    visit(act)


def test_a_store_suffers_only_what_it_can() -> None:
    shape = Shape(archive=True, archivers=2)
    good = (
        Fault(Kind.WIPE, STORE),
        Fault(Kind.KILL, f"{ARCHIVER}-2"),
        Fault(Kind.PAUSE, "archiver"),
    )
    check(Plan(1, shape, schedule=good), "x")
    with pytest.raises(ConfigError, match="kill cannot happen to the store; these can: drop"):
        check(Plan(1, shape, schedule=(Fault(Kind.KILL, STORE),)), "x")
    with pytest.raises(ConfigError, match="no target store"):
        check(Plan(1, schedule=(Fault(Kind.WIPE, STORE),)), "x")
    with pytest.raises(ConfigError, match="archivers is 9, not 1 to 8"):
        check(Plan(1, replace(shape, archivers=9)), "x")


@pytest.mark.parametrize("seed", [1, 2, 3, 8, 10])
def test_an_archive_changes_nothing_else_of_a_run(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "archived", lambda _seed: False)
    without = swarm.draw(seed)
    monkeypatch.setattr(archives, "archived", lambda _seed: True)
    found = swarm.draw(seed)
    assert found.shape.archive
    assert not without.shape.archive
    plain = {name: getattr(without.shape, name) for name in archives.settings(seed)}
    assert replace(found.shape, **plain) == without.shape
    assert replace(found, shape=without.shape, schedule=without.schedule) == without
    own = {*found.schedule} - {*without.schedule}
    assert [fault for fault in found.schedule if fault not in own] == list(without.schedule)
    check(found, "x")


def test_some_seeds_have_an_archive() -> None:
    with_one = [seed for seed in range(1, 401) if swarm.draw(seed).shape.archive]
    assert 80 <= len(with_one) <= 120
    assert not {1, 2, 10} & {*with_one}, "docs/simulation.md and mutants have these"
    for seed in with_one[:40]:
        check(swarm.draw(seed), f"seed {seed}")
