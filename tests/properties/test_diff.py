"""Diffs: applying one gives the new page, and it is no larger than it needs to be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.log.apply import apply_ranges, apply_record
from engine.log.diff import diff_page
from engine.log.record import Record
from engine.types import PAGE_SIZE, ZERO_PAGE


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


@given(edits())
def test_applying_the_diff_gives_the_new_page(edit: tuple[bytes, bytes]) -> None:
    before, after = edit
    full, ranges = diff_page(before, after)
    assert apply_ranges(before, full, ranges) == after


@given(pages(), pages())
def test_unrelated_pages_diff_too(before: bytes, after: bytes) -> None:
    full, ranges = diff_page(before, after)
    assert apply_ranges(before, full, ranges) == after


@given(pages())
def test_a_new_page_needs_no_base(after: bytes) -> None:
    full, ranges = diff_page(None, after)
    assert full
    assert apply_ranges(b"\xff" * PAGE_SIZE, full, ranges) == after
    record = Record(1, 0, 0, 1, 0, full, ranges)
    assert apply_record(None, record) == after


@given(edits())
def test_ranges_ascend_apart_and_carry_only_what_differs(edit: tuple[bytes, bytes]) -> None:
    before, after = edit
    full, ranges = diff_page(before, after)
    base = ZERO_PAGE if full else before
    end = -1
    for offset, data in ranges:
        assert offset > end
        assert data[0] != base[offset]
        assert data[-1] != base[offset + len(data) - 1]
        end = offset + len(data)


@given(pages())
def test_equal_pages_have_an_empty_diff(page: bytes) -> None:
    assert diff_page(page, page) == (False, ())
