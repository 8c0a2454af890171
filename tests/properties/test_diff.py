"""Diffs: applying one gives the new page, and it is no larger than it needs to be."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from engine.log.apply import apply_record
from engine.log.changes import encode_changes
from engine.log.diff import Diff, apply_diff, diff_page
from engine.log.record import Record
from engine.types import PAGE_SIZE


@st.composite
def pages(draw: st.DrawFn) -> bytes:
    """Pages with stretches of zeros, like a b-tree's, or dense ones."""
    page = bytearray(PAGE_SIZE)
    for _ in range(draw(st.integers(0, 6))):
        data = draw(st.binary(min_size=1, max_size=200))
        at = draw(st.integers(0, PAGE_SIZE - len(data)))
        page[at : at + len(data)] = data
    return bytes(page)


@st.composite
def edits(draw: st.DrawFn) -> tuple[bytes, bytes]:
    before = draw(pages())
    after = bytearray(before)
    for _ in range(draw(st.integers(0, 8))):
        data = draw(st.binary(min_size=1, max_size=80))
        at = draw(st.integers(0, PAGE_SIZE - len(data)))
        after[at : at + len(data)] = data
    return before, bytes(after)


@st.composite
def shifted(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Stretches of a page move, as in a b-tree page whose rows or pointers make room for others."""
    before = draw(st.one_of(pages(), rows()))
    after = bytearray(before)
    for _ in range(draw(st.integers(1, 4))):
        length = draw(st.integers(1, 1500))
        source = draw(st.integers(0, PAGE_SIZE - length))
        target = source + draw(st.integers(-40, 40))
        target = min(max(0, target), PAGE_SIZE - length)
        after[target : target + length] = after[source : source + length]
    return before, bytes(after)


@st.composite
def rows(draw: st.DrawFn) -> bytes:
    """A page of rows that are alike but for their numbers."""
    filler = draw(st.integers(0, 90))
    count = PAGE_SIZE // (filler + 8)
    first = draw(st.integers(0, 2**32))
    page = b"".join((first + row).to_bytes(8, "big") + b" " * filler for row in range(count))
    return page.ljust(PAGE_SIZE, b"\0")


PAIRS = st.one_of(edits(), shifted(), st.tuples(pages(), pages()), st.tuples(rows(), rows()))


@given(PAIRS)
def test_applying_the_diff_gives_the_new_page(pair: tuple[bytes, bytes]) -> None:
    before, after = pair
    assert apply_diff(before, *diff_page(before, after)) == after


@given(pages())
def test_a_new_page_needs_no_base(after: bytes) -> None:
    full, moves, ranges = diff_page(None, after)
    assert full
    assert apply_diff(b"\xff" * PAGE_SIZE, full, moves, ranges) == after
    record = Record(1, 0, 0, 1, 0, full, ranges)
    assert apply_record(None, record) == after


@given(PAIRS)
def test_ranges_ascend_apart_and_carry_only_what_differs(pair: tuple[bytes, bytes]) -> None:
    before, after = pair
    full, moves, ranges = diff_page(before, after)
    base = apply_diff(before, full, moves, ())
    end = -1
    for offset, data in ranges:
        assert offset > end
        assert data[0] != base[offset]
        assert data[-1] != base[offset + len(data) - 1]
        end = offset + len(data)


def size(diff: Diff) -> int:
    """Bytes of what it says of the page, before they are deflated."""
    return len(encode_changes(diff.moves, diff.ranges))


@given(PAIRS)
def test_moves_are_made_only_where_they_pay(pair: tuple[bytes, bytes]) -> None:
    before, after = pair
    with patch("engine.log.diff._MOVES_MAX", 0):
        without = diff_page(before, after)
    assert not without.moves
    diff = diff_page(before, after)
    assert size(diff) <= size(without) + 4 * len(diff.moves)  # a move of one difference costs more


def test_a_row_that_grows_moves_the_others() -> None:
    """As pgbench's accounts do: 38 rows of 95 bytes, of which one in the middle grows by two."""
    cells = [bytes((93, 0, row)) + b"\6\0\1\2\201\65" + b" " * 84 for row in range(38)]
    grown = list(cells)
    grown[20] = cells[20][:5] + b"\2" + cells[20][6:] + b"\x12\x34"
    before, after = (b"".join(reversed(page)).rjust(PAGE_SIZE, b"\0") for page in (cells, grown))
    diff = diff_page(before, after)
    assert apply_diff(before, *diff) == after
    assert len(diff.moves) == 1
    assert size(diff) < 40


def test_pointers_make_room_for_another() -> None:
    pointers = [(4090 - 13 * n).to_bytes(2, "big") for n in range(200)]
    new = b"\x05\x39"
    before = b"".join(pointers).ljust(PAGE_SIZE, b"\0")
    after = b"".join([*pointers[:60], new, *pointers[60:]]).ljust(PAGE_SIZE, b"\0")
    diff = diff_page(before, after)
    assert apply_diff(before, *diff) == after
    assert size(diff) < 25


def test_an_update_in_place_is_its_bytes() -> None:
    before = bytes(range(256)) * 16
    after = before[:1000] + b"four" + before[1004:2000] + b"more" + before[2004:]
    assert diff_page(before, after) == (False, (), ((1000, b"four"), (2000, b"more")))


@given(pages())
def test_equal_pages_have_an_empty_diff(page: bytes) -> None:
    assert diff_page(page, page) == (False, (), ())


def test_all_moves_are_from_the_page_as_it_was() -> None:
    before = bytes(range(1, 101)).ljust(PAGE_SIZE, b"\0")
    after = apply_diff(before, False, ((0, 50, 50), (50, 50, 0), (200, 2, 0)), ((99, b"x"),))
    assert after[:99] == before[50:100] + before[:49]
    assert after[99:100] == b"x"
    assert after[200:202] == before[:2]
