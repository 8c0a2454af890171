"""From two images of a page to what has to be said of the difference: moves and byte ranges.

No per-byte Python. Comparing slices (one memcmp each) narrows the page down to the blocks that
differ; only those are XORed, as two big integers, and a compiled regular expression finds the runs
of bytes that are not zero. Runs closer than a range's own header costs are merged.

A b-tree page moves what it has: the cell pointers behind a new one by two bytes, all rows before one
that grew by as much as it grew. Every byte of that differs, and nothing of it is new. So where the
ranges are dear, a few bytes around one of them are looked for in the old page: found elsewhere, they
and all that goes on alike on both sides of them are a move, which costs six bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from engine.log.record import Moves, Ranges
from engine.types import PAGE_SIZE, ZERO_PAGE

# A range costs about three bytes of header, so bridging three equal bytes is never dearer.
_RUNS = re.compile(rb"[^\0]+(?:\0{1,3}[^\0]+)*", re.DOTALL)
_GAP = bytes(16)
_OUTER = 512
_INNER = 64

_DEAR = 40
"""Bytes. Looking for moves costs as much as comparing the page does: not for an update in place."""
_MOVES_MAX = 4
_MOVE_COST = 6
_SAMPLE = 12
"""Bytes on either side of what differs."""


class Diff(NamedTuple):
    """`apply_diff(before, *diff) == after`."""

    full: bool
    """Against zeros: a new page, or where that is the smaller."""
    moves: Moves
    ranges: Ranges


def diff_page(before: bytes | None, after: bytes) -> Diff:
    """What to do to `before`, None for a new page, to have `after`.

    Both images have PAGE_SIZE bytes; raises ValueError otherwise.
    """
    if len(after) != PAGE_SIZE or (before is not None and len(before) != PAGE_SIZE):
        raise ValueError(f"a page has {PAGE_SIZE} bytes")
    if before is None:
        return Diff(True, (), _filled(after))
    ranges = _differences(before, after)
    moves: Moves = ()
    if _cost(ranges) > _DEAR:
        moves, ranges = _with_moves(before, after, ranges)
        if _cost(ranges) > PAGE_SIZE // 2:
            full = _filled(after)
            if _cost(full) < _cost(ranges):
                return Diff(True, (), full)
    return Diff(False, moves, ranges)


def _differences(before: bytes, after: bytes) -> Ranges:
    return tuple(
        [
            found
            for start, end in _regions(before, after)
            for found in _runs(_xor(before[start:end], after[start:end]), after, start)
        ]
    )


def _regions(before: bytes, after: bytes) -> list[tuple[int, int]]:
    """Where the images differ, in whole blocks; neighbours joined."""
    regions: list[tuple[int, int]] = []
    for outer in range(0, PAGE_SIZE, _OUTER):
        if before[outer : outer + _OUTER] == after[outer : outer + _OUTER]:
            continue
        for start in range(outer, outer + _OUTER, _INNER):
            end = start + _INNER
            if before[start:end] != after[start:end]:
                if regions and regions[-1][1] == start:
                    start = regions.pop()[0]
                regions.append((start, end))
    return regions


def _xor(left: bytes, right: bytes) -> bytes:
    mask = int.from_bytes(left, "little") ^ int.from_bytes(right, "little")
    return mask.to_bytes(len(left), "little")


def _runs(mask: bytes, after: bytes, base: int = 0) -> Ranges:
    return tuple(
        [(base + m.start(), after[base + m.start() : base + m.end()]) for m in _RUNS.finditer(mask)]
    )


def _filled(page: bytes) -> Ranges:
    """All but the longer stretches of zeros; a new page is mostly one of them between two of bytes."""
    found = []
    start, last = 0, len(page.rstrip(b"\0"))
    while start < last:
        start = PAGE_SIZE - len(page[start:].lstrip(b"\0"))
        end = page.find(_GAP, start, last)
        end = last if end < 0 else end
        found.append((start, page[start:end]))
        start = end
    return tuple(found)


def _cost(ranges: Ranges) -> int:
    return sum([len(data) + 3 for _, data in ranges])


# -- moves


def _with_moves(before: bytes, after: bytes, ranges: Ranges) -> tuple[Moves, Ranges]:
    """Moves, and the ranges that are left when they have been made; none if it does not pay."""
    moves: list[tuple[int, int, int]] = []
    image, cost = before, _cost(ranges)
    while cost > _DEAR and len(moves) < _MOVES_MAX:
        for move in _found(before, after, ranges):
            start, length, source = move
            end = start + length
            left = _outside(ranges, start, end, image, after)
            if (less := _cost(left)) + _MOVE_COST < cost:
                break
        else:
            break
        moves.append(move)
        image = image[:start] + before[source : source + length] + image[end:]
        ranges, cost = left, less
    return tuple(moves), ranges


def _outside(ranges: Ranges, start: int, end: int, image: bytes, after: bytes) -> Ranges:
    """What is left of `ranges` once [start, end) is as it should be."""
    left: list[tuple[int, bytes]] = []
    for found in ranges:
        low, high = found[0], found[0] + len(found[1])
        if high <= start or end <= low:
            left.append(found)
            continue
        for at, stop in ((low, start), (end, high)):
            if at < stop:
                left += _runs(_xor(image[at:stop], after[at:stop]), after, at)
    return tuple(left)


def _found(before: bytes, after: bytes, ranges: Ranges) -> Iterator[tuple[int, int, int]]:
    """Moves that would make ranges needless: tried are the longest range and three among all."""
    longest = max(ranges, key=_length)
    count = len(ranges)
    low, high = ranges[0][0], ranges[-1][0] + len(ranges[-1][1])
    tried = dict.fromkeys(
        (longest, ranges[count // 2], ranges[count // 4], ranges[-1 - count // 4])
    )
    for offset, data in tried:
        middle = offset + len(data) // 2
        start = max(0, middle - _SAMPLE)
        source = before.find(after[start : middle + _SAMPLE])
        if source >= 0:
            shift = source - start
            bounds = max(low, -shift), min(high, PAGE_SIZE - shift)
            yield _stretch(before, after, middle, shift, bounds)


def _length(found: tuple[int, bytes]) -> int:
    return len(found[1])


def _stretch(
    before: bytes, after: bytes, middle: int, shift: int, bounds: tuple[int, int]
) -> tuple[int, int, int]:
    """All around `middle`, within `bounds`, that stood `shift` bytes further in the old page."""
    low, high = bounds
    mask = _xor(before[low + shift : high + shift], after[low:high])
    start = len(mask[: middle - low].rstrip(b"\0")) + low
    end = high - len(mask[middle - low :].lstrip(b"\0"))
    return start, end - start, start + shift


def apply_diff(image: bytes, full: bool, moves: Moves, ranges: Ranges) -> bytes:
    """The page after a record. `ranges` alone are laid over `image`, or over zeros if `full`."""
    page = bytearray(ZERO_PAGE if full else image)
    lay(page, moves, ranges)
    if len(page) != PAGE_SIZE:
        raise ValueError("a range reaches beyond the page")
    return bytes(page)


def lay(page: bytearray, moves: Moves, ranges: Ranges) -> None:
    """Make `moves` within `page`, then lay `ranges` over it."""
    if moves:
        old = bytes(page)
        for offset, length, source in moves:
            page[offset : offset + length] = old[source : source + length]
    for offset, data in ranges:
        page[offset : offset + len(data)] = data
