"""A compute instance: one process that owns no data and plays the role the catalog gives it.

It registers, watches the cluster's view, becomes writer or replica, and serves the Instance RPCs.

A replica that is named writer becomes it in place, because clients wait for that: it lets go of all that
it had as a replica, cache and sessions, and opens the volume as a process that starts would. A writer
that is no longer named, or whose epoch is fenced off, ends its process and its supervisor starts it again
as a replica: nobody waits for that, and nothing of what it believed can be left over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from engine.config import InstanceConfig, VolumeConfig
from engine.errors import SextetError, Unavailable
from engine.instance.backtrack import WHY, ChunkStream, backtrack_database
from engine.instance.busy import Busy
from engine.instance.past import commit_at
from engine.instance.replica import Replica
from engine.instance.transfer import export_database, hold_read_point, import_database
from engine.instance.writer import Writer
from engine.net.methods import (
    BACKTRACK,
    CONFIRMED_COMMIT,
    DISMISS_CLIENTS,
    EXPORT,
    FOLLOW,
    HOLD_READ_POINT,
    IMPORT,
    INSTANCE_STATUS,
    REGISTER,
    WATCH_CLUSTER,
)
from engine.net.pb import control_pb2 as cpb
from engine.net.pb import instance_pb2 as pb
from engine.pgwire.handover import CUT_OFF, LAG_MS_MAX, OPEN_WRITER
from engine.ports import Handlers, Runtime, Stream
from engine.sql.engine import SqlEngine
from engine.sql.pool import BufferPool
from engine.sql.settings import SqlSettings
from engine.steps import Step
from engine.tasks import Background, backoff, unless_late
from engine.types import LSN
from engine.volume.channels import Channels
from engine.volume.fencing import commit_from_pb, membership_from_pb

log = logging.getLogger(__name__)

VIEW_S = 15.0
"""The stream of views is opened anew after this long without a change: it may hang without being
broken, and then a new writer would never be heard of."""

SHOWN_S = 5.0
"""How long a replica may take to show a commit before its clients are dismissed all the same."""


@dataclass(frozen=True, slots=True)
class InstanceIdentity:
    name: str
    cluster: str
    az: str
    control_address: str
    pid: int = 0


class Instance:
    """Start with `start`, wait for `ready`, end with `stop`."""

    def __init__(
        self,
        runtime: Runtime,
        identity: InstanceIdentity,
        *,
        instance_config: InstanceConfig | None = None,
        volume_config: VolumeConfig | None = None,
        sql_settings: SqlSettings | None = None,
    ) -> None:
        self.identity = identity
        self.ready = asyncio.Event()
        self.connections: Callable[[], int] = lambda: 0
        self.dismiss_clients: Callable[[str], Awaitable[None]] | None = None
        """Ends all clients' connections, telling them why: this replica becomes the writer, or everybody
        has seen a state that is being undone."""
        self.role = ""
        self.view: cpb.ClusterView | None = None
        self.writer: Writer | None = None
        self.replica: Replica | None = None
        self._state = "starting"
        self.busy = Busy()
        self._imports = 0  # under way
        self._runtime = runtime
        self._config = instance_config or InstanceConfig()
        self._volume_config = volume_config or VolumeConfig()
        self._sql_settings = sql_settings or SqlSettings()
        self._channels = Channels(runtime.transport)
        self._background = Background(on_failure=self._task_failed)
        self._role_tasks: list[asyncio.Task[Any]] = []
        self._address = ""

    # -- life

    async def start(self, address: str) -> None:
        """Announce this instance at `address` and take up its role in the background."""
        self._address = address
        self._background.spawn(self._watch(), name="watch cluster")

    async def stop(self) -> None:
        self._state = "stopping"
        await self._background.stop()
        for role in (self.writer, self.replica):
            if role is not None:
                await role.close()
        await self._channels.close()

    def _task_failed(self, name: str, error: BaseException) -> None:
        self._runtime.stop_node(f"{name} failed: {type(error).__name__}: {error}")

    @property
    def engine(self) -> SqlEngine | None:
        """The SQL engine, once there is one."""
        if self.writer is not None:
            return self.writer.engine
        return self.replica.engine if self.replica is not None else None

    @property
    def pool(self) -> BufferPool | None:
        if self.writer is not None:
            return self.writer.pool
        return self.replica.pool if self.replica is not None else None

    def serving_state(self) -> int:
        """What an endpoint is told, see `engine.pgwire.handover`."""
        if self.writer is not None:
            return OPEN_WRITER
        replica = self.replica
        if replica is None or not replica.connected:
            return CUT_OFF
        return min(replica.lag_now_us() // 1000, LAG_MS_MAX)

    # -- role

    async def _watch(self) -> None:
        """Register, then follow the catalog's view; the last one known stays valid meanwhile."""
        identity = self.identity
        control = self._channels.to(identity.control_address)
        delays = backoff(self._runtime.rng, 0.05, 1.0)
        while True:
            try:
                await control.call(
                    REGISTER,
                    cpb.RegisterRequest(
                        name=identity.name,
                        kind="instance",
                        az=identity.az,
                        address=self._address,
                        pid=identity.pid,
                    ),
                    timeout=5.0,
                )
                stream: Stream[cpb.WatchClusterRequest, cpb.ClusterView] = control.stream(
                    WATCH_CLUSTER, cpb.WatchClusterRequest(cluster=identity.cluster)
                )
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
        self.view = view
        own = next((i for i in view.instances if i.name == self.identity.name), None)
        if own is None:
            return  # not in the catalog (yet)
        if self.role == "writer" != own.role:
            self._runtime.stop_node(f"role changes from writer to {own.role}")
            return
        writer = self.writer
        if writer is not None and view.volume_epoch > writer.volume.epoch:
            # Somebody else was writer meanwhile, and this instance may be named again already.
            self._runtime.stop_node(
                f"the volume is at epoch {view.volume_epoch}, this writer has {writer.volume.epoch}"
            )
            return
        if own.role != self.role:
            self._begin(own.role)
        if writer is not None:
            self._teach(writer, view)
        if self.replica is not None:
            self.replica.learn(view.memberships)
            self.replica.writer_moved()

    def _teach(self, writer: Writer, view: cpb.ClusterView) -> None:
        """What the catalog knows of an open volume and may change."""
        writer.volume.learn(membership_from_pb(m) for m in view.memberships)
        if view.max_pages != writer.volume.limit.max_pages:
            log.info("the volume's maximum is %d pages now", view.max_pages)
            writer.volume.limit.change(view.max_pages)

    def _writer_address(self) -> str | None:
        if self.view is None:
            return None
        return next((i.address for i in self.view.instances if i.role == "writer"), None)

    def _begin(self, role: str) -> None:
        """Take up a role, the first one or the writer's after a replica's."""
        self.role = role
        for task in self._role_tasks:
            task.cancel()
        self._role_tasks.clear()
        replica, self.replica = self.replica, None
        if replica is not None:
            replica.give_up("this replica becomes the writer")
            log.info("this replica is named writer, at LSN %d", replica.applied)
            self._background.spawn(self._retire(replica), name="retire the replica")
        if role == "writer":
            self._state = "recovering"
            self._in_role(self._write(), "writer")
        else:
            self._state = "joining"
            self.replica = self._new_replica()
            self._in_role(self.replica.run(), "replica")
            self._in_role(self._joined(self.replica), "join")

    def _in_role(self, coro: Coroutine[Any, Any, None], name: str) -> None:
        self._role_tasks.append(self._background.spawn(coro, name=name))

    async def _retire(self, replica: Replica) -> None:
        """Nobody waits for this: its clients are gone with it, and a client that hangs may take long."""
        try:
            await self._dismiss("this replica becomes the writer")
        finally:
            await replica.close()

    async def _dismiss(self, why: str) -> None:
        if self.dismiss_clients is not None:
            await self.dismiss_clients(why)

    async def _write(self) -> None:
        self._runtime.steps.before(Step.PROMOTE)
        self.writer = await Writer.open(
            self._runtime,
            name=self.identity.name,
            cluster=self.identity.cluster,
            az=self.identity.az,
            control_address=self.identity.control_address,
            channels=self._channels,
            background=self._background,
            instance_config=self._config,
            volume_config=self._volume_config,
            sql_settings=self._sql_settings,
            on_fenced=self._runtime.stop_node,
        )
        self.writer.volume.before_large_commit = self.busy.announce
        self._runtime.steps.after(Step.PROMOTE)
        if self.view is not None:  # what came while it opened
            self._teach(self.writer, self.view)
        self._available()

    def _new_replica(self) -> Replica:
        assert self.view is not None
        return Replica(
            self._runtime,
            name=self.identity.name,
            az=self.identity.az,
            volume=self.view.volume,
            writer_address=self._writer_address,
            channels=self._channels,
            instance_config=self._config,
            volume_config=self._volume_config,
            sql_settings=self._sql_settings,
            commit_at=commit_at(
                self._channels, self.identity.control_address, self.identity.cluster
            ),
        )

    async def _joined(self, replica: Replica) -> None:
        await replica.ready.wait()
        self._available()

    def _available(self) -> None:
        self._state = "available"
        self.ready.set()
        assert self.pool is not None
        self._in_role(_warm(self.pool), "warm the pool")

    # -- RPCs

    @property
    def handlers(self) -> Handlers:
        return {
            INSTANCE_STATUS: self._status,
            CONFIRMED_COMMIT: self._confirmed_commit,
            FOLLOW: self._follow,
            IMPORT: self._import,
            EXPORT: self._export,
            HOLD_READ_POINT: self._hold_read_point,
            BACKTRACK: self._backtrack,
            DISMISS_CLIENTS: self._dismiss_clients,
        }

    async def _follow(self, stream: Stream[pb.FeedItem, pb.FollowReport]) -> None:
        if self.writer is None:
            raise Unavailable(f"{self.identity.name} is no open writer now")
        await self.writer.feed.follow(stream)

    async def _confirmed_commit(
        self, _request: pb.ConfirmedCommitRequest
    ) -> pb.ConfirmedCommitReply:
        """Many replicas' questions that come together are one to storage."""
        if self.writer is None:
            raise Unavailable(f"{self.identity.name} is no open writer now")
        lsn = await self.writer.commit_point()
        return pb.ConfirmedCommitReply(epoch=self.writer.volume.epoch, lsn=lsn)

    @property
    def computing(self) -> bool:
        """Whether it may say nothing for a while: the last step of an import is one long computation."""
        return self._imports > 0 or self.busy.computing

    async def _import(self, stream: Stream[pb.ImportReply, pb.ImportChunk]) -> pb.ImportReply:
        if self.writer is None:
            raise Unavailable(f"{self.identity.name} is no open writer now")
        self._imports += 1
        try:
            return await import_database(self.writer, stream, self._config)
        finally:
            self._imports -= 1

    async def _export(
        self, request: pb.ExportRequest, stream: Stream[pb.ExportChunk, pb.ExportRequest]
    ) -> None:
        if self.pool is None:
            raise Unavailable(f"{self.identity.name} is {self._state}")
        as_of = commit_from_pb(request.as_of) if request.HasField("as_of") else None
        await export_database(self.pool, as_of, stream)

    async def _hold_read_point(self, stream: Stream[pb.HeldReadPoint, pb.HoldRequest]) -> None:
        if self.writer is None:
            raise Unavailable(f"{self.identity.name} is no open writer now")
        await hold_read_point(self.writer, stream)

    async def _backtrack(self, stream: ChunkStream) -> pb.BacktrackReply:
        if self.writer is None:
            raise Unavailable(f"{self.identity.name} is no open writer now")
        reply = await backtrack_database(
            self.writer.engine,
            stream,
            bytes_max=self._config.import_bytes_max,
            dismiss=self._dismiss,
            steps=self._runtime.steps,
        )
        if reply.HasField("commit"):
            reply.unclosed.extend(await self._dismiss_elsewhere(reply.commit.lsn))
        return reply

    async def _dismiss_elsewhere(self, after: LSN) -> list[str]:
        """The clients of all replicas, each once it shows the commit; who has not done so is named."""
        instances = self.view.instances if self.view is not None else ()
        replicas = [i for i in instances if i.role != "writer" and i.address]
        request = pb.DismissClientsRequest(why=WHY, after_lsn=after)

        async def ask(address: str) -> bool:
            try:
                channel = self._channels.to(address)
                reply = await channel.call(DISMISS_CLIENTS, request, timeout=2 * SHOWN_S)
            except SextetError as error:
                log.warning("%s does not dismiss its clients: %s", address, error)
                return False
            return reply.read_lsn >= after

        done = await asyncio.gather(*(ask(replica.address) for replica in replicas))
        return [replica.name for replica, closed in zip(replicas, done, strict=True) if not closed]

    async def _dismiss_clients(self, request: pb.DismissClientsRequest) -> pb.DismissClientsReply:
        if self.pool is None:
            raise Unavailable(f"{self.identity.name} is {self._state}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SHOWN_S):
                await self.pool.wait_visible(request.after_lsn)
        await self._dismiss(request.why)
        return pb.DismissClientsReply(read_lsn=self.pool.visible.lsn if self.pool else 0)

    async def _status(self, _request: pb.InstanceStatusRequest) -> pb.InstanceStatusReply:
        reply = pb.InstanceStatusReply(
            instance=self.identity.name,
            role=self.role,
            state="importing" if self._imports else self.busy.state or self._state,
            pid=self.identity.pid,
            connections=self.connections(),
        )
        if self.pool is not None:
            reply.read_lsn = self.pool.visible.lsn
            reply.read_us = self.pool.visible.time_us
            reply.volume_pages = self.pool.visible.pages
            reply.vdl = self.pool.visible.lsn
        if self.engine is not None:
            reply.counters["statements"] = self.engine.statements
        if self.writer is not None:
            self._writer_status(self.writer, reply)
        elif self.replica is not None:
            self._replica_status(self.replica, reply)
        return reply

    def _writer_status(self, writer: Writer, reply: pb.InstanceStatusReply) -> None:
        volume = writer.volume
        reply.epoch = volume.epoch
        reply.vcl = volume.vcl
        reply.vdl = volume.vdl.lsn
        reply.recovery_us = writer.recovery_us
        reply.stalled_us = int(volume.stalled_s * 1e6)
        reply.max_pages = volume.limit.max_pages
        reply.storage_full = volume.limit.full
        reply.full_meetings = volume.limit.meetings
        reply.tip = writer.pool.tip.lsn
        reply.wall_us = self._runtime.clock.wall_us()
        for name, value in sorted(writer.counters().items()):
            reply.counters[name] = value
        reply.replicas.extend(writer.feed.reports())
        for pg in sorted(volume.memberships):
            write, read = volume.quorums(pg)
            reply.quorums.add(pg=pg, write=write, read=read, pgcl=volume.pgcl(pg))

    def _replica_status(self, replica: Replica, reply: pb.InstanceStatusReply) -> None:
        reply.epoch = replica.epoch
        reply.lag_us = replica.lag_now_us()
        reply.silent_us = replica.silent_us()
        if not replica.connected and self._state == "available":
            reply.state = "disconnected"
        counters = dict(replica.counters)
        if replica.reader is not None:
            counters |= replica.reader.counters
        for name, value in sorted(counters.items()):
            reply.counters[name] = value


async def _warm(pool: BufferPool) -> None:
    """Storage that does not answer is told to whoever needs a page."""
    with contextlib.suppress(SextetError):
        await pool.warm()
