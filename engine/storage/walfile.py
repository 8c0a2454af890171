"""What one file of the hot log holds: frames exactly as they came off the wire, and sync marks.

    mark     magic u32 | crc u32 | file number u64 | upto u64        little-endian

A mark says: when I was written, every byte of this file below `upto` was durable. One is appended
after each fdatasync and becomes durable with the next. That is what tells a torn tail from rot when
the log is read back:

- bad bytes at or above the highest `upto` were never acknowledged: a crash tore them, they and what
  follows are cut;
- bad bytes below it were durable once and may have been acknowledged: damage.

Without marks, rot in the newest frame would pass for a torn write, and a frame that the file system
wrote out of order behind a torn one would pass for damage.

Caveat: after a power cut the last mark may be missing, and then rot that hits the newest frames at
the same time is cut as torn. One fault of each kind at once, on one node, is within the quorum.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import NamedTuple

from google_crc32c import value as crc32c

from engine.errors import Corrupt, FormatError
from engine.log.frame import check_body, index_frame
from engine.log.header import FRAME_START, FrameHeader, read_header
from engine.types import PageNo
from engine.volume.geometry import first_page

_MARK = struct.Struct("<4sIQQ")
_MARK_MAGIC = b"SXM1"
_NO_NUMBER = re.compile(rb"[\x80-\xff]{8192}")
"""A disk's erased block, say. Read as one number of that many digits it would take minutes."""

_START = re.compile(FRAME_START.pattern + b"|" + _MARK_MAGIC)


class Location(NamedTuple):
    """Where a frame's bytes are, and which frame: a disk that misdirects a read or a write may give
    another one, which is whole in itself."""

    file: int
    offset: int
    length: int
    header_crc: int


@dataclass(frozen=True, slots=True)
class Found:
    """A whole, checked frame met while reading the log back."""

    location: Location
    header: FrameHeader
    frame: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that were durable and are no frame any more; `header` if it at least is readable.

    `pages`: whose records the rotten body seems to hold, see `_pages_in`.
    """

    file: int
    offset: int
    header: FrameHeader | None
    pages: tuple[PageNo, ...] = ()


@dataclass(frozen=True, slots=True)
class Scanned:
    """A file's content in order. `torn_at` is where to cut it, None if it ends well.

    Below `durable` everything was synced, says the last mark.
    """

    items: tuple[Found | Damage, ...]
    torn_at: int | None
    durable: int = 0


def mark(file: int, upto: int) -> bytes:
    """The bytes that say that `file` is durable below offset `upto`."""
    rest = struct.pack("<QQ", file, upto)
    return _MARK.pack(_MARK_MAGIC, crc32c(_MARK_MAGIC + rest), file, upto)


def scan_file(data: bytes, file: int, *, last: bool) -> Scanned:
    """Read a whole file. Only the log's last file (`last`) can be torn; see `engine.storage.wal`."""
    items: list[Found | Damage] = []
    durable = 0
    offset = 0
    while offset < len(data):
        upto = _mark_at(data, offset, file)
        if upto is not None:
            durable = max(durable, upto)
            offset += _MARK.size
            continue
        header: FrameHeader | None = None
        try:
            header = read_header(data, offset)
            check_body(data, header, offset)
        except (FormatError, Corrupt):
            items.append(Damage(file, offset, header, _pages_in(data, offset, header)))
            offset = _resume(data, offset, header, file)
            continue
        end = offset + header.length
        place = Location(file, offset, header.length, header.header_crc)
        items.append(Found(place, header, data[offset:end]))
        offset = end
    if not last:
        return Scanned(tuple(items), None, durable)
    return _cut(items, durable)


def _pages_in(data: bytes, offset: int, header: FrameHeader | None) -> tuple[PageNo, ...]:
    """The pages of a rotten frame's records, for the error that names them; nothing else may rest on it.

    A few flipped bits mostly hit the pages' content and leave the records' own numbers as they were.
    Those still have to agree with the header and the group, or nothing is said.
    """
    frame = b"" if header is None else data[offset : offset + header.length]
    if header is None or _NO_NUMBER.search(frame):
        return ()
    try:
        pages = {record.page for record in index_frame(frame)}
    except FormatError:
        return ()
    start, end = first_page(header.pg), first_page(header.pg + 1)
    return tuple(sorted(pages)) if all(start <= page < end for page in pages) else ()


def _cut(items: list[Found | Damage], durable: int) -> Scanned:
    for index, item in enumerate(items):
        if isinstance(item, Damage) and item.offset >= durable:
            return Scanned(tuple(items[:index]), item.offset, durable)
    return Scanned(tuple(items), None, durable)


def _mark_at(data: bytes, offset: int, file: int) -> int | None:
    """`upto` of a valid mark at `offset`."""
    if data[offset : offset + 4] != _MARK_MAGIC or len(data) - offset < _MARK.size:
        return None
    _, crc, found, upto = _MARK.unpack_from(data, offset)
    covered = _MARK_MAGIC + data[offset + 8 : offset + _MARK.size]
    return upto if crc == crc32c(covered) and found == file and upto <= offset else None


def _resume(data: bytes, offset: int, header: FrameHeader | None, file: int) -> int:
    """Where to go on behind bad bytes at `offset`.

    Right behind the frame if its header says where that is: if there are bad bytes there too, they are
    another damage, and may be another group's. Else at the next mark or frame's header.
    """
    if header is not None and offset + header.length <= len(data):
        return offset + header.length
    for match in _START.finditer(data, offset + 1):
        if _mark_at(data, match.start(), file) is not None:
            return match.start()
        try:
            read_header(data, match.start())
        except FormatError:
            continue
        return match.start()
    return len(data)
