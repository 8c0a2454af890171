"""Cached page versions: which image of a page serves which read points, and which are kept.

The buffer pool's memory; `engine.sql.pool` says when it changes and states the invariants. No I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush

from engine.sql.pins import Pins
from engine.types import LSN, PageNo

UNKNOWN: LSN = 1 << 63
"""LSN of the current version where only older ones are known: above every read point."""

_SKIPS_MAX = 64
"""Pages that one eviction passes over because they may not go, before it lets the cache grow."""


class _Page:
    """What is cached of one page."""

    __slots__ = ("image", "lsn", "old")

    def __init__(self) -> None:
        self.lsn: LSN = UNKNOWN  # of the current version
        self.image: bytes = b""
        self.old: list[tuple[LSN, LSN, bytes]] = []  # (LSN, upto, image), in no order; few


class Versions:
    """Page -> versions, least recently used page first.

    `visible` is the LSN that new snapshots get; versions that end before it live only by `pins`.
    """

    __slots__ = ("_capacity", "_ending", "_kept", "_pages", "evicted", "images", "pins", "visible")

    def __init__(self, capacity: int, visible: LSN) -> None:
        self.visible = visible
        self.pins = Pins()
        self.images = 0
        self.evicted = 0
        self._capacity = capacity
        self._pages: OrderedDict[PageNo, _Page] = OrderedDict()
        self._ending: list[tuple[LSN, PageNo, LSN]] = []  # heap of (upto, page, LSN)
        self._kept: dict[LSN, dict[tuple[PageNo, LSN], LSN]] = {}  # pin -> (page, LSN) -> upto

    # -- looking up

    def get(self, page: PageNo, at: LSN) -> bytes | None:
        """The page at a read point, if it is here."""
        entry = self._pages.get(page)
        if entry is None:
            return None
        if entry.lsn <= at:
            self._pages.move_to_end(page)
            return entry.image
        for version, upto, image in entry.old:
            if version <= at <= upto:
                return image
        return None

    def current(self, page: PageNo) -> bytes | None:
        """The page's newest version, if it is here."""
        entry = self._pages.get(page)
        return entry.image if entry is not None and entry.lsn != UNKNOWN else None

    # -- changing

    def set_current(self, page: PageNo, lsn: LSN, image: bytes) -> None:
        """`image` serves every read point from `lsn` on."""
        entry = self._pages.get(page)
        if entry is None:
            entry = self._pages[page] = _Page()
        else:
            self._pages.move_to_end(page)
        if entry.lsn == UNKNOWN:
            self.images += 1
        else:
            assert entry.lsn <= lsn, "a version is superseded before a newer one is set"
        entry.lsn, entry.image = lsn, image

    def supersede(self, page: PageNo, by: LSN) -> None:
        """The current version ends just before LSN `by`."""
        entry = self._pages.get(page)
        if entry is not None and entry.lsn != UNKNOWN:
            version, image = entry.lsn, entry.image
            entry.lsn, entry.image = UNKNOWN, b""
            self.images -= 1
            self.retain(page, version, by - 1, image)
            if not entry.old:
                del self._pages[page]

    def retain(self, page: PageNo, version: LSN, upto: LSN, image: bytes) -> None:
        """Keep a version that serves [version, upto] if somebody may still ask for it."""
        if upto < self.visible and self.pins.first_within(version, upto) is None:
            return
        entry = self._pages.get(page)
        if entry is None:
            entry = self._pages[page] = _Page()
        known = next((v for v in entry.old if v[0] == version), None)
        if known is not None:
            if known[1] >= upto:
                return
            entry.old.remove(known)
            self.images -= 1
        entry.old.append((version, upto, image))
        self.images += 1
        if upto < self.visible:
            self._keep_or_drop(page, version, upto)
        else:
            heappush(self._ending, (upto, page, version))

    # -- forgetting

    def set_visible(self, lsn: LSN) -> None:
        self.visible = lsn
        ending = self._ending
        while ending and ending[0][0] < lsn:
            upto, page, version = heappop(ending)
            self._keep_or_drop(page, version, upto)

    def unpin(self, lsn: LSN) -> None:
        if self.pins.remove(lsn):
            for (page, version), upto in self._kept.pop(lsn, {}).items():
                self._keep_or_drop(page, version, upto)

    def _keep_or_drop(self, page: PageNo, version: LSN, upto: LSN) -> None:
        """`visible` has passed the version's end: only a pin within its range keeps it."""
        pin = self.pins.first_within(version, upto)
        if pin is not None:
            self._kept.setdefault(pin, {})[page, version] = upto
            return
        entry = self._pages.get(page)
        if entry is None:
            return
        for known in entry.old:
            if known[0] == version and known[1] <= upto:
                entry.old.remove(known)
                self.images -= 1
                break
        if not entry.old and entry.lsn == UNKNOWN:
            del self._pages[page]

    def evict(self) -> None:
        """Shrink to the capacity, but never drop a page whose newest version is above `visible`."""
        skips = 0
        while self.images > self._capacity and skips < _SKIPS_MAX:
            page, entry = next(iter(self._pages.items()))
            if self.visible < entry.lsn < UNKNOWN:
                self._pages.move_to_end(page)
                skips += 1
                continue
            del self._pages[page]
            self.images -= len(entry.old) + (entry.lsn != UNKNOWN)
            self.evicted += 1

    def clear(self, visible: LSN) -> None:
        """Forget every version; pins stay."""
        self._pages.clear()
        self._ending.clear()
        self._kept.clear()
        self.images = 0
        self.visible = visible
