"""From two images of a page to the byte ranges that differ.

No per-byte Python. Comparing slices (one memcmp each) narrows the page down to the blocks that
differ; only those are XORed, as two big integers, and a compiled regular expression finds the runs
of bytes that are not zero. Runs closer than a range's own header costs are merged.
"""

from __future__ import annotations

import re

from engine.log.record import Ranges
from engine.types import PAGE_SIZE, ZERO_PAGE

# A range costs about three bytes of header, so bridging three equal bytes is never dearer.
_RUNS = re.compile(rb"[^\0]+(?:\0{1,3}[^\0]+)*", re.DOTALL)
_OUTER = 512
_INNER = 64


def diff_page(before: bytes | None, after: bytes) -> tuple[bool, Ranges]:
    """(full, ranges) such that `apply_ranges(before, full, ranges) == after`.

    `full` means "against zeros": for a new page, and where that is the smaller of the two. Both
    images have PAGE_SIZE bytes; raises ValueError otherwise.
    """
    if len(after) != PAGE_SIZE or (before is not None and len(before) != PAGE_SIZE):
        raise ValueError(f"a page has {PAGE_SIZE} bytes")
    if before is None:
        return True, _runs(after, after)
    ranges = tuple(
        [
            found
            for start, end in _regions(before, after)
            for found in _runs(_xor(before[start:end], after[start:end]), after, start)
        ]
    )
    if _cost(ranges) > PAGE_SIZE // 2:
        full = _runs(after, after)
        if _cost(full) < _cost(ranges):
            return True, full
    return False, ranges


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


def _cost(ranges: Ranges) -> int:
    return sum([len(data) + 3 for _, data in ranges])


def apply_ranges(image: bytes, full: bool, ranges: Ranges) -> bytes:
    """The page after a record: `ranges` laid over `image`, or over zeros if `full`."""
    page = bytearray(ZERO_PAGE if full else image)
    for offset, data in ranges:
        page[offset : offset + len(data)] = data
    if len(page) != PAGE_SIZE:
        raise ValueError("a range reaches beyond the page")
    return bytes(page)
