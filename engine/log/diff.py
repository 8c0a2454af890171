"""From two images of a page to what has to be said of the difference: moves and byte ranges.

No per-byte Python. Comparing slices (one memcmp each) narrows the page down to the blocks that
differ; only those are XORed, as two big integers, and a compiled regular expression finds the runs
of bytes that are not zero. Runs closer than a range's own header costs are merged.

A b-tree page moves what it has: the cell pointers behind a new one by two bytes, all rows before one
that grew by as much as it grew. Every byte of that differs, and nothing of it is new. So where many
blocks differ, a few bytes around a difference are looked for in the old page: found elsewhere, they
and all that goes on alike on both sides of them are a move, which costs six bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from engine.log.record import Moves, Ranges
from engine.types import PAGE_SIZE, ZERO_PAGE

# A range costs about three bytes of header, so bridging three equal bytes is never dearer.
_RUNS = re.compile(rb"[^\0]+(?:\0{1,3}[^\0]+)*", re.DOTALL)
_GAP = bytes(16)
_OUTER = 512
_INNER = 64

_WIDE = 5 * _INNER
"""Bytes in blocks that differ. In more of them rows have moved, which is seen before their differences."""
_LONG = 64
"""Bytes. A shorter one of those moves may cost more than what it replaces."""
_MOVES_MAX = 4
_DEAR = 40
"""Bytes of ranges; then the longest of them may have moved."""
_MOVE_COST = 6
_SAMPLE = 12
"""Bytes on either side of a difference."""

_Regions: TypeAlias = list[tuple[int, int]]


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
    moves: Moves = ()
    image, regions = before, _regions(before, after)
    if _extent(regions) > _WIDE:
        moves, image, regions = _moved(before, after, regions)
    ranges = tuple(
        [
            found
            for start, end in regions
            for found in _runs(_xor(image[start:end], after[start:end]), after, start)
        ]
    )
    cost = _cost(ranges)
    if cost > _DEAR and len(moves) < _MOVES_MAX:
        last, ranges = _last_move(before, image, after, ranges)
        moves, cost = moves + last, _cost(ranges)
    if (moves or cost > _DEAR) and _cost(full := _filled(after)) < cost + _MOVE_COST * len(moves):
        return Diff(True, (), full)
    return Diff(False, moves, ranges)


def _regions(before: bytes, after: bytes) -> _Regions:
    """Where the images differ, in whole blocks; neighbours joined."""
    regions: _Regions = []
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


def _extent(regions: _Regions) -> int:
    return sum([end - start for start, end in regions])


def _xor(left: bytes, right: bytes) -> bytes:
    mask = int.from_bytes(left, "little") ^ int.from_bytes(right, "little")
    return mask.to_bytes(len(left), "little")


def _runs(mask: bytes, after: bytes, base: int) -> Ranges:
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


def _moved(before: bytes, after: bytes, regions: _Regions) -> tuple[Moves, bytes, _Regions]:
    """Moves, the page once they have been made, and where that differs still."""
    moves: list[tuple[int, int, int]] = []
    image = before
    while _extent(regions) > _WIDE and len(moves) < _MOVES_MAX:
        for move in _found(before, image, after, regions):
            if move[1] >= _LONG:
                break
        else:
            break
        start, length, source = move
        moves.append(move)
        image = image[:start] + before[source : source + length] + image[start + length :]
        regions = _regions(image, after)
    return tuple(moves), image, regions


def _found(
    before: bytes, image: bytes, after: bytes, regions: _Regions
) -> Iterator[tuple[int, int, int]]:
    """Moves within `regions`; tried are the widest of them and the one in the middle."""
    low, high = regions[0][0], regions[-1][1]
    widest = max(regions, key=_width)
    for start, end in dict.fromkeys((widest, regions[len(regions) // 2])):
        block = start + (end - start) // 2 // _INNER * _INNER  # it differs somewhere
        mask = _xor(image[block : block + _INNER], after[block : block + _INNER])
        place = block + (_INNER - len(mask.lstrip(b"\0")) + len(mask.rstrip(b"\0"))) // 2
        if (move := _move_around(before, after, place, low, high)) is not None:
            yield move


def _width(region: tuple[int, int]) -> int:
    return region[1] - region[0]


def _last_move(before: bytes, image: bytes, after: bytes, ranges: Ranges) -> tuple[Moves, Ranges]:
    """The move that makes the longest range needless, and what is left then; none if it does not pay."""
    offset, data = max(ranges, key=_size)
    low, high = ranges[0][0], ranges[-1][0] + len(ranges[-1][1])
    move = _move_around(before, after, offset + len(data) // 2, low, high)
    if move is None:
        return (), ranges
    left = _outside(ranges, move[0], move[0] + move[1], image, after)
    return ((move,), left) if _cost(left) + _MOVE_COST < _cost(ranges) else ((), ranges)


def _size(found: tuple[int, bytes]) -> int:
    return len(found[1])


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


def _move_around(
    before: bytes, after: bytes, place: int, low: int, high: int
) -> tuple[int, int, int] | None:
    """All around `place`, within [low, high), that stood elsewhere in the old page, if it did."""
    sample = max(0, place - _SAMPLE)
    source = before.find(after[sample : place + _SAMPLE])
    if source < 0 or source == sample:
        return None
    shift = source - sample
    low, high = max(low, -shift), min(high, PAGE_SIZE - shift)
    mask = _xor(before[low + shift : high + shift], after[low:high])
    start = len(mask[: place - low].rstrip(b"\0")) + low
    end = high - len(mask[place - low :].lstrip(b"\0"))
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
