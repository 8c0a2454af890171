"""A session's turn at writing: the lock before, durability after.

    begin          lock, back-pressure, then: is the snapshot that was read still the newest state?
    (SQLite writes and commits; `VolumeFile` hands the commit to the sink)
    end            the lock goes to the next one, in the same turn of the event loop
    durable        only now wait for the quorum

A turn that began on a tip above VDL has a *base* that no client may learn about yet. What a statement
answers rests on the pages that this connection has read at the tip, of which page 1 has the volume's size
and the schema's number: if none of them has changed above VDL the answer is that of VDL's state too, and
`read_durable` lets it pass. An error tells of whatever it met: `base_durable` waits for the base whole.
(But for 40001, which says that somebody has committed, and not what.)

Where more statements of the same client have arrived already the wait can come `later`, once for all of
them and with the lock given back meanwhile: then what they rest on is *owed*, and whoever keeps the
answers sends none before it is settled.
"""

from __future__ import annotations

import asyncio

from engine.errors import CommitUnknown, SerializationFailure, SextetError
from engine.sql.lock import WriteLock
from engine.sql.pool import BufferPool
from engine.sql.sink import CommitSink
from engine.sql.vfs import HEADER, VolumeFile
from engine.sql.watch import Watch
from engine.types import LSN

OUTCOME_UNKNOWN = "the outcome of this commit is unknown: it is in the database whole or not at all"


class WriteTurn:
    """One per session; `held` while it may write."""

    def __init__(
        self, pool: BufferPool, sink: CommitSink | None, lock: WriteLock, watch: Watch
    ) -> None:
        self.held = False
        self.waits = False
        """A commit of this turn waits to be durable: nobody has been told what became of it."""
        self._pool = pool
        self._sink = sink
        self._lock = lock
        self._watch = watch
        self.later = False
        """Results are kept back by whoever asks for them until nothing is owed any more."""
        self._file: VolumeFile | None = None
        self._base: LSN = 0
        self._owed: LSN = 0

    async def begin(self, file: VolumeFile, lock_timeout_s: float) -> None:
        """Raises LockTimeout; SerializationFailure if `file` has read a state that is not the tip."""
        if self.held:
            return
        assert self._sink is not None
        await self._lock.acquire(lock_timeout_s)
        self.held = True
        try:
            await self._sink.ready()
            tip = self._pool.tip
            if file.mark is not None and file.mark.lsn != tip.lsn:
                raise SerializationFailure(
                    "could not serialize access: others have committed since this transaction"
                    " began to read; run it again",
                    hint="BEGIN IMMEDIATE takes the write lock before the first read.",
                )
        except BaseException:
            self.end(file)
            raise
        file.writing = True
        self._file = file
        self._base = tip.lsn

    def end(self, file: VolumeFile) -> None:
        """The transaction is over: let the next one write."""
        if self.held:
            self.held = False
            file.writing = False
            self._lock.release()

    def rests_on(self) -> LSN:
        """What all that this turn has read so far rests on; nobody is shown that before it is durable."""
        if self._file is None or self.may_show(self._base):
            return 0
        return self._file.rests_on

    @property
    def base(self) -> LSN:
        """All that this turn is built on."""
        return self._base

    def schema_rests_on(self) -> LSN:
        """What is said of the schema in this turn does: a change of it changes page 1."""
        return 0 if self.may_show(self._base) else self._pool.changed(HEADER)

    def may_show(self, lsn: LSN) -> bool:
        """Whether an answer that rests on it need not wait."""
        return lsn <= self._pool.visible.lsn

    async def read_durable(self, rests_on: LSN | None = None) -> None:
        """Wait until what this turn has read may be shown; or until an answer may that rests on less."""
        lsn = max(self._owed, self.rests_on() if rests_on is None else rests_on)
        if self.later:
            self._owed = lsn
        else:
            await self._until_visible(lsn)

    async def base_durable(self) -> None:
        """Wait until all that this turn was built on may be shown."""
        await self.read_durable(self._base)
        self._base = 0

    def owes(self) -> bool:
        """Whether results were given that nobody may be shown yet."""
        return self._owed > self._pool.visible.lsn

    async def settle(self) -> None:
        """Wait until what has been given may be shown."""
        await self._until_visible(self._owed)

    async def _until_visible(self, lsn: LSN) -> None:
        if not self.may_show(lsn):
            assert self._sink is not None
            await self._sink.wait_durable(lsn)

    def forget_base(self) -> None:
        """Nothing of this turn was told to anybody, nor will be."""
        self._base = 0

    async def durable(self, lsn: LSN) -> None:
        """Wait for a commit of this turn. Raises CommitUnknown however the wait ends early."""
        self._base = 0  # it lies below
        if lsn <= self._pool.visible.lsn:
            return
        assert self._sink is not None
        self.waits = True
        try:
            await self._sink.wait_durable(lsn)
        except asyncio.CancelledError:
            reason = self._watch.interruption
            if reason is not None:
                self._watch.interruption = CommitUnknown(f"{OUTCOME_UNKNOWN} ({reason})")
            raise
        except SextetError as error:
            raise CommitUnknown(f"{OUTCOME_UNKNOWN} ({error})") from error
        finally:
            self.waits = False
