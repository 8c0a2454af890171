"""Frames: a batch of one protection group's records, the same bytes on wire, disk and replica feed.

    header   magic u32 | length u32 | header crc u32 | body crc u32 | volume u64 | pg u32 | count u32
             | epoch u64 | first_lsn u64 | last_lsn u64 | prev_pg_lsn u64        little-endian
    record   flags u8 | varint lsn - prev_pg_lsn | varint lsn - prev_lsn | varint page
             | CPL only: varint time_us, varint pages
             | varint bytes of the rest
             | moves only: varint count, (varint offset, varint length, varint from)*
             | (varint gap, varint length, bytes)*

Invariants
- Every byte is covered by one of the two CRC32Cs. The header has its own, so that a rotten body does
  not hide where the next frame begins: damage in the middle and a torn tail can be told apart.
- A record's bytes do not depend on the frame around it: LSNs are distances along the back-links. It
  is encoded once, and a frame cut by a truncation is re-framed to the same bytes everywhere.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from google_crc32c import value as crc32c

from engine.errors import Corrupt, FormatError, TornFrame
from engine.log.record import Moves, Ranges, Record
from engine.types import LSN, PAGE_SIZE, CommitMark, Epoch, PageNo, PgNo, VolumeId

MAGIC = 0x31465853  # "SXF1" in little-endian: the digit is the format's version
MAGIC_MOVES = 0x32465853
"""The same of a frame in which a record has moves. Who does not know them takes it for no frame at all."""
MAX_FRAME = 8 * 1024 * 1024
"""Bytes; a longer one is refused on sight, so that a rotten length cannot make us read for ever."""

_HEADER = struct.Struct("<IIIIQIIQQQQ")
_AFTER_CRC = struct.Struct("<IQIIQQQQ")  # body crc and all that follows it
_START = struct.Struct("<II")
HEADER_SIZE = _HEADER.size

_FULL = 1
_CPL = 2
_MOVES = 4
_KNOWN = _FULL | _CPL | _MOVES


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """`length` counts the whole frame, header included; LSNs as in `Record`."""

    volume: VolumeId
    pg: PgNo
    epoch: Epoch
    count: int
    first_lsn: LSN
    last_lsn: LSN
    prev_pg_lsn: LSN
    length: int
    body_crc: int
    header_crc: int


class RecordRef(NamedTuple):
    """A record inside a frame without its moves and ranges, which are at [offset, end)."""

    lsn: LSN
    prev_lsn: LSN
    page: PageNo
    full: bool
    moves: bool
    commit: CommitMark | None
    start: int
    offset: int
    end: int


class Redo:
    """A record that is still in its checked frame: what it changes is decoded when somebody asks for it.

    Raises FormatError then, if that reaches beyond the page.
    """

    __slots__ = ("_frame", "ref")

    def __init__(self, ref: RecordRef, frame: bytes) -> None:
        self.ref = ref
        self._frame = frame

    @property
    def page(self) -> PageNo:
        return self.ref.page

    @property
    def lsn(self) -> LSN:
        return self.ref.lsn

    @property
    def full(self) -> bool:
        return self.ref.full

    @property
    def moves(self) -> Moves:
        return moves_at(self._frame, self.ref)

    @property
    def ranges(self) -> Ranges:
        return ranges_at(self._frame, self.ref)


# -- writing


def encode_record(
    *,
    lsn: LSN,
    prev_lsn: LSN,
    prev_pg_lsn: LSN,
    page: PageNo,
    full: bool,
    moves: Moves,
    ranges: Ranges,
    commit: CommitMark | None,
) -> bytes:
    """A record's bytes. `commit.lsn` must be `lsn`."""
    flags = (_FULL if full else 0) | (_CPL if commit else 0) | (_MOVES if moves else 0)
    out = bytearray((flags,))
    _put(out, lsn - prev_pg_lsn)
    _put(out, lsn - prev_lsn)
    _put(out, page)
    if commit is not None:
        _put(out, commit.time_us)
        _put(out, commit.pages)
    body = bytearray()
    if moves:
        _put(body, len(moves))
        for move in moves:
            for number in move:
                _put(body, number)
    position = 0
    for offset, data in ranges:
        _put(body, offset - position)
        _put(body, len(data))
        body += data
        position = offset + len(data)
    _put(out, len(body))
    out += body
    return bytes(out)


def build_frame(
    *,
    volume: VolumeId,
    pg: PgNo,
    epoch: Epoch,
    prev_pg_lsn: LSN,
    first_lsn: LSN,
    last_lsn: LSN,
    records: Sequence[bytes],
) -> bytes:
    """One frame of records that `encode_record` made, in chain order."""
    body = b"".join(records)
    length = HEADER_SIZE + len(body)
    if length > MAX_FRAME:
        raise ValueError(f"a frame of {length} bytes is over the limit of {MAX_FRAME}")
    rest = _AFTER_CRC.pack(
        crc32c(body), volume, pg, len(records), epoch, first_lsn, last_lsn, prev_pg_lsn
    )
    moves = any(record[0] & _MOVES for record in records)
    start = _START.pack(MAGIC_MOVES if moves else MAGIC, length)
    return b"".join((start, crc32c(start + rest).to_bytes(4, "little"), rest, body))


def _put(out: bytearray, value: int) -> None:
    """Append `value` >= 0 as a varint, seven bits a byte, low bits first."""
    if value < 0:
        raise ValueError(f"{value} is negative")
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


# -- reading


def read_header(data: bytes, offset: int = 0) -> FrameHeader:
    """The header at `offset`. Raises TornFrame if bytes are missing, FormatError if it is none."""
    if len(data) - offset < HEADER_SIZE:
        raise TornFrame(f"{len(data) - offset} bytes are no whole frame header")
    magic, length, header_crc, body_crc, volume, pg, count, epoch, first, last, prev = (
        _HEADER.unpack_from(data, offset)
    )
    if magic != MAGIC and magic != MAGIC_MOVES:
        raise FormatError(f"no frame at offset {offset}: magic {magic:#010x}, not {MAGIC:#010x}")
    covered = data[offset : offset + 8] + data[offset + 12 : offset + HEADER_SIZE]
    if crc32c(covered) != header_crc:
        raise FormatError(f"the frame header at offset {offset} fails its checksum")
    if not HEADER_SIZE < length <= MAX_FRAME or not prev < first <= last or count < 1:
        raise FormatError(f"the frame header at offset {offset} contradicts itself")
    return FrameHeader(volume, pg, epoch, count, first, last, prev, length, body_crc, header_crc)


def check_body(data: bytes, header: FrameHeader, offset: int = 0) -> None:
    """Raises TornFrame if the body is cut short, Corrupt if it fails its checksum."""
    body = data[offset + HEADER_SIZE : offset + header.length]
    if len(body) != header.length - HEADER_SIZE:
        raise TornFrame(f"frame {header.first_lsn}..{header.last_lsn} is cut short")
    if crc32c(body) != header.body_crc:
        raise Corrupt(
            f"frame {header.first_lsn}..{header.last_lsn} of group {header.pg} fails its checksum"
        )


def split_frames(data: bytes) -> Iterator[tuple[FrameHeader, bytes]]:
    """The checked whole frames of a concatenation. Raises as `read_header` and `check_body`."""
    offset = 0
    while offset < len(data):
        header = read_header(data, offset)
        check_body(data, header, offset)
        yield header, data[offset : offset + header.length]
        offset += header.length


def find_next_frame(data: bytes, offset: int) -> int | None:
    """The next offset at or after `offset` with a valid header, to go on behind damage."""
    magic = MAGIC.to_bytes(4, "little")[:3]
    while (offset := data.find(magic, offset)) >= 0:
        try:
            read_header(data, offset)
        except FormatError:
            offset += 1
        else:
            return offset
    return None


def index_frame(frame: bytes) -> list[RecordRef]:
    """The records of a checked frame, without decoding what they change."""
    header = read_header(frame)
    refs = []
    lsn = header.prev_pg_lsn
    position = HEADER_SIZE
    try:
        for _ in range(header.count):
            start = position
            flags, distance, back = frame[position : position + 3]
            if flags & ~_KNOWN:
                raise FormatError(f"record flags {flags:#x} are of a newer Sextet")
            position += 3
            if (distance | back) & 0x80:  # rarely: most links lead back a record or two
                distance, position = _get(frame, start + 1)
                back, position = _get(frame, position)
            page, position = _get(frame, position)
            lsn += distance
            commit = None
            if flags & _CPL:
                time_us, position = _get(frame, position)
                pages, position = _get(frame, position)
                commit = CommitMark(lsn, time_us, pages)
            size, position = _get(frame, position)
            end = position + size
            full, moves = bool(flags & _FULL), bool(flags & _MOVES)
            refs.append(RecordRef(lsn, lsn - back, page, full, moves, commit, start, position, end))
            position = end
    except (IndexError, ValueError):
        raise FormatError(f"frame {header.first_lsn}..{header.last_lsn} ends early") from None
    if position != header.length or refs[0].lsn != header.first_lsn or lsn != header.last_lsn:
        raise FormatError(f"frame {header.first_lsn}..{header.last_lsn} contradicts its header")
    return refs


def moves_at(frame: bytes, ref: RecordRef) -> Moves:
    """The moves of one record of `frame`. Raises FormatError if they reach beyond its page."""
    return _moves(frame, ref)[0] if ref.moves else ()


def _moves(frame: bytes, ref: RecordRef) -> tuple[Moves, int]:
    """The moves of a record that has some, and where its ranges begin."""
    moves: list[tuple[int, int, int]] = []
    try:
        count, position = _get(frame, ref.offset)
        while len(moves) < count and position < ref.end:
            offset, position = _get(frame, position)
            length, position = _get(frame, position)
            source, position = _get(frame, position)
            if max(offset, source) + length > PAGE_SIZE:
                raise FormatError(f"record {ref.lsn} moves bytes beyond its page")
            moves.append((offset, length, source))
    except IndexError:
        raise FormatError(f"record {ref.lsn} ends early") from None
    if len(moves) < count or position > ref.end:
        raise FormatError(f"record {ref.lsn} ends early")
    return tuple(moves), position


def ranges_at(frame: bytes, ref: RecordRef) -> Ranges:
    """The byte ranges of one record of `frame`. Raises FormatError if they reach beyond its page."""
    ranges = []
    position = _moves(frame, ref)[1] if ref.moves else ref.offset
    end, at = ref.end, 0
    try:
        while position < end:
            gap = frame[position]
            position += 1
            if gap >= 0x80:
                gap, position = _get(frame, position - 1)
            size = frame[position]
            position += 1
            if size >= 0x80:
                size, position = _get(frame, position - 1)
            at += gap
            if at + size > PAGE_SIZE or position + size > end:
                raise FormatError(f"record {ref.lsn} reaches beyond its page")
            ranges.append((at, frame[position : position + size]))
            at += size
            position += size
    except IndexError:
        raise FormatError(f"record {ref.lsn} ends early") from None
    return tuple(ranges)


def decode_frame(frame: bytes) -> list[Record]:
    """All records of one frame, checksums verified."""
    header = read_header(frame)
    check_body(frame, header)
    records = []
    prev = header.prev_pg_lsn
    for ref in index_frame(frame):
        ranges, moves = ranges_at(frame, ref), moves_at(frame, ref)
        records.append(
            Record(
                *(ref.lsn, ref.prev_lsn, prev, header.epoch, ref.page),
                *(ref.full, ranges, ref.commit, moves),
            )
        )
        prev = ref.lsn
    return records


def trim_frame(frame: bytes, upto: LSN) -> bytes | None:
    """The frame with only its records at or below `upto`; None if there are none.

    Deterministic, so all segments that cut the same frame keep the same bytes.
    """
    header = read_header(frame)
    if header.last_lsn <= upto:
        return frame
    kept = [ref for ref in index_frame(frame) if ref.lsn <= upto]
    if not kept:
        return None
    return build_frame(
        volume=header.volume,
        pg=header.pg,
        epoch=header.epoch,
        prev_pg_lsn=header.prev_pg_lsn,
        first_lsn=header.first_lsn,
        last_lsn=kept[-1].lsn,
        records=[frame[ref.start : ref.end] for ref in kept],
    )


def _get(data: bytes, position: int) -> tuple[int, int]:
    byte = data[position]
    position += 1
    if byte < 0x80:
        return byte, position
    value = byte & 0x7F
    shift = 7
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
