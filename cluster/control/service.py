"""The control plane: who should exist, who may write, where everyone is.

It nominates and never decides anything that safety rests on: a writer is safe because storage fences
older epochs, not because this process is alone or right about who lives. It is not on the data path;
everyone goes on with the last view while it is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from cluster.control.assign import Assigner, assignment_to_pb
from cluster.control.catalog import Catalog
from cluster.control.failover import FailoverWatch
from cluster.control.forking import Forker
from cluster.control.placement import Candidate, choose_members
from cluster.control.repairing import RepairConfig, Repairer
from cluster.control.rows import ClusterRow
from cluster.control.status import gather_status
from cluster.control.transactions import EVENTS_KEPT
from cluster.control.volumes import list_volumes
from cluster.local.layout import Layout
from engine.errors import ConfigError, Overloaded, StaleEpoch, VolumeFull
from engine.net.methods import (
    ADOPT_LAYOUT,
    CLUSTER_STATUS,
    COMMIT_AT,
    DRAIN_STORAGE,
    FAILOVER,
    FORK_VOLUME,
    GROW_VOLUME,
    LIST_EVENTS,
    LIST_VOLUMES,
    OPEN_VOLUME,
    RECORD_EVENT,
    REGISTER,
    WATCH_CLUSTER,
)
from engine.net.pb import control_pb2 as pb
from engine.ports import Handlers, Runtime, Stream
from engine.steps import Step
from engine.tasks import Background
from engine.types import Membership, PgNo
from engine.volume.channels import Channels
from engine.volume.fencing import commit_to_pb, membership_to_pb
from engine.volume.geometry import first_page
from engine.volume.quorum import COPIES, write_quorum

log = logging.getLogger(__name__)

FIRST_OPEN_WAIT_S = 3.0
"""How long a volume's first group waits for all its storage nodes to register, when all just start."""

OPEN_TRIES = 5
WATCHERS_MAX = 256


class ControlPlane:
    """Serves the Control RPCs over a catalog. `layout` is read again when a stranger registers."""

    def __init__(
        self,
        runtime: Runtime,
        catalog: Catalog,
        *,
        layout: Callable[[], Layout],
        repair: RepairConfig | None = None,
    ) -> None:
        self._runtime = runtime
        self._catalog = catalog
        self._layout = layout
        self._channels = Channels(runtime.transport)
        self._background = Background(self._failed)
        self._assigner = Assigner(runtime, catalog, self._channels, self._background)
        self._failover = FailoverWatch(
            runtime, catalog, self._channels, self._background, self._notify
        )
        self.repairer = Repairer(
            runtime, catalog, self._channels, self._assigner, changed=self._notify, config=repair
        )
        self._forker = Forker(
            runtime, catalog, self._channels, self._assigner, changed=self._notify
        )
        self._changed = asyncio.Event()
        self._views: dict[str, pb.ClusterView] = {}  # as last made, never changed
        self._viewing = asyncio.Lock()
        self._watchers = 0

    async def start(self) -> None:
        await self._adopt()
        self._background.spawn(self._assigner.run(), name="assign segments")
        self._background.spawn(self._failover.run(), name="failover")
        self._background.spawn(self.repairer.run(), name="repair")

    async def stop(self) -> None:
        await self._background.stop()
        await self._channels.close()
        await self._catalog.close()

    def _failed(self, task: str, error: BaseException) -> None:
        self._runtime.stop_node(f"{task} failed: {type(error).__name__}: {error}")

    @property
    def handlers(self) -> Handlers:
        return {
            REGISTER: self.register,
            WATCH_CLUSTER: self.watch_cluster,
            OPEN_VOLUME: self.open_volume,
            GROW_VOLUME: self.grow_volume,
            ADOPT_LAYOUT: self.adopt_layout,
            CLUSTER_STATUS: self.cluster_status,
            FAILOVER: self._failover.failover,
            LIST_EVENTS: self.list_events,
            RECORD_EVENT: self.record_event,
            DRAIN_STORAGE: self.drain_storage,
            FORK_VOLUME: self._forker.fork,
            COMMIT_AT: self._forker.commit_at,
            LIST_VOLUMES: self.list_volumes,
        }

    def _notify(self) -> None:
        """Wake everyone who waits for the catalog to change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self._failover.wake()

    # -- registering

    async def register(self, request: pb.RegisterRequest) -> pb.RegisterReply:
        """Where a process is. A storage node is told what to keep. Raises ConfigError."""
        match request.kind:
            case "storage":
                return await self._register_storage(request)
            case "instance":
                changed = await self._known(
                    lambda: self._catalog.register_instance(
                        request.name,
                        address=request.address,
                        pid=request.pid,
                        time_us=self._runtime.clock.wall_us(),
                    )
                )
            case "endpoint":
                changed = False
            case kind:
                raise ConfigError(f"{request.name} is of an unknown kind {kind!r}")
        log.info("< %s is at %s, pid %d", request.name, request.address, request.pid)
        if changed:
            self._notify()
        return pb.RegisterReply()

    async def _register_storage(self, request: pb.RegisterRequest) -> pb.RegisterReply:
        if not request.incarnation:
            raise ConfigError(f"{request.name} does not say which incarnation of its disk it is")
        changed = await self._known(
            lambda: self._catalog.register_storage(
                request.name,
                address=request.address,
                pid=request.pid,
                incarnation=request.incarnation,
                time_us=self._runtime.clock.wall_us(),
            )
        )
        assignments = await self._catalog.assignments(request.name)
        lost = [a for a in assignments if a.incarnation != request.incarnation]
        if lost:
            log.error(
                "! %s has another disk than before: %d segments of it are to be made again",
                request.name,
                len(lost),
            )
        log.info("< %s is at %s, pid %d", request.name, request.address, request.pid)
        if changed:
            self._notify()
        self._assigner.wake()
        self.repairer.wake()
        return pb.RegisterReply(segments=[assignment_to_pb(a) for a in assignments])

    async def _known(self, register: Callable[[], Awaitable[bool]]) -> bool:
        """`register`, and again after reading the layout, in which the stranger may be new."""
        try:
            return await register()
        except ConfigError:
            await self._adopt()
            return await register()

    async def _adopt(self) -> None:
        time_us = self._runtime.clock.wall_us()
        if await self._catalog.adopt(self._layout(), time_us=time_us):
            self._notify()

    async def adopt_layout(self, _request: pb.AdoptLayoutRequest) -> pb.AdoptLayoutReply:
        """The layout has changed; what it has and has not counts once this returns."""
        await self._adopt()
        self.repairer.wake()  # a volume may have been deleted: its segments can go
        return pb.AdoptLayoutReply()

    # -- the view

    async def view(self, cluster: str) -> pb.ClusterView:
        """The cluster as the catalog has it now. Raises ConfigError if there is none."""
        async with self._viewing:  # after a change everybody asks at once: one makes it for all
            return await self._view(cluster)

    async def _view(self, cluster: str) -> pb.ClusterView:
        version = await self._catalog.version()  # first: what is newer than it is sent again
        made = self._views.get(cluster)
        if made is not None and made.version == version:
            return made
        row = await self._catalog.cluster(cluster)
        memberships = await self._catalog.memberships(row.volume)
        fork = None
        if row.fork is not None and row.fork.made and row.fork.commit.lsn:
            commit = row.fork.commit
            fork = commit_to_pb(commit)
        view = self._views[cluster] = pb.ClusterView(
            cluster=row.name,
            volume=row.volume,
            max_pages=row.max_pages,
            instances=[
                pb.InstanceView(
                    name=instance.name,
                    az=instance.az,
                    address=instance.address,
                    role="writer" if instance.name == row.writer else "replica",
                    socket=instance.socket,
                    tier=instance.tier,
                    size=instance.size,
                )
                for instance in await self._catalog.instances(cluster)
            ],
            memberships=[membership_to_pb(m) for m in memberships],
            volume_epoch=row.epoch,
            version=version,
            fork=fork,
        )
        return view

    async def watch_cluster(
        self,
        request: pb.WatchClusterRequest,
        stream: Stream[pb.ClusterView, pb.WatchClusterRequest],
    ) -> None:
        """Send the view now and after each change, until the watcher goes."""
        if self._watchers >= WATCHERS_MAX:
            raise Overloaded(f"{self._watchers} watch already; the limit is {WATCHERS_MAX}")
        self._watchers += 1
        try:
            seen = -1
            while True:
                changed = self._changed
                view = await self.view(request.cluster)
                if view.version != seen:
                    seen = view.version
                    await stream.send(view)
                await changed.wait()
        finally:
            self._watchers -= 1

    # -- the volume

    async def open_volume(self, request: pb.OpenVolumeRequest) -> pb.OpenVolumeReply:
        """A volume epoch that nobody had before, for the instance that the catalog names as writer.

        Raises ConfigError for any other instance and for a cluster that is stopped, Unavailable if a
        group has no write quorum yet.
        """
        for _ in range(OPEN_TRIES):
            row = await self._catalog.cluster(request.cluster)
            if row.stopped:  # or it is started again, and whoever should have told us could not
                await self._adopt()
                row = await self._catalog.cluster(request.cluster)
            if row.stopped or row.forking:
                what = "being cloned" if row.forking else "stopped"
                raise ConfigError(f"cluster {row.name} is {what}")
            if row.writer != request.instance:
                raise ConfigError(
                    f"{request.instance} may not open the volume of {row.name}: "
                    f"its writer is {row.writer}"
                )
            memberships = await self._established(row)
            self._runtime.steps.before(Step.ADVANCE_EPOCH)
            if await self._catalog.advance_epoch(row, time_us=self._runtime.clock.wall_us()):
                self._notify()
                self._runtime.steps.after(Step.ADVANCE_EPOCH)
                # Once more, and only now: from here on no older writer can add a group.
                memberships = await self._established(replace(row, epoch=row.epoch + 1))
                log.info("= %s opens volume %d, epoch %d", row.writer, row.volume, row.epoch + 1)
                return pb.OpenVolumeReply(
                    volume=row.volume,
                    epoch=row.epoch + 1,
                    max_pages=row.max_pages,
                    storage_full=row.storage_full,
                    memberships=[membership_to_pb(m) for m in memberships],
                )
        raise Overloaded(f"the catalog entry of {request.cluster} keeps changing; try again")

    async def name_writer(self, cluster: str, writer: str) -> None:
        """Nominate another instance: its next OpenVolume fences the writer there is.

        Safe whoever asks and however often: what keeps two writers apart is the epoch. Raises
        ConfigError, Overloaded.
        """
        for _ in range(OPEN_TRIES):
            row = await self._catalog.cluster(cluster)
            if row.writer == writer:
                return
            self._runtime.steps.before(Step.NAME_WRITER)
            if await self._catalog.name_writer(
                cluster, writer, instead_of=row.writer, time_us=self._runtime.clock.wall_us()
            ):
                self._notify()
                self._runtime.steps.after(Step.NAME_WRITER)
                log.info("= %s is named writer of %s instead of %s", writer, cluster, row.writer)
                return
        raise Overloaded(f"the catalog entry of {cluster} keeps changing; try again")

    async def _established(self, row: ClusterRow) -> list[Membership]:
        """All groups, the first one made if there is none, each created on a write quorum."""
        memberships = await self._catalog.memberships(row.volume)
        if not memberships:
            await self._add_group(row, 0)
            memberships = await self._catalog.memberships(row.volume)
        created = await self._catalog.created(row.volume)
        for membership in memberships:
            if not write_quorum(membership).satisfied(created.get(membership.pg, ())):
                await self._assigner.establish(row.volume, membership)
        return memberships

    async def grow_volume(self, request: pb.GrowVolumeRequest) -> pb.GrowVolumeReply:
        """Group `request.pg`, created on a write quorum. Idempotent.

        Raises StaleEpoch if a newer writer was let in, VolumeFull at the maximum, Unavailable.
        """
        row = await self._catalog.cluster(request.cluster)
        if request.epoch != row.epoch:
            raise StaleEpoch(
                f"epoch {request.epoch} is not the volume's, {row.epoch} is: only its writer grows it"
            )
        if first_page(request.pg) >= row.max_pages:
            raise VolumeFull(f"the volume of {row.name} is at its maximum of {row.max_pages} pages")
        memberships = await self._catalog.memberships(row.volume)
        if request.pg > len(memberships):
            raise ConfigError(
                f"group {request.pg} cannot be added to a volume of {len(memberships)} groups"
            )
        if request.pg == len(memberships):
            await self._add_group(row, request.pg)
            memberships = await self._catalog.memberships(row.volume)
        if request.pg >= len(memberships):
            raise Overloaded(f"the catalog entry of {row.name} keeps changing; try again")
        await self._assigner.establish(row.volume, memberships[request.pg])
        return pb.GrowVolumeReply(memberships=[membership_to_pb(m) for m in memberships])

    async def _add_group(self, row: ClusterRow, pg: PgNo) -> None:
        nodes = await self._place(wait=pg == 0)
        self._runtime.steps.before(Step.ADD_GROUP)
        if await self._catalog.add_group(
            row.volume, pg, nodes, epoch=row.epoch, time_us=self._runtime.clock.wall_us()
        ):
            self._notify()
            self._runtime.steps.after(Step.ADD_GROUP)
            log.info("= volume %d has protection group %d on %s", row.volume, pg, ", ".join(nodes))

    async def _place(self, *, wait: bool) -> tuple[str, ...]:
        """Six nodes for a new group. `wait`: for all of them to have registered once, for a while."""
        candidates = await self._candidates()
        if wait:
            with contextlib.suppress(TimeoutError):  # then some are placed before they are seen
                async with asyncio.timeout(FIRST_OPEN_WAIT_S):
                    while True:
                        changed = self._changed
                        candidates = await self._candidates()
                        if all(c.known for c in candidates):
                            break
                        await changed.wait()
        return choose_members(candidates)

    async def _candidates(self) -> list[Candidate]:
        drained = await self._catalog.drained()
        seen = self.repairer.nodes
        return [
            Candidate(
                node.name,
                node.az,
                known=bool(node.incarnation) and not (node.name in seen and seen[node.name].gone),
                segments=node.segments,
            )
            for node in await self._catalog.storage_nodes()
            if node.name not in drained
        ]

    # -- status

    async def cluster_status(self, request: pb.ClusterStatusRequest) -> pb.ClusterStatusReply:
        """The view, and what every instance and storage node says of itself now."""
        view = await self.view(request.cluster)
        nodes = await self._catalog.storage_nodes()
        reply = await gather_status(view, nodes, self._channels)
        drained = await self._catalog.drained()
        for report in reply.storage:
            report.drained = report.node in drained
        return reply

    async def list_volumes(self, _request: pb.ListVolumesRequest) -> pb.ListVolumesReply:
        """Every cluster's volume, with what storage nodes say now of what is its own."""
        return await list_volumes(self._catalog, self._channels)

    async def list_events(self, request: pb.ListEventsRequest) -> pb.ListEventsReply:
        """The newest events, oldest first; all there are if `limit` is 0."""
        return pb.ListEventsReply(
            events=[
                pb.Event(time_us=time_us, subject=subject, what=what)
                for time_us, subject, what in await self._catalog.events(
                    request.limit or EVENTS_KEPT
                )
            ]
        )

    async def record_event(self, request: pb.RecordEventRequest) -> pb.RecordEventReply:
        now = self._runtime.clock.wall_us()
        await self._catalog.record(request.subject, request.what, time_us=now)
        return pb.RecordEventReply()

    # -- storage nodes

    async def drain_storage(self, request: pb.DrainStorageRequest) -> pb.DrainStorageReply:
        """Have a node keep nothing any more. Raises ConfigError if too few others are left."""
        drained = await self._catalog.drained()
        others = [
            n.name
            for n in await self._catalog.storage_nodes()
            if n.name not in drained and n.name != request.node
        ]
        if not request.undo and len(others) < COPIES:
            raise ConfigError(
                f"without {request.node} only {len(others)} storage nodes are left, and every page is "
                f"kept {COPIES} times; add one first, with `sextet storage add`"
            )
        now = self._runtime.clock.wall_us()
        await self._catalog.drain(request.node, wanted=not request.undo, time_us=now)
        self.repairer.wake()
        return pb.DrainStorageReply()
