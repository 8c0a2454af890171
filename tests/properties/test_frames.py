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
