"""Making a clone's volume while its source goes on, or rests.

1. Choose the commit: the newest durable one. A writer holds its read point meanwhile, so that no storage
   node lets go of it. The volume of a stopped cluster is recovered for it, as its next writer would do:
   what was acknowledged last may be known to no node as durable.
2. Ask storage nodes where each group begins then (`forkpoint`).
3. Write that down (`forktable`), and have every segment created over what its node keeps of the source.
4. Once a write quorum of every group has its segment, the volume is made.

A call that is cut short leaves a clone that is not planned, planned, or made, and the next call goes on
from there. Who has no segment by then still creates one over the source's, or, if it cannot, an empty one,
like any member of a new group that comes late: it fills itself from its peers (`assign`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

from cluster.control.assign import ALL_SIX_S, Assigner
from cluster.control.catalog import Catalog
from cluster.control.forkpoint import Answers, ForkPoint, Said, fork_point
from cluster.control.past import Admitted, last_admitted
from cluster.control.rows import ClusterRow, ForkRow
from engine.config import VolumeConfig
from engine.errors import ConfigError, SextetError, StaleEpoch, Unavailable
from engine.moments import NEWEST, Moment
from engine.net.methods import FORK_POINT, GOSSIP, HOLD_READ_POINT
from engine.net.pb import control_pb2 as pb
from engine.net.pb import instance_pb2 as ipb
from engine.net.pb import storage_pb2 as spb
from engine.ports import Runtime, Stream
from engine.tasks import backoff
from engine.types import LSN, CommitMark, Membership, NodeId, PgNo
from engine.volume.channels import Channels
from engine.volume.fencing import (
    OpenedVolume,
    commit_from_pb,
    commit_to_pb,
    membership_to_pb,
    open_volume,
    truncation_to_pb,
)
from engine.volume.quorum import write_quorum

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""So often another commit is chosen if storage nodes have let go of the last one."""

CALL_S = 2.0
STAND_S = 8.0
"""How long one attempt may go on without one more segment, until every group stands on a write quorum."""

KNOWN_S = 8.0
"""How long storage nodes are asked until enough of them know a commit."""

SOURCE_S = 10.0
"""How long a source without a writer is waited for: a failover takes less."""

RETRY_FIRST_S, RETRY_LIMIT_S = 0.05, 0.5


class _LetGo(SextetError):
    """Too few storage nodes still serve the commit."""


class _Tries:
    """At growing distances, for so long."""

    def __init__(self, runtime: Runtime, within_s: float) -> None:
        self._clock = runtime.clock
        self._delays = backoff(runtime.rng, RETRY_FIRST_S, RETRY_LIMIT_S)
        self._within_s = within_s
        self._deadline = self._clock.monotonic() + within_s
        self._tried = False

    def anew(self) -> None:
        """There is progress: so long from now on."""
        self._deadline = self._clock.monotonic() + self._within_s

    async def again(self) -> bool:
        """True at once the first time; False when the time is over."""
        if not self._tried:
            self._tried = True
            return True
        if self._clock.monotonic() > self._deadline:
            return False
        await asyncio.sleep(next(self._delays))
        return True


class Forker:
    """`fork` makes a clone's volume, one at a time."""

    def __init__(
        self,
        runtime: Runtime,
        catalog: Catalog,
        channels: Channels,
        assigner: Assigner,
        *,
        changed: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._catalog = catalog
        self._channels = channels
        self._assigner = assigner
        self._changed = changed
        self._turn = asyncio.Lock()

    async def fork(self, request: pb.ForkVolumeRequest) -> pb.ForkVolumeReply:
        """Idempotent. Raises ConfigError if it can never be done, Unavailable if not now."""
        moment = Moment(lsn=request.at_lsn or None, time_us=request.at_time_us or None)
        async with self._turn:
            for _ in range(ATTEMPTS):
                fork = await self._fork_of(request.cluster)
                if fork.made or fork.copy:
                    return _reply(fork)
                try:
                    await self._attempt(fork, moment)
                except _LetGo as error:
                    log.info("= volume %d cannot be forked: %s", fork.volume, error)
                    await self._abandon(request.cluster)
                    if not moment.newest:
                        raise ConfigError(str(error)) from error
        raise Unavailable(
            f"storage nodes let go of {ATTEMPTS} commits of {fork.source}, one after another, before "
            f"{request.cluster} was made"
        )

    async def _abandon(self, cluster: str) -> None:
        fork = await self._fork_of(cluster)
        if fork.commit.lsn and await self._catalog.abandon_fork(fork, time_us=self._now):
            self._changed()

    @property
    def _now(self) -> int:
        return self._runtime.clock.wall_us()

    async def _fork_of(self, cluster: str) -> ForkRow:
        row = await self._catalog.cluster(cluster)
        if row.fork is None:
            raise ConfigError(f"{cluster} is no clone")
        return row.fork

    async def _source_of(self, fork: ForkRow) -> ClusterRow:
        row = await self._catalog.cluster(fork.source)
        if row.volume != fork.parent:
            raise ConfigError(f"{fork.source} is another cluster by now; delete the clone of it")
        if row.forking:
            raise ConfigError(f"{fork.source} is being cloned itself; finish that first")
        return row

    # -- one attempt

    async def _attempt(self, fork: ForkRow, moment: Moment) -> None:
        """Raises _LetGo if it has to be another commit, Unavailable, ConfigError."""
        if fork.commit.lsn:  # by an earlier call
            await self._stand(fork, await self._catalog.memberships(fork.parent))
        else:
            source = await self._source_of(fork)
            async with self._read_point(source) as newest:
                memberships = await self._catalog.memberships(fork.parent)
                commit = newest
                if not moment.newest:
                    commit = (await self._admitted(memberships, fork.parent, newest, moment)).commit
                if commit.lsn:
                    await self._plan(fork, commit, memberships)
                    fork = await self._fork_again(fork)
                    await self._stand(fork, memberships)
        if not await self._catalog.fork_made(fork, time_us=self._now):
            raise ConfigError(f"{fork.source} or its clone has been deleted meanwhile")
        self._changed()
        self._assigner.wake()  # whoever has no segment yet gets an empty one
        log.info("= volume %d is a clone of volume %d", fork.volume, fork.parent)

    async def _fork_again(self, fork: ForkRow) -> ForkRow:
        rows = {row.volume: row.fork for row in await self._catalog.volume_rows()}
        again = rows.get(fork.volume)
        if again is None:
            raise ConfigError(f"the clone of {fork.source} has been deleted meanwhile")
        return again

    async def _plan(
        self, fork: ForkRow, commit: CommitMark, memberships: Sequence[Membership]
    ) -> None:
        point = await self._known_point(memberships, fork.parent, commit.lsn)
        if not await self._catalog.plan_fork(fork, commit, point.tails, time_us=self._now):
            raise ConfigError(f"{fork.source} or its clone has been deleted meanwhile")
        self._changed()

    async def commit_at(self, request: pb.CommitAtRequest) -> pb.CommitAtReply:
        """Raises ConfigError outside the hot window, naming it, Unavailable if it is not known now."""
        moment = Moment(lsn=request.at_lsn or None, time_us=request.at_time_us or None)
        row = await self._catalog.cluster(request.cluster)
        async with self._read_point(row) as newest:
            memberships = await self._catalog.memberships(row.volume)
            found = await self._admitted(memberships, row.volume, newest, moment)
        return pb.CommitAtReply(
            commit=commit_to_pb(found.commit), oldest=commit_to_pb(found.oldest)
        )

    async def _admitted(
        self,
        memberships: Sequence[Membership],
        volume: int,
        newest: CommitMark,
        moment: Moment,
    ) -> Admitted:
        """Once enough is known of every group. Raises ConfigError, Unavailable."""
        tries = self._tries(KNOWN_S)
        waiting: PgNo | None = None
        while await tries.again():
            answers = await self._answers(memberships, volume, newest.lsn, moment)
            found = last_admitted(memberships, answers, newest, moment)
            if found.waits_for is None:
                return found
            waiting = found.waits_for
        raise _little_known(waiting, newest.lsn)

    async def _known_point(
        self, memberships: Sequence[Membership], volume: int, lsn: LSN
    ) -> ForkPoint:
        """Once enough is known of every group. Raises _LetGo, Unavailable."""
        waiting: PgNo | None = None
        tries = self._tries(KNOWN_S)
        while await tries.again():
            point = await self._ask(memberships, volume, lsn)
            _require_served(point, lsn)
            if point.waits_for is None:
                return point
            waiting = point.waits_for
        raise _little_known(waiting, lsn)

    async def _stand(self, fork: ForkRow, parents: Sequence[Membership]) -> None:
        """Raises _LetGo, Unavailable."""
        memberships = await self._catalog.memberships(fork.volume)
        lacking: PgNo | None = None
        segments = 0
        nodes = {member.node for one in memberships for member in one.voters}
        tries = self._tries(STAND_S)
        while await tries.again():
            await self._assigner.ask_all(nodes, within_s=ALL_SIX_S)
            created = await self._catalog.created(fork.volume)
            lacking = _lacking(memberships, created)
            if lacking is None:
                return
            if sum(map(len, created.values())) > segments:
                segments = sum(map(len, created.values()))
                tries.anew()
            point = await self._ask(parents, fork.parent, fork.commit.lsn)
            _require_served(point, fork.commit.lsn)
        raise Unavailable(
            f"protection group {lacking} of the clone does not stand on a write quorum of storage nodes "
            "yet; see which of them are down with `sextet status`"
        )

    def _tries(self, within_s: float) -> _Tries:
        return _Tries(self._runtime, within_s)

    async def _ask(self, memberships: Sequence[Membership], volume: int, lsn: LSN) -> ForkPoint:
        return fork_point(memberships, await self._answers(memberships, volume, lsn))

    async def _answers(
        self, memberships: Sequence[Membership], volume: int, lsn: LSN, moment: Moment = NEWEST
    ) -> Answers:
        addresses = {m.node: m.address for one in memberships for m in one.voters}
        nodes = sorted(addresses)
        at_lsn, at_time_us = moment.lsn or 0, moment.time_us or 0
        request = spb.ForkPointRequest(volume=volume, lsn=lsn, at_lsn=at_lsn, at_time_us=at_time_us)
        said = await asyncio.gather(*(self._ask_node(addresses[n], request) for n in nodes))
        return dict(zip(nodes, said, strict=True))

    async def _ask_node(self, address: str, request: spb.ForkPointRequest) -> Mapping[PgNo, Said]:
        try:
            reply = await self._channels.to(address).call(FORK_POINT, request, timeout=CALL_S)
        except SextetError as error:
            log.debug("%s: %s: %s", address, type(error).__name__, error)
            return {}
        return {group.pg: _said(group) for group in reply.groups}

    # -- the commit

    @asynccontextmanager
    async def _read_point(self, source: ClusterRow) -> AsyncIterator[CommitMark]:
        """The source's newest durable commit, whose pages nobody collects meanwhile.

        Raises Unavailable if it has no writer now and is not stopped either.
        """
        error: SextetError = Unavailable(f"{source.name} has no writer")
        tries = self._tries(SOURCE_S)
        while await tries.again():
            source = await self._catalog.cluster(source.name)
            try:
                held = await (self._recover(source) if source.stopped else self._hold(source))
            except (SextetError, TimeoutError) as failed:
                error = failed if isinstance(failed, SextetError) else Unavailable("it is silent")
                continue
            commit, stream = held
            try:
                yield commit
            finally:
                if stream is not None:
                    stream.close()
            return
        raise Unavailable(
            f"the newest commit of {source.name} cannot be told now: {error}; see `sextet status "
            f"--cluster {source.name}`"
        )

    async def _hold(
        self, source: ClusterRow
    ) -> tuple[CommitMark, Stream[ipb.HoldRequest, ipb.HeldReadPoint] | None]:
        """Its writer's read point, held as long as the stream is open."""
        instances = await self._catalog.instances(source.name)
        writer = next((i for i in instances if i.name == source.writer), None)
        if writer is None or not source.epoch:
            raise Unavailable(f"{source.name} has no writer yet")
        stream = self._channels.to(writer.address).stream(HOLD_READ_POINT)
        try:
            async with asyncio.timeout(CALL_S):
                held = await stream.recv()
            if held is None:
                raise Unavailable(f"{writer.name} does not hold a read point")
            if held.epoch < source.epoch:
                raise StaleEpoch(f"{writer.name} has epoch {held.epoch}, not {source.epoch}")
        except BaseException:
            stream.close()
            raise
        return commit_from_pb(held.commit), stream

    async def _recover(self, source: ClusterRow) -> tuple[CommitMark, None]:
        """As the next writer would; then every node is told what is durable."""
        memberships = await self._catalog.memberships(source.volume)
        if not memberships:
            return CommitMark(0, 0, 0), None
        if not await self._catalog.advance_epoch_at_rest(source, time_us=self._now):
            raise Unavailable(f"{source.name} is started, or somebody else clones it")
        self._changed()
        reply = pb.OpenVolumeReply(
            volume=source.volume,
            epoch=source.epoch + 1,
            max_pages=source.max_pages,
            memberships=[membership_to_pb(m) for m in memberships],
        )
        opened = await open_volume(self._runtime, VolumeConfig(), reply, connect=self._channels.to)
        await self._spread(opened)
        return opened.vdl, None

    async def _spread(self, opened: OpenedVolume) -> None:
        """Nobody else tells the nodes of a volume that rests."""
        members = {m.node: m for one in opened.memberships for m in one.voters}
        request = spb.GossipRequest(
            node="control",
            volumes=[
                spb.GossipVolume(
                    volume=opened.volume,
                    epoch=opened.epoch,
                    vdl=opened.vdl.lsn,
                    truncations=[truncation_to_pb(t) for t in opened.truncations],
                )
            ],
        )
        await asyncio.gather(*(self._tell(n, members[n].address, request) for n in sorted(members)))

    async def _tell(self, node: NodeId, address: str, request: spb.GossipRequest) -> None:
        try:
            await self._channels.to(address).call(GOSSIP, request, timeout=CALL_S)
        except SextetError as error:
            log.info("%s is not told what is durable: %s", node, error)


def _said(group: spb.ForkGroup) -> Said:
    commit = commit_from_pb(group.commit) if group.HasField("commit") else None
    oldest = commit_from_pb(group.oldest) if group.HasField("oldest") else None
    return Said(group.tail, group.whole, group.floor, commit, oldest)


def _little_known(pg: PgNo | None, lsn: LSN) -> Unavailable:
    return Unavailable(
        f"too few storage nodes know group {pg} up to LSN {lsn} now; see `sextet status`"
    )


def _lacking(
    memberships: Sequence[Membership], created: Mapping[PgNo, Collection[NodeId]]
) -> PgNo | None:
    """A group that does not stand on a write quorum."""
    for one in memberships:
        if not write_quorum(one).satisfied(created.get(one.pg, ())):
            return one.pg
    return None


def _require_served(point: ForkPoint, lsn: LSN) -> None:
    """Raises _LetGo."""
    if point.earliest > lsn > 0:
        raise _LetGo(
            f"storage nodes keep nothing below LSN {point.earliest} any more; LSN {lsn} was wanted"
        )


def _reply(fork: ForkRow) -> pb.ForkVolumeReply:
    reply = pb.ForkVolumeReply(volume=fork.volume, copy=fork.copy)
    if not fork.copy:
        reply.commit.CopyFrom(commit_to_pb(fork.commit))
    return reply
