"""Which volumes are listed, and what is counted as a clone's own."""

from __future__ import annotations

from cluster.cli.volumes import volume_rows
from cluster.control.rows import ForkRow, VolumeRow
from cluster.control.volumes import of_interest, volume_info
from engine.net.pb import storage_pb2 as spb
from engine.types import PAGE_SIZE, CommitMark


def clone_of(volume: int, parent: int, *, copy: str = "", lsn: int = 5) -> ForkRow:
    return ForkRow(volume, parent, f"v{parent}", copy, made=True, commit=CommitMark(lsn, 0, 9))


def row(volume: int, parent: int = 0, *, deleted: bool = False, groups: int = 1) -> VolumeRow:
    fork = clone_of(volume, parent) if parent else None
    name = "" if deleted else f"v{volume}"
    return VolumeRow(volume, name, tuple(range(groups)), fork)


def segment(volume: int, pg: int, own: int, shared: int) -> spb.SegmentStatus:
    return spb.SegmentStatus(volume=volume, pg=pg, own_pages=own, shared_pages=shared)


def test_deleted_volumes_are_listed_where_a_clone_of_them_is_left() -> None:
    rows = [
        row(1, deleted=True),
        row(2, 1, deleted=True),
        row(3, 2),
        row(4, deleted=True),
        row(5, 4, deleted=True),
        row(6),
        row(7, 6, deleted=True),
    ]
    assert [r.volume for r in of_interest(rows)] == [1, 2, 3, 6]


def test_the_copy_that_shares_most_says_what_is_shared() -> None:
    segments = [
        segment(2, 0, 10, 0),  # made again from its peers
        segment(2, 0, 3, 7),
        segment(2, 1, 1, 5),
        segment(2, 1, 0, 0),  # has nothing yet
        segment(1, 0, 100, 0),
    ]
    info = volume_info(row(2, 1, groups=3), segments)
    assert (info.own_pages, info.shared_pages, info.own_stored) == (4, 12, 14)
    assert (info.groups, info.unknown) == (3, 1)
    assert (info.parent, info.source, info.fork.lsn) == (1, "v1", 5)


def test_the_tree_has_parents_first() -> None:
    infos = [
        volume_info(row(1), [segment(1, 0, 8, 0)]),
        volume_info(row(2), []),
        volume_info(row(3, 1), [segment(3, 0, 2, 6)]),
        volume_info(row(4, 3, deleted=True), []),
        volume_info(row(5, 4), []),
        volume_info(row(6, 1), []),
    ]
    rows = volume_rows(infos)
    assert [(r["cluster"], r["depth"]) for r in rows] == [
        ("v1", 0),
        ("v3", 1),
        (None, 2),
        ("v5", 3),
        ("v6", 1),
        ("v2", 0),
    ]
    assert rows[1] == {
        "cluster": "v3",
        "volume": 3,
        "depth": 1,
        "made": True,
        "clone_of": {
            "source": "v1",
            "volume": 1,
            "lsn": 5,
            "time": "1970-01-01T00:00:00.000000Z",
            "full_copy": False,
        },
        "pages": 8,
        "own_pages": 2,
        "shared_pages": 6,
        "own_stored_bytes": 2 * PAGE_SIZE,
        "groups": 1,
        "unknown_groups": 0,
    }


def test_a_full_copy_has_no_fork() -> None:
    fork = clone_of(2, 1, copy="there are many", lsn=0)
    (shown,) = volume_rows([volume_info(VolumeRow(2, "v2", (), fork), [])])
    assert shown["clone_of"] == {
        "source": "v1",
        "volume": 1,
        "lsn": None,
        "time": None,
        "full_copy": True,
    }
