"""Clones in the catalog: planned, made or given up, and what their segments are told meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cluster.control.assign import assignment_to_pb
from cluster.control.catalog import Catalog
from cluster.control.forktable import CLONES_MAX
from cluster.control.rows import Fork, ForkRow
from cluster.local.layout import ClusterSpec, ClusterState, ForkSpec, InstanceSpec, Layout
from engine.types import MAX_ANCESTRY, CommitMark, SegmentId
from tests.cluster.control.test_catalog import NODES, make_layout

AT = CommitMark(90, 7_000_000, 2600)


def clone_spec(name: str, source: str = "main", *, port: int = 100) -> ClusterSpec:
    instances = (InstanceSpec(f"{name}-1", 1, "az1", port + 2),)
    return ClusterSpec(
        name,
        port,
        port + 1,
        30 * 1024**2,
        instances,
        state=ClusterState.CLONING,
        fork=ForkSpec(source),
    )


def with_clones(*specs: ClusterSpec) -> Layout:
    layout = make_layout()
    for spec in specs:
        layout = layout.with_cluster(spec)
    return layout


def unchecked(*specs: ClusterSpec) -> Layout:
    """What no layout can say: the catalog does not rely on that."""
    layout = make_layout()
    object.__setattr__(layout, "clusters", (*layout.clusters, *specs))
    return layout


@pytest.fixture
async def catalog(tmp_path):
    opened = await Catalog.open(tmp_path / "catalog.db")
    await opened.adopt(make_layout())
    for node in await opened.storage_nodes():
        await opened.register_storage(
            node.name, address=node.address, pid=1, incarnation=node.name, time_us=1
        )
    for pg in (0, 1):
        await opened.add_group(1, pg, NODES, time_us=1)
    for node in NODES:
        await opened.confirm(node, node, [(1, 0), (1, 1)])
    yield opened
    await opened.close()


async def fork_of(catalog: Catalog, cluster: str) -> ForkRow:
    fork = (await catalog.cluster(cluster)).fork
    assert fork is not None
    return fork


async def _confirm(catalog: Catalog, volume: int, nodes: Sequence[str] = NODES) -> None:
    for node in nodes:
        await catalog.confirm(node, node, [(volume, 0), (volume, 1)])


async def _said(catalog: Catalog, subject: str = "copy") -> list[str]:
    return [what for _, about, what in await catalog.events() if about == subject]


async def _make(catalog: Catalog, name: str, commit: CommitMark = AT) -> None:
    fork = await fork_of(catalog, name)
    assert await catalog.plan_fork(fork, commit, {0: 80, 1: 0}, time_us=1)
    await _confirm(catalog, fork.volume)
    assert await catalog.fork_made(fork, time_us=1)


async def test_a_clone_is_a_cluster_at_rest_until_it_is_made(catalog):
    layout = with_clones(clone_spec("copy"))
    assert await catalog.adopt(layout)
    row = await catalog.cluster("copy")
    assert (row.volume, row.stopped, row.forking, row.epoch) == (2, True, True, 0)
    assert row.fork == ForkRow(2, 1, "main", "", made=False, commit=CommitMark(0, 0, 0))
    assert not await catalog.advance_epoch(row, time_us=1)
    assert await catalog.memberships(2) == []
    assert not await catalog.adopt(layout)


async def test_its_segments_are_made_over_the_parents_until_it_is_made(catalog):
    await catalog.adopt(with_clones(clone_spec("copy")))
    fork = await fork_of(catalog, "copy")
    assert await catalog.plan_fork(fork, AT, {0: 80, 1: 0}, time_us=1)
    assert not await catalog.plan_fork(fork, AT, {0: 80, 1: 0}, time_us=1), "once"
    assert [m.members for m in await catalog.memberships(2)] == [
        m.members for m in await catalog.memberships(1)
    ]
    expected = [Fork(((1, 90),), 80, AT), Fork(((1, 90),), 0, AT)]
    of_clone = [a for a in await catalog.assignments("storage-1") if a.volume == 2]
    assert [(a.create, a.fork) for a in of_clone] == [(True, f) for f in expected]
    said = assignment_to_pb(of_clone[0]).fork
    assert [(a.volume, a.lsn) for a in said.ancestry] == [(1, 90)]
    assert (said.tail, said.commit.lsn, said.commit.pages) == (80, 90, 2600)
    await catalog.confirm("storage-1", "storage-1", [(2, 0)])
    left = [a for a in await catalog.assignments("storage-1") if a.volume == 2 and a.create]
    assert [(a.membership.pg, a.fork) for a in left] == [(1, expected[1])]
    for assignment in await catalog.assignments("storage-1"):
        if not assignment.create:
            assert not assignment_to_pb(assignment).HasField("fork")

    assert await catalog.fork_made(fork, time_us=1)
    assert not await catalog.fork_made(fork, time_us=1)
    late = [a for a in await catalog.assignments("storage-2") if a.volume == 2]
    assert [(a.create, a.fork) for a in late] == [(True, replace(f, made=True)) for f in expected]
    await _confirm(catalog, 2)
    assert await catalog.forks() == {}
    assert (await fork_of(catalog, "copy")).commit == AT
    assert await _said(catalog) == [
        "is a clone of main, as of LSN 90, sharing its pages, with volume 2"
    ]


async def test_a_clone_that_is_made_is_a_cluster_as_any_other(catalog):
    await catalog.adopt(with_clones(clone_spec("copy")))
    await _make(catalog, "copy")
    spec = replace(clone_spec("copy"), state=ClusterState.CREATING)
    await catalog.adopt(with_clones(spec))
    row = await catalog.cluster("copy")
    assert (row.stopped, row.forking, row.epoch) == (False, False, 0)
    assert await catalog.advance_epoch(row, time_us=1)
    assert (await catalog.cluster("copy")).epoch == 1
    assert "is started" not in await _said(catalog)


async def test_a_member_that_is_replaced_meanwhile_is_not_forked_by_the_new_one(catalog):
    await catalog.adopt(with_clones(clone_spec("copy")))
    assert await catalog.plan_fork(await fork_of(catalog, "copy"), AT, {0: 80}, time_us=1)
    (known,) = await catalog.memberships(2)
    old = known.members[0]
    await catalog.register_storage(
        old.node, address=old.address, pid=1, incarnation="another disk", time_us=1
    )
    new = replace(old, incarnation="another disk")
    assert await catalog.begin_change(2, known, old=old, new=new, time_us=1)
    (found,) = [a for a in await catalog.assignments(old.node) if a.volume == 2]
    assert (found.incarnation, found.create, found.fork) == ("another disk", True, None)


async def test_a_plan_that_is_given_up_never_gets_its_volume_back(catalog):
    await catalog.adopt(with_clones(clone_spec("copy")))
    await catalog.plan_fork(await fork_of(catalog, "copy"), AT, {0: 80, 1: 0}, time_us=1)
    await _confirm(catalog, 2, NODES[:3])
    assert await catalog.abandon_fork(await fork_of(catalog, "copy"), time_us=1)
    assert await catalog.deleted() == {SegmentId(2, 0): 2, SegmentId(2, 1): 2}
    again = await fork_of(catalog, "copy")
    assert (again.volume, again.parent, again.commit.lsn, again.made) == (3, 1, 0, False)
    assert all(a.volume == 1 for a in await catalog.assignments("storage-4"))
    await _make(catalog, "copy", replace(AT, lsn=95))
    assert not await catalog.abandon_fork(await fork_of(catalog, "copy"), time_us=1)
    assert (await catalog.cluster("copy")).volume == 3
    assert (await _said(catalog))[0] == ("volume 2 is given up: the fork cannot be made at LSN 90")


async def test_a_clone_whose_source_or_itself_is_deleted_is_never_made(catalog):
    shop = replace(clone_spec("shop", port=200), state=ClusterState.RUNNING, fork=None)
    copy_spec = clone_spec("copy", "shop")
    await catalog.adopt(with_clones(shop, copy_spec, clone_spec("gone", port=300)))
    await catalog.add_group(2, 0, NODES, time_us=1)
    copy, gone = await fork_of(catalog, "copy"), await fork_of(catalog, "gone")
    assert await catalog.plan_fork(copy, AT, {0: 80}, time_us=1)
    away = (
        replace(shop, state=ClusterState.DELETING),
        replace(clone_spec("gone", port=300), state=ClusterState.DELETING),
    )
    await catalog.adopt(unchecked(*away, copy_spec))
    for fork in (copy, gone):
        assert not await catalog.plan_fork(fork, AT, {0: 80}, time_us=1)
        assert not await catalog.fork_made(fork, time_us=1)
        assert not await catalog.abandon_fork(fork, time_us=1)


async def test_a_clone_of_a_cluster_that_is_not_there_is_not_begun(catalog):
    assert not await catalog.adopt(unchecked(replace(clone_spec("copy"), fork=ForkSpec("nobody"))))
    assert await catalog.clusters() == ["main"]


async def test_a_clone_of_a_clone_has_both_for_ancestors_also_when_they_are_gone(catalog):
    copy, third = clone_spec("copy"), clone_spec("third", "copy", port=200)
    await catalog.adopt(with_clones(copy))
    await _make(catalog, "copy")
    made = replace(copy, state=ClusterState.RUNNING, fork=None)
    await catalog.adopt(with_clones(made, third))
    later = CommitMark(10_000_100, 9_000_000, 2600)
    assert await catalog.plan_fork(await fork_of(catalog, "third"), later, {0: 99, 1: 0}, time_us=1)
    await catalog.adopt(unchecked(replace(made, state=ClusterState.DELETING), third))
    forks = await catalog.forks()
    assert forks[SegmentId(3, 0)] == Fork(((2, 10_000_100), (1, 90)), 99, later)
    assert not await catalog.fork_made(await fork_of(catalog, "third"), time_us=1)


async def test_fifteen_clones_share_and_the_sixteenth_is_a_copy(catalog):
    specs = [clone_spec(f"c{n}", port=100 + 10 * n) for n in range(CLONES_MAX + 1)]
    await catalog.adopt(with_clones(*specs))
    rows = [await catalog.cluster(spec.name) for spec in specs]
    assert [bool(row.fork.copy) for row in rows] == [False] * CLONES_MAX + [True]
    last = rows[-1]
    assert last.fork.copy == "15 clones share the pages of main already, as many as may"
    assert (last.forking, last.fork.made, last.epoch) == (False, True, 0)
    assert (await _said(catalog, last.name))[0].startswith("is to be a full copy of main")

    first = replace(specs[0], state=ClusterState.DELETING)
    await catalog.adopt(with_clones(first, *specs[1:]))
    more = clone_spec("more", port=900)
    await catalog.adopt(with_clones(*specs[1:], more))
    assert (await fork_of(catalog, "more")).copy == "", "a deleted one does not count, nor a copy"


async def test_a_chain_of_clones_is_not_longer_than_a_read_may_look(catalog):
    specs = [clone_spec("c0")]
    for depth in range(MAX_ANCESTRY + 1):
        await catalog.adopt(with_clones(*specs))
        name = specs[-1].name
        fork = await fork_of(catalog, name)
        assert bool(fork.copy) is (depth == MAX_ANCESTRY)
        if not fork.copy:
            await _make(catalog, name, CommitMark(100 + depth, 1, 2600))
        specs[-1] = replace(specs[-1], state=ClusterState.RUNNING, fork=None)
        specs.append(clone_spec(f"c{depth + 1}", name, port=100 + 10 * (depth + 1)))
    assert fork.copy == "c15 has pages of 16 other volumes already, as many as may be"


async def test_an_empty_source_makes_an_empty_clone(catalog):
    await catalog.adopt(with_clones(clone_spec("copy")))
    assert await catalog.fork_made(await fork_of(catalog, "copy"), time_us=1)
    row = await catalog.cluster("copy")
    assert (row.forking, row.epoch, await catalog.memberships(2)) == (False, 0, [])
    assert await _said(catalog) == ["is a clone of main, before its first commit, with volume 2"]


async def test_only_a_stopped_clusters_volume_is_recovered_by_others(catalog):
    row = await catalog.cluster("main")
    assert not await catalog.advance_epoch_at_rest(row, time_us=1)
    layout = make_layout()
    stopped = replace(layout.clusters[0], state=ClusterState.STOPPED)
    await catalog.adopt(layout.with_cluster(stopped))
    row = await catalog.cluster("main")
    assert await catalog.advance_epoch_at_rest(row, time_us=1)
    assert not await catalog.advance_epoch_at_rest(row, time_us=1), "somebody was faster"
    assert (await catalog.cluster("main")).epoch == 1


async def test_every_volume_is_listed_with_the_deleted_ones_above_it(catalog):
    copy, third = clone_spec("copy"), clone_spec("third", "copy", port=200)
    await catalog.adopt(with_clones(copy))
    await _make(catalog, "copy")
    made = replace(copy, state=ClusterState.RUNNING, fork=None)
    await catalog.adopt(with_clones(made, third))
    await _make(catalog, "third", replace(AT, lsn=95))
    done = replace(third, state=ClusterState.RUNNING, fork=None)
    await catalog.adopt(with_clones(replace(made, state=ClusterState.DELETING), done))
    rows = await catalog.volume_rows()
    assert [(r.volume, r.cluster, r.groups) for r in rows] == [
        (1, "main", (0, 1)),
        (2, "", (0, 1)),
        (3, "third", (0, 1)),
    ]
    assert [r.fork and (r.fork.parent, r.fork.source) for r in rows] == [
        None,
        (1, "main"),
        (2, "copy"),
    ]
