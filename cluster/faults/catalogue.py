"""Every fault there is, by name: what it does, to whom, and what must hold under it. Pure.

The same names are used in scenario files, in fault schedules that the simulator draws, and in commands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from cluster.plain import member, number, text
from engine.errors import ConfigError
from engine.steps import Step

Bounds = Mapping["Kind", Mapping[str, tuple[float, float]]]
"""Params by kind, and the least and the most that each may be."""


class Kind(StrEnum):
    """A fault's name."""

    KILL = "kill"
    POWER = "power"
    WIPE = "wipe"
    PAUSE = "pause"
    AZ_DOWN = "az-down"
    PARTITION = "partition"
    ONE_WAY = "one-way"
    ISOLATE = "isolate"
    RESET = "reset"
    SLOW_NET = "slow-net"
    DROP = "drop"
    SLOW_DISK = "slow-disk"
    FILL_DISK = "fill-disk"
    FAIL_FSYNC = "fail-fsync"
    LOSE_WRITES = "lose-writes"
    MISDIRECT_READ = "misdirect-read"
    ROT_LOG = "rot-log"
    ROT_PAGE = "rot-page"
    CLOCK_SKEW = "clock-skew"
    FAILOVER = "failover"


ABOUT: Mapping[Kind, str] = {
    Kind.KILL: "kill -9; started again afterwards",
    Kind.POWER: "power loss: as kill, and bytes not synced are lost, or torn, or not",
    Kind.WIPE: "the node comes back with an empty disk",
    Kind.PAUSE: "SIGSTOP, then SIGCONT",
    Kind.AZ_DOWN: "every process of an availability zone loses power",
    Kind.PARTITION: "nothing passes between two targets, either way",
    Kind.ONE_WAY: "nothing passes from the first target to the second",
    Kind.ISOLATE: "nothing passes between the target and anybody else",
    Kind.RESET: "every connection between two targets breaks at once",
    Kind.SLOW_NET: "messages from and to the target take `latency_s` longer",
    Kind.DROP: "a share of messages from and to the target has to be sent again",
    Kind.SLOW_DISK: "the target's disk takes `factor` times as long",
    Kind.FILL_DISK: "no file on the target's disk can grow",
    Kind.FAIL_FSYNC: "the target's next fsync fails, and what it covered is not on the disk",
    Kind.LOSE_WRITES: "the next fsyncs succeed without effect; seen after a power loss",
    Kind.MISDIRECT_READ: "the next read from the disk gives bytes of another place",
    Kind.ROT_LOG: "a bit flips in the target's log",
    Kind.ROT_PAGE: "a bit flips in a page version, or another page's image is in its place",
    Kind.CLOCK_SKEW: "the target's wall clock jumps by `seconds`",
    Kind.FAILOVER: "the control plane names the target writer, whatever the old one is doing",
}

ONCE = frozenset(
    {
        *(Kind.RESET, Kind.FAIL_FSYNC, Kind.LOSE_WRITES, Kind.MISDIRECT_READ),
        *(Kind.ROT_LOG, Kind.ROT_PAGE, Kind.CLOCK_SKEW, Kind.FAILOVER),
    }
)
"""Kinds that happen and do not last."""

NEED_PEER = frozenset({Kind.PARTITION, Kind.ONE_WAY})
MAY_HAVE_PEER = NEED_PEER | {Kind.RESET}
"""All other kinds have one side."""

PARAMS: Bounds = {
    Kind.SLOW_NET: {"latency_s": (0, 3600)},
    Kind.DROP: {"share": (0, 1)},
    Kind.SLOW_DISK: {"factor": (0, 1e6)},
    Kind.LOSE_WRITES: {"syncs": (1, 1e6)},
    Kind.CLOCK_SKEW: {"seconds": (-1e8, 1e8)},
}
"""What a file may say of a kind, and within which bounds; nothing else of any other."""

REAL_PARAMS: Bounds = {
    **PARAMS,
    Kind.KILL: {"hold": (0, 1)},
    Kind.DROP: {"share": (0, 0.95)},
    Kind.SLOW_DISK: {"factor": (1, 1e6)},
    Kind.ROT_LOG: {"page": (0, 2**32)},
    Kind.ROT_PAGE: {"page": (0, 2**32)},
}
"""The same for real processes, which heed some that the simulator does not have. Of what is sent again
something must arrive at last, and a real disk is not made faster."""

STEPS: Mapping[str, frozenset[Step]] = {
    "storage": frozenset(
        {
            *(Step.RECEIVE, Step.PERSIST, Step.ACK, Step.SEAL, Step.CREATE, Step.FENCE),
            *(Step.TRUNCATE, Step.COALESCE, Step.COLLECT, Step.DROP_LOG, Step.FILL, Step.COPY),
            *(Step.MEMBERS, Step.DROP, Step.WHOLE, Step.REPAIR),
            Step.FORK,
        }
    ),
    "instance": frozenset(
        {
            *(Step.SEND, Step.DURABLE, Step.FENCED, Step.TRUNCATED, Step.REHARDENED),
            *(Step.PROMOTE, Step.GROW, Step.BACKTRACK, Step.JOIN, Step.APPLY),
        }
    ),
    "control": frozenset(
        {
            *(Step.ADVANCE_EPOCH, Step.ADD_GROUP, Step.CONFIRM, Step.NAME_WRITER),
            *(Step.BEGIN_CHANGE, Step.COMMIT_CHANGE, Step.CANCEL_CHANGE),
        }
    ),
    "archiver": frozenset(
        {
            *(Step.ARCHIVE, Step.TELL, Step.BASE_PART, Step.BASE, Step.RETIRE),
            Step.NEW_ARCHIVE,
        }
    ),
}
"""Which kind of process takes a step; endpoints take none. Real archivers are not among those that
`sextet fault` reaches."""

UNSIMULATED = frozenset({Step.FORK, Step.BACKTRACK})
"""Steps that no simulated cluster takes, as it makes no clones and is not backtracked.
tests/properties/test_clones.py and tests/instance/test_backtrack.py do."""

ROLES = ("writer", "replica", "control", "all")
"""Targets that are looked up when the fault begins, besides names of nodes and zones."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `kind` on `target`, beginning at `at` seconds or at a protocol step, lasting `for_s`.

    With `step`, it begins the `nth` time that the target takes that step after `at`, `when` "before" or
    "after". Two-sided faults have a second target `peer`.
    """

    kind: Kind
    target: str
    at: float = 0.0
    for_s: float = 0.0
    peer: str = ""
    step: Step | None = None
    when: str = "before"
    nth: int = 1
    params: tuple[tuple[str, float], ...] = ()

    def param(self, name: str, default: float) -> float:
        return dict(self.params).get(name, default)

    def __str__(self) -> str:
        parts = [f"{self.kind.value} {self.target}"]
        if self.peer:
            parts.append(
                f"from {self.peer}" if self.kind is not Kind.ONE_WAY else f"to {self.peer}"
            )
        if self.step is not None:
            parts.append(f"{self.when} {self.step.value} (time {self.nth})")
        parts.append(f"at {self.at:.3f} s")
        if self.for_s:
            parts.append(f"for {self.for_s:.3f} s")
        parts += [f"{name}={value:g}" for name, value in self.params]
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        value["params"] = dict(self.params)
        if self.step is None:
            del value["when"]
        return {k: v for k, v in value.items() if v not in ("", None, {}) and (k, v) != ("nth", 1)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], params: Bounds = PARAMS) -> Fault:
        """Raises ConfigError naming what is wrong. `params`: those that there are; not their bounds."""
        known = {"kind", "target", "at", "for_s", "peer", "step", "when", "nth", "params"}
        strange = sorted(set(value) - known)
        if strange:
            raise ConfigError(
                f"a fault has no {', '.join(strange)}; it has {', '.join(sorted(known))}"
            )
        missing = [name for name in ("kind", "target") if not value.get(name)]
        if missing:
            raise ConfigError(
                f"a fault needs kind and target; here is no {' and no '.join(missing)}"
            )
        given = value.get("params", {})
        if not isinstance(given, Mapping):
            raise ConfigError(f"a fault's params is {given!r}; it must be a table of numbers")
        fault = cls(
            kind=member(Kind, value["kind"], "kind"),
            target=text(value["target"], "a fault's target"),
            at=number(value.get("at", 0.0), "a fault's at"),
            for_s=number(value.get("for_s", 0.0), "a fault's for_s"),
            peer=text(value.get("peer", ""), "a fault's peer"),
            step=member(Step, value["step"], "step") if "step" in value else None,
            when=text(value.get("when", "before"), "a fault's when"),
            nth=value.get("nth", 1),
            params=tuple(
                (name, number(given[name], f"a fault's params.{name}")) for name in sorted(given)
            ),
        )
        if isinstance(fault.nth, bool) or not isinstance(fault.nth, int) or fault.nth < 1:
            raise ConfigError(f"a fault's nth is {fault.nth!r}; it must be a whole number from 1")
        if fault.when not in ("before", "after"):
            raise ConfigError(f"a fault's when is before or after, not {fault.when!r}")
        if fault.for_s < 0:
            raise ConfigError(f"a fault's for_s is {fault.for_s:g}; it must be 0 or more")
        # Older plans say "before" of every fault.
        pointless = [n for n in ("when", "nth") if n in value and value[n] != "before"]
        if fault.step is None and pointless:
            raise ConfigError(f"a fault has {' and '.join(pointless)} only with step")
        fault._refuse_meaningless(params)
        return fault

    def _refuse_meaningless(self, params: Bounds) -> None:
        """Raises ConfigError for a peer or params that the kind does not have, or lacks."""
        kind = self.kind.value
        if self.peer and self.kind not in MAY_HAVE_PEER:
            having = ", ".join(sorted(k.value for k in MAY_HAVE_PEER))
            raise ConfigError(f"{kind} has no peer; these have one: {having}")
        if not self.peer and self.kind in NEED_PEER:
            raise ConfigError(f"{kind} needs a peer: the other side")
        known = params.get(self.kind, {})
        strange = [name for name, _ in self.params if name not in known]
        if strange:
            there = f"its params may have {', '.join(known)}" if known else "it has no params"
            raise ConfigError(f"{kind} has no {', '.join(strange)}; {there}")

    def refuse_out_of_bounds(self, params: Bounds, where: str = "") -> None:
        """Raises ConfigError for a param whose value cannot be; `where` goes ahead of what it says."""
        for name, value in self.params:
            least, most = params.get(self.kind, {}).get(name, (-math.inf, math.inf))
            if not least <= value <= most:
                raise ConfigError(
                    f"{where}{name} of {self.kind.value} is {value:g}, "
                    f"not {_plainly(least)} to {_plainly(most)}"
                )


def _plainly(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"
