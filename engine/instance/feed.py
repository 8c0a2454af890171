"""The writer's redo stream to its replicas.

A replica joins with a base (VDL, every group's tail there, memberships) and then gets every frame
that may hold a record above it, in the order they were made, and each move of the VDL. Frames are
the very bytes that storage got. A replica that falls behind the queue's bound is let go: it drops
its cache and joins again, so the writer never waits for one (P17 §4.2.3: replicas cost the writer
nothing on the commit path).

A message costs both ends far more than what is in it. So redo waits until it is durable, before which
no replica can show it, unless there is much of it; and after a message to a replica there is a pause, in
which commits gather for the next one. The more replicas, the longer (`InstanceConfig.feed_pause_s`).

Each item says since when its oldest commit has waited, in the follower's own time: two processes'
clocks have nothing to do with each other, so a report brings its sender's, and the difference at its
arrival turns moments of the writer into moments of the replica. The report was under way meanwhile,
so these come out too early by that, and lag at most too large.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from engine.config import InstanceConfig
from engine.errors import DeadlineExceeded, Overloaded, Unavailable
from engine.net.pb import instance_pb2 as pb
from engine.ports import Runtime, Stream
from engine.tasks import end_all, set_within
from engine.types import LSN, CommitMark, Membership
from engine.volume.fencing import membership_to_pb
from engine.volume.links import Batch
from engine.volume.writer import VolumeWriter

log = logging.getLogger(__name__)

FeedStream = Stream[pb.FeedItem, pb.FollowReport]

LINGER_S = 5.0
"""How long a vanished replica's read point still holds back garbage collection."""

CLOCK_REPORTS = 10
"""Of so many reports the one that came fastest says what time it is there: of the last second or two,
in which clocks do not drift apart."""


class _Follower:
    """One replica's queue. `wake` is set whenever there is something to send, or it is let go."""

    def __init__(self, hello: pb.FollowReport, base: LSN, now: float) -> None:
        self._ahead_us: deque[int] = deque(maxlen=CLOCK_REPORTS)
        self.hear(hello, now)
        oldest = min(base, hello.min_read_lsn or base)
        self.report = pb.FollowReport(
            instance=hello.instance, min_read_lsn=oldest, applied_lsn=base
        )
        self.frames: list[bytes] = []
        self.grown: list[Membership] = []
        self.bytes = 0
        self.wake = asyncio.Event()
        self.too_slow = False
        self.gone_at: float | None = None
        self.waiting_since: float | None = None
        """When the oldest commit that no item has taken yet became durable."""

    def hear(self, report: pb.FollowReport, now: float) -> None:
        self.report = report
        self.heard_at = now
        self._ahead_us.append(report.now_us - _us(now))

    @property
    def has_news(self) -> bool:
        """Whether the next item is more than a heartbeat."""
        return bool(self.frames or self.grown) or self.waiting_since is not None

    def in_its_time_us(self, moment: float) -> int:
        """A moment of the writer's clock on the replica's, or somewhat before it."""
        return _us(moment) + max(self._ahead_us)


class Feed:
    """All followers of one writer."""

    def __init__(self, runtime: Runtime, config: InstanceConfig, volume: VolumeWriter) -> None:
        self._runtime = runtime
        self._config = config
        self._volume = volume
        self._followers: dict[str, _Follower] = {}
        self._opened_at = runtime.clock.monotonic()
        volume.on_batch.append(self._batch)
        volume.on_durable.append(self._durable)
        volume.on_grown.append(self._grown)

    def reports(self) -> list[pb.FollowReport]:
        """What each connected replica last said, by name."""
        return [
            self._followers[name].report
            for name in sorted(self._followers)
            if self._followers[name].gone_at is None
        ]

    def min_read_lsn(self) -> LSN | None:
        """The lowest read point pinned on any replica, None without replicas (for PGMRPL).

        0 right after opening: replicas of the writer before this one have read points that nobody
        here knows yet, and time to join again.
        """
        now = self._runtime.clock.monotonic()
        if now - self._opened_at < LINGER_S:
            return 0
        for name in sorted(self._followers):
            gone_at = self._followers[name].gone_at
            if gone_at is not None and now - gone_at > LINGER_S:
                del self._followers[name]
        return min((f.report.min_read_lsn for f in self._followers.values()), default=None)

    # -- from the volume

    def _batch(self, batch: Batch) -> None:
        for follower in self._followers.values():
            follower.frames.extend(part.frame for part in batch.frames)
            follower.bytes += batch.size
            if follower.bytes > self._config.follower_queue_bytes_max:
                follower.too_slow = True
                follower.frames.clear()
            if follower.too_slow or follower.bytes >= self._config.feed_early_bytes:
                follower.wake.set()

    def _durable(self, _vdl: CommitMark) -> None:
        now = self._runtime.clock.monotonic()
        for follower in self._followers.values():
            if follower.waiting_since is None:
                follower.waiting_since = now
            follower.wake.set()

    def _grown(self, memberships: Sequence[Membership]) -> None:
        for follower in self._followers.values():
            follower.grown.extend(memberships)
            follower.wake.set()

    # -- one replica

    async def follow(self, stream: FeedStream) -> None:
        """Serve one replica until it goes or is too slow. Raises Overloaded in the second case."""
        hello = await stream.recv()
        if hello is None:
            return
        name = hello.instance
        vdl = self._volume.vdl
        now = self._runtime.clock.monotonic()
        follower = _Follower(hello, vdl.lsn, now)
        base = pb.FeedItem(base=self._base(vdl), vdl=vdl.lsn, since_us=follower.in_its_time_us(now))
        for batch in self._volume.above_vdl:
            follower.frames.extend(part.frame for part in batch.frames)
        self._followers[name] = follower
        log.info("replica %s follows from LSN %d", name, vdl.lsn)
        reader = asyncio.create_task(self._read_reports(stream, follower), name=f"reports {name}")
        try:
            await self._send(stream, base)
            await self._send_all(stream, follower, reader)
        finally:
            follower.gone_at = self._runtime.clock.monotonic()
            await end_all(reader)
            log.info("replica %s no longer follows", name)
        if follower.too_slow:
            raise Overloaded(
                f"{name} fell more than {self._config.follower_queue_bytes_max} bytes behind; "
                "it has to join again"
            )

    async def _send_all(
        self, stream: FeedStream, follower: _Follower, reader: asyncio.Task[None]
    ) -> None:
        while not follower.too_slow and not reader.done():
            # If it takes longer nothing has happened, and the item below is a heartbeat.
            await set_within(follower.wake, self._to_beat_s())
            follower.wake.clear()
            news = follower.has_news
            await self._send(stream, self._item(follower))
            if self._runtime.clock.monotonic() - follower.heard_at > self._config.silence_s:
                raise DeadlineExceeded("this replica is silent")
            if news:
                await asyncio.sleep(self._config.feed_pause_s * len(self._followers))

    def _to_beat_s(self) -> float:
        """Seconds until the next heartbeat, which is every follower's at the same moment: this process then
        wakes up once for all of them."""
        every = self._config.heartbeat_s
        left = every - self._runtime.clock.monotonic() % every
        return left if left > every / 20 else every  # the beat of just now, a little early

    def _item(self, follower: _Follower) -> pb.FeedItem:
        """What has come for it since the last one."""
        frames, follower.frames, follower.bytes = follower.frames, [], 0
        grown, follower.grown = follower.grown, []
        since, follower.waiting_since = follower.waiting_since, None
        if since is None:
            since = self._runtime.clock.monotonic()
        return pb.FeedItem(
            frames=frames,
            vdl=self._volume.vdl.lsn,
            since_us=follower.in_its_time_us(since),
            grown=[membership_to_pb(m) for m in grown],
        )

    async def _send(self, stream: FeedStream, item: pb.FeedItem) -> None:
        """A replica that takes nothing any more must not hold back garbage collection for ever."""
        try:
            async with asyncio.timeout(self._config.silence_s):
                await stream.send(item)
        except TimeoutError:
            raise DeadlineExceeded("this replica takes nothing any more") from None

    async def _read_reports(self, stream: FeedStream, follower: _Follower) -> None:
        try:
            while (report := await stream.recv()) is not None:
                follower.hear(report, self._runtime.clock.monotonic())
        except Unavailable:
            return  # the sender notices too and ends the follower

    def _base(self, vdl: CommitMark) -> pb.FeedBase:
        volume = self._volume
        return pb.FeedBase(
            epoch=volume.epoch,
            vdl={"lsn": vdl.lsn, "time_us": vdl.time_us, "pages": vdl.pages},
            tails=[
                pb.PgTail(pg=pg, lsn=volume.tails.at(pg, vdl.lsn))
                for pg in sorted(volume.memberships)
            ],
            memberships=[
                membership_to_pb(volume.memberships[pg]) for pg in sorted(volume.memberships)
            ],
        )


def _us(moment: float) -> int:
    return int(moment * 1e6)
