"""A storage node against a model that remembers every page at every LSN.

Hypothesis drives one real node over real files: commits arrive in order and out of it, the durable
points move, redo is coalesced, garbage collected, readers pin old read points,
the node is killed and restarted with a torn tail, recoveries truncate. At every step,
every read point that may still be read must show exactly the model's bytes.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.log.header import read_header
from engine.storage.pagestore import PageStore
from engine.storage.pagestore_memory import MemoryPageStore
from engine.storage.state import Pin
from engine.types import LAL
from tests.storage.harness import QUIET, VOLUME, Log, Node

T = TypeVar("T")
SPAN = 5


class SegmentMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.config = replace(
            QUIET, wal_file_bytes=2000, frame_cache_bytes=1000, coalesce_pages_per_batch=2
        )
        self.store = self.made_store()
        self.log = Log()
        self.late: list[bytes] = []
        self.acked = 0  # what the node has acknowledged
        self.vdl = 0
        self.pgmrpl = 0
        self.ranges: list[tuple[int, int, int]] = []
        self.pins: dict[int, Pin] = {}
        self.node = self.run(self.opened())

    def made_store(self) -> PageStore | None:
        return MemoryPageStore()

    def run(self, step: Awaitable[T]) -> T:
        async def stepping() -> T:
            return await step

        return self.loop.run_until_complete(stepping())

    async def opened(self) -> Node:
        folder = Path(self.folder.name) / "node"
        return await Node(folder, config=self.config, store=self.store).open()

    @initialize()
    def begin(self) -> None:
        self.run(self.node.assign())
        self.run(self.node.fence(1))

    def teardown(self) -> None:
        self.run(self.node.kill())
        self.loop.close()
        self.folder.cleanup()

    def append(self, *frames: bytes, **points: int) -> None:
        ack = self.run(self.node.append(*frames, epoch=self.log.epoch, **points))
        assert ack.refusal == 0
        self.acked = ack.segments[0].scl

    # -- what happens to a node

    @rule(
        pages=st.lists(st.integers(0, SPAN - 1), min_size=1, max_size=4, unique=True),
        whole=st.booleans(),
        late=st.booleans(),
    )
    def commit(self, pages: list[int], whole: bool, late: bool) -> None:
        frame = self.log.commit(sorted(pages), whole=whole)[0]
        if late:
            self.late.append(frame)
        else:
            self.append(frame)

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def arrive_late(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.late) - 1))
        self.append(self.late.pop(at))

    @precondition(lambda self: self.log.commits)
    @rule(data=st.data())
    def move_points(self, data: st.DataObject) -> None:
        """VDL may be ahead of this node: the others made up the quorum."""
        marks = [c for c in self.log.commits if c >= self.vdl]
        if marks:
            self.vdl = data.draw(st.sampled_from(marks))
        readable = [c for c in self.log.commits if self.pgmrpl <= c <= self.vdl]
        if readable:
            self.pgmrpl = data.draw(st.sampled_from(readable))
        self.append(vdl=self.vdl, pgmrpl=self.pgmrpl)

    @rule()
    def coalesce(self) -> None:
        self.run(self.node.coalesce())
        assert self.node.segment().applied <= min(self.acked, self.vdl)

    @rule()
    def collect_garbage(self) -> None:
        self.run(self.node.node.collector.collect())

    @precondition(lambda self: self.readable())
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        """A reader stays at a read point that PGMRPL may leave behind."""
        lsn = data.draw(st.sampled_from(self.readable()))
        if lsn not in self.pins:
            self.pins[lsn] = lambda _segment: lsn
            self.node.state.pins.append(self.pins[lsn])

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        lsn = data.draw(st.sampled_from(sorted(self.pins)))
        self.node.state.pins.remove(self.pins.pop(lsn))

    @rule(torn=st.binary(max_size=100))
    def restart(self, torn: bytes) -> None:
        """Without a last word: the folder as it is, the store as it is, and bytes of a write that
        no fdatasync has covered."""
        self.run(self.node.kill())
        with self.node.wal_path().open("ab") as file:
            file.write(torn)
        self.pins.clear()  # whoever reads through a pin keeps it no longer than the node lives
        self.node = self.run(self.opened())
        assert self.node.segment().scl == self.acked
        assert not self.node.segment().row.damaged

    @rule(data=st.data())
    def recover(self, data: st.DataObject) -> None:
        """A new writer keeps everything up to some commit at or above VDL."""
        kept = data.draw(st.sampled_from([c for c in [0, *self.log.commits] if c >= self.vdl]))
        epoch = self.log.epoch + 1
        reply = self.run(self.node.fence(epoch))
        self.check_report(reply)
        self.ranges.append((epoch, kept, max(self.log.next, kept) + LAL))
        self.run(self.node.truncate(epoch, *self.ranges))
        self.log = self.log.truncated(kept, epoch)
        self.log.next = self.ranges[-1][2] + 1
        self.acked = self.node.segment().scl
        assert self.acked <= self.log.tail(kept)
        self.vdl = kept
        # The new writer sends nothing of the old epoch but what is kept.
        self.late = [f for f in self.late if self.node.state.volume(VOLUME) and _last(f) <= kept]

    def check_report(self, reply: object) -> None:
        (report,) = reply.segments  # type: ignore[attr-defined]
        told = {lsn for run in report.runs for lsn in range(run.first, run.last + 1)}
        held = {
            lsn for f in self.node.segment().frames for a, b, _ in f.runs for lsn in range(a, b + 1)
        }
        assert told == {lsn for lsn in held if lsn > report.known_vdl}
        assert told <= set(self.log.pg_records.get(0, []))
        assert report.tail == self.log.tail(min(report.scl, report.known_vdl))

    # -- what must hold

    def readable(self) -> list[int]:
        points = [c for c in self.log.commits if c >= max(self.pgmrpl, 1) or c in self.pins]
        return [c for c in points if self.log.tail(c) <= self.acked and c <= self.vdl]

    @invariant()
    def every_readable_point_shows_the_model(self) -> None:
        points = [c for c in self.log.commits if c >= max(self.pgmrpl, 1) or c in self.pins]
        points = [c for c in points if self.log.tail(c) <= self.acked]
        for lsn in points[-6:] + points[:2]:
            found = self.run(
                self.node.read(range(SPAN), lsn, pg_lsn=self.log.tail(lsn), epoch=self.log.epoch)
            )
            assert found == [self.log.page_at(page, lsn) for page in range(SPAN)], lsn


def _last(frame: bytes) -> int:
    return read_header(frame).last_lsn


TestSegment = SegmentMachine.TestCase
TestSegment.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)


class SqliteSegmentMachine(SegmentMachine):
    """The same over the real page store: slower, so fewer runs."""

    def made_store(self) -> PageStore | None:
        return None


TestSqliteSegment = SqliteSegmentMachine.TestCase
TestSqliteSegment.settings = settings(deadline=None, max_examples=6, stateful_step_count=25)
