"""Frames: what goes in comes out, and no single byte can change unnoticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import Corrupt, FormatError, TornFrame
from engine.log.frame import (
    HEADER_SIZE,
    build_frame,
    decode_frame,
    encode_record,
    find_next_frame,
    index_frame,
    moves_at,
    ranges_at,
    read_header,
    split_frames,
    trim_frame,
)
from engine.log.record import Record
from engine.types import PAGE_SIZE, CommitMark


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, bytes], ...]:
    found = []
    at = 0
    for _ in range(draw(st.integers(0, 4))):
        at += draw(st.integers(0, 300))
        data = draw(st.binary(min_size=1, max_size=40))
        if at + len(data) > PAGE_SIZE:
            break
        found.append((at, data))
        at += len(data)
    return tuple(found)


@st.composite
def moves(draw: st.DrawFn) -> tuple[tuple[int, int, int], ...]:
    found = []
    for _ in range(draw(st.integers(0, 3))):
        length = draw(st.integers(1, PAGE_SIZE))
        place = st.integers(0, PAGE_SIZE - length)
        found.append((draw(place), length, draw(place)))
    return tuple(found)


@st.composite
def batches(draw: st.DrawFn, most: int = 6) -> tuple[bytes, list[Record]]:
    """A frame and the records in it."""
    prev_pg = draw(st.integers(0, 2**40))
    lsn = prev_pg
    epoch = draw(st.integers(1, 2**20))
    records: list[Record] = []
    for _ in range(draw(st.integers(1, most))):
        previous, lsn = lsn, lsn + draw(st.integers(1, 2**24))
        prev_lsn = draw(st.integers(previous, lsn - 1))
        mark = CommitMark(lsn, draw(st.integers(0, 2**53)), draw(st.integers(0, 2**32)))
        records.append(
            Record(
                lsn=lsn,
                prev_lsn=prev_lsn,
                prev_pg_lsn=previous,
                epoch=epoch,
                page=draw(st.integers(0, 2**32)),
                full=draw(st.booleans()),
                ranges=draw(ranges()),
                commit=mark if draw(st.booleans()) else None,
                moves=draw(moves()),
            )
        )
    frame = build_frame(
        volume=draw(st.integers(0, 2**60)),
        pg=draw(st.integers(0, 2**31)),
        epoch=epoch,
        prev_pg_lsn=prev_pg,
        first_lsn=records[0].lsn,
        last_lsn=records[-1].lsn,
        records=[encoded(record) for record in records],
    )
    return frame, records


def encoded(record: Record) -> bytes:
    return encode_record(
        lsn=record.lsn,
        prev_lsn=record.prev_lsn,
        prev_pg_lsn=record.prev_pg_lsn,
        page=record.page,
        full=record.full,
        moves=record.moves,
        ranges=record.ranges,
        commit=record.commit,
    )


@given(batches())
def test_decoding_gives_back_the_records(batch: tuple[bytes, list[Record]]) -> None:
    frame, records = batch
    assert decode_frame(frame) == records
    refs = index_frame(frame)
    assert [(r.lsn, r.page, r.commit) for r in refs] == [(r.lsn, r.page, r.commit) for r in records]
    assert [ranges_at(frame, ref) for ref in refs] == [record.ranges for record in records]
    assert [moves_at(frame, ref) for ref in refs] == [record.moves for record in records]


@given(batches(most=2), st.data())
def test_every_single_byte_corruption_is_rejected(
    batch: tuple[bytes, list[Record]], data: st.DataObject
) -> None:
    frame, _ = batch
    flip = data.draw(st.integers(1, 255))
    for position in range(len(frame)):
        rotten = bytearray(frame)
        rotten[position] ^= flip
        with pytest.raises((FormatError, Corrupt)):
            decode_frame(bytes(rotten))


@given(batches(most=2))
def test_every_cut_is_a_torn_frame(batch: tuple[bytes, list[Record]]) -> None:
    frame, _ = batch
    for size in range(len(frame)):
        with pytest.raises(TornFrame):
            decode_frame(frame[:size])


@given(st.lists(batches(most=3), min_size=1, max_size=4))
def test_a_concatenation_splits_into_its_frames(parts: list[tuple[bytes, list[Record]]]) -> None:
    frames = [frame for frame, _ in parts]
    assert [frame for _, frame in split_frames(b"".join(frames))] == frames


@given(batches(), st.data())
def test_trimming_keeps_exactly_the_records_up_to_a_point(
    batch: tuple[bytes, list[Record]], data: st.DataObject
) -> None:
    frame, records = batch
    upto = data.draw(st.integers(records[0].prev_pg_lsn, records[-1].lsn))
    kept = [record for record in records if record.lsn <= upto]
    trimmed = trim_frame(frame, upto)
    assert (decode_frame(trimmed) if trimmed else []) == kept


@given(batches(most=2), batches(most=2), st.data())
def test_reading_goes_on_behind_a_rotten_header(
    first: tuple[bytes, list[Record]], second: tuple[bytes, list[Record]], data: st.DataObject
) -> None:
    log = bytearray(first[0] + second[0])
    log[data.draw(st.integers(0, HEADER_SIZE - 1))] ^= 0x55
    with pytest.raises(FormatError):
        read_header(bytes(log))
    assert find_next_frame(bytes(log), 1) == len(first[0])


@given(st.binary(max_size=400))
def test_garbage_is_never_a_frame(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_frame(data)


def framed(record: bytes) -> bytes:
    """A frame whose checksums are right, whatever is in it."""
    return build_frame(
        volume=1, pg=0, epoch=1, prev_pg_lsn=0, first_lsn=1, last_lsn=1, records=[record]
    )


def one(moves: tuple[tuple[int, int, int], ...], *, full: bool = False) -> bytes:
    return encode_record(
        lsn=1, prev_lsn=0, prev_pg_lsn=0, page=7, full=full, moves=moves, ranges=(), commit=None
    )


@pytest.mark.parametrize("move", [(0, 2, PAGE_SIZE - 1), (PAGE_SIZE - 1, 2, 0), (9, 5000, 0)])
def test_a_move_beyond_the_page_is_refused(move: tuple[int, int, int]) -> None:
    frame = framed(one((move,)))
    with pytest.raises(FormatError, match="record 1 moves bytes beyond its page"):
        moves_at(frame, index_frame(frame)[0])
    with pytest.raises(FormatError):
        decode_frame(frame)


def test_moves_that_end_early_are_refused() -> None:
    whole = one(((4, 8, 0),))
    assert whole[-4:] == bytes((1, 4, 8, 0)), "a count, then offset, length, from"
    more = whole[:-4] + bytes((2, 4, 8, 0))
    frame = framed(more)
    with pytest.raises(FormatError, match="record 1 ends early"):
        moves_at(frame, index_frame(frame)[0])


@pytest.mark.parametrize("body", [b"\x80", b"\x01", b"\x01\x80", b"\x01\x05ab"])
def test_ranges_that_end_early_are_refused(body: bytes) -> None:
    frame = framed(one(())[:-1] + bytes((len(body),)) + body)
    with pytest.raises(FormatError, match="record 1"):
        ranges_at(frame, index_frame(frame)[0])


def test_a_frame_with_moves_is_none_to_who_does_not_know_them() -> None:
    plain, moved = framed(one(())), framed(one(((4, 8, 0),)))
    assert (plain[:4], moved[:4]) == (b"SXF1", b"SXF2")
    assert [f for _, f in split_frames(plain + moved + plain)] == [plain, moved, plain]
    assert find_next_frame(b"SXF" + moved, 0) == 3
    assert trim_frame(moved, 1) == moved


def test_a_record_of_a_newer_format_is_refused() -> None:
    frame = framed(bytes((0x40,)) + one(())[1:])
    with pytest.raises(FormatError, match="newer"):
        index_frame(frame)
