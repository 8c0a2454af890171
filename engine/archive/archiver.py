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
  Another one begins, under its name and a number, with a base.
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
from engine.tasks import Background, backoff, unless_late
from engine.types import LSN, PAGE_SIZE, CommitMark, VolumeId
from engine.volume.channels import Channels
from engine.volume.fencing import membership_from_pb
from engine.volume.geometry import first_page, pg_of

log = logging.getLogger(__name__)

SHARE_BYTES_MIN = 256 * 1024
"""Of each group's log in one round, at least; a few chunks' worth of all groups together otherwise."""

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
    """Another base is made after so much log, and no less than the volume's size."""

    pages_per_read: int = 64
    retention_s: float = 24 * 3600.0
    backoff_limit_s: float = 15.0


@dataclass(frozen=True, slots=True)
class _End:
    """Where the archive ends."""

    number: int = 0
    digest: str = ""
    upto: LSN = 0
    newest: CommitMark = NO_COMMIT
    known_us: int = 0


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
        self._bare = False  # the end cannot be restored until there is another base
        self._making: LSN | None = None  # a base is being made at it

    async def start(self) -> None:
        self._background.spawn(self._watch(), name="watch cluster")
        self._background.spawn(self._run(), name="archive")

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
                known = False
            except SextetError as error:
                if self.state == "archiving":
                    log.warning("archiving waits: %s: %s", type(error).__name__, error)
                self.state = f"waits: {error}"
                known = False  # what was being created may be there
                await asyncio.sleep(next(delays))
                continue
            took = self._runtime.clock.monotonic() - began
            await asyncio.sleep(max(0.0, self._config.round_s - took))

    def _delays(self) -> Iterator[float]:
        return backoff(self._runtime.rng, self._config.round_s, self._config.backoff_limit_s)

    async def _find_end(self) -> None:
        """Where the archive ends, and what a restore of its end has to read, from its objects.

        A hole or a damaged object behind the newest base is left as it is, and another base is made past
        it. Without a last chunk that can be read another archive begins. Raises Unavailable.
        """
        names = generations(self._first_name, await self._store.keys(self._first_name))
        self.archive = names[-1] if names else self._first_name
        listing = Listing.of(self.archive, await self._store.keys(f"{self.archive}/"))
        base = listing.base_for(listing.newest)
        self._end, self._since_base, self._bare = _End(), 0, False
        for number in range(max(base, 1), listing.newest + 1):
            key = chunk_key(self.archive, number)
            try:
                chunk = decode_chunk(key, await self._store.read(key))
            except (Corrupt, FormatError, ObjectMissing) as error:
                log.error("archive %s has a hole: %s", self.archive, error)
                if number == listing.newest:
                    await self._begin_another(str(error))
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

    async def _begin_another(self, why: str) -> None:
        """The log between the archive's end and what storage still has is lost to it.

        Raises Unavailable if there is no writer to tell a commit to begin with, ObjectExists if another
        archiver has begun.
        """
        status = await self._writer_status()
        if status is None or not status.read_lsn:
            raise Unavailable(
                f"archive {self.archive} cannot be continued, and no writer tells where another one could "
                f"begin: {why}"
            )
        last, self.archive = self.archive, next_generation(self._first_name, self.archive)
        log.error("archive %s cannot be continued, %s begins: %s", last, self.archive, why)
        await self._begin_at(CommitMark(status.read_lsn, status.read_us, status.volume_pages))

    async def _begin_at(self, mark: CommitMark) -> None:
        """The archive, of which there is nothing yet, begins with that state: what came before is in none,
        or in that of the cluster that this one is a clone of."""
        self._end = _End(upto=mark.lsn, newest=mark)
        self._since_base, self._bare = 0, True  # the next round begins with a base
        await self._create(Stretch(mark.lsn, mark.lsn, (), ()))

    # -- one round

    async def _look(self) -> Standing:
        assert self._source is not None
        bound = self._end.upto if self._making is None else min(self._making, self._end.upto)
        return await self._source.look(bound)

    async def _round(self) -> bool:
        """True if there is more to be done at once."""
        assert self._source is not None
        standing = await self._look()
        self._consider_base(standing)
        after, config = self._end.upto, self._config
        if standing.vdl > after:
            groups = [pg for pg in sorted(self._source.memberships) if standing.ahead(pg, after)]
            share = max(SHARE_BYTES_MIN, 4 * config.chunk_bytes_max // max(1, len(groups)))
            frames: list[bytes] = []
            try:
                for pg in groups:
                    frames += await self._source.frames(
                        standing, pg, after, standing.vdl, bytes_max=share
                    )
            except Forgotten as error:
                await self._begin_another(str(error))
                return True
            stretch = next_stretch(after, standing.vdl, frames, bytes_max=config.chunk_bytes_max)
            if stretch.upto > after:
                await self._create(stretch)
                return stretch.upto < standing.vdl
            log.debug("nothing follows LSN %d yet, VDL is %d", after, standing.vdl)
        elif self._end.number:
            await self._say_idle(standing)
        return False

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
        await self._store.create(key, data)
        self._end = _end_of(head, unseal(key, data).digest)
        self.known_us = max(self.known_us, head.known_us)
        self._since_base += len(data)
        self.counters["chunks"] += 1
        self.counters["bytes"] += len(data)

    # -- bases

    def _consider_base(self, standing: Standing) -> None:
        """Begin to make one, if there is much log behind the last one and this is a commit."""
        end = self._end
        size = max(self._config.base_bytes_min, end.newest.pages * PAGE_SIZE)
        size = 0 if self._bare else size
        if self._making is None and self._since_base >= size and end.upto == end.newest.lsn:
            self._making = end.upto
            self._background.spawn(self._base_in_time(standing, self.archive, end), name="base")

    async def _base_in_time(self, standing: Standing, archive: str, end: _End) -> None:
        """Another archive may begin meanwhile: the base is of the one that ended at `end`."""
        try:
            await self._make_base(standing, archive, end)
            await self._retire(archive)
        except SextetError as error:
            log.warning("no base now: %s: %s", type(error).__name__, error)
        finally:
            self._making = None

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
            await self._create_same(key, data)
            parts.append(Part(first, len(pages), unseal(key, data).digest))
        base = Base(archive, self._volume, end.number, end.newest, end.known_us, tuple(parts))
        await self._create_same(index_key(archive, end.number), encode_base(base))
        if archive == self.archive:
            self._since_base, self._bare = max(0, self._since_base - before), False
        self.counters["bases"] += 1

    async def _create_same(self, key: str, data: bytes) -> None:
        """Create it, or see that it is there with the same bytes: a try that broke off has left it."""
        try:
            await self._store.create(key, data)
        except ObjectExists:
            if await self._store.read(key) != data:
                raise

    async def _retire(self, archive: str) -> None:
        """Delete what has fallen out of the retention window."""
        keys = await self._store.keys(f"{archive}/")
        listing = Listing.of(archive, keys)
        bases = {}
        for number in listing.bases:
            key = index_key(archive, number)
            bases[number] = decode_base(key, await self._store.read(key)).known_us
        before_us = self._runtime.clock.wall_us() - int(self._config.retention_s * 1e6)
        for key in superseded(listing, keys, oldest_needed(bases, before_us)):
            await self._store.delete(key)
            self.counters["deleted"] += 1


def _end_of(head: ChunkHead, digest: str) -> _End:
    return _End(head.number, digest, head.upto, head.newest, head.known_us)
