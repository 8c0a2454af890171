"""The writer's volume: allots LSNs, ships redo, and knows what is durable.

`commit` is the only way anything gets into the volume. It is synchronous and cannot fail: it allots
LSNs, encodes each record once and queues it. Everything that can fail or must wait comes before
(`ready`, `reserve`) or after (`wait_durable`).

Invariants
- One LSN per record, no LSN twice, none above VDL + LAL (P17 §4.2.1). LSNs grow by one within an
  epoch; the first of a new epoch follows the range that recovery truncated.
- A batch holds a contiguous range of LSNs, and batches leave in LSN order, so a protection group's
  frames chain without holes.
- VDL moves only by acks that storage sent after fdatasync (`DurabilityTracker`).
- Once any segment shows a higher epoch this object is dead: nothing is durable any more and every
  waiter is told that its outcome is unknown.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from engine.config import VolumeConfig
from engine.errors import (
    DeadlineExceeded,
    Overloaded,
    SextetError,
    StaleEpoch,
    Unavailable,
    VolumeFull,
)
from engine.log.diff import diff_page
from engine.log.frame import build_frame, encode_record
from engine.log.record import PageChange
from engine.net.pb import storage_pb2 as pb
from engine.ports import Channel, Runtime
from engine.steps import Mark, Step
from engine.tasks import Background, backoff, set_within
from engine.types import LAL, LSN, CommitMark, Epoch, Membership, NodeId, PageNo, PgNo
from engine.volume.durability import DurabilityTracker
from engine.volume.fencing import OpenedVolume, catch_up, exchange_memberships
from engine.volume.geometry import first_page, group_pages, pg_of, pgs_for
from engine.volume.limit import StorageLimit, free_pages
from engine.volume.links import Batch, GroupFrame, LinkOwner, NodeLink
from engine.volume.membership import supersedes
from engine.volume.quorum import read_quorum, write_quorum
from engine.volume.tails import PgTails

log = logging.getLogger(__name__)

Grow = Callable[[PgNo], Awaitable[Sequence[Membership]]]
"""Ask the control plane for one more protection group; all memberships come back."""


class _OpenGroup:
    """One group's records in the batch being filled."""

    __slots__ = ("first", "last", "prev", "records")

    def __init__(self, first: LSN, prev: LSN) -> None:
        self.first = first
        self.last = first
        self.prev = prev
        self.records: list[bytes] = []


class _OpenBatch:
    __slots__ = ("first", "groups", "last", "size")

    def __init__(self, first: LSN) -> None:
        self.first = first
        self.last = first
        self.size = 0
        self.groups: dict[PgNo, _OpenGroup] = {}


class VolumeWriter:
    """The one open writer of a volume; made by `open_volume` after recovery."""

    def __init__(
        self,
        runtime: Runtime,
        config: VolumeConfig,
        opened: OpenedVolume,
        *,
        connect: Callable[[str], Channel],
        background: Background,
        grow: Grow,
        on_fenced: Callable[[str], None],
    ) -> None:
        self._runtime = runtime
        self._config = config
        self.opened = opened
        self._connect = connect
        self._background = background
        self._grow = grow
        self._on_fenced = on_fenced
        self.volume = opened.volume
        self.epoch: Epoch = opened.epoch
        self.limit = StorageLimit(opened.max_pages, opened.vdl.pages, full=opened.storage_full)
        self.tails = PgTails()
        self.memberships: dict[PgNo, Membership] = {}
        self.links: dict[NodeId, NodeLink] = {}
        self._running: dict[NodeId, asyncio.Task[None]] = {}
        self.counters: dict[str, int] = dict.fromkeys(
            ("commits", "records", "redo_bytes", "dirty_page_bytes", "batches", "frames"), 0
        )
        self._tracker = DurabilityTracker(opened.vdl)
        self._last_lsn: LSN = opened.vdl.lsn  # volume predecessor of the next record
        self._next_lsn: LSN = opened.next_lsn
        self._pg_last: dict[PgNo, LSN] = {}
        self._open: _OpenBatch | None = None
        self._sealed: deque[_OpenBatch] = deque()
        self._in_flight: deque[Batch] = deque()
        self._half_mtr: list[Batch] = []  # durable, but their MTR's end is not: above VDL
        self._queued_bytes = 0  # committed, not framed yet
        self._flight_bytes = 0
        self._flush_scheduled = False
        self._waiting_since = 0.0  # the head of what is in flight was sent, or became the head
        self._room = asyncio.Event()
        self._room.set()
        self._waiters: list[tuple[LSN, int, asyncio.Future[None]]] = []
        self._waiter_seq = 0
        self._dead: str | None = None
        self._grow_lock = asyncio.Lock()
        self._points_sent: tuple[LSN, LSN] = (0, 0)
        self._stirred = asyncio.Event()  # redo has been sent since the points were looked at
        self._calm = False  # all has been said, and no redo is under way
        self._sent_last: tuple[tuple[object, ...], pb.AppendRequest] | None = None
        self.pgmrpl: Callable[[], LSN] = lambda: 0
        self.before_large_commit: Callable[[], Awaitable[None]] | None = None
        self.on_durable: list[Callable[[CommitMark], None]] = []
        self.on_batch: list[Callable[[Batch], None]] = []
        self.on_grown: list[Callable[[Sequence[Membership]], None]] = []
        for membership in opened.memberships:
            self._add_group(membership, opened.tails.get(membership.pg, 0))
        self.tails.forget_below(opened.vdl.lsn)
        for pg, node, scl in opened.scls:
            self._tracker.acked(pg, node, scl)

    # -- what the SQL engine calls (CommitSink)

    async def ready(self) -> None:
        """Wait until back-pressure lets one more write transaction start."""
        while self._dead is None and not self._room.is_set():
            await self._room.wait()
        self._raise_if_dead()

    async def reserve(self, pages: int) -> None:
        """Make the volume hold `pages` pages. Raises VolumeFull at the configured maximum."""
        try:
            if pages > self.limit.max_pages:
                raise VolumeFull(
                    f"the volume is full: {pages} pages wanted, the maximum is "
                    f"{self.limit.max_pages}; delete data or raise the maximum with "
                    "`sextet storage limit`"
                )
            while len(self.memberships) < pgs_for(pages):
                await self._grow_to(len(self.memberships))
        except VolumeFull:  # the catalog's maximum may be lower than what we know of it
            if not self.limit.full:
                log.warning("the volume is full: a statement wanted %d pages", pages)
            self.limit.refuse(pages)
            raise
        self._raise_if_dead()

    async def prepare(self) -> None:
        """A large commit comes: whoever has to know is told."""
        if self.before_large_commit is not None:
            await self.before_large_commit()

    def commit(
        self, changes: Sequence[PageChange], pages: int, free: int | None = None
    ) -> tuple[CommitMark, Mapping[PageNo, LSN]]:
        """One MTR: a record per changed page, the last one the CPL. Cannot fail, does not wait.

        `free`: pages of SQLite's free list, if that is known otherwise than by a change of page 0.

        Returns the commit's mark and each page's new LSN; durable once `wait_durable(mark.lsn)`.
        """
        assert changes, "a commit without changes has no redo"
        mark = CommitMark(self._next_lsn + len(changes) - 1, self._runtime.clock.wall_us(), pages)
        lsns: dict[PageNo, LSN] = {}
        for change in changes:
            lsn = self._next_lsn
            lsns[change.page] = lsn
            self._record(lsn, change, mark if lsn == mark.lsn else None)
        self._tracker.committed(mark)
        self.limit.committed(pages, free_pages(changes) if free is None else free)
        counters = self.counters
        counters["commits"] += 1
        counters["records"] += len(changes)
        counters["dirty_page_bytes"] += len(changes) * len(changes[0].after)
        self._check_room()
        self._schedule_flush()
        if pages > first_page(len(self.memberships)) - group_pages() // 2:
            self._grow_ahead(pages)
        return mark, lsns

    async def wait_durable(self, lsn: LSN) -> None:
        """Return once VDL >= lsn. Raises StaleEpoch if this writer was fenced off before."""
        if self.vdl.lsn >= lsn:
            return
        self._raise_if_dead()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiter_seq += 1
        heapq.heappush(self._waiters, (lsn, self._waiter_seq, future))
        await future

    # -- state

    @property
    def vdl(self) -> CommitMark:
        """Volume durable LSN: the newest commit that every later recovery keeps (P17 §4.1)."""
        return self._tracker.vdl

    @property
    def vcl(self) -> LSN:
        return self._tracker.vcl

    @property
    def in_flight(self) -> Sequence[Batch]:
        """Batches sent and not all durable yet, oldest first."""
        return self._in_flight

    @property
    def above_vdl(self) -> Sequence[Batch]:
        """Batches sent with records above VDL, oldest first: who joins at VDL needs them.

        Of an MTR too large to keep the first ones are missing.
        """
        return [*self._half_mtr, *self._in_flight]

    @property
    def stalled_s(self) -> float:
        """Seconds for which the oldest batch in flight has been the oldest; 0 if there is none."""
        if not self._in_flight:
            return 0.0
        return self._runtime.clock.monotonic() - self._waiting_since

    def scls(self, pg: PgNo) -> dict[NodeId, LSN]:
        """What each member of the group has acknowledged, as far as this writer knows."""
        return {m.node: self._tracker.scl(pg, m.node) for m in self.memberships[pg].voters}

    def pgcl(self, pg: PgNo) -> LSN:
        return self._tracker.pgcl(pg)

    def quorums(self, pg: PgNo) -> tuple[bool, bool]:
        """(write, read): whether the nodes whose links are up satisfy the group's quorums."""
        up = {node for node, link in self.links.items() if link.up}
        membership = self.memberships[pg]
        return write_quorum(membership).satisfied(up), read_quorum(membership).satisfied(up)

    def start(self) -> None:
        """Begin to send points when idle; links started themselves."""
        self._background.spawn(self._points_loop(), name="volume points")

    # -- records into batches

    def _record(self, lsn: LSN, change: PageChange, commit: CommitMark | None) -> None:
        pg = pg_of(change.page)
        prev_pg = self._pg_last[pg]
        full, moves, ranges = diff_page(change.before, change.after)
        body = encode_record(
            lsn=lsn,
            prev_lsn=self._last_lsn,
            prev_pg_lsn=prev_pg,
            page=change.page,
            full=full,
            moves=moves,
            ranges=ranges,
            commit=commit,
        )
        batch = self._open
        if batch is None:
            batch = self._open = _OpenBatch(lsn)
        group = batch.groups.get(pg)
        if group is None:
            group = batch.groups[pg] = _OpenGroup(lsn, prev_pg)
        group.records.append(body)
        group.last = batch.last = lsn
        batch.size += len(body)
        self._queued_bytes += len(body)
        self._pg_last[pg] = lsn
        self.tails.note(pg, lsn)
        self._last_lsn = lsn
        self._next_lsn = lsn + 1
        if batch.size >= self._config.frame_bytes_max:
            self._sealed.append(batch)
            self._open = None

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled and self._dead is None:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        flight, full = self._in_flight, self._config.frame_bytes_max
        while len(flight) < self._config.batches_in_flight_max and self._dead is None:
            if self._sealed:
                batch = self._sealed.popleft()
            elif self._open is not None and all(b.size >= full for b in flight):
                # A message costs the same with one commit in it and with ten (RFC 896 says so of bytes).
                batch, self._open = self._open, None
            else:
                return
            self._send(batch)

    def _send(self, open_batch: _OpenBatch) -> None:
        frames = []
        for pg in sorted(open_batch.groups):
            group = open_batch.groups[pg]
            frame = build_frame(
                volume=self.volume,
                pg=pg,
                epoch=self.epoch,
                prev_pg_lsn=group.prev,
                first_lsn=group.first,
                last_lsn=group.last,
                records=group.records,
            )
            frames.append(GroupFrame(pg, group.first, group.last, frame))
            self._tracker.sent(pg, first=group.first, last=group.last)
        size = sum(len(f.frame) for f in frames)
        batch = Batch(open_batch.first, open_batch.last, tuple(frames), size)
        self._queued_bytes -= open_batch.size
        self._flight_bytes += size
        self.counters["redo_bytes"] += size
        self.counters["batches"] += 1
        self.counters["frames"] += len(frames)
        if not self._in_flight:
            self._waiting_since = self._runtime.clock.monotonic()
        self._in_flight.append(batch)
        self._stirred.set()
        self._runtime.steps.before(Step.SEND)
        for link, part in self._shares_of(batch):
            link.offer(part)
        for listener in self.on_batch:
            listener(batch)
        self._runtime.steps.after(Step.SEND)

    def _shares_of(self, batch: Batch) -> Iterator[tuple[NodeLink, Batch]]:
        """Every link that gets some of the batch, with the frames of the groups its node keeps."""
        keepers = [{m.node for m in self.memberships[f.pg].voters} for f in batch.frames]
        for node in sorted(set().union(*keepers)):
            if all(node in keeping for keeping in keepers):
                yield self.links[node], batch  # with six nodes that is everyone
            else:
                mine = zip(batch.frames, keepers, strict=True)
                frames = tuple(f for f, keeping in mine if node in keeping)
                size = sum(len(f.frame) for f in frames)
                yield self.links[node], replace(batch, frames=frames, size=size)

    def _request(self, batches: Sequence[Batch], heard: bool) -> pb.AppendRequest:
        """One request of what a link was offered: it has only what its node keeps. Not to be changed:
        the six links, which mostly send the same redo, send the same message."""
        key = (tuple(batches), heard, self.vdl.lsn, self._points_sent)
        if batches and self._sent_last is not None and self._sent_last[0] == key:
            return self._sent_last[1]
        request = pb.AppendRequest(
            volume=self.volume,
            epoch=self.epoch,
            vdl=self.vdl.lsn,
            pgmrpl=self._pgmrpl(),
            heard=heard,
        )
        for batch in batches:
            for part in batch.frames:
                membership_epoch = self.memberships[part.pg].epoch
                request.pgs.add(pg=part.pg, membership_epoch=membership_epoch, frames=part.frame)
        self._sent_last = key, request
        return request

    # -- acks

    def _acked(self, node: NodeId, segments: Sequence[tuple[PgNo, LSN]]) -> None:
        if self._dead is not None:
            return
        moved = False
        for pg, scl in segments:
            if pg in self.memberships:
                moved = self._tracker.acked(pg, node, scl) or moved
        self._settle(moved=moved)

    def _settle(self, *, moved: bool) -> None:
        """What follows from durability points that may have moved."""
        vcl = self._tracker.vcl
        flight = self._in_flight
        if flight and flight[0].last <= vcl:
            while flight and flight[0].last <= vcl:
                self._flight_bytes -= flight[0].size
                self._half_mtr.append(flight.popleft())
            self._waiting_since = self._runtime.clock.monotonic()
            self._forget_complete_mtrs()
            self._check_room()
            if self._sealed or self._open is not None:
                self._runtime.steps.mark(Mark.BATCH_WAITED)
                self._schedule_flush()
        if moved:
            self._durable(self._tracker.vdl)

    def _forget_complete_mtrs(self) -> None:
        vdl = self._tracker.vdl.lsn
        self._half_mtr = [batch for batch in self._half_mtr if batch.last > vdl]
        if sum(batch.size for batch in self._half_mtr) > self._config.unacked_bytes_max:
            self._half_mtr.clear()

    def _durable(self, vdl: CommitMark) -> None:
        self._runtime.steps.before(Step.DURABLE)
        for listener in self.on_durable:
            listener(vdl)
        waiters = self._waiters
        while waiters and waiters[0][0] <= vdl.lsn:
            future = heapq.heappop(waiters)[2]
            if not future.done():
                future.set_result(None)
        self._runtime.steps.after(Step.DURABLE)

    def _check_room(self) -> None:
        waiting = self._queued_bytes + self._flight_bytes
        # An epoch's first LSN lies LAL above the VDL it found, so the limit counts from there.
        # Half of it is left to the transaction that starts now; it cannot be stopped half-way.
        allotted = self._next_lsn - max(self._tracker.vdl.lsn + 1, self.opened.next_lsn)
        if waiting < self._config.unacked_bytes_max and allotted < LAL // 2:
            self._room.set()
        elif self._room.is_set():
            self._room.clear()
            self._runtime.steps.mark(Mark.BACK_PRESSURE)

    # -- groups and links

    def _add_group(self, membership: Membership, tail: LSN) -> None:
        pg = membership.pg
        self.memberships[pg] = membership
        self._tracker.add_group(pg, write_quorum(membership), tail)
        self._pg_last[pg] = tail
        if tail:
            self.tails.note(pg, tail)
        self._link(membership)

    def _link(self, membership: Membership) -> None:
        for member in membership.voters:
            if member.node not in self.links:
                link = NodeLink(
                    self._runtime,
                    self._config,
                    self._link_owner(),
                    node=member.node,
                    channel=self._connect(member.address),
                )
                self.links[member.node] = link
                self._running[member.node] = self._background.spawn(
                    link.run(), name=f"link to {member.node}"
                )

    def learn(self, memberships: Iterable[Membership]) -> None:
        """Take over who keeps the groups, as the catalog or a segment says; older news are ignored.

        A group that is not known here is: only `reserve` adds one, under this writer's epoch.
        """
        if self._dead is not None:
            return
        vdl = self._tracker.vdl
        changed = []
        for heard in memberships:
            known = self.memberships.get(heard.pg)
            if known is not None and supersedes(heard, known):
                self._change_members(known, heard)
                changed.append(heard)
        if not changed:
            return
        for listener in self.on_grown:
            listener(changed)
        self._drop_idle_links()
        self._settle(moved=self._tracker.vdl != vdl)

    def _change_members(self, known: Membership, heard: Membership) -> None:
        pg = heard.pg
        log.info("group %d has membership epoch %d", pg, heard.epoch)
        self.memberships[pg] = heard
        self._sent_last = None  # it names the old members' epoch
        before = {m.node: m.incarnation for m in known.voters}
        now = {m.node: m.incarnation for m in heard.voters}
        reborn = [n for n in now if before.get(n, "") not in ("", now[n])]
        for node in reborn:
            self.links[node].forget(pg)
        gone = sorted(before.keys() - now.keys())
        for node in gone:
            self.links[node].leave(pg)
        # Who leaves drops its segment; if it is ever a member again it begins with an empty one.
        self._tracker.set_quorum(pg, write_quorum(heard), forget=[*reborn, *gone])
        self._link(heard)

    def _drop_idle_links(self) -> None:
        """To nodes that keep nothing of this volume any more."""
        needed = {m.node for membership in self.memberships.values() for m in membership.voters}
        for node in sorted(self.links.keys() - needed):
            del self.links[node]
            self._running.pop(node).cancel()

    async def _exchange(self, node: NodeId, channel: Channel) -> None:
        """Raises Unavailable if that settled nothing: the node's disk is not the one it should be."""
        newer, refused = await exchange_memberships(
            channel,
            volume=self.volume,
            node=node,
            memberships=self.memberships.values(),
            timeout=self._config.call_timeout_s,
        )
        self.learn(newer)
        if refused and not newer:
            raise Unavailable(f"{node} does not keep groups {refused} as it should")

    def _members(self, pg: PgNo) -> int:
        known = self.memberships.get(pg)
        return known.epoch if known is not None else 0

    def _link_owner(self) -> LinkOwner:
        return LinkOwner(
            volume=self.volume,
            epoch=self.epoch,
            request=self._request,
            durable=lambda: self._tracker.vdl.lsn,
            acked=self._acked,
            members=self._members,
            exchange=self._exchange,
            catch_up=self._catch_up,
            fenced=self._fenced,
        )

    async def _catch_up(self, channel: Channel) -> None:
        await catch_up(
            channel,
            volume=self.volume,
            epoch=self.epoch,
            truncations=self.opened.truncations,
            timeout=self._config.call_timeout_s,
        )

    async def _grow_to(self, pg: PgNo) -> None:
        """Add group `pg`, asking again with backoff; the statement's own timeout bounds it."""
        async with self._grow_lock:
            delays = backoff(self._runtime.rng, 0.1, 2.0)
            while pg >= len(self.memberships):
                self._raise_if_dead()
                try:
                    memberships = await self._grow(pg)
                except (Unavailable, DeadlineExceeded, Overloaded) as error:
                    log.warning("cannot add protection group %d yet: %s", pg, error)
                    await asyncio.sleep(next(delays))
                    continue
                self._runtime.steps.before(Step.GROW)
                new = [m for m in memberships if m.pg not in self.memberships]
                for membership in new:
                    self._add_group(membership, 0)
                    log.info("protection group %d added", membership.pg)
                for listener in self.on_grown:
                    listener(new)
                self._runtime.steps.mark(Mark.VOLUME_GREW)
                self._runtime.steps.after(Step.GROW)

    def _grow_ahead(self, pages: int) -> None:
        pg = len(self.memberships)
        room = self.limit.max_pages > first_page(pg)
        if room and not self._grow_lock.locked() and pgs_for(pages) <= pg:
            self._background.spawn(self._try_to_grow(pg), name=f"grow to group {pg}")

    async def _try_to_grow(self, pg: PgNo) -> None:
        """Ahead of need: whoever needs the group will ask again and be told why there is none."""
        try:
            await self._grow_to(pg)
        except SextetError as error:
            log.warning("protection group %d is not added ahead: %s", pg, error)

    # -- points and the end

    def _pgmrpl(self) -> LSN:
        return min(self.pgmrpl(), self._tracker.vdl.lsn)

    async def _points_loop(self) -> None:
        """VDL and PGMRPL ride on redo; when there is none they travel alone (P17 §4.2.3).

        They also ask: every node answers with its SCLs. A segment whose gap was filled by gossip after
        it took our frames has nothing to acknowledge any more, and a batch may be waiting for it.

        Once all has been said they are not looked at before there is redo again, or it is time to ask.
        """
        head: LSN = 0
        silent = 0
        while True:
            rounds = self._config.idle_rounds_max - silent if self._calm else 1
            if self._calm:
                await set_within(self._stirred, rounds * self._config.idle_points_s)
            else:
                await asyncio.sleep(self._config.idle_points_s)
            self._stirred.clear()
            points = (self._tracker.vdl.lsn, self._pgmrpl())
            waiting = self._in_flight[0].last if self._in_flight else 0
            stalled = waiting != 0 and waiting == head
            head = waiting
            if stalled:
                self._runtime.steps.mark(Mark.STALLED_ASKED)
            silent = 0 if self._in_flight else silent + rounds
            self._calm = not self._in_flight and points == self._points_sent
            if silent >= self._config.idle_rounds_max:
                silent = 0
                self._points_sent = (
                    0,
                    0,
                )  # a writer that nobody writes to must learn if it is over
            if stalled or (points != self._points_sent and not self._in_flight):
                self._points_sent = points
                for node in sorted(self.links):
                    self.links[node].offer_points()
            self.tails.forget_below(points[1])

    def _fenced(self, reason: str) -> None:
        if self._dead is not None:
            return
        self._dead = reason
        log.error("this writer is over: %s", reason)
        for _, _, future in self._waiters:
            if not future.done():
                future.set_exception(StaleEpoch(reason))
        self._waiters.clear()
        self._room.set()
        self._on_fenced(reason)

    def _raise_if_dead(self) -> None:
        if self._dead is not None:
            raise StaleEpoch(self._dead)
