"""What an archive no longer needs: retention. Pure.

A restore to any time within the last `retention` begins at a base at or before that time. So of the bases
that are older than that all but the newest go, and the log before it. Nothing else ever goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from engine.archive.bases import base_prefix, index_key, part_key
from engine.archive.catalogue import Listing
from engine.archive.chunks import chunk_key


def oldest_needed(bases: Mapping[int, int], before_us: int) -> int:
    """Of complete bases (number: everything later was committed after that time, microseconds) the newest
    that is not after `before_us`; 0 if all are."""
    return max((number for number, known_us in bases.items() if known_us <= before_us), default=0)


def superseded(listing: Listing, keys: Iterable[str], needed: int) -> list[str]:
    """Keys to delete, in this order, if restores begin at base `needed` or later.

    A base loses its index first, so that nobody begins with half of it; then the log goes from its
    beginning, so that no hole appears. Parts of bases that were never finished go too.
    """
    if not needed:
        return []
    old = {n for n in listing.bases if n < needed}
    indexes = [index_key(listing.archive, number) for number in sorted(old)]
    first = part_key(listing.archive, needed, 0).rpartition("/")[0]  # numbers sort like their keys
    parts = [
        key
        for key in sorted(keys)
        if key.startswith(base_prefix(listing.archive)) and key < first and key not in indexes
    ]
    chunks = [chunk_key(listing.archive, n) for n in listing.chunks if n < needed]
    return [*indexes, *parts, *chunks]
