"""The catalog: transitions that compare and set, and segments that are created once in their life."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.control import schema
from cluster.control.catalog import Catalog
from cluster.control.schema import FORMAT
from cluster.local.layout import ClusterSpec, InstanceSpec, Layout, StorageSpec
from engine.errors import ConfigError

NODES = [f"storage-{n}" for n in range(1, 7)]


def make_layout(first_port: int = 3) -> Layout:
    """By default on ports where nobody listens, not even a cluster that somebody runs here."""
    storage = tuple(
        StorageSpec(name, f"az{n // 2 + 1}", first_port + 1 + n) for n, name in enumerate(NODES)
    )
    instances = tuple(
        InstanceSpec(f"main-{n}", n, f"az{n}", first_port + 10 + n) for n in (1, 2, 3)
    )
    main = ClusterSpec("main", first_port - 2, first_port - 1, 30 * 1024**2, instances)
    return Layout(first_port, storage, (main,))


@pytest.fixture
async def catalog(tmp_path):
    opened = await Catalog.open(tmp_path / "catalog.db")
    await opened.adopt(make_layout())
    yield opened
    await opened.close()


async def _register(catalog: Catalog, node: str, incarnation: str) -> bool:
    return await catalog.register_storage(
        node, address="127.0.0.1:1", pid=1, incarnation=incarnation, time_us=5
    )


async def test_new_catalog_holds_the_layout(catalog):
    row = await catalog.cluster("main")
    assert (row.writer, row.epoch, row.max_pages) == ("main-1", 0, 3 * 2560)
    assert [i.name for i in await catalog.instances("main")] == ["main-1", "main-2", "main-3"]
    assert [n.name for n in await catalog.storage_nodes()] == NODES


async def test_everything_is_there_after_reopening(catalog, tmp_path):
    await _register(catalog, "storage-1", "a")
    await catalog.add_group(1, 0, NODES, time_us=1)
    assert await catalog.advance_epoch(await catalog.cluster("main"), time_us=1)
    again = await Catalog.open(tmp_path / "catalog.db")
    await again.adopt(make_layout())
    try:
        assert await again.cluster("main") == await catalog.cluster("main")
        assert await again.memberships(1) == await catalog.memberships(1)
        assert await again.version() == await catalog.version(), "adopting the same changes nothing"
    finally:
        await again.close()


async def test_adopting_moved_addresses_keeps_epochs_and_members(catalog):
    await catalog.add_group(1, 0, NODES, time_us=1)
    assert await catalog.advance_epoch(await catalog.cluster("main"), time_us=1)
    version = await catalog.version()
    await catalog.adopt(make_layout(30000))
    assert await catalog.version() > version
    assert (await catalog.cluster("main")).epoch == 1
    (membership,) = await catalog.memberships(1)
    assert membership.members[0].address == "127.0.0.1:30001"
    assert (await catalog.instances("main"))[0].address == "127.0.0.1:30011"


async def test_epoch_is_given_to_one_of_two_who_read_the_same(catalog):
    row = await catalog.cluster("main")
    got = await asyncio.gather(*(catalog.advance_epoch(row, time_us=1) for _ in range(5)))
    assert sorted(got) == [False, False, False, False, True]
    assert (await catalog.cluster("main")).epoch == 1


async def test_epoch_is_refused_if_the_writer_has_changed(catalog):
    row = await catalog.cluster("main")
    assert not await catalog.advance_epoch(replace(row, writer="main-2"), time_us=1)
    assert (await catalog.cluster("main")).epoch == 0


async def test_group_is_added_once_and_only_as_the_next(catalog):
    assert not await catalog.add_group(1, 1, NODES, time_us=1)
    got = await asyncio.gather(*(catalog.add_group(1, 0, NODES, time_us=1) for _ in range(3)))
    assert sorted(got) == [False, False, True]
    assert await catalog.add_group(1, 1, NODES, time_us=1)
    assert [m.pg for m in await catalog.memberships(1)] == [0, 1]


async def test_version_grows_with_every_visible_change_and_no_other(catalog):
    async def grew(change):
        before = await catalog.version()
        await change
        return await catalog.version() > before

    assert await grew(_register(catalog, "storage-1", "a"))
    assert not await grew(_register(catalog, "storage-1", "a"))
    assert await grew(catalog.add_group(1, 0, NODES, time_us=1))
    assert not await grew(catalog.confirm("storage-1", "a", [(1, 0)]))
    assert await grew(catalog.register_instance("main-1", address="127.0.0.1:9", pid=1, time_us=1))
    assert not await grew(
        catalog.register_instance("main-1", address="127.0.0.1:9", pid=2, time_us=2)
    )


async def test_events_are_kept_in_order_and_only_so_many(catalog, monkeypatch):
    monkeypatch.setattr("cluster.control.transactions.EVENTS_KEPT", 20)
    for n in range(30):
        await catalog.record("main", f"event {n}", time_us=n)
    kept = await catalog.events()
    assert [what for _, _, what in kept] == [f"event {n}" for n in range(10, 30)]
    assert await catalog.events(2) == [(28, "main", "event 28"), (29, "main", "event 29")]


async def test_an_instance_that_registers_again_is_an_event_once_a_life(catalog):
    for pid in (1, 1, 2, 2):
        await catalog.register_instance("main-2", address="127.0.0.1:9", pid=pid, time_us=1)
    registered = [what for _, subject, what in await catalog.events() if subject == "main-2"]
    assert registered == [f"registered at 127.0.0.1:9, pid {pid}" for pid in (1, 2)]


# -- segments are created once


async def test_segment_is_to_be_created_until_confirmed(catalog):
    await _register(catalog, "storage-1", "a")
    await catalog.add_group(1, 0, NODES, time_us=1)
    (assignment,) = await catalog.assignments("storage-1")
    assert (assignment.incarnation, assignment.create) == ("a", True)
    assert await catalog.unconfirmed_nodes() == ["storage-1"]
    await catalog.confirm("storage-1", "a", [(1, 0)])
    (assignment,) = await catalog.assignments("storage-1")
    assert not assignment.create
    assert await catalog.unconfirmed_nodes() == []
    assert await catalog.created(1) == {0: {"storage-1"}}


async def test_member_that_never_registered_gets_its_first_incarnation(catalog):
    await catalog.add_group(1, 0, NODES, time_us=1)
    (before,) = await catalog.assignments("storage-2")
    assert (before.incarnation, before.create) == ("", True)
    assert await catalog.unconfirmed_nodes() == [], "nobody to ask yet"
    assert await _register(catalog, "storage-2", "b")
    (after,) = await catalog.assignments("storage-2")
    assert (after.incarnation, after.create) == ("b", True)


@pytest.mark.parametrize("confirmed", [True, False])
async def test_wiped_node_is_never_told_to_create_what_it_lost(catalog, confirmed):
    await _register(catalog, "storage-1", "a")
    await catalog.add_group(1, 0, NODES, time_us=1)
    if confirmed:  # else it may have created it and acked, and only its word got lost
        await catalog.confirm("storage-1", "a", [(1, 0)])
    await _register(catalog, "storage-1", "b")
    (assignment,) = await catalog.assignments("storage-1")
    assert (assignment.incarnation, assignment.create) == ("a", False)
    assert await catalog.unconfirmed_nodes() == []
    await catalog.confirm("storage-1", "b", [(1, 0)])
    assert await catalog.created(1) == ({0: {"storage-1"}} if confirmed else {})
    (node,) = [n for n in await catalog.storage_nodes() if n.name == "storage-1"]
    assert (node.segments, node.lost) == (1, 1)
    assert ("storage-1", "came back with another disk: incarnation b, was a") in [
        (subject, what) for _, subject, what in await catalog.events()
    ]


async def test_wiped_node_may_keep_groups_that_came_after(catalog):
    await _register(catalog, "storage-1", "a")
    await catalog.add_group(1, 0, NODES, time_us=1)
    await _register(catalog, "storage-1", "b")
    await catalog.add_group(1, 1, NODES, time_us=1)
    old, new = await catalog.assignments("storage-1")
    assert (old.incarnation, old.create) == ("a", False)
    assert (new.incarnation, new.create) == ("b", True)


async def test_disk_that_comes_back_is_itself_again(catalog):
    await _register(catalog, "storage-1", "a")
    await catalog.add_group(1, 0, NODES, time_us=1)
    await catalog.confirm("storage-1", "a", [(1, 0)])
    await _register(catalog, "storage-1", "b")
    await _register(catalog, "storage-1", "a")
    (node,) = [n for n in await catalog.storage_nodes() if n.name == "storage-1"]
    assert node.lost == 0


# -- strangers and damage


async def test_strangers_are_refused(catalog):
    with pytest.raises(ConfigError, match="no storage node storage-7"):
        await _register(catalog, "storage-7", "a")
    with pytest.raises(ConfigError, match="no instance main-9"):
        await catalog.register_instance("main-9", address="x", pid=1, time_us=1)
    with pytest.raises(ConfigError, match="no cluster other"):
        await catalog.cluster("other")


async def test_failed_transition_leaves_nothing(catalog):
    before = await catalog.version()
    with pytest.raises(sqlite3.IntegrityError):
        await catalog.add_group(99, 0, NODES, time_us=1)  # there is no volume 99
    assert await catalog.version() == before
    assert await catalog.add_group(1, 0, NODES, time_us=1), "the connection still works"


async def test_unknown_format_is_refused(tmp_path):
    path = tmp_path / "future.db"
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {FORMAT + 1}")
    database.close()
    with pytest.raises(ConfigError, match=f"has format {FORMAT + 1}, this Sextet knows {FORMAT}"):
        await Catalog.open(path)


NO_FORKS = "DROP TABLE ancestors; DROP TABLE fork_groups; DROP TABLE forks;"

OLD_INSTANCES = """
CREATE TABLE instances (
    name TEXT PRIMARY KEY,
    cluster TEXT NOT NULL REFERENCES clusters (name),
    number INTEGER NOT NULL,
    az TEXT NOT NULL,
    address TEXT NOT NULL,
    socket TEXT NOT NULL,
    pid INTEGER NOT NULL DEFAULT 0
);
INSERT INTO instances SELECT name, cluster, number, az, address, socket, pid FROM newer;
DROP TABLE newer;
ALTER TABLE volumes DROP COLUMN storage_full;
ALTER TABLE volumes DROP COLUMN deleted;
ALTER TABLE clusters DROP COLUMN stopped;
PRAGMA user_version = 1;
"""


async def _of_format_1(path: Path) -> None:
    """A catalog as the code before tiers and repair left it: it has been a writer's already."""
    made = await Catalog.open(path)
    await made.adopt(make_layout())
    assert await made.advance_epoch(await made.cluster("main"), time_us=1)
    await made.close()
    with sqlite3.connect(path) as database:
        database.executescript(
            f"{NO_FORKS} DROP TABLE replacements; DROP TABLE drained;"
            f"ALTER TABLE instances RENAME TO newer; {OLD_INSTANCES}"
        )
    database.close()


async def test_catalog_of_format_1_is_brought_up_to_date_in_place(tmp_path):
    path = tmp_path / "old.db"
    await _of_format_1(path)
    for _ in range(2):
        opened = await Catalog.open(path)
        try:
            assert (await opened.cluster("main")).epoch == 1
            found = await opened.instances("main")
            assert [(i.name, i.tier, i.size) for i in found] == [
                (f"main-{n}", 1, "medium") for n in (1, 2, 3)
            ]
        finally:
            await opened.close()
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (FORMAT,)
        assert database.execute("SELECT count(*) FROM replacements").fetchone() == (0,)
    database.close()


async def test_catalog_of_format_3_gets_room_for_what_is_stopped_and_deleted(tmp_path):
    path = tmp_path / "old.db"
    made = await Catalog.open(path)
    await made.adopt(make_layout())
    await made.close()
    with sqlite3.connect(path) as database:
        fresh = database.execute("SELECT sql FROM sqlite_schema WHERE name = 'clusters'").fetchone()
        database.executescript(
            f"{NO_FORKS} ALTER TABLE volumes DROP COLUMN deleted;"
            "ALTER TABLE clusters DROP COLUMN stopped; PRAGMA user_version = 3;"
        )
    database.close()
    assert "stopped" in fresh[0]
    opened = await Catalog.open(path)
    try:
        assert not (await opened.cluster("main")).stopped
        assert await opened.volumes() == {1: False}
        assert not await opened.adopt(make_layout()), "nothing is news"
    finally:
        await opened.close()


async def test_catalog_of_format_4_gets_room_for_clones(tmp_path):
    path = tmp_path / "old.db"
    made = await Catalog.open(path)
    await made.adopt(make_layout())
    await made.close()
    tables = "SELECT name, sql FROM sqlite_schema ORDER BY name"
    with sqlite3.connect(path) as database:
        fresh = database.execute(tables).fetchall()
        database.executescript(f"{NO_FORKS} PRAGMA user_version = 4;")
    database.close()
    opened = await Catalog.open(path)
    try:
        assert (await opened.cluster("main")).fork is None
        assert not await opened.adopt(make_layout()), "nothing is news"
    finally:
        await opened.close()
    with sqlite3.connect(path) as database:
        assert database.execute(tables).fetchall() == fresh
    database.close()


async def test_migration_that_is_cut_short_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "old.db"
    await _of_format_1(path)
    monkeypatch.setitem(schema.MIGRATIONS, 1, schema.MIGRATIONS[1] + "SELECT * FROM nowhere;")
    with pytest.raises(ConfigError, match="cannot be used: no such table: nowhere"):
        await Catalog.open(path)
    monkeypatch.undo()
    opened = await Catalog.open(path)
    assert [i.tier for i in await opened.instances("main")] == [1, 1, 1]
    await opened.close()


async def test_changed_tier_and_size_are_taken_over(catalog):
    layout = make_layout()
    main = layout.cluster("main")
    changed = replace(main.instances[1], tier=0, size="small")
    instances = (main.instances[0], changed, main.instances[2])
    before = await catalog.version()
    await catalog.adopt(layout.with_cluster(replace(main, instances=instances)))
    found = await catalog.instances("main")
    assert [(i.tier, i.size) for i in found] == [(1, "medium"), (0, "small"), (1, "medium")]
    assert await catalog.version() == before + 1


async def test_damaged_file_is_named(tmp_path):
    path = tmp_path / "damaged.db"
    path.write_bytes(b"this is no database, whatever it is" * 100)
    with pytest.raises(ConfigError, match=r"damaged\.db cannot be used"):
        await Catalog.open(path)


@pytest.mark.parametrize("turns", range(12))
async def test_a_caller_cancelled_at_any_moment_leaves_no_transaction_open(catalog, turns):
    """Found by the simulator (seed 82): a process that died while it registered broke the catalog."""
    await _register(catalog, "storage-1", "a")
    registering = asyncio.ensure_future(_register(catalog, "storage-2", "b"))
    for _ in range(turns):
        await asyncio.sleep(0)
    registering.cancel()
    await asyncio.wait({registering})
    assert await _register(catalog, "storage-3", "c")
    assert [n.incarnation for n in await catalog.storage_nodes()][2] == "c"


async def test_a_caller_cancelled_while_it_commits_leaves_no_transaction_open(catalog):
    async with asyncio.timeout(10):
        for number in range(40):
            registering = asyncio.ensure_future(_register(catalog, "storage-2", f"b{number}"))
            while not catalog._db.in_transaction and not registering.done():
                await asyncio.sleep(0)
            registering.cancel()
            await asyncio.wait({registering})
            await _register(catalog, "storage-3", f"c{number}")


async def test_a_writer_of_an_old_epoch_adds_no_group(catalog):
    assert await catalog.add_group(1, 0, NODES, time_us=1, epoch=0)
    assert await catalog.advance_epoch(await catalog.cluster("main"), time_us=1)
    assert not await catalog.add_group(1, 1, NODES, time_us=1, epoch=0)
    assert len(await catalog.memberships(1)) == 1
    assert await catalog.add_group(1, 1, NODES, time_us=1, epoch=1)


async def test_instance_that_the_layout_has_no_longer_is_forgotten(catalog):
    before = await catalog.version()
    assert await catalog.adopt(make_layout().without_instance("main-3"), time_us=7)
    assert [i.name for i in await catalog.instances("main")] == ["main-1", "main-2"]
    assert await catalog.version() == before + 1
    assert (await catalog.events())[-1] == (7, "main-3", "is removed")
    assert (await catalog.cluster("main")).writer == "main-1"
    assert not await catalog.adopt(make_layout().without_instance("main-3"))
    with pytest.raises(ConfigError, match="no instance main-3"):
        await catalog.register_instance("main-3", address="127.0.0.1:1", pid=1, time_us=8)


async def test_removed_writer_is_followed_by_the_lowest_tier(catalog):
    layout = make_layout()
    main = layout.cluster("main")
    instances = (main.instances[1], replace(main.instances[2], tier=0))
    await catalog.adopt(layout.with_cluster(replace(main, instances=instances)), time_us=7)
    row = await catalog.cluster("main")
    assert row.writer == "main-3"
    assert [i.name for i in await catalog.instances("main")] == ["main-2", "main-3"]
    what = [event[2] for event in await catalog.events()]
    assert "main-3 is named writer instead of main-1, which is removed" in what
