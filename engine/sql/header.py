"""SQLite's database header, as far as connections believe their caches by it. Pure.

A connection keeps pages from one transaction to the next if 16 bytes of page 1 are as it knows them: the
change counter, the size and the free list. It keeps prepared statements if the schema cookie is. Whoever
puts an old page 1 back puts old numbers back with it, and counting up from there would sooner or later give
a number out a second time, for other contents: a connection that slept meanwhile would believe what it has.
So numbers only ever go forward, whatever the pages do.

All numbers are four bytes, big-endian (https://sqlite.org/fileformat2.html, section 1.3).
"""

from __future__ import annotations

MAGIC = b"SQLite format 3\0"

_COUNTER = slice(24, 28)  # file change counter
_SIZE = slice(28, 32)  # pages, valid if the two counters are equal
_COOKIE = slice(40, 44)  # schema cookie
_VALID_FOR = slice(92, 96)  # the change counter when the size was written
_BYTES = 4
_TURN = 1 << 32
_HALF = _TURN // 2


def next_number(current: int, past: int) -> int:
    """One that comes after both. They go round in a circle: what is less than half of it ahead is later."""
    latest = past if 0 < (past - current) % _TURN < _HALF else current
    return (latest + 1) % _TURN


def put_back(past: bytes, current: bytes, pages: int) -> bytes:
    """Page 1 of an earlier state of `pages` pages as it is put back over `current`, the page 1 of now: with
    a change counter and a schema cookie that nobody has seen yet."""
    page = bytearray(past)
    counter = next_number(_number(current, _COUNTER), _number(past, _COUNTER))
    cookie = next_number(_number(current, _COOKIE), _number(past, _COOKIE))
    for field, number in (
        *((_COUNTER, counter), (_VALID_FOR, counter)),
        *((_SIZE, pages), (_COOKIE, cookie)),
    ):
        page[field] = number.to_bytes(_BYTES, "big")
    return bytes(page)


def same_contents(one: bytes, other: bytes) -> bool:
    """Whether two page 1 are equal but for the numbers that say that something has changed."""
    return _without_numbers(one) == _without_numbers(other)


def _without_numbers(page: bytes) -> bytes:
    blank = bytearray(page)
    for field in (_COUNTER, _COOKIE, _VALID_FOR):
        blank[field] = bytes(_BYTES)
    return bytes(blank)


def _number(page: bytes, field: slice) -> int:
    return int.from_bytes(page[field], "big")
