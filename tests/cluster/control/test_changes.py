"""Changes of members in the catalog: one winner, epochs that never fall, and who is to create what."""

from __future__ import annotations

import asyncio

import pytest

from cluster.control.catalog import Catalog
from cluster.local.layout import StorageSpec
from engine.errors import ConfigError
from engine.types import Member, Membership
from engine.volume.membership import back, begin, forward
from tests.cluster.control.test_catalog import NODES, make_layout


@pytest.fixture
async def catalog(tmp_path):
    opened = await Catalog.open(tmp_path / "catalog.db")
    await opened.adopt(make_layout())
    for node in NODES:
        await register(opened, node, f"disk of {node}")
    await opened.add_group(1, 0, NODES, time_us=1)
    for node in NODES:
        await opened.confirm(node, f"disk of {node}", [(1, 0)])
    yield opened
    await opened.close()


async def register(catalog: Catalog, node: str, incarnation: str) -> None:
    await catalog.register_storage(
        node, address="127.0.0.1:1", pid=1, incarnation=incarnation, time_us=5
    )


async def members(catalog: Catalog) -> Membership:
    (membership,) = await catalog.memberships(1)
    return membership


async def wipe(catalog: Catalog, node: str = "storage-3") -> tuple[Membership, Member, Member]:
    """The membership, the member that is lost, and the one that is to replace it."""
    known = await members(catalog)
    await register(catalog, node, "new disk")
    old = known.voter(node)
    assert old is not None
    return known, old, Member(node, old.az, old.address, "new disk")


async def test_a_change_is_what_the_algebra_says(catalog):
    known, old, new = await wipe(catalog)
    assert await catalog.begin_change(1, known, old=old, new=new, time_us=1)
    during = await members(catalog)
    assert during == begin(known, old=old, new=new)
    assert await catalog.commit_change(1, during, time_us=2)
    assert await members(catalog) == forward(during)
    (row,) = [n for n in await catalog.storage_nodes() if n.name == "storage-3"]
    assert row.lost == 0
    assert "storage-3 is whole on its new disk" in (await catalog.events())[-1][2]


async def test_a_change_that_is_given_up_leaves_the_old_members(catalog):
    known, old, new = await wipe(catalog)
    assert await catalog.begin_change(1, known, old=old, new=new, time_us=1)
    during = await members(catalog)
    assert await catalog.cancel_change(1, during, time_us=2)
    assert await members(catalog) == back(during)


async def test_of_two_who_know_the_same_one_changes_it(catalog):
    known, old, new = await wipe(catalog)
    got = await asyncio.gather(
        *(catalog.begin_change(1, known, old=old, new=new, time_us=1) for _ in range(3))
    )
    assert sorted(got) == [False, False, True]
    during = await members(catalog)
    ended = await asyncio.gather(
        catalog.commit_change(1, during, time_us=2), catalog.cancel_change(1, during, time_us=2)
    )
    assert sorted(ended) == [False, True]
    assert (await members(catalog)).epoch == known.epoch + 2


async def test_a_disk_that_was_wiped_again_is_no_new_member(catalog):
    known, old, new = await wipe(catalog)
    await register(catalog, "storage-3", "yet another disk")
    assert not await catalog.begin_change(1, known, old=old, new=new, time_us=1)
    assert await members(catalog) == known


async def test_the_new_disk_is_to_create_its_segment_once(catalog):
    known, old, new = await wipe(catalog)
    (lost,) = await catalog.assignments("storage-3")
    assert (lost.incarnation, lost.create) == (old.incarnation, False)
    assert await catalog.begin_change(1, known, old=old, new=new, time_us=1)
    (joining,) = await catalog.assignments("storage-3")
    assert (joining.incarnation, joining.create) == ("new disk", True)
    assert await catalog.unconfirmed_nodes() == ["storage-3"]
    await catalog.confirm("storage-3", "new disk", [(1, 0)])
    (joining,) = await catalog.assignments("storage-3")
    assert not joining.create
    assert await catalog.unconfirmed_nodes() == []


async def test_another_node_takes_a_place(catalog):
    known = await members(catalog)
    await catalog.drain("storage-1", wanted=True, time_us=1)
    layout = make_layout()
    await catalog.adopt(layout.with_storage(StorageSpec("storage-7", "az1", 99)))
    await register(catalog, "storage-7", "disk of storage-7")
    new = Member("storage-7", "az1", "127.0.0.1:1", "disk of storage-7")
    old = known.voter("storage-1")
    assert old is not None
    assert await catalog.begin_change(1, known, old=old, new=new, time_us=1)
    assert [a.create for a in await catalog.assignments("storage-7")] == [True]
    assert [a.create for a in await catalog.assignments("storage-1")] == [False]
    during = await members(catalog)
    assert await catalog.commit_change(1, during, time_us=2)
    assert await catalog.assignments("storage-1") == []
    assert (await members(catalog)).voter("storage-7") == new


async def test_node_that_is_given_up_while_it_asks_is_assigned_nothing(catalog, monkeypatch):
    """Found by the simulator (seeds 2935, 2945): the control plane died of it."""
    known = await members(catalog)
    await catalog.adopt(make_layout().with_storage(StorageSpec("storage-7", "az1", 99)))
    await register(catalog, "storage-7", "disk of storage-7")
    new = Member("storage-7", "az1", "127.0.0.1:1", "disk of storage-7")
    old = known.voter("storage-1")
    assert old is not None
    assert await catalog.begin_change(1, known, old=old, new=new, time_us=1)
    during = await members(catalog)
    quick = Catalog.memberships

    async def late(self: Catalog, volume: int) -> list[Membership]:
        await self.cancel_change(1, during, time_us=2)
        return await quick(self, volume)

    monkeypatch.setattr(Catalog, "memberships", late)
    assert await catalog.assignments("storage-7") == []


async def test_drained_is_remembered_until_it_is_undone(catalog):
    assert await catalog.drain("storage-1", wanted=True, time_us=1)
    assert not await catalog.drain("storage-1", wanted=True, time_us=1)
    assert await catalog.drained() == {"storage-1"}
    assert await catalog.drain("storage-1", wanted=False, time_us=1)
    assert await catalog.drained() == set()
    with pytest.raises(ConfigError, match="no storage node"):
        await catalog.drain("storage-99", wanted=True, time_us=1)
