"""Frames: what goes in comes out, and no single byte can change unnoticed."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from google_crc32c import value as crc32c
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import Corrupt, FormatError, TornFrame
from engine.log.frame import (
    build_frame,
    changes_at,
    decode_frame,
    encode_record,
    index_frame,
    record_bytes,
    split_frames,
    trim_frame,
)
from engine.log.header import FRAME_START, read_header
from engine.log.record import Record
from engine.log.varint import put
from engine.types import PAGE_SIZE, CommitMark


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, bytes], ...]:
    found = []
    at = 0
    for _ in range(draw(st.integers(0, 4))):
        at += draw(st.integers(0, 300))
        data = draw(st.binary(min_size=1, max_size=40)) * draw(st.sampled_from((1, 1, 20)))
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
    assert [changes_at(frame, ref) for ref in refs] == [record.changes for record in records]


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
    refs = index_frame(trimmed) if trimmed else []
    assert refs == index_frame(frame)[: len(kept)], "whoever has the whole frame may use them"
    whole = b"".join(record_bytes(frame, ref) for ref in refs)
    assert whole == b"".join(map(encoded, kept))


@given(batches(most=2), batches(most=2), st.data())
def test_reading_goes_on_behind_a_rotten_header(
    first: tuple[bytes, list[Record]], second: tuple[bytes, list[Record]], data: st.DataObject
) -> None:
    log = bytearray(first[0] + second[0])
    log[data.draw(st.integers(0, read_header(first[0]).size - 1))] ^= 0x55
    with pytest.raises(FormatError):
        read_header(bytes(log))
    at = len(first[0])
    assert at in [match.start() for match in FRAME_START.finditer(log, 1)]
    assert read_header(bytes(log), at).header_crc == read_header(second[0]).header_crc


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
        changes_at(frame, index_frame(frame)[0])
    with pytest.raises(FormatError):
        decode_frame(frame)


def test_moves_that_end_early_are_refused() -> None:
    whole = one(((4, 8, 0),))
    assert whole[-4:] == bytes((1, 4, 8, 0)), "a count, then offset, length, from"
    more = whole[:-4] + bytes((2, 4, 8, 0))
    frame = framed(more)
    with pytest.raises(FormatError, match="record 1 ends early"):
        changes_at(frame, index_frame(frame)[0])


@pytest.mark.parametrize("body", [b"\x80", b"\x01", b"\x01\x80", b"\x01\x05ab"])
def test_ranges_that_end_early_are_refused(body: bytes) -> None:
    frame = framed(one(())[:-1] + bytes((len(body),)) + body)
    with pytest.raises(FormatError, match="record 1"):
        changes_at(frame, index_frame(frame)[0])


def test_a_header_takes_about_twenty_bytes() -> None:
    frame = build_frame(
        volume=3, pg=9, epoch=40, prev_pg_lsn=1_999_990, first_lsn=2_000_000, last_lsn=2_000_063,
        records=[one(())],
    )  # fmt: skip
    header = read_header(frame)
    assert header.size == 22
    assert header.length == len(frame)
    assert (header.volume, header.pg, header.epoch, header.records) == (3, 9, 40, 1)
    assert (header.prev_pg_lsn, header.first_lsn, header.last_lsn) == (
        *(1_999_990, 2_000_000, 2_000_063),
    )


def sealed(fields: bytes, size: int | None = None) -> bytes:
    """A header of those varints whose checksum is right, and a body."""
    covered = b"SF3" + bytes((12 + len(fields) if size is None else size,)) + bytes(4) + fields
    return covered + crc32c(covered).to_bytes(4, "little") + b"body"


HUGE = b"\x80" * 9 + b"\x01"
"""2 ** 63 as a varint."""


# body, volume, pg, records, epoch, first LSN, span, back
@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (b"\x00\x01\x00\x01\x01\x09\x00\x01", "contradicts itself"),
        (b"\x04\x01\x00\x00\x01\x09\x00\x01", "contradicts itself"),
        (b"\x04\x01\x00\x01\x01\x09\x00\x00", "contradicts itself"),
        (b"\x04\x01\x00\x01\x01\x09\x00\x0a", "contradicts itself"),
        (b"\xff\xff\xff\x7f\x01\x00\x01\x01\x09\x00\x01", "contradicts itself"),
        (b"\x04" + HUGE + b"\x00\x01\x01\x09\x00\x01", "out of range"),
        (b"\x04\x01" + HUGE + b"\x01\x01\x09\x00\x01", "out of range"),
        (b"\x04\x01\x00\x01" + HUGE + b"\x09\x00\x01", "out of range"),
        (b"\x04\x01\x00\x01\x01" + HUGE + b"\x00\x01", "out of range"),
        (b"\x04\x01\x00\x01\x01\x09" + HUGE + b"\x01", "out of range"),
        (b"\x04\x01\x00\x01\x01\x09\x00\x81", "has 7 fields"),
        (b"\x04\x01\x00\x01\x01\x09\x00\x01\x01", "has 9 fields"),
    ],
)
def test_a_header_that_cannot_be_is_refused(fields: bytes, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        read_header(sealed(fields))


@pytest.mark.parametrize("size", [0, 19, 85, 255])
def test_a_header_of_no_possible_size_is_refused(size: int) -> None:
    with pytest.raises(FormatError, match="no frame"):
        read_header(sealed(b"\x04\x01\x00\x01\x01\x09\x00\x01", size) + bytes(300))


OLD = (
    "535846315b000000f2f3f4e64aeb963c05000000000000000200000002000000"
    "03000000000000002c010000000000002d010000000000002201000000000000"
    "000a01070504036f6c64030101098080f9c0c1c482032803000178",
    "535846325700000000aab2acf8e4724e05000000000000000200000001000000"
    "03000000000000002e010000000000002e010000000000002d01000000000000"
    "060101078180f9c0c1c482032809010a140004036e6577",
)
"""What the program wrote when a header had 64 bytes: a plain frame and one with moves behind it."""


def test_frames_of_before_are_read_as_ever() -> None:
    frames = [bytes.fromhex(frame) for frame in OLD]
    now = framed(one(()))
    split = list(split_frames(frames[0] + now + frames[1]))
    assert [frame for _, frame in split] == [frames[0], now, frames[1]]
    assert [split[0][0].size, split[2][0].size] == [64, 64]
    assert [*decode_frame(frames[0]), *decode_frame(frames[1])] == [
        Record(300, 299, 290, 3, 7, full=False, ranges=((4, b"old"),)),
        Record(
            *(301, 300, 300, 3, 9),
            full=True,
            ranges=((0, b"x"),),
            commit=CommitMark(301, 1_700_000_000_000_000, 40),
        ),
        Record(
            *(302, 301, 301, 3, 7),
            full=False,
            ranges=((4, b"new"),),
            commit=CommitMark(302, 1_700_000_000_000_001, 40),
            moves=((10, 20, 0),),
        ),
    ]
    cut = trim_frame(frames[0], 300)
    assert cut is not None
    assert decode_frame(cut) == decode_frame(frames[0])[:1]


@pytest.mark.parametrize("frame", [bytes.fromhex(frame) for frame in OLD])
def test_frames_of_before_are_checked_as_ever(frame: bytes) -> None:
    for position in range(len(frame)):
        rotten = bytearray(frame)
        rotten[position] ^= 0x21
        with pytest.raises((FormatError, Corrupt)):
            decode_frame(bytes(rotten))
        with pytest.raises(TornFrame):
            decode_frame(frame[:position])


def whole(data: bytes) -> bytes:
    """A record of page 7 that writes `data` at its beginning."""
    return encode_record(
        lsn=1,
        prev_lsn=0,
        prev_pg_lsn=0,
        page=7,
        full=True,
        moves=((4, 8, 0),),
        ranges=((0, data),),
        commit=CommitMark(1, 2, 3),
    )


ROWS = b"".join(b"row %d of a table with a filler" % n + b" " * 60 for n in range(40))
RANDOM = hashlib.shake_128(b"random").digest(4000)


@pytest.mark.parametrize(
    ("data", "smaller"),
    [(ROWS[:4000], True), (RANDOM, False), (ROWS[:200], False), (b"", False), (bytes(4096), True)],
    ids=["rows", "random", "little", "nothing", "zeros"],
)
def test_what_gets_much_smaller_is_deflated(data: bytes, smaller: bool) -> None:
    record = whole(data)
    assert (len(record) < len(data) // 2) == smaller
    (found,) = decode_frame(framed(record))
    assert found.ranges == ((0, data),)
    assert found.moves == ((4, 8, 0),)
    (ref,) = index_frame(framed(record))
    assert ref.deflated == smaller
    assert record_bytes(framed(record), ref) == record


@given(st.integers(1, 255), st.data())
def test_a_rotten_deflated_record_is_refused_or_says_something_else(
    flip: int, data: st.DataObject
) -> None:
    """The frame's checksum tells rot; this is a writer that has gone mad. No other error comes of it."""
    record = bytearray(whole(ROWS[:4000]))
    (ref,) = index_frame(framed(bytes(record)))
    record[data.draw(st.integers(ref.offset, len(record) - 1))] ^= flip
    with suppress(FormatError):
        decode_frame(framed(bytes(record)))


@pytest.mark.parametrize(
    "stream",
    [
        lambda z: z[:-1],
        lambda z: z + b"more",
        lambda z: b"no stream",
        lambda z: deflate(bytes(1 << 20)),
    ],
    ids=["cut", "more", "none", "bomb"],
)
def test_a_stream_that_is_none_is_refused(stream: Callable[[bytes], bytes]) -> None:
    record = whole(bytes(4000))
    (ref,) = index_frame(framed(record))
    body = stream(record[ref.offset :])
    size = bytearray()
    put(size, len(body))
    frame = framed(record[: ref.offset - 1] + size + body)
    (ref,) = index_frame(frame)
    assert ref.deflated
    with pytest.raises(FormatError, match="record 1 cannot be inflated"):
        changes_at(frame, ref)


def deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-12)
    return stream.compress(data) + stream.flush()


def test_a_record_of_a_newer_format_is_refused() -> None:
    frame = framed(bytes((0x40,)) + one(())[1:])
    with pytest.raises(FormatError, match="newer"):
        index_frame(frame)
