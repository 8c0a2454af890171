"""The archiver: takes a volume's log into the object store, all the time, and a base now and then.

A round asks storage nodes how far the log is durable, fetches what is new, and creates the next chunk.
Then nodes hear up to where the log is archived: what lies above they keep in their hot logs, however long
the store is away.

Invariants
- A chunk is created at the number after the newest. Who finds it taken, by another archiver or by an
  earlier try of its own whose answer was lost, reads the archive's end again: so there is one history.
- Nodes are told of an LSN only after everything at or below it is in chunks that exist, and while a base is
  being made of no LSN above the base's.
- The archive of a clone begins with a base at the commit that it was cloned at.
- An archive whose continuation is lost (it ends below what any hot log reaches back to) is left as it is.
  Another one begins, under its name and a number, with a base. Where it ends is read again before that is
  said: an archiver that was left behind knows of an end that others have gone on from.
- What is archived continues the archive's own history: before anything else an archiver sees whether
  storage has the archive's newest commit in its past. If not, an older copy of the volume is back, and
  another archive begins.
- Nothing is deleted but what no restore within the window needs. The window ends now, or where the archive
  does: an archiver's own clock that is ahead deletes nothing more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from engine.archive.bases import (
    PART_PAGES,
    Base,
    Part,
    decode_base,
    encode_base,
    encode_part,
    index_key,
    part_key,
)
from engine.archive.belonging import has_other_past
from engine.archive.catalogue import Listing, generations, next_generation
from engine.archive.chunks import (
    NO_COMMIT,
    ChunkHead,
    chunk_key,
    decode_chunk,
    encode_chunk,
)
from engine.archive.envelope import unseal
from engine.archive.keeping import oldest_needed, superseded
from engine.archive.source import CALL_S, Forgotten, Source, Standing
from engine.archive.stretch import Stretch, next_stretch
from engine.errors import (
    Corrupt,
    FormatError,
    ObjectExists,
    ObjectMissing,
    SextetError,
    Unavailable,
)
from engine.net.methods import INSTANCE_STATUS, WATCH_CLUSTER
from engine.net.pb import control_pb2 as cpb
from engine.net.pb import instance_pb2 as ipb
from engine.ports import ObjectStore, Runtime, Stream
from engine.steps import Mark, Step
from engine.tasks import Background, backoff, unless_late
from engine.types import LSN, PAGE_SIZE, CommitMark, VolumeId
from engine.volume.channels import Channels
from engine.volume.fencing import membership_from_pb
from engine.volume.geometry import first_page, pg_of
from engine.volume.quorum import read_quorum

log = logging.getLogger(__name__)

SHARE_BYTES_MIN = 256 * 1024
"""Of each group's log in one round, at least; a few chunks' worth of all groups together otherwise."""

GROUPS_AT_ONCE = 8
"""Whose log is fetched at the same time."""

WAITS = "waits: "
"""What an archiver's state begins with while it waits; what for comes after it."""

VIEW_S = 15.0
"""The stream of views is opened anew after so long without a change: it may hang."""


@dataclass(frozen=True, slots=True)
class ArchiveConfig:
    """How an archiver works; times in seconds."""

    round_s: float = 1.0
    chunk_bytes_max: int = 8 * 1024 * 1024
    idle_s: float = 60.0
    """Without commits an empty chunk says so this often."""

    base_bytes_min: int = 64 * 1024 * 1024
    """Another base is made after so much log, and no less than this share of the volume's size."""
    base_volume_share: float = 1.0

    base_chunks_max: int = 50_000
    """And after so many chunks in any case: without that, one in which next to nothing happens would never
    let go of the chunks that say so."""

    pages_per_read: int = 64
    retention_s: float = 24 * 3600.0
    retire_every_s: float = 3600.0
    """What has fallen out of retention goes this often, and after each base."""

    backoff_limit_s: float = 15.0


@dataclass(frozen=True, slots=True)
class _End:
    """Where the archive ends."""

    number: int = 0
    digest: str = ""
    upto: LSN = 0
    newest: CommitMark = NO_COMMIT
    known_us: int = 0


ALL_ASKED_ROUNDS = 30
"""While nothing happens; a node that missed a bound keeps log for so long."""


class Archiver:
    """Start with `start`, end with `stop`. `state` is for people."""

    def __init__(
        self,
        runtime: Runtime,
        store: ObjectStore,
        *,
        cluster: str,
        archive: str,
        control_address: str,
        config: ArchiveConfig | None = None,
    ) -> None:
        self.state = "starting"
        self.archive = self._first_name = archive
        self.known_us = 0
        """Everything that was committed until then is in the archive (Unix microseconds)."""
        self.retention_s = (config or ArchiveConfig()).retention_s
        """It may be changed at any time."""
        self.counters: dict[str, int] = dict.fromkeys(("chunks", "bases", "bytes", "deleted"), 0)
        self._runtime = runtime
        self._store = store
        self._cluster = cluster
        self._control = control_address
        self._config = config or ArchiveConfig()
        self._channels = Channels(runtime.transport)
        self._background = Background(self._failed)
        self._view: cpb.ClusterView | None = None
        self._viewed = asyncio.Event()
        self._source: Source | None = None
        self._end = _End()
        self._since_base = 0  # bytes of log
        self._base = 0  # the newest one's number
        self._bare = False  # the end cannot be restored until there is another base
        self._making: LSN | None = None  # a base is being made at it
        self._base_error = ""  # why there was none, as it was said last
        self._belongs = False  # the volume's past is the archive's
        self._told: LSN = 0  # the highest bound that nodes were told of
        self._calm = False  # the last round found nothing to do
        self._turn = 0  # of those who are asked then
        self._stuck = 0  # rounds in which nothing followed, though there is something

    async def start(self) -> None:
        self._background.spawn(self._watch(), name="watch cluster")
        self._background.spawn(self._run(), name="archive")
        self._background.spawn(self._retire_in_time(), name="retention")

    async def stop(self) -> None:
        await self._background.stop()
        await self._channels.close()

    def _failed(self, name: str, error: BaseException) -> None:
        self._runtime.stop_node(f"{name} failed: {type(error).__name__}: {error}")

    async def _watch(self) -> None:
        delays = backoff(self._runtime.rng, 0.05, 1.0)
        while True:
            try:
                stream: Stream[cpb.WatchClusterRequest, cpb.ClusterView] = self._channels.to(
                    self._control
                ).stream(WATCH_CLUSTER, cpb.WatchClusterRequest(cluster=self._cluster))
                try:
                    while (view := await unless_late(stream.recv(), VIEW_S)) is not None:
                        delays = backoff(self._runtime.rng, 0.05, 1.0)
                        self._take_view(view)
                finally:
                    stream.close()
            except SextetError as error:
                log.debug("control plane: %s: %s", type(error).__name__, error)
            await asyncio.sleep(next(delays))

    def _take_view(self, view: cpb.ClusterView) -> None:
        self._view = view
        if self._source is None:
            self._source = Source(self._channels, view.volume, f"archive-{self._cluster}")
        self._source.memberships = {m.pg: membership_from_pb(m) for m in view.memberships}
        self._viewed.set()

    @property
    def upto(self) -> LSN:
        """The last LSN that is in the archive."""
        return self._end.upto

    @property
    def restorable(self) -> bool:
        """A restore can reach the archive's end. Else it waits for a base."""
        return not self._bare

    @property
    def _volume(self) -> VolumeId:
        assert self._view is not None
        return self._view.volume

    # -- rounds

    async def _run(self) -> None:
        """Rounds for ever. What fails is tried again, later and later; nothing is lost meanwhile, because
        storage nodes keep what is not archived."""
        await self._viewed.wait()
        delays = self._delays()
        known = False
        while True:
            began = self._runtime.clock.monotonic()
            try:
                if not known:
                    await self._find_end()
                    known = True
                more = await self._round()
                delays = self._delays()
                self.state = "archiving"
                if more:
                    continue
            except ObjectExists as error:
                log.info("another archiver was here: %s", error)
                self._runtime.steps.mark(Mark.CHUNK_TAKEN)
                known = False
            except SextetError as error:
                if self.state == "archiving":
                    log.warning("archiving waits: %s: %s", type(error).__name__, error)
                self.state = f"{WAITS}{error}"
                known = False  # what was being created may be there
                await asyncio.sleep(next(delays))
                continue
            took = self._runtime.clock.monotonic() - began
            await asyncio.sleep(max(0.0, self._config.round_s - took))

    def _delays(self) -> Iterator[float]:
        limit = self._config.backoff_limit_s
        return backoff(self._runtime.rng, min(self._config.round_s, limit), limit)

    async def _find_end(self) -> None:
        """Where the archive ends, and what a restore of its end has to read, from its objects.

        A hole or a damaged object behind the newest base is left as it is, and another base is made past
        it. Without a last chunk that can be read another archive begins. Raises Unavailable.
        """
        names = generations(self._first_name, await self._store.keys(self._first_name))
        self.archive = names[-1] if names else self._first_name
        listing = Listing.of(self.archive, await self._store.keys(f"{self.archive}/"))
        self._base = base = listing.base_for(listing.newest)
        self._end, self._since_base, self._bare = _End(), 0, False
        for number in range(max(base, 1), listing.newest + 1):
            key = chunk_key(self.archive, number)
            try:
                chunk = decode_chunk(key, await self._store.read(key))
            except (Corrupt, FormatError, ObjectMissing) as error:
                log.error("archive %s has a hole: %s", self.archive, error)
                if number == listing.newest:
                    await self._begin_another(str(error), damaged=True)
                self._bare = True
                continue
            if number > base:
                self._since_base += len(chunk.frames)
                self._bare |= number == 1 and chunk.head.after > 0
            if number == listing.newest:
                self._end = _end_of(chunk.head, chunk.digest)
        if not listing.newest and self._view is not None and self._view.HasField("fork"):
            fork = self._view.fork
            await self._begin_at(CommitMark(fork.lsn, fork.time_us, fork.pages))

    async def _begin_another(self, why: str, *, damaged: bool = False) -> None:
        """The log between the archive's end and what storage still has is lost to it.

        An archive that has nothing yet, because the volume is older than the archiver, begins under its
        own name. Raises Unavailable if there is no writer to tell a commit to begin with, ObjectExists if
        another archiver has begun.
        """
        status = await self._writer_status()
        if status is None or not status.read_lsn:
            raise Unavailable(
                f"archive {self.archive} cannot be continued, and no writer tells where another one could "
                f"begin: {why}"
            )
        if self._end.number or damaged:
            last, self.archive = self.archive, next_generation(self._first_name, self.archive)
            log.error("archive %s cannot be continued, %s begins: %s", last, self.archive, why)
        else:
            log.info("archive %s begins with a base: the volume has a past", self.archive)
        await self._begin_at(CommitMark(status.read_lsn, status.read_us, status.volume_pages))

    async def _begin_at(self, mark: CommitMark) -> None:
        """The archive, of which there is nothing yet, begins with that state: what came before is in none,
        or in that of the cluster that this one is a clone of."""
        self._end = _End(upto=mark.lsn, newest=mark)
        self._since_base, self._base, self._bare = 0, 0, True  # the next round begins with a base
        steps = self._runtime.steps
        steps.before(Step.NEW_ARCHIVE)
        await self._create(Stretch(mark.lsn, mark.lsn, (), ()))
        steps.mark(Mark.BEGUN_ANEW)
        steps.after(Step.NEW_ARCHIVE)

    # -- one round

    async def _look(self) -> Standing:
        assert self._source is not None
        bound = self._end.upto if self._making is None else min(self._making, self._end.upto)
        if bound <= self._told:
            return await self._glance(bound) or await self._source.look(bound)
        self._runtime.steps.before(Step.TELL)
        standing = await self._source.look(bound)
        self._told = bound
        self._runtime.steps.after(Step.TELL)
        return standing

    async def _glance(self, bound: LSN) -> Standing | None:
        """While nothing happens it is enough to ask a few nodes whether something has. None if it has, or
        somebody does not answer, and now and then in any case: all are to be asked, and told the bound."""
        assert self._source is not None
        self._turn += 1
        if not self._calm or self._turn % ALL_ASKED_ROUNDS == 0:
            return None
        few = self._source.few(self._turn)
        standing = await self._source.look(bound, few)
        new = standing.vdl > self._end.upto
        return standing if not new and standing.epochs.keys() == set(few) else None

    async def _round(self) -> bool:
        """True if there is more to be done at once."""
        assert self._source is not None
        if not self._belongs and self._end.newest.lsn and not await self._sees_its_past():
            return False
        self._belongs = True
        standing = await self._look()
        after, config = self._end.upto, self._config
        self._calm = standing.vdl <= after
        self._consider_base(standing)
        if standing.vdl > after:
            try:
                frames = await self._frames(standing, after)
            except Forgotten as error:
                await self._continue_elsewhere(str(error))
                return True
            stretch = next_stretch(after, standing.vdl, frames, bytes_max=config.chunk_bytes_max)
            if stretch.upto > after:
                self._stuck = 0
                await self._create(stretch)
                return stretch.upto < standing.vdl
            self._stuck += 1  # whoever was asked may lack a frame, or have a rotten one
            log.debug("nothing follows LSN %d yet, VDL is %d", after, standing.vdl)
        elif self._end.number:
            await self._say_idle(standing)
        return False

    async def _sees_its_past(self) -> bool:
        """Once nodes know as much as the archive has: whether its end is in their past. If not, another
        archive is begun. False if that cannot be told yet.

        Nodes are told nothing before: they keep what they might be asked for.
        """
        assert self._source is not None
        newest = self._end.newest
        standing = await self._source.look(0)
        if standing.vdl >= newest.lsn:
            if not await has_other_past(self._source, standing, newest):
                return True
            await self._begin_another(f"storage has another past than commit {newest.lsn} of it")
            return True
        status = await self._writer_status()
        if status is None or not self._is_newest(status, standing) or status.tip >= newest.lsn:
            return False  # what nodes have heard of is behind what is durable
        await self._begin_another(
            f"the volume ends at LSN {status.tip}, before commit {newest.lsn}"
        )
        return True

    def _is_newest(self, status: ipb.InstanceStatusReply, standing: Standing) -> bool:
        """Whether a read quorum of nodes answered, and none knows of a writer after that one."""
        if not standing.memberships:
            return False
        first = standing.memberships[min(standing.memberships)]
        answered = read_quorum(first).satisfied(standing.epochs)
        return answered and all(epoch <= status.epoch for epoch in standing.epochs.values())

    async def _frames(self, standing: Standing, after: LSN) -> list[bytes]:
        """What nodes have above `after` of all groups. Raises Forgotten."""
        source = self._source
        assert source is not None
        groups = [pg for pg in sorted(source.memberships) if standing.ahead(pg, after)]
        share = max(SHARE_BYTES_MIN, 4 * self._config.chunk_bytes_max // max(1, len(groups)))
        found: list[bytes] = []
        for at in range(0, len(groups), GROUPS_AT_ONCE):
            answers = await asyncio.gather(
                *(
                    source.frames(
                        standing, pg, after, standing.vdl, bytes_max=share, first=self._stuck
                    )
                    for pg in groups[at : at + GROUPS_AT_ONCE]
                ),
                return_exceptions=True,  # else the others would go on behind our back
            )
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
                found += answer
        return found

    async def _continue_elsewhere(self, why: str) -> None:
        """What follows the end is in no hot log: others have archived it, or it is lost to this archive."""
        known = self._end
        await self._find_end()
        if self._end.number > known.number or self._end.digest != known.digest:
            log.info("others have gone on with archive %s", self.archive)
            return
        await self._begin_another(why)

    async def _say_idle(self, standing: Standing) -> None:
        """If nobody has committed anything since, the archive is worth as much as one of now."""
        status = await self._writer_status()
        if status is None or status.tip != self._end.upto:
            return
        if any(epoch > status.epoch for epoch in standing.epochs.values()):
            return  # it was superseded, and does not know what the next one commits
        self.known_us = max(self.known_us, status.wall_us)
        if self.known_us - self._end.known_us >= self._config.idle_s * 1e6:
            upto = self._end.upto
            await self._create(Stretch(upto, upto, (), ()), known_us=self.known_us)

    async def _writer_status(self) -> ipb.InstanceStatusReply | None:
        assert self._view is not None
        address = next((i.address for i in self._view.instances if i.role == "writer"), None)
        if address is None:
            return None
        try:
            status = await self._channels.to(address).call(
                INSTANCE_STATUS, ipb.InstanceStatusRequest(), timeout=CALL_S
            )
        except SextetError:
            return None
        return (
            status if status.role == "writer" and status.epoch >= self._view.volume_epoch else None
        )

    async def _create(self, stretch: Stretch, *, known_us: int = 0) -> None:
        end = self._end
        newest = stretch.commits[-1] if stretch.commits else end.newest
        head = ChunkHead(
            archive=self.archive,
            volume=self._volume,
            number=end.number + 1,
            previous=end.digest,
            after=stretch.after,
            upto=stretch.upto,
            newest=newest,
            earliest_us=min((c.time_us for c in stretch.commits), default=0),
            known_us=max(end.known_us, known_us, newest.time_us),
            commits=len(stretch.commits),
        )
        key, data = (
            chunk_key(self.archive, head.number),
            encode_chunk(head, b"".join(stretch.frames)),
        )
        self._runtime.steps.before(Step.ARCHIVE)
        await self._store.create(key, data)
        self._end = _end_of(head, unseal(key, data).digest)
        self.known_us = max(self.known_us, head.known_us)
        self._since_base += len(data)
        self.counters["chunks"] += 1
        self.counters["bytes"] += len(data)
        self._runtime.steps.after(Step.ARCHIVE)

    # -- bases

    def _consider_base(self, standing: Standing) -> None:
        """Begin to make one, if there is much log behind the last one and this is a commit."""
        end = self._end
        volume_bytes = int(self._config.base_volume_share * end.newest.pages * PAGE_SIZE)
        size = max(self._config.base_bytes_min, volume_bytes)
        if self._bare or end.number - self._base >= self._config.base_chunks_max:
            size = 0
        if self._making is None and self._since_base >= size and end.upto == end.newest.lsn:
            self._calm = False
            if not standing.all_asked:
                return  # the next round asks all
            self._making = end.upto
            self._background.spawn(self._base_in_time(standing, self.archive, end), name="base")

    async def _base_in_time(self, standing: Standing, archive: str, end: _End) -> None:
        """Another archive may begin meanwhile: the base is of the one that ended at `end`."""
        try:
            await self._make_base(standing, archive, end)
            self._base_error = ""
        except SextetError as error:
            self._runtime.steps.mark(Mark.BASE_FAILED)
            said = f"{type(error).__name__}: {error}"
            if said != self._base_error:  # it is tried again with every round
                log.warning("no base now: %s", said)
            self._base_error = said
        finally:
            self._making = None
        await self._retire_now()

    async def _make_base(self, standing: Standing, archive: str, end: _End) -> None:
        """All pages as of `end`, which nodes keep as long as they hear of no later one."""
        assert self._source is not None
        before = self._since_base
        parts: list[Part] = []
        for first in range(0, end.newest.pages, PART_PAGES):
            pages: list[bytes] = []
            upto = min(end.newest.pages, first + PART_PAGES)
            at = first
            while at < upto:
                stop = min(upto, at + self._config.pages_per_read, first_page(pg_of(at) + 1))
                pages += await self._source.pages(standing, range(at, stop), end.upto)
                at = stop
            data = encode_part(archive, end.number, first, pages)
            key = part_key(archive, end.number, len(parts))
            await self._create_same(Step.BASE_PART, key, data)
            parts.append(Part(first, len(pages), unseal(key, data).digest))
        base = Base(archive, self._volume, end.number, end.newest, end.known_us, tuple(parts))
        await self._create_same(Step.BASE, index_key(archive, end.number), encode_base(base))
        if archive == self.archive:
            self._since_base, self._bare = max(0, self._since_base - before), False
            self._base = end.number
        self.counters["bases"] += 1
        self._runtime.steps.mark(Mark.BASE_MADE)

    async def _create_same(self, step: Step, key: str, data: bytes) -> None:
        """Create it, or see that it is there with the same bytes: a try that broke off has left it."""
        self._runtime.steps.before(step)
        try:
            await self._store.create(key, data)
        except ObjectExists:
            if await self._store.read(key) != data:
                raise
        self._runtime.steps.after(step)

    # -- retention

    async def _retire_in_time(self) -> None:
        while True:
            await asyncio.sleep(self._config.retire_every_s)
            await self._retire_now()

    async def _retire_now(self) -> None:
        try:
            await self._retire()
        except SextetError as error:
            log.warning("nothing is deleted now: %s: %s", type(error).__name__, error)

    async def _retire(self) -> None:
        """Delete what has fallen out of the retention window, earlier archives included.

        Of these nothing is needed once the newest one alone has the whole window.
        """
        names = generations(self._first_name, await self._store.keys(self._first_name))
        now_us = min(self._runtime.clock.wall_us(), self.known_us)
        before_us = now_us - int(self.retention_s * 1e6)
        whole = False
        for archive in reversed(names):
            keys = await self._store.keys(f"{archive}/")
            listing = Listing.of(archive, keys)
            needed = listing.newest + 1 if whole else await self._oldest_needed(listing, before_us)
            for key in superseded(listing, keys, needed):
                self._runtime.steps.before(Step.RETIRE)
                await self._store.delete(key)
                self.counters["deleted"] += 1
                self._runtime.steps.mark(Mark.RETIRED)
                self._runtime.steps.after(Step.RETIRE)
            whole = whole or bool(needed)

    async def _oldest_needed(self, listing: Listing, before_us: int) -> int:
        """A base that cannot be read is none."""
        bases = {}
        for number in listing.bases:
            key = index_key(listing.archive, number)
            try:
                bases[number] = decode_base(key, await self._store.read(key)).known_us
            except (Corrupt, FormatError, ObjectMissing) as error:
                log.error("archive %s has a base that is no good: %s", listing.archive, error)
        return oldest_needed(bases, before_us)


def _end_of(head: ChunkHead, digest: str) -> _End:
    return _End(head.number, digest, head.upto, head.newest, head.known_us)
