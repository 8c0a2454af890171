"""A replica: follows the writer's redo, applies whole MTRs at or below VDL to the pages it caches.

Invariants
- `pool.visible` is always a VDL that the writer announced, with every record at or below it applied
  to the cached pages: a reader here sees exactly one committed state (P17 §4.2.4).
- Records come in volume order, each naming its predecessor. A gap means that something was missed:
  the cache is dropped and the replica joins again at the writer's current VDL.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from operator import attrgetter

from engine.config import InstanceConfig, VolumeConfig
from engine.errors import DeadlineExceeded, ProtocolError, SextetError, StaleEpoch, Unavailable
from engine.instance.commitpoint import CommitPoint
from engine.log.frame import Redo, check_body, index_frame
from engine.log.header import read_header
from engine.moments import Moment
from engine.net.methods import CONFIRMED_COMMIT, FOLLOW
from engine.net.pb import instance_pb2 as pb
from engine.net.pb.storage_pb2 import PgMembership
from engine.ports import Runtime, Stream
from engine.sql.engine import SqlEngine
from engine.sql.pool import BufferPool
from engine.sql.settings import SqlSettings
from engine.steps import Mark, Step
from engine.tasks import backoff, end_all
from engine.types import LSN, CommitMark, Membership, PgNo
from engine.volume.channels import Channels
from engine.volume.fencing import commit_from_pb, membership_from_pb
from engine.volume.geometry import pg_of
from engine.volume.membership import supersedes
from engine.volume.reader import PageReader
from engine.volume.tails import PgTails

log = logging.getLogger(__name__)

FeedStream = Stream[pb.FollowReport, pb.FeedItem]


REJOIN_LIMIT_S = 0.25
"""The longest pause between two tries to find the writer: readers here are stale meanwhile."""


RECORD_BYTES = 350
"""What a record costs besides its data, about."""


LAG_STEPS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
"""Of all commits, how many were visible within so long is counted."""


def within(milliseconds: int) -> str:
    """The counter's name."""
    return f"commits_within_{milliseconds}_ms"


_LAG_COUNTERS = tuple((step * 1000, within(step)) for step in LAG_STEPS_MS)


class FeedGap(ProtocolError):
    """A redo record's predecessor is not the one applied last."""


class Replica:
    """Built on the first base it gets; `engine` and `pool` exist from then on."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        name: str,
        az: str,
        volume: int,
        writer_address: Callable[[], str | None],
        channels: Channels,
        instance_config: InstanceConfig,
        volume_config: VolumeConfig,
        sql_settings: SqlSettings,
        commit_at: Callable[[Moment], Awaitable[CommitMark]],
    ) -> None:
        self._runtime = runtime
        self._commit_at = commit_at
        self._name = name
        self._az = az
        self._volume = volume
        self._writer_address = writer_address
        self._channels = channels
        self._config = instance_config
        self._volume_config = volume_config
        self._sql_settings = sql_settings
        self.memberships: dict[PgNo, Membership] = {}
        self.tails = PgTails()
        self.pool: BufferPool | None = None
        self.engine: SqlEngine | None = None
        self.reader: PageReader | None = None
        self.epoch = 0
        self.lag_us = 0
        self.connected = False
        self.ready = asyncio.Event()
        self.counters: dict[str, int] = dict.fromkeys(
            ("joins", "gaps", "records_applied", "commits_applied", *map(within, LAG_STEPS_MS)), 0
        )
        self.commit_point = CommitPoint(runtime, self._ask_writer)
        self._pending: list[Redo] = []  # above the applied VDL
        self._pending_bytes = 0
        self._applied: LSN = 0
        self._heard_at = runtime.clock.monotonic()
        self._following = ""
        self._stream: FeedStream | None = None
        self._report_due = asyncio.Event()
        self._reported_at = runtime.clock.monotonic()

    async def run(self) -> None:
        """Follow for ever; on any failure join again with backoff."""
        delays = self._delays()
        while True:
            address = self._writer_address()
            if address is not None:
                joins = self.counters["joins"]
                try:
                    await self._follow(address)
                except FeedGap as error:
                    self.counters["gaps"] += 1
                    self._runtime.steps.mark(Mark.REPLICA_GAP)
                    log.warning("gap in the redo stream, dropping the cache: %s", error)
                except SextetError as error:
                    if self.connected:
                        log.warning("lost the writer: %s: %s", type(error).__name__, error)
                if self.counters["joins"] > joins:
                    delays = self._delays()
            self.connected = False
            await asyncio.sleep(next(delays))

    def give_up(self, why: str) -> None:
        """Whoever still reads here, an export perhaps, fails at once: storage will refuse this epoch."""
        if self.reader is not None:
            self.reader.over = why

    async def close(self) -> None:
        """End all sessions; `run` has ended or is being cancelled."""
        if self.engine is not None:
            await self.engine.close()
        await self.commit_point.close()

    @property
    def applied(self) -> LSN:
        """Up to where its readers see the volume, 0 before it has joined a writer."""
        return self._applied

    def lag_now_us(self) -> int:
        """Microseconds from "durable on the writer" to "visible here", at most; grows while it is silent.

        Something is late once the writer should have spoken half a heartbeat ago.
        """
        silent_us = self.silent_us()
        late = silent_us > 1.5e6 * self._config.heartbeat_s
        return self.lag_us + silent_us if late else self.lag_us

    async def _ask_writer(self) -> LSN:
        """The commit point of the writer that the catalog names. Raises SextetError."""
        address = self._writer_address()
        if address is None:
            raise Unavailable("nobody is named writer")
        reply = await self._channels.to(address).call(
            CONFIRMED_COMMIT,
            pb.ConfirmedCommitRequest(),
            timeout=self._volume_config.call_timeout_s,
        )
        return reply.lsn

    def silent_us(self) -> int:
        """Microseconds since it last heard from a writer."""
        return int((self._runtime.clock.monotonic() - self._heard_at) * 1e6)

    def _now_us(self) -> int:
        return int(self._runtime.clock.monotonic() * 1e6)

    def _delays(self) -> Iterator[float]:
        return backoff(
            self._runtime.rng,
            self._volume_config.backoff_first_s,
            REJOIN_LIMIT_S,
        )

    def writer_moved(self) -> None:
        """The catalog may name another writer now: leave the one being followed if it does.

        The old one may still be alive and silent, so waiting for its stream to break is no answer.
        """
        if self._stream is not None and self._writer_address() not in (None, self._following):
            self._stream.close()

    async def _follow(self, address: str) -> None:
        stream: FeedStream = self._channels.to(address).stream(FOLLOW)
        self._following, self._stream = address, stream
        reporter: asyncio.Task[None] | None = None
        try:
            await stream.send(self._report_now())
            first = await self._next(stream)
            if first is None:
                return
            self._join(first.base)
            self._shown(first, 0)
            reporter = asyncio.create_task(self._report(stream), name="report to writer")
            while (item := await self._next(stream)) is not None:
                self._take(item)
        finally:
            self._stream = None
            if reporter is not None:
                await end_all(reporter)
            stream.close()

    async def _next(self, stream: FeedStream) -> pb.FeedItem | None:
        """The writer says something all the time; one that does not is given up."""
        try:
            async with asyncio.timeout(self._config.silence_s):
                return await stream.recv()
        except TimeoutError:
            raise DeadlineExceeded("the writer is silent") from None

    async def _report(self, stream: FeedStream) -> None:
        """After an item, but not more often than `report_s` says. The writer says something all the time,
        so this wants no timer of its own: two processes that wake up for each other do it once."""
        while True:
            self._reported_at = self._runtime.clock.monotonic()
            self._report_due.clear()
            await stream.send(self._report_now())
            await self._report_due.wait()

    def _report_now(self) -> pb.FollowReport:
        """Also the greeting: read points pinned before a rejoin are still in use."""
        return pb.FollowReport(
            instance=self._name,
            min_read_lsn=self.pool.min_pinned() if self.pool is not None else 0,
            applied_lsn=self._applied,
            lag_us=self.lag_now_us(),
            now_us=self._now_us(),
        )

    def learn(self, messages: Iterable[PgMembership]) -> None:
        """Take over what the catalog says of groups that are known here: whom to ask for their pages."""
        self._learn(messages, grown=False)

    def _learn(self, messages: Iterable[PgMembership], *, grown: bool) -> None:
        for message in messages:
            heard = membership_from_pb(message)
            known = self.memberships.get(heard.pg)
            if grown if known is None else supersedes(heard, known):
                self.memberships[heard.pg] = heard

    # -- joining

    def _join(self, base: pb.FeedBase) -> None:
        """Begin at the writer's base. Raises StaleEpoch if that writer was followed by another one
        that this replica has seen: readers here must not go back."""
        if base.epoch < self.epoch or base.vdl.lsn < self._applied:
            raise StaleEpoch(
                f"the writer of epoch {base.epoch} is at {base.vdl.lsn}; this replica has seen "
                f"{self._applied} of epoch {self.epoch}"
            )
        self._runtime.steps.before(Step.JOIN)
        mark = commit_from_pb(base.vdl)
        self._learn(base.memberships, grown=True)
        for tail in base.tails:
            self.tails.note(tail.pg, tail.lsn)
        self.tails.forget_below(mark.lsn)  # what came between two joins was never seen
        self._pending.clear()
        self._pending_bytes = 0
        self._applied = mark.lsn
        self.epoch = base.epoch
        if self.reader is None:
            self.reader = PageReader(
                self._runtime,
                self._volume_config,
                volume=self._volume,
                epoch=self.epoch,
                az=self._az,
                memberships=self.memberships,
                tails=self.tails,
                scls=lambda _pg: {},  # only the writer hears acks; segments refuse if too far back
                connect=self._channels.to,
            )
            self.pool = BufferPool(self.reader, capacity_pages=self._config.pool_pages, start=mark)
            self.engine = SqlEngine(
                self.pool,
                None,
                self._runtime.clock,
                self._runtime.rng,
                settings=self._sql_settings,
            )
            self.engine.commit_point = self.commit_point
            self.engine.commit_at = self._commit_at
        else:
            assert self.pool is not None
            self.reader.epoch = self.epoch
            self.pool.reset(mark)
        self.counters["joins"] += 1
        if self.counters["joins"] > 1:
            self._runtime.steps.mark(Mark.REPLICA_REJOINED)
        self.connected = True
        self._heard_at = self._runtime.clock.monotonic()
        self.ready.set()
        self._runtime.steps.after(Step.JOIN)
        log.info("joined the writer at LSN %d, epoch %d", mark.lsn, self.epoch)

    # -- following

    def _take(self, item: pb.FeedItem) -> None:
        self._heard_at = self._runtime.clock.monotonic()
        if self._heard_at - self._reported_at >= self._config.report_s:
            self._report_due.set()  # told once the item has been applied: nobody else has a turn before
        self._learn(item.grown, grown=True)
        for frame in item.frames:
            header = read_header(frame)
            check_body(frame, header)
            redo = [Redo(ref, frame) for ref in index_frame(frame, header)]
            self._pending.extend(redo)
            self._pending_bytes += sum(map(_size, redo))
        commits = 0
        if item.vdl > self._applied:
            commits = self._apply_up_to(item.vdl)
        elif self._pending_bytes > self._config.replica_pending_bytes_max:
            raise FeedGap("a transaction larger than this replica may buffer; joining after it")
        self._shown(item, commits)

    def _shown(self, item: pb.FeedItem, commits: int) -> None:
        """Readers see all that `item` told of: how long did the oldest of its commits take?

        Without a commit it is how long the item took. The writer has told the time it names as this
        process's clock has it, so neither wall clock has a say.
        """
        self.lag_us = max(0, self._now_us() - item.since_us)
        if commits:
            for step_us, counter in _LAG_COUNTERS:
                if self.lag_us <= step_us:
                    self.counters[counter] += commits

    def _apply_up_to(self, vdl: LSN) -> int:
        """The number of commits that have become visible."""
        pending = self._pending
        pending.sort(key=attrgetter("ref.lsn"))
        expected = self._applied
        ready: list[Redo] = []
        mark: CommitMark | None = None
        commits = 0
        for redo in pending:
            record = redo.ref
            if record.lsn > vdl:
                break
            if record.lsn <= self._applied:
                continue  # sent before the base was taken
            if record.prev_lsn != expected:
                raise FeedGap(f"record {record.lsn} follows {record.prev_lsn}, not {expected}")
            expected = record.lsn
            ready.append(redo)
            if record.commit is not None:
                mark = record.commit
                commits += 1
        if expected != vdl or mark is None or mark.lsn != vdl:
            raise FeedGap(f"VDL is {vdl} but redo came only up to {expected}")
        self._runtime.steps.before(Step.APPLY)
        self._pending = [redo for redo in pending if redo.ref.lsn > vdl]
        self._pending_bytes = sum(map(_size, self._pending))
        for redo in ready:
            self.tails.note(pg_of(redo.ref.page), redo.ref.lsn)
        assert self.pool is not None
        self.pool.apply(ready, mark)
        self.counters["records_applied"] += len(ready)
        self.counters["commits_applied"] += commits
        self._applied = vdl
        self._runtime.steps.after(Step.APPLY)
        self.tails.forget_below(self.pool.min_pinned())
        return commits


def _size(redo: Redo) -> int:
    return RECORD_BYTES + redo.ref.end - redo.ref.offset
