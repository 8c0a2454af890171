"""Faults on a real installation: begin them, see them, end them.

    kit = FaultKit(Folder.at(Path(".sextet")))
    kit.kill("writer")
    kit.pause("storage-3", for_s=20)
    kit.partition("az1", "az2")
    kit.heal()

A fault is carried out by whoever can: signals from here (kill, pause), files from here (wipe,
corrupt), everything else by the process that has it (`engine.faults`), which learns of it from
DATA/faults.json. That file is all the state there is: nothing ends with the process that called us.
`begin` and `heal` return once every process that runs has noticed, so the next line of a test may
rely on it; a process that is stopped or has just been started is waited for SEEN_S at most.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace
from itertools import chain

from cluster.faults.carry import Carrier
from cluster.faults.catalogue import REAL_PARAMS, Fault, Kind
from cluster.faults.directory import without
from cluster.faults.targets import Targets
from cluster.local.folder import Folder
from cluster.local.layout import load
from cluster.local.state import running_state
from cluster.plain import member
from engine.errors import ConfigError
from engine.faults.effects import effects_path, read_effects
from engine.faults.file import ActiveFault, changing, read
from engine.faults.statements import INTERVAL_S_MAX
from engine.steps import Step

LASTING = frozenset(
    {
        *(Kind.PAUSE, Kind.AZ_DOWN, Kind.PARTITION, Kind.ONE_WAY, Kind.ISOLATE, Kind.SLOW_NET),
        *(Kind.DROP, Kind.SLOW_DISK, Kind.FILL_DISK, Kind.CLOCK_SKEW),
    }
)
"""Without a time of their own they last until they are healed."""

WAITING = frozenset({Kind.FAIL_FSYNC})
"""They happen once, when the node next gives them a chance."""

TWO_SIDED = frozenset({Kind.PARTITION, Kind.ONE_WAY})
ON_DISKS = frozenset(
    {
        *(Kind.WIPE, Kind.SLOW_DISK, Kind.FILL_DISK, Kind.FAIL_FSYNC),
        *(Kind.ROT_LOG, Kind.ROT_PAGE),
    }
)
REAL = LASTING | WAITING | {Kind.KILL, Kind.WIPE, Kind.ROT_LOG, Kind.ROT_PAGE}
"""What real processes can be made to have; the other kinds need a simulator."""


class FaultKit:
    """Faults on the installation in `folder`, which must be running.

    Every method raises ConfigError for what cannot be: an unknown target, a kind that only a simulator
    has, a number out of bounds, an installation that is down or does not allow faults. No fault is asked
    for that lasts longer than a day; without a time of its own it may.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._carry = Carrier(folder)

    # -- the general way

    def begin(self, fault: Fault, *also: str) -> ActiveFault:
        """Put `fault` into effect now; `at` is the simulator's. What it was made to is returned.

        `also`: further targets that it is on at once.
        """
        targets = self._targets()
        fault = _checked(fault)
        found = (_named(targets, fault, target) for target in (fault.target, *also))
        names = tuple(dict.fromkeys(chain.from_iterable(found)))
        if fault.kind is Kind.AZ_DOWN and fault.target not in AZ_TARGETS:
            raise ConfigError(f"{fault.target} is no zone; there is: {', '.join(AZ_TARGETS)}")
        peers = targets.resolve(fault.peer) if fault.kind in TWO_SIDED else ()
        if peers and {*names, *peers} == {names[0]}:
            both = (
                fault.target if fault.target == fault.peer else f"{fault.target} and {fault.peer}"
            )
            raise ConfigError(
                f"nothing can be cut between {names[0]} and itself; {both} is one node, "
                f"and {fault.kind.value} needs two"
            )
        now = time.time()
        active = ActiveFault(
            id=0,
            kind=fault.kind.value,
            target=", ".join((fault.target, *also)),
            names=names,
            since=now,
            until=_until(fault, now),
            peer=fault.peer,
            peers=peers,
            step="" if fault.step is None else fault.step.value,
            when=fault.when,
            nth=fault.nth,
            for_s=fault.for_s,
            params=fault.params,
        )
        if not active.over(now):
            active = self._add(targets, active)
        return self._carry.out(active)

    def heal(
        self, which: int | str | None = None, *, kinds: Collection[Kind] = ()
    ) -> list[ActiveFault]:
        """End an active fault by its id, every fault on the nodes of a target, or all; what has ended.

        A target also means the faults that were begun by that name: of `pause("writer")`
        `resume("writer")` ends the pause, whoever is writer by now.
        `kinds` narrows it down. A fault on several nodes of which some are healed goes on for the others.
        """
        targets = self._targets()
        names = () if which is None or isinstance(which, int) else targets.resolve(which)
        ended: list[ActiveFault] = []
        with changing(self._folder.faults) as change:
            kept: list[ActiveFault] = []
            for fault in change.file.faults:
                rest: ActiveFault | None = fault
                if not kinds or fault.kind in kinds:
                    whole = which in (None, fault.id, fault.target)
                    rest = None if whole else without(fault, names)
                if rest != fault:
                    ended.append(fault)
                if rest is not None:
                    kept.append(rest)
            if isinstance(which, int) and not ended:
                known = ", ".join(str(fault.id) for fault in change.file.faults) or "none"
                raise ConfigError(f"there is no active fault {which}; there is: {known}")
            change.file = replace(change.file, faults=tuple(kept))
            revision = change.file.revision
        self._carry.wake(ended)
        self._carry.until_seen(revision)
        return ended

    def active(self) -> list[ActiveFault]:
        """The faults in effect or waiting for their chance, oldest first."""
        file = read(self._folder.faults)
        return [f for f in file.active(time.time()) if not self._spent(f)]

    def effects(self, fault: ActiveFault) -> dict[str, int]:
        """How often each node has said that `fault` changed something for it."""
        found = {}
        for node in read(self._folder.faults).nodes:
            said = read_effects(effects_path(self._folder.faults, node.name))
            if fault.id in said.by_fault:
                found[node.name] = said.by_fault[fault.id].count
        return found

    def resolve(self, target: str) -> tuple[str, ...]:
        """Whom a target names now."""
        return self._targets().resolve(target)

    # -- one method for each kind

    def kill(self, target: str, *, for_s: float = 0.0, hold: bool = False) -> ActiveFault:
        """kill -9. It is started again at once, after `for_s` seconds, or with `hold` when healed."""
        params = (("hold", 1.0),) if hold else ()
        return self.begin(Fault(Kind.KILL, target, for_s=for_s, params=params))

    def pause(self, target: str, *, for_s: float = 0.0) -> ActiveFault:
        """SIGSTOP, until `for_s` seconds are over or `resume`."""
        return self.begin(Fault(Kind.PAUSE, target, for_s=for_s))

    def resume(self, target: str | None = None) -> list[ActiveFault]:
        """End pauses of the target, or all there are."""
        return self.heal(target, kinds={Kind.PAUSE})

    def wipe(self, target: str, *, for_s: float = 0.0) -> ActiveFault:
        """kill -9, and storage nodes come back with an empty disk (after `for_s` seconds)."""
        return self.begin(Fault(Kind.WIPE, target, for_s=for_s))

    def crash_at(
        self,
        target: str,
        step: Step | str,
        *,
        when: str = "before",
        nth: int = 1,
        for_s: float = 0.0,
    ) -> ActiveFault:
        """Each target kills itself the `nth` time from now that it takes `step`, once."""
        taken = member(Step, step, "step")
        return self.begin(Fault(Kind.KILL, target, for_s=for_s, step=taken, when=when, nth=nth))

    def az_down(self, az: str, *, for_s: float = 0.0) -> ActiveFault:
        """kill -9 every node of a zone and keep it down, until `for_s` is over or `az_up`."""
        return self.begin(Fault(Kind.AZ_DOWN, az, for_s=for_s))

    def az_up(self, az: str) -> list[ActiveFault]:
        return self.heal(az, kinds={Kind.AZ_DOWN})

    def partition(
        self, target: str, peer: str, *, one_way: bool = False, for_s: float = 0.0
    ) -> ActiveFault:
        """Nothing passes between the two; with `one_way` nothing from the first to the second."""
        kind = Kind.ONE_WAY if one_way else Kind.PARTITION
        return self.begin(Fault(kind, target, peer=peer, for_s=for_s))

    def isolate(self, target: str, *, for_s: float = 0.0) -> ActiveFault:
        """Nothing passes between the target and anybody else, clients included."""
        return self.begin(Fault(Kind.ISOLATE, target, for_s=for_s))

    def slow_net(self, target: str, *, latency_s: float = 0.05, for_s: float = 0.0) -> ActiveFault:
        """Messages from and to the target take longer."""
        params = (("latency_s", latency_s),)
        return self.begin(Fault(Kind.SLOW_NET, target, for_s=for_s, params=params))

    def drop(self, target: str, *, share: float = 0.1, for_s: float = 0.0) -> ActiveFault:
        """A share of the messages from and to the target has to be sent again."""
        params = (("share", share),)
        return self.begin(Fault(Kind.DROP, target, for_s=for_s, params=params))

    def slow_disk(self, target: str, *, factor: float = 50.0, for_s: float = 0.0) -> ActiveFault:
        """The disk takes `factor` times as long."""
        params = (("factor", factor),)
        return self.begin(Fault(Kind.SLOW_DISK, target, for_s=for_s, params=params))

    def fill_disk(self, target: str, *, for_s: float = 0.0) -> ActiveFault:
        """No file grows."""
        return self.begin(Fault(Kind.FILL_DISK, target, for_s=for_s))

    def fail_fsync(self, target: str) -> ActiveFault:
        """The next fsync fails, once on each target."""
        return self.begin(Fault(Kind.FAIL_FSYNC, target))

    def corrupt(
        self, target: str, *also: str, what: str = "page", page: int | None = None
    ) -> ActiveFault:
        """Flip a bit of what each target has stored of a page: in its `"log"` or in a `"page"` version.

        Without `page`, of the newest there is on the first of them. All stand still until it is done:
        in a call for each, one could be repaired from another whose turn is yet to come.
        """
        if what not in ("log", "page"):
            raise ConfigError(f'{what!r} cannot be corrupted; choose "log" or "page"')
        if page is not None and (isinstance(page, bool) or not isinstance(page, int)):
            raise ConfigError(f"page is {page!r}; it must be a whole number")
        kind = Kind.ROT_LOG if what == "log" else Kind.ROT_PAGE
        params = () if page is None else (("page", float(page)),)
        return self.begin(Fault(kind, target, params=params), *also)

    def clock_skew(
        self, target: str, *, seconds: float = 3600.0, for_s: float = 0.0
    ) -> ActiveFault:
        """The wall clock is off by so many seconds; negative: behind."""
        params = (("seconds", seconds),)
        return self.begin(Fault(Kind.CLOCK_SKEW, target, for_s=for_s, params=params))

    # -- underneath

    def _targets(self) -> Targets:
        layout = load(self._folder.data)
        if layout is None or running_state(self._folder) is None:
            raise ConfigError(f"no cluster is running in {self._folder.data}")
        if not read(self._folder.faults).allowed:
            raise ConfigError(
                f"the installation in {self._folder.data} does not allow faults; "
                "to allow them, `sextet down` and then `sextet up --faults`"
            )
        return Targets(self._folder, layout)

    def _add(self, targets: Targets, fault: ActiveFault) -> ActiveFault:
        with changing(self._folder.faults) as change:
            fault = replace(fault, id=change.file.next_id)
            left = tuple(f for f in change.file.faults if not self._spent(f))
            change.file = replace(change.file, nodes=targets.nodes, faults=left).adding(fault)
            revision = change.file.revision
        if fault.kind not in (Kind.KILL, Kind.AZ_DOWN, Kind.PAUSE, Kind.WIPE) or fault.step:
            self._carry.until_seen(revision)
        return fault

    def _spent(self, fault: ActiveFault) -> bool:
        """Did it happen on every node, as often as it will?"""
        if not (fault.step or fault.kind in WAITING):
            return False
        now = time.time()
        said = [read_effects(effects_path(self._folder.faults, n)).by_fault for n in fault.names]
        return all(
            fault.id in effects and now >= effects[fault.id].first + fault.for_s for effects in said
        )


AZ_TARGETS = ("az1", "az2", "az3")


def _named(targets: Targets, fault: Fault, target: str) -> tuple[str, ...]:
    if fault.step is not None:
        return targets.taking(fault.step, target)
    if fault.kind in ON_DISKS:
        return targets.storage(target, fault.kind.value)
    return targets.resolve(target)


def _checked(fault: Fault) -> Fault:
    """The same, if all that a fault file would have to keep to holds of it. Raises ConfigError."""
    fault = Fault.from_json(fault.to_json(), REAL_PARAMS)
    fault.refuse_out_of_bounds(REAL_PARAMS)
    if fault.kind not in REAL:
        known = ", ".join(sorted(kind.value for kind in REAL))
        raise ConfigError(
            f"{fault.kind.value} needs the simulator (`sextet sim`); real processes have {known}"
        )
    if fault.step is not None and fault.kind is not Kind.KILL:
        raise ConfigError(f"at a protocol step real processes can only be killed: {fault}")
    if not 0 <= fault.for_s <= INTERVAL_S_MAX:
        raise ConfigError(f"a fault lasts longer than 0 and at most a day, not {fault.for_s:g} s")
    return fault


def _until(fault: Fault, now: float) -> float | None:
    """When it ends by itself: never, after its time, or at once for what has happened by then."""
    if fault.step is not None or fault.kind in WAITING:
        return None
    if fault.for_s:
        return now + fault.for_s
    if fault.kind in LASTING or fault.param("hold", 0.0):
        return None
    return now
