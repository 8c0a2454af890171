"""The buffer pool: page versions keyed by LSN, shared by all sessions of an instance.

A read point is an LSN at which the volume was in one committed state. `visible` is the newest
durable one, which every new snapshot gets (VDL, P17 §4.2.4). On the writer `tip` runs ahead of it:
the newest commit, durable or not, on which the next write transaction builds. Both sides use one
pool: the writer installs what it commits (`install`), a replica applies the redo that arrives
(`apply`), and whatever is missing is fetched from storage at a read point.

Invariants
- A version serves the read points in [its LSN, `upto`], and no other. The current version of a page
  has no `upto`: every later change of the page comes through `install` or `apply`, which end it.
- A page whose newest version lies above `visible` is never evicted: storage could not give that
  version back. (P17 §4.2.3 says "greater or equal"; its own rationale needs "at or below".) So a
  page that is missing has not changed in (visible, tip]: fetching it at `visible` serves `tip` too.
- A page fetched at R is current only if it did not change in (R, now]. What came before the fetch
  is known from `_changed`, what comes during it is noted in the flight.
- An older version is kept only while some read point that may still be asked for lies within its
  range: `visible` or later on the way to its end, or a pinned one.

Caveats
- Versions that may not be evicted, and nothing else, take the pool above its capacity: the pages of
  commits that are not durable yet. Back-pressure bounds them.
- `get` must be called for pinned read points (or `tip`, by the one write transaction), because
  garbage collection follows `min_pinned`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from engine.errors import Corrupt, FormatError
from engine.log.apply import apply_record
from engine.log.record import Change
from engine.sql.readahead import WARMING_PAGES, WINDOW_MAX, ReadAhead, block
from engine.sql.versions import Versions
from engine.types import LSN, PAGE_SIZE, CommitMark, PageNo

REMEMBERED_MIN = 4096
"""Below this many pages it is not worth looking which changes may be forgotten."""


ROOMY_MIN = 1024
"""A pool of fewer pages never has room for pages that nobody has asked for."""


class PageSource(Protocol):
    """Where missing pages come from: the volume's reader."""

    async def read_pages(self, pages: Sequence[PageNo], read_lsn: LSN) -> list[tuple[LSN, bytes]]:
        """(LSN, image) of the newest version at or below `read_lsn` of each page.

        All pages lie in one protection group. A page never written is (0, zeros).
        """


class Snapshot:
    """A pinned read point. Give it back with `BufferPool.unpin`, once."""

    __slots__ = ("mark", "open")

    def __init__(self, mark: CommitMark) -> None:
        self.mark = mark
        self.open = True


class _Flight:
    """One request to the source, for one or more pages at one read point."""

    __slots__ = ("changes", "historic", "pages", "read_at", "stale", "waiters")

    def __init__(self, pages: Sequence[PageNo], read_at: LSN) -> None:
        self.pages = pages
        self.read_at = read_at
        self.historic: frozenset[PageNo] = frozenset()  # changed in (read_at, take-off], maybe
        self.stale = False  # the pool was reset meanwhile: the answer serves its waiters only
        self.changes: dict[PageNo, list[tuple[LSN, Change | None]]] = {}
        self.waiters: list[tuple[PageNo, asyncio.Future[bytes | None]]] = []


class BufferPool:
    """See the module. Not thread-safe; everything but `get` is synchronous."""

    def __init__(self, source: PageSource, *, capacity_pages: int, start: CommitMark) -> None:
        if capacity_pages < 1:
            raise ValueError("the pool needs room for at least one page")
        self.visible = start
        self.tip = start
        self.generation = 0
        """Grows with `reset`: what was read before may not be mixed with what is read after."""
        self.counters: dict[str, int] = dict.fromkeys(
            ("pool_misses", "pool_fetches", "pool_prefetched"), 0
        )
        self._source = source
        self._readahead = ReadAhead(min(WINDOW_MAX, capacity_pages // 8))
        self._awaited: list[tuple[LSN, asyncio.Future[None]]] = []
        self._versions = Versions(capacity_pages, start.lsn)
        self._roomy = capacity_pages * 3 // 4 if capacity_pages >= ROOMY_MIN else 0
        self.get_nowait: Callable[[PageNo, LSN], bytes | None] = self._versions.get
        """The page at a read point if it is cached, else None. Never blocks."""
        self._base: LSN = start.lsn  # changes at or below it were never seen, or are forgotten
        self._changed: dict[PageNo, LSN] = {}  # last change, where it is above the lowest pin
        self._changed_limit = REMEMBERED_MIN
        self._flights: dict[tuple[PageNo, LSN], _Flight] = {}
        self._flying: dict[PageNo, list[_Flight]] = {}

    # -- read points

    def pin(self, mark: CommitMark | None = None) -> Snapshot:
        """Hold a read point, `visible` unless given: storage keeps its versions until `unpin`."""
        snapshot = Snapshot(mark or self.visible)
        self._versions.pins.add(snapshot.mark.lsn)
        return snapshot

    def unpin(self, snapshot: Snapshot) -> None:
        """Let go of a read point; a second time does nothing."""
        if snapshot.open:
            snapshot.open = False
            self._versions.unpin(snapshot.mark.lsn)

    def min_pinned(self) -> LSN:
        """The lowest LSN that anything here may still read at: this instance's share of PGMRPL."""
        return min(self._versions.pins.lowest(self.visible.lsn), self.visible.lsn)

    def set_visible(self, mark: CommitMark) -> None:
        """VDL has moved to `mark`; going back is ignored."""
        if mark.lsn > self.visible.lsn:
            self.visible = mark
            if mark.lsn > self.tip.lsn:
                self.tip = mark
            self._versions.set_visible(mark.lsn)
            if self._awaited:
                self._wake()

    async def wait_visible(self, lsn: LSN) -> None:
        """Until everything at or below `lsn` is visible; the caller bounds the time."""
        if lsn > self.visible.lsn:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry = (lsn, future)
            self._awaited.append(entry)
            try:
                await future
            finally:
                if entry in self._awaited:
                    self._awaited.remove(entry)

    def _wake(self) -> None:
        visible = self.visible.lsn
        ready = [future for lsn, future in self._awaited if lsn <= visible]
        self._awaited = [entry for entry in self._awaited if entry[0] > visible]
        for future in ready:
            if not future.done():
                future.set_result(None)

    # -- reading

    async def get(self, page: PageNo, at: LSN) -> bytes:
        """The page at a read point, fetched if need be; raises what the source raises."""
        while True:
            image = self.get_nowait(page, at)
            if image is not None:
                return image
            read_at = min(at, self.visible.lsn)
            flight = self._flights.get((page, read_at))
            if flight is None:
                self.counters["pool_misses"] += 1
                return await self._fetch(page, read_at)
            future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
            flight.waiters.append((page, future))
            image = await future
            if image is not None:
                return image  # None: the task that was fetching got cancelled, so try again

    async def _fetch(self, page: PageNo, read_at: LSN) -> bytes:
        pages = self._plan(page, read_at)
        if len(pages) > 1:
            try:
                return await self._fly(pages, read_at)
            except Corrupt:
                pages = [page]  # a neighbour's damage must not hide this page
        return await self._fly(pages, read_at)

    def _plan(self, page: PageNo, read_at: LSN) -> list[PageNo]:
        pages = self.visible.pages
        if self._versions.images + len(self._flights) < self._roomy:
            near = block(page, pages)
        else:
            near = range(page, page + self._readahead.missed(page, pages))
        return [page, *(other for other in self._missing(near, read_at) if other != page)]

    async def _fly(self, pages: Sequence[PageNo], read_at: LSN) -> bytes:
        """Fetch `pages`, cache them, serve whoever waits for one; returns the first one's image."""
        flight = self._take_off(pages, read_at)
        landed: dict[PageNo, bytes] = {}
        try:
            versions = await self._source.read_pages(pages, read_at)
            self._land(flight)
            for page, (lsn, image) in zip(pages, versions, strict=True):
                if len(image) != PAGE_SIZE or lsn > read_at:
                    raise Corrupt(
                        f"storage answered page {page} at LSN {read_at} with "
                        f"{len(image)} bytes of LSN {lsn}"
                    )
                landed[page] = image
                if not flight.stale:
                    self._arrived(flight, page, lsn, image)
        except Exception as error:
            if len(pages) == 1:
                for _, future in flight.waiters:
                    if not future.done():
                        future.set_exception(error)
            raise
        finally:
            self._land(flight)
            self._versions.unpin(read_at)
            for page, future in flight.waiters:
                if not future.done():
                    future.set_result(landed.get(page))
        self._versions.evict()
        return landed[pages[0]]

    def _take_off(self, pages: Sequence[PageNo], read_at: LSN) -> _Flight:
        flight = _Flight(pages, read_at)
        before_base = read_at < self._base
        flight.historic = frozenset(
            p for p in pages if before_base or self._changed.get(p, 0) > read_at
        )
        self._versions.pins.add(read_at)
        self.counters["pool_fetches"] += 1
        self.counters["pool_prefetched"] += len(pages) - 1
        for page in pages:
            self._flights[page, read_at] = flight
            self._flying.setdefault(page, []).append(flight)
        return flight

    def _land(self, flight: _Flight) -> None:
        for page in flight.pages:
            if self._flights.get((page, flight.read_at)) is flight:
                del self._flights[page, flight.read_at]
                self._flying[page].remove(flight)
                if not self._flying[page]:
                    del self._flying[page]

    def _arrived(self, flight: _Flight, page: PageNo, lsn: LSN, image: bytes) -> None:
        """Cache a fetched version for exactly the read points that it is known to serve."""
        read_at = flight.read_at
        changes = flight.changes.get(page)
        if page in flight.historic:
            self._versions.retain(page, lsn, read_at, image)
            return
        if not changes:
            self._versions.set_current(page, lsn, image)
            return
        self._versions.retain(page, lsn, changes[0][0] - 1, image)
        newest = image
        for _, record in changes:
            if record is None:
                return  # the writer has installed the new version itself
            try:
                newest = apply_record(newest, record)
            except FormatError:
                return  # not cached: storage will say what is the matter with it
        self._versions.set_current(page, changes[-1][0], newest)

    async def warm(self) -> None:
        """Fetch the whole volume if there is room for it, so that nobody has to wait for each page that
        happens to be wanted. Raises what the source raises."""
        page = 0
        while page < (pages := self.visible.pages) <= self._roomy:
            near = block(page, pages, WARMING_PAGES)
            page = near.stop
            missing = self._missing(near, self.visible.lsn)
            if missing:
                with suppress(Corrupt):  # whoever wants the page itself will be told
                    await self._fly(missing, self.visible.lsn)

    def changed(self, page: PageNo) -> LSN:
        """The page's last change as of `tip` if that lies above `visible`; else anything below."""
        return self._changed.get(page, 0)

    def _missing(self, pages: Iterable[PageNo], read_at: LSN) -> list[PageNo]:
        return [
            page
            for page in pages
            if (page, read_at) not in self._flights and self.get_nowait(page, read_at) is None
        ]

    # -- changes

    def install(self, mark: CommitMark, pages: Mapping[PageNo, tuple[LSN, bytes]]) -> None:
        """The writer has committed: `mark` is the new tip, with these new page versions."""
        assert mark.lsn > self.tip.lsn, "commits are installed in LSN order"
        for page, (lsn, image) in pages.items():
            self._note_change(page, lsn, None)
            self._versions.supersede(page, lsn)
            self._versions.set_current(page, lsn, image)
        self.tip = mark
        self._forget_changes()
        self._versions.evict()

    def apply(self, records: Sequence[Change], mark: CommitMark) -> None:
        """A replica's redo: whole MTRs in LSN order, up to the new `visible`.

        Changes cached pages and pages that are being fetched; the rest is discarded (P17 §4.2.4).
        """
        newest: dict[PageNo, tuple[LSN, bytes]] = {}
        for record in records:
            page, lsn = record.page, record.lsn
            self._note_change(page, lsn, record)
            if page in newest:
                newest[page] = (lsn, apply_record(newest[page][1], record))
                continue
            image = self._versions.current(page)
            if image is not None:
                newest[page] = (lsn, apply_record(image, record))
                self._versions.supersede(page, lsn)
        for page, (lsn, image) in newest.items():
            self._versions.set_current(page, lsn, image)
        self.set_visible(mark)
        self._forget_changes()
        self._versions.evict()

    def reset(self, mark: CommitMark) -> None:
        """Drop everything and start again at `mark`. Pinned read points stay pinned."""
        self.generation += 1
        for flights in self._flying.values():
            for flight in flights:
                flight.stale = True
        self._flights.clear()
        self._flying.clear()
        self._changed.clear()
        self._versions.clear(mark.lsn)
        self._base = mark.lsn
        self.visible = mark
        self.tip = mark
        self._wake()

    def _note_change(self, page: PageNo, lsn: LSN, record: Change | None) -> None:
        self._changed[page] = lsn
        for flight in self._flying.get(page, ()):
            flight.changes.setdefault(page, []).append((lsn, record))

    def _forget_changes(self) -> None:
        """Changes at or below every read point say nothing any more."""
        if len(self._changed) > self._changed_limit:
            lowest = self.min_pinned()
            self._changed = {p: lsn for p, lsn in self._changed.items() if lsn > lowest}
            self._base = max(self._base, lowest)
            self._changed_limit = max(REMEMBERED_MIN, 2 * len(self._changed))

    @property
    def images(self) -> int:
        """Page images held now, all versions counted."""
        return self._versions.images
