"""Watching the instances, and naming another writer when the one there is is no good.

Every instance is asked for its status four times a second, each by a task of its own, so that one that
hangs holds up nobody else's answers (`looks`). What is made of the answers is decided in `health` and
`nominate`, without I/O.

Invariants
- Nothing that matters is in memory only: who is named is in the catalog, how they are is asked. A
  control plane that is killed in the middle of a failover finds, once it is back, a writer that is not
  well and bears it as long as its predecessor would have.
- A nomination compares and sets: who was named meanwhile by somebody else stays.
- Safety rests on none of this. A writer that was wrongly taken for dead is fenced by its successor's
  epoch (`engine.volume.fencing`), as a dead one is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cluster.control.catalog import Catalog
from cluster.control.fullness import FullnessWatch
from cluster.control.health import Rest, Seen, Sight, WriterHealth
from cluster.control.looks import BUSY, Look, Looker
from cluster.control.nominate import Candidate, successor
from cluster.control.rows import ClusterRow, InstanceRow
from engine.errors import ConfigError, DeadlineExceeded
from engine.net.pb import control_pb2 as pb
from engine.ports import Runtime
from engine.pulse import PATIENCE_S
from engine.steps import Mark, Step
from engine.tasks import Background
from engine.types import Membership
from engine.volume.channels import Channels

log = logging.getLogger(__name__)

LOOK_S = 0.25
LOOK_MOVING_S = 0.05
"""How often the new writer is looked at during a failover."""

ILL_LOOKS = 3
"""From so many looks in a row on, that a writer does not work is an event."""

BLAME_S = 60.0
OPEN_S = 30.0
"""How long a failover on purpose waits for the new writer to open."""

HANGS = (
    "; if it hangs, its supervisor ends it after {patience} s and starts it again; if a fault has paused"
    " it, `sextet fault resume {name}`"
)


@dataclass(frozen=True, slots=True)
class _Moving:
    """A failover that is under way."""

    to: str
    since: float


@dataclass(slots=True)
class _Ward:
    """One cluster and what is known of it."""

    row: ClusterRow
    instances: dict[str, InstanceRow]
    memberships: list[Membership]
    health: WriterHealth
    rest: Rest = field(default_factory=Rest)
    looks: dict[str, Look] = field(default_factory=dict)
    blamed: dict[str, float] = field(default_factory=dict)
    moving: _Moving | None = None
    established: bool = False
    busy: bool = False
    """It said when it last answered that it would not for a while."""
    ill: str = ""
    """Why the writer does not work, as the last event said; "" if it does."""
    alone: bool = False
    """An event has said that nobody can take over."""
    asked: dict[str, None] = field(default_factory=dict)
    """Instances that have a task which looks at them."""


class FailoverWatch:
    """Start with `run` in the background; `wake` after each change of the catalog."""

    def __init__(
        self,
        runtime: Runtime,
        catalog: Catalog,
        channels: Channels,
        background: Background,
        notify: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._catalog = catalog
        self._looker = Looker(runtime, channels)
        self._fullness = FullnessWatch(catalog, runtime.clock)
        self._background = background
        self._notify = notify
        self._wake = asyncio.Event()
        self._looked = asyncio.Event()
        self._wards: dict[str, _Ward] = {}
        self._writing = asyncio.Lock()
        """Rows are copied from the catalog, or changed there and here, in turn: what was read before
        somebody was named must not put the old writer back."""

    def wake(self) -> None:
        self._wake.set()

    @property
    def _now(self) -> float:
        return self._runtime.clock.monotonic()

    async def run(self) -> None:
        """Keep up with the catalog: who is to be looked at, and who is the writer."""
        while True:
            self._wake.clear()
            names = await self._catalog.clusters()
            for name in [ward for ward in self._wards if ward not in names]:
                self._let_go(name)
            for name in names:
                with contextlib.suppress(
                    ConfigError
                ):  # deleted since we asked; we are woken for that
                    await self._refresh(name)
            await self._wake.wait()

    async def _refresh(self, cluster: str) -> None:
        async with self._writing:
            await self._copy(cluster)

    async def _copy(self, cluster: str) -> None:
        row = await self._catalog.cluster(cluster)
        if row.stopped:
            self._let_go(cluster)
            return
        instances = {i.name: i for i in await self._catalog.instances(cluster)}
        memberships = await self._catalog.memberships(row.volume)
        ward = self._wards.get(cluster)
        if ward is None:
            ward = _Ward(row, instances, memberships, WriterHealth(self._now))
            self._wards[cluster] = ward
        if ward.row.writer != row.writer:
            self._begin_with(ward, row)
        ward.row, ward.instances, ward.memberships = row, instances, memberships
        for name in sorted(instances):
            if name not in ward.asked:
                ward.asked[name] = None
                self._background.spawn(self._look_always(ward, name), name=f"look at {name}")

    def _let_go(self, cluster: str) -> None:
        """It is stopped or deleted: nobody is looked at, and what was seen does not count later."""
        ward = self._wards.pop(cluster, None)
        if ward is not None:
            ward.instances = {}  # ends those who look

    def _begin_with(self, ward: _Ward, row: ClusterRow) -> None:
        """Another writer is named: it gets all the patience there is."""
        ward.row = row
        ward.health = WriterHealth(self._now, named_now=True)
        ward.ill, ward.alone, ward.busy = "", False, False

    # -- looking

    async def _look_always(self, ward: _Ward, name: str) -> None:
        due = self._now
        while (instance := ward.instances.get(name)) is not None:
            look = await self._looker.look(instance, ward.row, ward.memberships)
            if name not in ward.instances:
                break
            ward.looks[name] = look
            ward.established = ward.established or look.established
            if name == ward.row.writer:
                await self._judge(ward, look)
                if look.status is not None:
                    await self._fullness.look(ward.row, look.status)
            looked, self._looked = self._looked, asyncio.Event()
            looked.set()
            moving = ward.moving is not None and ward.moving.to == name
            # Not an interval after the last look began: those who began together go on together, which
            # wakes this process up once for all of them.
            due = max(due + (LOOK_MOVING_S if moving else LOOK_S), self._now)
            await asyncio.sleep(due - self._now)
        ward.looks.pop(name, None)
        ward.asked.pop(name, None)

    # -- judging

    async def _judge(self, ward: _Ward, look: Look) -> None:
        writer = ward.row.writer
        if look.status is not None:
            ward.busy = look.status.state in BUSY
        sight = Sight(
            look.at,
            look.as_writer(ward.row),
            storage=look.storage,
            witnessed=self._witnessed(ward),
            cold=not ward.established,
            busy=ward.busy,
        )
        first = not ward.health.ever_well
        reason = ward.health.look(sight)
        if sight.seen is Seen.WORKING:
            if ward.health.steady:
                ward.rest.steady()
            if first or ward.ill:
                await self._works(ward)
            return
        if ward.health.ill_looks >= ILL_LOOKS and ward.ill != sight.seen.value:
            ward.ill = sight.seen.value
            await self._event(writer, f"the writer {ward.ill}")
        if ward.row.writer != writer:
            return  # somebody else was named while that was written down
        if reason is not None and ward.rest.allows(self._now):
            await self._replace(ward, reason, hangs=sight.seen is Seen.SILENT)

    def _witnessed(self, ward: _Ward) -> bool:
        return any(
            look.hears_writer(ward.row, self._now)
            for name, look in sorted(ward.looks.items())
            if name != ward.row.writer
        )

    async def _works(self, ward: _Ward) -> None:
        row, moving = ward.row, ward.moving
        ward.ill, ward.alone = "", False
        if moving is not None and moving.to == row.writer:
            ward.moving = None
            await self._event(
                row.name,
                f"failover to {row.writer} finished after {self._now - moving.since:.2f} s, "
                f"epoch {row.epoch}",
            )
        else:
            await self._event(row.writer, f"the writer works, epoch {row.epoch}")

    # -- replacing

    def _candidates(self, ward: _Ward) -> list[Candidate]:
        now = self._now
        return [
            Candidate(
                instance.name,
                instance.number,
                instance.tier,
                look.status.read_lsn if look is not None and look.status is not None else 0,
                healthy=look is not None and look.can_take_over(now),
                blamed=now - ward.blamed.get(instance.name, float("-inf")) < BLAME_S,
            )
            for instance in ward.instances.values()
            for look in (ward.looks.get(instance.name),)
        ]

    async def _replace(self, ward: _Ward, reason: str, *, hangs: bool) -> None:
        """Name a successor, if there is one; otherwise the writer's supervisor is all there is.

        That starts again what has died, and ends what hangs (`engine.pulse`), so that it starts again.
        """
        old = ward.row.writer
        to = successor(self._candidates(ward), instead_of=old)
        if to is None:
            if not ward.alone:
                ward.alone = True
                advice = HANGS.format(name=old, patience=PATIENCE_S) if hangs else ""
                await self._event(old, f"the writer {reason}, and nobody can take over{advice}")
            return
        ward.rest.failed_over(self._now)
        ward.blamed[old] = self._now
        if await self._name(ward, to, f"the writer {reason}"):
            self._runtime.steps.mark(Mark.FAILED_OVER)

    async def _name(self, ward: _Ward, to: str, why: str) -> bool:
        """False if somebody else was named meanwhile; then nothing has changed."""
        row = ward.row  # before we wait for our turn: it was decided about this writer alone
        async with self._writing:
            self._runtime.steps.before(Step.NAME_WRITER)
            named = await self._catalog.name_writer(
                row.name, to, instead_of=row.writer, time_us=self._runtime.clock.wall_us(), why=why
            )
            self.wake()
            if not named:
                return False
            ward.moving = _Moving(to, self._now)
            self._begin_with(ward, replace(ward.row, writer=to))
        self._notify()
        self._runtime.steps.after(Step.NAME_WRITER)
        log.warning("= %s is named writer of %s instead of %s: %s", to, row.name, row.writer, why)
        return True

    async def _event(self, subject: str, what: str) -> None:
        log.info("= %s: %s", subject, what)
        await self._catalog.record(subject, what, time_us=self._runtime.clock.wall_us())

    # -- on purpose

    async def failover(self, request: pb.FailoverRequest) -> pb.FailoverReply:
        """Name `request.to`, or whom a dead writer's successor would be, and wait until it is open.

        Raises ConfigError if there is no such instance or none that can take over, or the cluster is
        stopped, DeadlineExceeded.
        """
        await self._refresh(request.cluster)
        ward = self._wards.get(request.cluster)
        if ward is None:
            raise ConfigError(f"cluster {request.cluster} is stopped")
        row, to = ward.row, self._chosen(ward, request.to)
        began = self._now
        if not await self._name(ward, to, "on purpose"):
            raise ConfigError(f"another writer of {row.name} was named just now; see sextet events")
        try:
            async with asyncio.timeout(OPEN_S):
                while not self._is_open(ward, to, above=row.epoch):
                    await self._looked.wait()
        except TimeoutError:
            raise DeadlineExceeded(
                f"{to} is named writer of {row.name} but has not opened the volume within "
                f"{OPEN_S:.0f} s; see `sextet status`"
            ) from None
        return pb.FailoverReply(
            writer=to,
            instead_of=row.writer,
            epoch=ward.row.epoch,
            duration_us=int((self._now - began) * 1e6),
        )

    def _chosen(self, ward: _Ward, to: str) -> str:
        row = ward.row
        if to and to not in ward.instances:
            known = ", ".join(ward.instances)
            raise ConfigError(f"{row.name} has no instance {to}; it has {known}")
        if to == row.writer:
            raise ConfigError(f"{to} is the writer of {row.name} already")
        candidates = self._candidates(ward)
        if to:
            candidates = [c for c in candidates if c.name == to]
        found = successor(candidates, instead_of=row.writer)
        if found is None:
            if to:
                raise ConfigError(f"{to} cannot take over: it does not answer, or it is starting")
            raise ConfigError(f"no replica of {row.name} can take over; see `sextet status`")
        return found

    def _is_open(self, ward: _Ward, to: str, *, above: int) -> bool:
        if ward.row.writer != to:
            raise ConfigError(
                f"{ward.row.writer} was named writer of {ward.row.name} while {to} was opening"
            )
        look = ward.looks.get(to)
        if look is None or look.status is None or look.status.epoch <= above:
            return False
        return look.as_writer(ward.row) is Seen.WORKING
