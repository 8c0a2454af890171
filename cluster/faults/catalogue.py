"""Every fault there is, by name: what it does, to whom, and what must hold under it. Pure.

The same names are used in scenario files, in fault schedules that the simulator draws, and in commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from engine.errors import ConfigError
from engine.steps import Step


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
        return {k: v for k, v in value.items() if v not in ("", None, {}) and (k, v) != ("nth", 1)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Fault:
        """Raises ConfigError naming what is wrong."""
        known = {"kind", "target", "at", "for_s", "peer", "step", "when", "nth", "params"}
        strange = sorted(set(value) - known)
        if strange:
            raise ConfigError(
                f"a fault has no {', '.join(strange)}; it has {', '.join(sorted(known))}"
            )
        try:
            fault = cls(
                kind=Kind(value["kind"]),
                target=str(value["target"]),
                at=float(value.get("at", 0.0)),
                for_s=float(value.get("for_s", 0.0)),
                peer=str(value.get("peer", "")),
                step=Step(value["step"]) if value.get("step") else None,
                when=str(value.get("when", "before")),
                nth=int(value.get("nth", 1)),
                params=tuple(
                    sorted((str(k), float(v)) for k, v in dict(value.get("params", {})).items())
                ),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise ConfigError(f"a fault cannot be read: {error} in {dict(value)}") from error
        if fault.when not in ("before", "after") or fault.nth < 1 or fault.for_s < 0:
            raise ConfigError(f"a fault's when is before or after, nth >= 1, for_s >= 0: {fault}")
        return fault
