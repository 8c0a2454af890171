"""What a record does to its page, as bytes: moves, then byte ranges.

    moves only: varint count, (varint offset, varint length, varint from)*
    (varint gap, varint length, bytes)*

Deflated where that halves it: a new page of rows that are alike, half of one after a split. It is done
once, by the writer; six storage nodes, the archive and the replicas keep what it made, and inflate it when
they need the page. Little is left as it is: most records are some forty bytes.
"""

from __future__ import annotations

import zlib

from engine.errors import FormatError
from engine.log.record import Changes, Moves, Ranges
from engine.log.varint import get, put
from engine.types import LSN, PAGE_SIZE

_WORTH = 256
"""Bytes; fewer are not deflated: that takes some ten microseconds, and saves little."""
_PROMISING = 160
"""Bytes that the last _WORTH of them may take, deflated: rows, where a page begins with pointers. Prose and
random bytes do not get so small, and are not tried whole."""
_LEVEL = 1
_WINDOW = -12
"""A raw deflate stream whose window is a page; a larger one takes twice as long to set up. This is format:
whoever reads with it refuses a larger one. The numbers above may change."""
_MEMORY = 5
_MOST = 4 * PAGE_SIZE
"""Bytes of moves and ranges that may be deflated: a page, and a few bytes for each of them. Format, too."""


def encode_changes(moves: Moves, ranges: Ranges) -> bytes:
    """As above, not deflated."""
    body = bytearray()
    if moves:
        put(body, len(moves))
        for move in moves:
            for number in move:
                put(body, number)
    position = 0
    for offset, data in ranges:
        put(body, offset - position)
        put(body, len(data))
        body += data
        position = offset + len(data)
    return bytes(body)


def deflated(body: bytes) -> bytes | None:
    """None if it is not worth it."""
    if not _WORTH <= len(body) <= _MOST or len(_deflate(body[-_WORTH:])) > _PROMISING:
        return None
    found = _deflate(body)
    return found if len(found) < len(body) // 2 else None


def _deflate(data: bytes) -> bytes:
    deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW, _MEMORY)
    return deflate.compress(data) + deflate.flush()


def inflated(data: bytes, lsn: LSN) -> bytes:
    """What `deflated` was given. Raises FormatError, with the record's LSN in it."""
    inflate = zlib.decompressobj(_WINDOW)
    try:
        body = inflate.decompress(data, _MOST)
    except zlib.error as error:
        raise FormatError(f"record {lsn} cannot be inflated: {error}") from error
    if not inflate.eof or inflate.unused_data:
        raise FormatError(
            f"record {lsn} cannot be inflated: it is no whole stream of at most {_MOST} bytes"
        )
    return body


def decode_changes(body: bytes, *, moves: bool, lsn: LSN) -> Changes:
    """What `encode_changes` was given; `moves` says whether there are any.

    Raises FormatError, with the record's LSN in it, if they reach beyond the page.
    """
    try:
        found, position = _moves(body, lsn) if moves else ((), 0)
        return found, _ranges(body, position, lsn)
    except IndexError:
        raise FormatError(f"record {lsn} ends early") from None


def _moves(body: bytes, lsn: LSN) -> tuple[Moves, int]:
    """The moves with which `body` begins, and where its ranges do."""
    moves: list[tuple[int, int, int]] = []
    count, position = get(body, 0)
    while len(moves) < count:
        offset, position = get(body, position)
        length, position = get(body, position)
        source, position = get(body, position)
        if max(offset, source) + length > PAGE_SIZE:
            raise FormatError(f"record {lsn} moves bytes beyond its page")
        moves.append((offset, length, source))
    return tuple(moves), position


def _ranges(body: bytes, position: int, lsn: LSN) -> Ranges:
    ranges = []
    end, at = len(body), 0
    while position < end:
        gap = body[position]
        position += 1
        if gap >= 0x80:
            gap, position = get(body, position - 1)
        size = body[position]
        position += 1
        if size >= 0x80:
            size, position = get(body, position - 1)
        at += gap
        if at + size > PAGE_SIZE or position + size > end:
            raise FormatError(f"record {lsn} reaches beyond its page")
        ranges.append((at, body[position : position + size]))
        at += size
        position += size
    return tuple(ranges)
