"""SQLite's database header, as far as connections believe their caches by it. Pure.

*The change counter.* A connection keeps pages from one transaction to the next if 16 bytes of page 1 are as
it knows them: the change counter, the size and the free list. Each commit counts the counter up, so page 1
would be in every commit's redo, to tell what the LSN says already. Here it is a matter between a connection
and its file (`engine.sql.vfs`), which shows it one (`show`); the volume keeps what it has (`keep`).

*The schema cookie.* Prepared statements are kept if it is as they know it. Whoever puts an old page 1 back
puts an old cookie back with it, and counting up from there would sooner or later give a number out a second
time, for another schema: a connection that slept meanwhile would believe its statements. So it only ever
goes forward, whatever the pages do.

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


def next_number(*used: int) -> int:
    """One that comes after all. They go round in a circle: what is less than half of it ahead is later."""
    latest = used[0]
    for number in used:
        if (number - latest) % _TURN < _HALF:
            latest = number
    return (latest + 1) % _TURN


def to_bytes(number: int) -> bytes:
    return number.to_bytes(_BYTES, "big")


def counter_of(page: bytes) -> int:
    """The change counter in page 1."""
    return _number(page, _COUNTER)


def put_back(past: bytes, current: bytes, pages: int) -> bytes:
    """Page 1 of an earlier state of `pages` pages as it is put back over `current`, the page 1 of now: with
    a schema cookie that nobody has seen yet."""
    page = bytearray(keep(past, current))
    page[_SIZE] = to_bytes(pages)
    page[_COOKIE] = to_bytes(next_number(_number(current, _COOKIE), _number(past, _COOKIE)))
    return bytes(page)


def show(page: bytes, counter: int) -> bytes:
    """Page 1 with this change counter. The size in it is valid if it was, by the two counters."""
    shown = to_bytes(counter)
    valid_for = shown if page[_COUNTER] == page[_VALID_FOR] else to_bytes(next_number(counter))
    return b"".join((page[:24], shown, page[28:92], valid_for, page[96:]))


def keep(page: bytes, other: bytes) -> bytes:
    """Page 1, which has a valid size, with the change counter of another version of it."""
    counter = other[_COUNTER]
    return b"".join((page[:24], counter, page[28:92], counter, page[96:]))


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
