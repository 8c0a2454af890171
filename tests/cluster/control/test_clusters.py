"""Clusters that are added, stopped, started and deleted in the catalog, each apart from the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.control.catalog import Catalog
from cluster.local.layout import ClusterSpec, ClusterState, InstanceSpec, Layout
from engine.errors import ConfigError
from engine.types import Member, SegmentId
from engine.volume.membership import begin
from tests.cluster.control.test_catalog import NODES, make_layout

SHOP = ClusterSpec(
    "shop",
    40,
    41,
    20 * 1024**2,
    (InstanceSpec("shop-1", 1, "az1", 42), InstanceSpec("shop-2", 2, "az2", 43)),
    state=ClusterState.CREATING,
)


def two(state: ClusterState = ClusterState.RUNNING) -> Layout:
    return make_layout().with_cluster(replace(SHOP, state=state))


@pytest.fixture
async def catalog(tmp_path):
    opened = await Catalog.open(tmp_path / "catalog.db")
    await opened.adopt(make_layout())
    await opened.adopt(two(ClusterState.CREATING))
    for node in await opened.storage_nodes():
        await opened.register_storage(
            node.name, address=node.address, pid=1, incarnation=node.name, time_us=1
        )
    for volume in (1, 2):
        await opened.add_group(volume, 0, NODES, time_us=1)
        for node in NODES:
            await opened.confirm(node, node, [(volume, 0)])
    yield opened
    await opened.close()


async def _said(catalog: Catalog) -> list[str]:
    return [what for _, subject, what in await catalog.events() if subject == "shop"]


async def test_each_cluster_has_a_volume_of_its_own(catalog):
    shop = await catalog.cluster("shop")
    assert (shop.volume, shop.writer, shop.epoch, shop.stopped) == (2, "shop-1", 0, False)
    assert [i.name for i in await catalog.instances("shop")] == ["shop-1", "shop-2"]
    assert await _said(catalog) == ["is created, with volume 2"]
    assert not await catalog.adopt(two()), "that it works is no news here"


async def test_stopped_cluster_has_no_epoch_to_give_and_no_writer_to_name(catalog):
    await catalog.adopt(two(ClusterState.STOPPED))
    row = await catalog.cluster("shop")
    assert row.stopped
    assert not await catalog.advance_epoch(row, time_us=1)
    assert not await catalog.name_writer("shop", "shop-2", instead_of="shop-1", time_us=1)
    assert not await catalog.adopt(two(ClusterState.STOPPED))
    assert await catalog.advance_epoch(await catalog.cluster("main"), time_us=1)
    await catalog.adopt(two())
    assert await catalog.advance_epoch(await catalog.cluster("shop"), time_us=1)
    assert (await _said(catalog))[1:3] == ["is stopped", "is started"]


async def test_deleted_cluster_leaves_only_what_its_segments_are_dropped_by(catalog):
    (before,) = await catalog.memberships(2)
    main = await catalog.cluster("main"), await catalog.memberships(1)
    version = await catalog.version()
    assert await catalog.adopt(two(ClusterState.DELETING))
    assert await catalog.version() > version
    assert await catalog.clusters() == ["main"]
    assert await catalog.memberships(2) == []
    assert await catalog.deleted() == {SegmentId(2, 0): before.epoch + 1}
    assert await catalog.volumes() == {1: False, 2: True}
    with pytest.raises(ConfigError, match="no instance shop-1"):
        await catalog.register_instance("shop-1", address="x", pid=1, time_us=1)
    assert (await catalog.cluster("main"), await catalog.memberships(1)) == main
    assert [node.segments for node in await catalog.storage_nodes()] == [1] * 6
    assert not await catalog.adopt(two(ClusterState.DELETING)), "once is enough"
    assert (await _said(catalog))[-1] == "is deleted, and volume 2 with it"


async def test_number_of_a_deleted_volume_is_never_used_again(catalog):
    await catalog.adopt(two(ClusterState.DELETING))
    await catalog.adopt(make_layout())
    await catalog.adopt(two())
    assert (await catalog.cluster("shop")).volume == 3
    assert await catalog.memberships(3) == []


async def test_segment_that_was_being_replaced_is_deleted_all_the_same(catalog):
    (known,) = await catalog.memberships(2)
    old = known.members[0]
    lost = Member(old.node, old.az, old.address, "another disk")
    await catalog.register_storage(
        old.node, address=old.address, pid=1, incarnation=lost.incarnation, time_us=1
    )
    assert await catalog.begin_change(2, known, old=old, new=lost, time_us=1)
    during = begin(known, old=old, new=lost)
    await catalog.adopt(two(ClusterState.DELETING))
    assert await catalog.deleted() == {SegmentId(2, 0): during.epoch + 1}
    assert not await catalog.commit_change(2, during, time_us=1)
    assert [a.volume for a in await catalog.assignments(old.node)] == [1]


async def test_nobody_adds_a_group_to_a_volume_that_was_deleted_meanwhile(catalog):
    row = await catalog.cluster("shop")
    await catalog.adopt(two(ClusterState.DELETING))
    assert not await catalog.add_group(2, 1, NODES, epoch=row.epoch, time_us=1)
    assert not await catalog.advance_epoch(row, time_us=1)


async def test_cluster_that_is_only_missing_from_the_layout_loses_nothing(catalog):
    assert not await catalog.adopt(make_layout())
    assert await catalog.clusters() == ["main", "shop"]
    assert len(await catalog.memberships(2)) == 1
