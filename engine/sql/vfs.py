"""SQLite's file layer over the buffer pool: pages come from it, a commit goes to it as one MTR.

Each session's connection opens one `VolumeFile`. SQLite's locks are the transaction: SHARED takes a
read point, NONE gives it back, and every byte read in between is of that one committed state. Who
may write is decided outside, by the engine's write lock; `writing` tells the file.

What SQLite 3.54 calls with journal_mode=MEMORY and cache_spill=OFF (tests/sql/test_vfs.py holds it
to this):

    read         xLock(SHARED) xRead(16 bytes at 24) xFileSize xRead* xUnlock(NONE)
    commit       xLock(RESERVED) .. xLock(EXCLUSIVE) xWrite* SYNC [xTruncate] COMMIT_PHASETWO
                 xUnlock(SHARED) xUnlock(NONE)
    rollback     xUnlock(SHARED) xUnlock(NONE): nothing was written
    failed SYNC  [xTruncate] xWrite* of the old images, SYNC, xUnlock(NONE)
    no change    COMMIT_PHASETWO without xWrite

Invariants
- Dirty pages leave SQLite only between EXCLUSIVE and COMMIT_PHASETWO. They are collected here, and
  dropped at xUnlock(NONE) unless COMMIT_PHASETWO came: a rollback leaves nothing anywhere.
- SYNC is the last moment at which SQLite can roll back, so there the volume is asked for room. It
  is sent even with synchronous=OFF. COMMIT_PHASETWO calls the sink, synchronously, once.
- A connection's own page cache is valid for one state only. SQLite checks 16 bytes of page 1
  (change counter, size) at each SHARED, and knows those of its own commit. The counter that
  it is shown is this file's own: the same while the state is, which an LSN names until the pool is reset,
  and else one more. What page 1 in the volume says is not looked at, so a commit that changes nothing
  else of that page has no record of it.
"""

from __future__ import annotations

from itertools import count

import apsw

from engine.errors import VolumeFull
from engine.log.record import PageChange
from engine.ports import Clock
from engine.sql.bridge import await_sync
from engine.sql.header import counter_of, keep, next_number, show, to_bytes
from engine.sql.pool import BufferPool, Snapshot
from engine.sql.sink import LARGE_COMMIT_PAGES, CommitSink
from engine.types import LSN, PAGE_SIZE, CommitMark, PageNo
from engine.volume.limit import free_in

_NONE, _SHARED, _RESERVED = 0, apsw.SQLITE_LOCK_SHARED, apsw.SQLITE_LOCK_RESERVED
_SYNC = apsw.SQLITE_FCNTL_SYNC
_COMMIT = apsw.SQLITE_FCNTL_COMMIT_PHASETWO
_SHIFT = PAGE_SIZE.bit_length() - 1
_WITHIN = PAGE_SIZE - 1
_COUNTER_AT, _COUNTER_SIZE = 24, 16
HEADER: PageNo = 0
"""What SQLite calls page 1."""
_JULIAN_EPOCH_MS = 210_866_760_000_000  # SQLite counts milliseconds from noon, 4714 BC

_EXCLUDED = {
    *("xDlOpen", "xDlError", "xDlSym", "xDlClose"),
    *("xSetSystemCall", "xGetSystemCall", "xNextSystemCall"),
}

_names = count(1)


class VolumeFile(apsw.VFSFile):
    """One connection's view of the volume. Only the greenlet that runs the connection calls it."""

    def __init__(self, pool: BufferPool, sink: CommitSink | None) -> None:
        # Not super().__init__: that would open a file of another VFS to inherit from.
        self.writing = False
        """The session holds the write lock: read at the tip, and let SQLite take RESERVED."""
        self.mark: CommitMark | None = None
        """The read point, while SQLite holds a lock."""
        self.as_of: CommitMark | None = None
        """The commit of the past that the session reads, if it does."""
        self.last_read: LSN = 0
        """The newest read point that a read has had."""
        self.rests_on: LSN = 0
        """The newest change of any page that was read at the tip, by whatever SQLite may still remember
        of it: its cache outlives a transaction, so this never falls."""
        self.committed: CommitMark | None = None
        """What COMMIT_PHASETWO has sent to the sink; the session takes it from here."""
        self._pool = pool
        self._sink = sink
        self._get_nowait = pool.get_nowait
        self._snapshot: Snapshot | None = None
        self._dirty: dict[PageNo, bytes] = {}
        self._pages = 0  # size in pages as SQLite sees it now
        self._rolling_back = False  # the SYNC of a commit failed, so what follows undoes it
        self._counter = 0
        self._counted: tuple[LSN, int] = (-1, 0)
        """What `_counter` is for: the LSN and the pool's generation."""

    # -- reading

    def xRead(self, amount: int, offset: int) -> bytes:
        page = offset >> _SHIFT
        if self._dirty and page in self._dirty:
            image = self._dirty[page]
        else:
            mark = self.mark or self.next_mark  # opening reads the header without a lock
            if page >= mark.pages:
                return b""
            if self.writing:
                self.rests_on = max(self.rests_on, self._pool.changed(page))
            cached = self._get_nowait(page, mark.lsn)
            image = cached or await_sync(self._pool.get(page, mark.lsn))
        if amount == PAGE_SIZE:
            return image if page else show(image, self._shown_counter())
        start = offset & _WITHIN
        if amount == _COUNTER_SIZE and offset == _COUNTER_AT:
            return to_bytes(self._shown_counter()) + image[start + 4 : start + amount]
        return image[start : start + amount]

    def _shown_counter(self) -> int:
        """Another one than before if the state is another than before."""
        state = ((self.mark or self.next_mark).lsn, self._pool.generation)
        if state != self._counted:
            self._counter, self._counted = next_number(self._counter), state
        return self._counter

    def xFileSize(self) -> int:
        mark = self.mark or self.next_mark
        return (self._pages if self._dirty else mark.pages) * PAGE_SIZE

    # -- the transaction

    @property
    def next_mark(self) -> CommitMark:
        """The state that a read point taken now would be of."""
        return self._pool.tip if self.writing else self.as_of or self._pool.visible

    def xLock(self, level: int) -> None:
        if level == _SHARED:
            if self.mark is None:
                self._take_read_point()
        elif level == _RESERVED and not self._may_write():
            raise apsw.ReadOnlyError("a write outside the write lock, or not at the tip")

    def _may_write(self) -> bool:
        return self.writing and self.mark is not None and self.mark.lsn == self._pool.tip.lsn

    def _take_read_point(self) -> None:
        if self.writing:
            self.mark = self._pool.tip  # nobody else can move it; no version above VDL is evicted
        else:
            self._snapshot = self._pool.pin(self.as_of)
            self.mark = self._snapshot.mark
            self.last_read = self.mark.lsn

    def xUnlock(self, level: int) -> None:
        self._rolling_back = False
        if self._dirty:
            self._dirty.clear()  # a commit has emptied it: this is a rollback
            # Of an empty database SQLite keeps what it has written, and the number of it, which comes next.
            self._counter, self._counted = next_number(self._counter), (-1, 0)
        if level == _NONE:
            self.mark = None
            if self._snapshot is not None:
                self._pool.unpin(self._snapshot)
                self._snapshot = None

    def xCheckReservedLock(self) -> bool:
        return False

    # -- writing

    def xWrite(self, data: bytes, offset: int) -> None:
        if len(data) != PAGE_SIZE or offset & _WITHIN or self.mark is None:
            raise apsw.IOError(f"a write of {len(data)} bytes at {offset} is no page of a commit")
        if not self._dirty:
            self._pages = self.mark.pages
        page = offset >> _SHIFT
        self._dirty[page] = bytes(data)
        if len(self._dirty) == LARGE_COMMIT_PAGES:
            self._prepare()
        if page >= self._pages:
            self._pages = page + 1

    def xTruncate(self, newsize: int) -> None:
        if not self._dirty:
            raise apsw.IOError("truncation outside a commit")
        self._pages = newsize >> _SHIFT

    def xSync(self, flags: int) -> None:
        """Never reached with synchronous=OFF; durability is VDL's business."""

    def xFileControl(self, op: int, ptr: int) -> bool:
        if op == _SYNC:
            self._reserve()
            return True
        if op == _COMMIT:
            self._commit()
            return True
        return False

    def _reserve(self) -> None:
        if not self._dirty or self._rolling_back:
            return
        assert self.mark is not None
        assert self._sink is not None
        if self._pages <= self.mark.pages:
            return
        self._rolling_back = True  # unless the next lines return
        try:
            await_sync(self._sink.reserve(self._pages))
        except VolumeFull as error:
            raise apsw.FullError(str(error)) from error
        if len(self._dirty) >= LARGE_COMMIT_PAGES:
            self._prepare()  # the loop has had a turn
        self._rolling_back = False

    def _prepare(self) -> None:
        """From here to the commit's end the loop gets no turn, unless the volume has to grow."""
        assert self._sink is not None
        await_sync(self._sink.prepare())

    def _commit(self) -> None:
        if not self._dirty:
            return
        assert self.mark is not None
        assert self._sink is not None
        at, size = self.mark.lsn, self.mark.pages
        changes: list[PageChange] = []
        for page in sorted(self._dirty):
            # None, and so a full image, where the page is new or no longer cached: SQLite may
            # write a page without reading it (one from the free list).
            before = self._get_nowait(page, at) if page < size else None
            after = self._dirty[page]
            if page == HEADER and before is not None:
                after = keep(after, before)
            if page < self._pages and after != before:
                changes.append(PageChange(page, before, after))
        free = None
        if HEADER in self._dirty:
            self._counter = counter_of(self._dirty[HEADER])
            free = free_in(self._dirty[HEADER])
        self._dirty.clear()
        if changes:
            mark, lsns = self._sink.commit(changes, self._pages, free)
            self._pool.install(mark, {c.page: (lsns[c.page], c.after) for c in changes})
            self.committed = self.mark = mark
            self.rests_on = mark.lsn
        self._counted = self.mark.lsn, self._pool.generation

    def take_committed(self) -> CommitMark | None:
        """The commit made since the last call, if any."""
        committed, self.committed = self.committed, None
        return committed

    # -- the rest

    def xSectorSize(self) -> int:
        return PAGE_SIZE

    def xDeviceCharacteristics(self) -> int:
        return 0

    def xClose(self) -> None:
        self.xUnlock(_NONE)


class VolumeVfs(apsw.VFS):
    """Registered under a name of its own per engine. Knows no other file than `VolumeFile`s."""

    def __init__(self, clock: Clock) -> None:
        self.vfs_name = f"sextet-{next(_names)}"
        self._clock = clock
        self._next: VolumeFile | None = None
        super().__init__(self.vfs_name, None, exclude=_EXCLUDED)

    def open_next(self, file: VolumeFile) -> None:
        """The file that the next connection opens; the call must follow at once."""
        self._next = file

    def xOpen(self, name: object, flags: list[int]) -> apsw.VFSFile:
        file, self._next = self._next, None
        if file is None or not flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            raise apsw.CantOpenError("there is no file but the volume")
        flags[1] = flags[0]
        return file

    def xAccess(self, pathname: str, flags: int) -> bool:
        return False  # no journal, ever: nothing half-done reaches the volume

    def xDelete(self, filename: str, syncdir: bool) -> None:
        """No other file exists."""

    def xFullPathname(self, name: str) -> str:
        return name

    def xRandomness(self, numbytes: int) -> bytes:
        return b""

    def xSleep(self, microseconds: int) -> int:
        return 0  # nothing here waits by sleeping

    def xCurrentTime(self) -> float:
        return self.xCurrentTimeInt64() / 86_400_000

    def xCurrentTimeInt64(self) -> int:
        return _JULIAN_EPOCH_MS + self._clock.wall_us() // 1000

    def xGetLastError(self) -> tuple[int, str | None]:
        return 0, None
