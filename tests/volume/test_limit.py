"""The state storage-full: when it begins, when it is over, and that it does not flutter."""

from __future__ import annotations

import apsw
from hypothesis import given
from hypothesis import strategies as st

from engine.log.record import PageChange
from engine.types import PAGE_SIZE
from engine.volume.limit import HYSTERESIS, StorageLimit, free_pages

MAX = 2560
ROOM = MAX // HYSTERESIS


def _met(pages: int = MAX) -> StorageLimit:
    limit = StorageLimit(MAX, pages)
    limit.refuse(MAX + 1)
    return limit


def test_it_begins_with_the_first_refusal_and_is_one_meeting_however_many_follow() -> None:
    limit = StorageLimit(MAX, MAX)
    assert not limit.full
    for _ in range(5):
        limit.refuse(MAX + 1)
        assert limit.full
    assert limit.meetings == 1


def test_a_higher_maximum_ends_it_once_what_was_refused_fits() -> None:
    limit = StorageLimit(MAX, MAX)
    limit.refuse(MAX + 500)
    limit.change(MAX + 499)
    assert limit.full
    limit.change(MAX + 500)
    assert not limit.full


def test_rows_that_are_deleted_end_it_once_there_is_some_room() -> None:
    limit = _met()
    limit.committed(MAX, ROOM - 1)
    assert limit.full
    limit.committed(MAX, None)  # a commit that says nothing about free pages
    assert limit.full
    limit.committed(MAX, ROOM)
    assert not limit.full
    limit.refuse(MAX + ROOM)
    assert limit.full
    assert limit.meetings == 2


def test_a_volume_that_shrinks_ends_it() -> None:
    limit = _met()
    limit.committed(MAX - ROOM, 0)
    assert not limit.full


def test_rows_deleted_and_inserted_in_turn_are_one_meeting() -> None:
    limit = _met()
    for _ in range(20):
        limit.committed(MAX, 3)
        limit.committed(MAX, 0)
        limit.refuse(MAX + 1)
    assert limit.meetings == 1


def test_a_statement_too_large_for_an_empty_volume_is_not_forgotten_by_small_ones() -> None:
    limit = StorageLimit(MAX, 2)
    limit.refuse(MAX + 1)
    limit.committed(3, 0)
    assert limit.full
    limit.change(2 * MAX)
    assert not limit.full


def test_the_next_writer_starts_with_what_the_last_one_left() -> None:
    assert StorageLimit(MAX, MAX, full=True).full
    assert not StorageLimit(MAX, MAX - ROOM, full=True).full
    assert StorageLimit(MAX, MAX, full=True).meetings == 0, "the one before has told of it"


def test_free_pages_are_read_from_the_header_that_sqlite_writes(tmp_path) -> None:
    path = str(tmp_path / "t.db")
    with apsw.Connection(path) as database:
        database.execute("PRAGMA page_size = 4096; CREATE TABLE t (b)")
        database.execute("INSERT INTO t VALUES (zeroblob(400000)); DELETE FROM t")
        ((expected,),) = list(database.execute("PRAGMA freelist_count"))
    database.close()
    assert expected > 90
    header = (tmp_path / "t.db").read_bytes()[:PAGE_SIZE]
    other = PageChange(5, None, bytes(PAGE_SIZE))
    assert free_pages([PageChange(0, None, header), other]) == expected
    assert free_pages([other]) is None


_EVENTS = st.one_of(
    st.tuples(st.just("refuse"), st.integers(1, 400)),
    st.tuples(st.just("commit"), st.integers(1, 640)),
    st.tuples(st.just("free"), st.integers(0, 640)),
    st.tuples(st.just("change"), st.integers(1, 4).map(lambda n: n * 320)),
)


@given(st.lists(_EVENTS, max_size=60))
def test_it_is_full_exactly_from_a_refusal_until_that_statement_would_fit(events) -> None:
    limit = StorageLimit(640, 0)
    size, free = 0, 0
    for what, value in events:
        before, meetings = limit.full, limit.meetings
        match what:
            case "refuse":
                growth = max(1, limit.max_pages - size) + value
                limit.refuse(size + growth)
                assert limit.full
                assert limit.meetings == meetings + (not before)
                continue
            case "commit":
                size, free = value, 0
                limit.committed(size, free)
            case "free":
                free = min(value, size)
                limit.committed(size, free)
            case "change":
                limit.change(value)
        assert limit.meetings == meetings
        assert limit.room == limit.max_pages - size + free
        if before and not limit.full:
            assert limit.room >= limit.max_pages // HYSTERESIS
        if not before:
            assert not limit.full
