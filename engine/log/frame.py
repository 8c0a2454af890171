"""Frames: a batch of one protection group's records, the same bytes on wire, disk and replica feed.

    header   see `engine.log.header`
    record   flags u8 | varint lsn - prev_pg_lsn | varint lsn - prev_lsn | varint page
             | CPL only: varint time_us, varint pages
             | varint bytes of the rest | what it does to its page, see `engine.log.changes`

Invariants
- Every byte is covered by one of the two CRC32Cs. The header has its own, so that a rotten body does
  not hide where the next frame begins: damage in the middle and a torn tail can be told apart.
- A record's bytes do not depend on the frame around it: LSNs are distances along the back-links. It
  is encoded once, and a frame cut by a truncation is re-framed to the same bytes everywhere (but for
  one of before that the program of before has cut: its header is the long one).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from google_crc32c import value as crc32c

from engine.errors import Corrupt, FormatError, TornFrame
from engine.log.changes import decode_changes, deflated, encode_changes, inflated
from engine.log.header import FrameHeader, build_header, header_size, read_header
from engine.log.record import Changes, Moves, Ranges, Record
from engine.log.varint import get, put
from engine.types import LSN, CommitMark, Epoch, PageNo, PgNo, VolumeId

_FULL = 1
_CPL = 2
_MOVES = 4
_DEFLATED = 8
_KNOWN = _FULL | _CPL | _MOVES | _DEFLATED


class RecordRef(NamedTuple):
    """A record inside a frame, at [start, end), without its moves and ranges, which are at [offset, end).

    Counted from the end of the frame's header: what is left of a frame that was cut has a shorter one.
    """

    lsn: LSN
    prev_lsn: LSN
    prev_pg_lsn: LSN
    page: PageNo
    full: bool
    moves: bool
    deflated: bool
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
    def changes(self) -> Changes:
        return changes_at(self._frame, self.ref)


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
    body = encode_changes(moves, ranges)
    flags = (_FULL if full else 0) | (_CPL if commit else 0) | (_MOVES if moves else 0)
    if (smaller := deflated(body)) is not None:
        flags, body = flags | _DEFLATED, smaller
    out = bytearray((flags,))
    put(out, lsn - prev_pg_lsn)
    put(out, lsn - prev_lsn)
    put(out, page)
    if commit is not None:
        put(out, commit.time_us)
        put(out, commit.pages)
    put(out, len(body))
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
    header = build_header(
        volume=volume,
        pg=pg,
        epoch=epoch,
        prev_pg_lsn=prev_pg_lsn,
        first_lsn=first_lsn,
        last_lsn=last_lsn,
        records=len(records),
        body=body,
    )
    return header + body


# -- reading


def check_body(data: bytes, header: FrameHeader, offset: int = 0) -> None:
    """Raises TornFrame if the body is cut short, Corrupt if it fails its checksum."""
    body = data[offset + header.size : offset + header.length]
    if len(body) != header.length - header.size:
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


def index_frame(frame: bytes, header: FrameHeader | None = None) -> list[RecordRef]:
    """The records of a checked frame, whose `header` need not be given, without what they change."""
    if header is None:
        header = read_header(frame)
    body = frame[header.size :]
    refs = []
    lsn = header.prev_pg_lsn
    position = 0
    try:
        for _ in range(header.records):
            start = position
            flags, distance, back = body[position : position + 3]
            if flags & ~_KNOWN:
                raise FormatError(f"record flags {flags:#x} are of a newer Sextet")
            position += 3
            if (distance | back) & 0x80:  # rarely: most links lead back a record or two
                distance, position = get(body, start + 1)
                back, position = get(body, position)
            page, position = get(body, position)
            prev, lsn = lsn, lsn + distance
            commit = None
            if flags & _CPL:
                time_us, position = get(body, position)
                pages, position = get(body, position)
                commit = CommitMark(lsn, time_us, pages)
            size, position = get(body, position)
            end = position + size
            kind = bool(flags & _FULL), bool(flags & _MOVES), bool(flags & _DEFLATED)
            refs.append(RecordRef(lsn, lsn - back, prev, page, *kind, commit, start, position, end))
            position = end
    except (IndexError, ValueError):
        raise FormatError(f"frame {header.first_lsn}..{header.last_lsn} ends early") from None
    if position != len(body) or refs[0].lsn != header.first_lsn or lsn != header.last_lsn:
        raise FormatError(f"frame {header.first_lsn}..{header.last_lsn} contradicts its header")
    return refs


def record_bytes(frame: bytes, ref: RecordRef) -> bytes:
    """One record of `frame` as `encode_record` made it."""
    size = header_size(frame)
    return frame[size + ref.start : size + ref.end]


def changes_at(frame: bytes, ref: RecordRef) -> Changes:
    """What one record of `frame` does to its page. Raises FormatError if that reaches beyond it."""
    size = header_size(frame)
    body = frame[size + ref.offset : size + ref.end]
    if ref.deflated:
        body = inflated(body, ref.lsn)
    return decode_changes(body, moves=ref.moves, lsn=ref.lsn)


def decode_frame(frame: bytes) -> list[Record]:
    """All records of one frame, checksums verified."""
    header = read_header(frame)
    check_body(frame, header)
    return [record_at(frame, header.epoch, ref) for ref in index_frame(frame, header)]


def record_at(frame: bytes, epoch: Epoch, ref: RecordRef) -> Record:
    """One record of `frame`, decoded. Raises FormatError if it reaches beyond its page."""
    moves, ranges = changes_at(frame, ref)
    return Record(
        *(ref.lsn, ref.prev_lsn, ref.prev_pg_lsn, epoch, ref.page),
        *(ref.full, ranges, ref.commit, moves),
    )


def trim_frame(frame: bytes, upto: LSN) -> bytes | None:
    """The frame with only its records at or below `upto`; None if there are none.

    Deterministic, so all segments that cut the same frame keep the same bytes.
    """
    header = read_header(frame)
    if header.last_lsn <= upto:
        return frame
    kept = [ref for ref in index_frame(frame, header) if ref.lsn <= upto]
    if not kept:
        return None
    return build_frame(
        volume=header.volume,
        pg=header.pg,
        epoch=header.epoch,
        prev_pg_lsn=header.prev_pg_lsn,
        first_lsn=header.first_lsn,
        last_lsn=kept[-1].lsn,
        records=[record_bytes(frame, ref) for ref in kept],
    )
