"""A writer's open Append stream to one storage node.

Invariants
- Batches leave in LSN order; after a broken stream everything not acked is sent again, which the
  node takes as a duplicate where it had it.
- The queue is bounded: past `link_queue_bytes_max`, batches that are durable elsewhere are dropped
  from it (the quorum masks a slow node, and gossip fills the gap). What is not durable yet is never
  dropped; the writer's own back-pressure bounds that.
- A refusal never kills the stream's owner: it is answered (fence a node that missed a recovery),
  waited out with backoff, or reported as the end of this writer (a higher epoch exists).
- A stream begins with a greeting, which is answered with the SCLs of all groups. What a node says then
  replaces what it said before, higher or lower: it may have lost what it had acknowledged. From the next
  request on it is told that this was heard (`heard`).
- A node that owes an ack and is silent for `silence_s` is given up and connected anew: whoever waits
  for it would otherwise wait as long as a connection can hang.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from engine.config import VolumeConfig
from engine.errors import SextetError, StaleEpoch, Unavailable
from engine.net.methods import APPEND
from engine.net.pb import storage_pb2 as pb
from engine.ports import Channel, Runtime, Stream
from engine.steps import Mark
from engine.tasks import backoff, end_all
from engine.types import LSN, NodeId, PgNo

log = logging.getLogger(__name__)

AppendStream = Stream[pb.AppendRequest, pb.AppendAck]


@dataclass(frozen=True, slots=True)
class GroupFrame:
    """One protection group's part of a batch."""

    pg: PgNo
    first: LSN
    last: LSN
    frame: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """What one flush sends: at most one frame per group, all LSNs between `first` and `last`."""

    first: LSN
    last: LSN
    frames: tuple[GroupFrame, ...]
    size: int


@dataclass(frozen=True, slots=True)
class LinkOwner:
    """What a link needs of the volume it belongs to."""

    volume: int
    epoch: int
    request: Callable[[Sequence[Batch], bool], pb.AppendRequest]
    """Of these batches; whether what the node has greeted with was heard."""
    durable: Callable[[], LSN]
    acked: Callable[[NodeId, Sequence[tuple[PgNo, LSN]]], None]
    members: Callable[[PgNo], int]
    """A group's membership epoch as this writer knows it; 0 for a group that it does not know."""
    exchange: Callable[[NodeId, Channel], Awaitable[None]]
    """Tell a node who keeps its groups, or learn from it."""
    catch_up: Callable[[Channel], Awaitable[None]]
    """Teach a node that missed a recovery this epoch and all truncations."""
    fenced: Callable[[str], None]
    """A higher epoch exists: this writer is over."""


class NodeLink:
    """One node's stream; `offer` never blocks, `run` is the background task."""

    def __init__(
        self,
        runtime: Runtime,
        config: VolumeConfig,
        owner: LinkOwner,
        *,
        node: NodeId,
        channel: Channel,
    ) -> None:
        self.node = node
        self.up = False
        self.dropped_batches = 0
        self._runtime = runtime
        self._config = config
        self._owner = owner
        self._channel = channel
        self._queue: deque[Batch] = deque()  # not acked by this node, oldest first
        self._queued_bytes = 0
        self._sent = 0  # how many of the queue's head are on the open stream
        self._greeted = self._heard = False  # on the open stream
        self._wake = asyncio.Event()
        self._points_due = False
        self._patience: asyncio.TimerHandle | None = None  # runs while an ack is owed
        self._scl: dict[PgNo, LSN] = {}

    def offer(self, batch: Batch) -> None:
        """Queue `batch`, which has only frames of groups that this node keeps."""
        self._queue.append(batch)
        self._queued_bytes += batch.size
        if self._queued_bytes > self._config.link_queue_bytes_max:
            self._drop_durable()
        self._wake.set()

    def leave(self, pg: PgNo) -> None:
        """This node keeps group `pg` no longer: nothing of it is sent any more, no ack awaited."""
        for index, batch in enumerate(self._queue):
            frames = tuple(f for f in batch.frames if f.pg != pg)
            if len(frames) < len(batch.frames):
                size = sum(len(f.frame) for f in frames)
                self._queued_bytes -= batch.size - size
                self._queue[index] = replace(batch, frames=frames, size=size)
        self._scl.pop(pg, None)

    def forget(self, pg: PgNo) -> None:
        """Another life of this node's disk keeps group `pg` now: it has acknowledged nothing yet."""
        self._scl.pop(pg, None)

    def offer_points(self) -> None:
        """Send VDL and PGMRPL soon even if no redo is waiting."""
        self._points_due = True
        self._wake.set()

    def _drop_durable(self) -> None:
        durable = self._owner.durable()
        while self._queue and self._queue[0].last <= durable:
            self._pop()
            self.dropped_batches += 1

    def _pop(self) -> None:
        batch = self._queue.popleft()
        self._queued_bytes -= batch.size
        self._sent = max(0, self._sent - 1)

    async def run(self) -> None:
        """Connect, send, take acks; on any failure wait with backoff and begin again."""
        delays = backoff(
            self._runtime.rng, self._config.backoff_first_s, self._config.backoff_limit_s
        )
        while True:
            try:
                await self._converse()
                reason = "stream closed by the node"
            except StaleEpoch as error:
                self._owner.fenced(str(error))
                return
            except _Progressed as error:
                delays = backoff(
                    self._runtime.rng, self._config.backoff_first_s, self._config.backoff_limit_s
                )
                reason = str(error)
            except SextetError as error:
                reason = f"{type(error).__name__}: {error}"
            if self.up:
                log.warning("link to %s is down: %s", self.node, reason)
            self.up = False
            await asyncio.sleep(next(delays))

    async def _converse(self) -> None:
        stream: AppendStream = self._channel.stream(APPEND)
        self._sent = 0
        self._greeted = self._heard = False
        self.offer_points()
        progressed = False
        sender = asyncio.create_task(self._send_all(stream), name=f"append to {self.node}")
        try:
            while True:
                ack = await self._next_ack(stream, sender)
                if ack is None:
                    break
                self._be_patient(None)
                await self._take(ack)
                if not self._heard:
                    self._heard = True
                    self.offer_points()
                if not self.up:
                    log.info("link to %s is up", self.node)
                self.up = progressed = True
        except _Refused:
            raise  # the node will refuse the next try as well for a while, however well it greets
        except Unavailable as error:
            if progressed:
                raise _Progressed(str(error)) from error
            raise
        finally:
            self._be_patient(None)
            await end_all(sender)
            stream.close()

    async def _next_ack(
        self, stream: AppendStream, sender: asyncio.Task[None]
    ) -> pb.AppendAck | None:
        if sender.done():  # it ends only by an error
            await sender
        return await stream.recv()

    async def _send_all(self, stream: AppendStream) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._sent < len(self._queue) or self._points_due:
                    await self._send_some(stream)
        finally:
            stream.close()  # wakes the receiver, which reports why

    def _be_patient(self, stream: AppendStream | None) -> None:
        """An ack is owed on `stream` from now on, if none was; or (None) none is owed any more."""
        if stream is None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None
        elif self._patience is None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(self._config.silence_s, self._give_up, stream)

    def _give_up(self, stream: AppendStream) -> None:
        self._patience = None
        log.warning("%s owes an ack and is silent: connecting anew", self.node)
        stream.close()

    async def _send_some(self, stream: AppendStream) -> None:
        batches: list[Batch] = []
        size = 0
        end = len(self._queue) if self._greeted else self._sent
        for index in range(self._sent, end):
            batch = self._queue[index]
            if batches and size + batch.size > self._config.batch_bytes_max:
                break
            batches.append(batch)
            size += batch.size
        self._points_due = False
        self._greeted = True
        self._sent += len(batches)
        self._be_patient(stream)
        await stream.send(self._owner.request(batches, self._heard))

    async def _take(self, ack: pb.AppendAck) -> None:
        match ack.refusal:
            case pb.REFUSAL_NONE:
                pass
            case pb.REFUSAL_STALE_EPOCH:
                raise StaleEpoch(
                    f"{self.node} is fenced at epoch {ack.epoch}, this writer has epoch "
                    f"{self._owner.epoch}: another writer has taken over"
                )
            case pb.REFUSAL_BEHIND_EPOCH:
                await self._owner.catch_up(self._channel)
                raise _Progressed("taught the current epoch; sending again")
            case pb.REFUSAL_STALE_MEMBERSHIP:
                await self._exchange()
            case refusal:
                name = pb.Refusal.Name(refusal)
                raise _Refused(f"{self.node} refused redo: {name} {ack.detail}")
        if not ack.segments:
            return
        # What counts is said under the same membership: see `engine.volume.membership`.
        acked: list[tuple[PgNo, LSN]] = []
        foreign = False
        for said in ack.segments:
            known = self._owner.members(said.pg)
            if known and said.membership_epoch == known:
                acked.append((said.pg, said.scl))
            elif known:
                foreign = True
        self._scl.update(acked)
        self._owner.acked(self.node, acked)
        scl = self._scl
        while self._queue and all(scl.get(f.pg, 0) >= f.last for f in self._queue[0].frames):
            self._pop()
        if foreign:
            await self._exchange()

    async def _exchange(self) -> None:
        self._runtime.steps.mark(Mark.MEMBERS_LEARNED)
        await self._owner.exchange(self.node, self._channel)
        raise _Progressed("the members of a group have changed; sending again")


class _Refused(Unavailable):
    """The node takes no redo now: its disk is full, it lacks a segment, it waits for a gap."""


class _Progressed(SextetError):
    """The stream ended after it had worked: the next try need not wait long."""
