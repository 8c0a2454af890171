"""What a frame says of itself, in some twenty bytes: there is one in front of each few records.

    header   "SF3" | its size u8 | body crc u32
             | varint bytes of the body, volume, pg, count, epoch, first_lsn,
               last_lsn - first_lsn, first_lsn - prev_pg_lsn
             | header crc u32, of all before it        little-endian

Frames of before began with 64 bytes of fixed fields ("SXF1", and "SXF2" with moves in them). They are
still in logs and archives, and are read as ever; nobody writes them.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from google_crc32c import value as crc32c

from engine.errors import FormatError, TornFrame
from engine.log.varint import put
from engine.types import LSN, NUMBER_LIMIT, Epoch, PgNo, VolumeId

MAX_FRAME = 8 * 1024 * 1024
"""Bytes; a longer one is refused on sight, so that a rotten length cannot make us read for ever."""
FRAME_START = re.compile(rb"SF3|SXF[12]")
"""Where one may begin, to go on behind damage. Only `read_header` tells whether one does."""

_MAGIC = b"SF3"
_FIELDS = 8
_FIELDS_AT = 8
_CRC = 4
_MIN = _FIELDS_AT + _FIELDS + _CRC
_MAX = _FIELDS_AT + _FIELDS * 9 + _CRC  # nine bytes hold what is below NUMBER_LIMIT

_OLD = struct.Struct("<4sIIIQIIQQQQ")
_OLD_MAGICS = (b"SXF1", b"SXF2")


class FrameHeader(NamedTuple):
    """`length` counts the whole frame and `size` its header, both in bytes; `records` is how many it has.

    LSNs as in `Record`.
    """

    volume: VolumeId
    pg: PgNo
    epoch: Epoch
    records: int
    first_lsn: LSN
    last_lsn: LSN
    prev_pg_lsn: LSN
    size: int
    length: int
    body_crc: int
    header_crc: int


def build_header(
    *,
    volume: VolumeId,
    pg: PgNo,
    epoch: Epoch,
    prev_pg_lsn: LSN,
    first_lsn: LSN,
    last_lsn: LSN,
    records: int,
    body: bytes,
) -> bytes:
    """The header of a frame of so many `records`, which are `body`. Raises ValueError over MAX_FRAME."""
    fields = bytearray()
    span, back = last_lsn - first_lsn, first_lsn - prev_pg_lsn
    for value in (len(body), volume, pg, records, epoch, first_lsn, span, back):
        put(fields, value)
    size = _FIELDS_AT + len(fields) + _CRC
    if size + len(body) > MAX_FRAME:
        raise ValueError(f"a frame of {size + len(body)} bytes is over the limit of {MAX_FRAME}")
    covered = b"".join((_MAGIC, bytes((size,)), crc32c(body).to_bytes(4, "little"), fields))
    return b"".join((covered, crc32c(covered).to_bytes(4, "little")))


def header_size(frame: bytes) -> int:
    """Bytes of a checked frame's header."""
    return _OLD.size if frame[:4] in _OLD_MAGICS else frame[3]


def read_header(data: bytes, offset: int = 0) -> FrameHeader:
    """The header at `offset`. Raises TornFrame if bytes are missing, FormatError if it is none."""
    start = data[offset : offset + 4]
    if len(start) < 4:
        raise TornFrame(f"{len(start)} bytes are no whole frame header")
    if start in _OLD_MAGICS:
        return _read_old(data, offset)
    size = start[3]
    if start[:3] != _MAGIC or not _MIN <= size <= _MAX:
        raise FormatError(f"no frame at offset {offset}: {start!r}")
    header = data[offset : offset + size]
    if len(header) < size:
        raise TornFrame(f"{len(header)} of {size} bytes are no whole frame header")
    crc = int.from_bytes(header[-_CRC:], "little")
    if crc32c(header[:-_CRC]) != crc:
        raise FormatError(f"the frame header at offset {offset} fails its checksum")
    fields = _fields(header[_FIELDS_AT:-_CRC])
    if len(fields) != _FIELDS:
        raise FormatError(f"the frame header at offset {offset} has {len(fields)} fields")
    body, volume, pg, count, epoch, first, span, back = fields
    prev, last, length = first - back, first + span, size + body
    body_crc = int.from_bytes(header[4:8], "little")
    return _sound(
        FrameHeader(volume, pg, epoch, count, first, last, prev, size, length, body_crc, crc),
        offset,
    )


def _fields(data: bytes) -> list[int]:
    """The varints that `data` consists of; an unfinished last one is left out."""
    found = []
    value = shift = 0
    for byte in data:
        if byte < 0x80:
            found.append(value | byte << shift)
            value = shift = 0
        else:
            value |= (byte & 0x7F) << shift
            shift += 7
    return found


def _read_old(data: bytes, offset: int) -> FrameHeader:
    size = _OLD.size
    if len(data) - offset < size:
        raise TornFrame(f"{len(data) - offset} of {size} bytes are no whole frame header")
    _, length, crc, body_crc, volume, pg, count, epoch, first, last, prev = _OLD.unpack_from(
        data, offset
    )
    if crc32c(data[offset : offset + 8] + data[offset + 12 : offset + size]) != crc:
        raise FormatError(f"the frame header at offset {offset} fails its checksum")
    return _sound(
        FrameHeader(volume, pg, epoch, count, first, last, prev, size, length, body_crc, crc),
        offset,
    )


def _sound(header: FrameHeader, offset: int) -> FrameHeader:
    """Raises FormatError if what it says cannot be."""
    if (
        not header.size < header.length <= MAX_FRAME
        or not 0 <= header.prev_pg_lsn < header.first_lsn <= header.last_lsn
        or header.records < 1
    ):
        raise FormatError(f"the frame header at offset {offset} contradicts itself")
    if max(header.volume, header.pg, header.epoch, header.last_lsn) >= NUMBER_LIMIT:
        raise FormatError(f"the frame header at offset {offset} has a number that is out of range")
    return header
