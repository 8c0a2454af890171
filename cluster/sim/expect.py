"""What a scenario expects of a run, besides that no checker objects.

A scenario tells a story, and a story that did not happen shows nothing: a node that was to have a torn
tail and had none, a fault that hit nobody. So a scenario says what must have happened, and a run in which
it did not is a failed run, of checker "expect". Kinds: the names of the fields below.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from cluster.faults.catalogue import Kind
from cluster.plain import number, refuse_unknown, table
from cluster.sim.checkers import Findings, Violation
from cluster.sim.history import History, Outcome, Transaction
from cluster.sim.run import Result
from engine.errors import ConfigError
from engine.steps import Mark, Step

E = TypeVar("E", bound=Enum)

CHECKER = "expect"
COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
BOUND = re.compile(r"(==|>=|<=|>|<)\s*(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Bound:
    """A number compared with another, as in ">= 1"."""

    comparison: str
    limit: float

    def holds(self, value: float) -> bool:
        return COMPARISONS[self.comparison](value, self.limit)

    def __str__(self) -> str:
        return f"{self.comparison} {self.limit:g}"

    @classmethod
    def parse(cls, value: Any, where: str) -> Bound:
        """Raises ConfigError."""
        found = BOUND.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            raise ConfigError(
                f'{where} is {value!r}; write a comparison such as ">= 1", "== 0" or "< 2.5"'
            )
        return cls(found[1], float(found[2]))


ONCE = Bound(">=", 1)

COUNTS = ("commits", "reads", "failed_writes", "failed_reads", "unknown")
"""What can be counted in a window of time, and over the whole run."""


@dataclass(frozen=True, slots=True)
class Window:
    """What must hold of the transactions that ended in [from_s, to_s), virtual seconds."""

    from_s: float
    to_s: float
    bounds: tuple[tuple[str, Bound], ...]


@dataclass(frozen=True, slots=True)
class Expect:
    """Bounds over the whole run, windows of it, and what must have been reached."""

    bounds: tuple[tuple[str, Bound], ...] = ()
    """commits, reads … as COUNTS; recoveries, failovers; longest_pause in seconds without a commit."""
    marks: tuple[Mark, ...] = ()
    steps: tuple[Step, ...] = ()
    effects: tuple[tuple[Kind, Bound], ...] | None = None
    """How often kinds of fault must have changed something; None: each that the plan has at least once."""
    windows: tuple[Window, ...] = ()
    required: bool = False
    """It was written for a scenario: a fault without effect is a failed run."""

    @classmethod
    def from_plain(cls, value: Any, where: str) -> Expect:
        """From what a file says. Raises ConfigError naming the key and what would be right."""
        known = {*COUNTS, *WHOLE, "marks", "steps", "effects", "window", "required"}
        refuse_unknown(table(value, where), known, where)
        return cls(
            bounds=_bounds(value, (*COUNTS, *WHOLE), where),
            marks=_members(Mark, value.get("marks", []), f"{where}.marks"),
            steps=_members(Step, value.get("steps", []), f"{where}.steps"),
            effects=_effects(value["effects"], f"{where}.effects") if "effects" in value else None,
            windows=tuple(
                _window(one, f"{where}.window {n}")
                for n, one in enumerate(_listed(value.get("window", []), f"{where}.window"), 1)
            ),
            required=bool(value.get("required", False)),
        )

    def to_plain(self) -> dict[str, Any]:
        """As a file says it."""
        plain: dict[str, Any] = {name: str(bound) for name, bound in self.bounds}
        for name in ("marks", "steps"):
            if getattr(self, name):
                plain[name] = [label(member) for member in getattr(self, name)]
        if self.effects is not None:
            plain["effects"] = {kind.value: str(bound) for kind, bound in self.effects}
        if self.windows:
            plain["window"] = [
                {"from_s": w.from_s, "to_s": w.to_s, **{n: str(b) for n, b in w.bounds}}
                for w in self.windows
            ]
        if self.required:
            plain["required"] = True
        return plain

    def judge(self, result: Result) -> list[Violation]:
        """What did not happen as expected."""
        findings = Findings(CHECKER)
        whole = {**_counts(result.history), **{n: count(result) for n, count in WHOLE.items()}}
        for name, bound in self.bounds:
            if not bound.holds(whole[name]):
                findings.add(name, f"{name} is {whole[name]:g}, expected {bound}")
        for mark in self.marks:
            if not result.marks.get(mark):
                findings.add("marks", f"never reached {label(mark)}: {mark.value}")
        for step in self.steps:
            if not result.steps.get(("after", step)):
                findings.add("steps", f"nobody took the step {step.value}")
        for window in self.windows:
            _judge_window(window, result, findings)
        for kind, bound in self._must_have_effect(result):
            fired, effective = result.faults.get(kind.value, (0, 0))
            if not bound.holds(effective):
                findings.add(
                    "effects",
                    f"{kind.value} fired {fired} times and changed something {effective} times, "
                    f"expected {bound}",
                )
        return findings.found

    def _must_have_effect(self, result: Result) -> Sequence[tuple[Kind, Bound]]:
        if self.effects is not None:
            return self.effects
        kinds = sorted({f.kind for f in result.plan.schedule}) if self.required else []
        return [(kind, ONCE) for kind in kinds]


def label(member: Enum) -> str:
    """A mark's or step's name in files: TORN_TAIL is torn-tail."""
    return member.name.lower().replace("_", "-")


# -- reading


def _bounds(value: Mapping[str, Any], names: tuple[str, ...], where: str) -> tuple[Any, ...]:
    return tuple(
        (name, Bound.parse(value[name], f"{where}.{name}")) for name in names if name in value
    )


def _listed(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(f"{where} is {value!r}; it must be a list")
    return value


def _members(kind: type[E], value: Any, where: str) -> tuple[E, ...]:
    known = {label(member): member for member in kind}
    names = _listed(value, where)
    strange = [name for name in names if not isinstance(name, str) or name not in known]
    if strange:
        raise ConfigError(f"{where}: there is no {strange[0]!r}; there are {', '.join(known)}")
    return tuple(known[name] for name in names)


def _effects(value: Any, where: str) -> tuple[tuple[Kind, Bound], ...]:
    """A list of kinds, or a table of kinds and bounds."""
    if isinstance(value, list):
        return tuple((kind, ONCE) for kind in _members(Kind, value, where))
    kinds = _members(Kind, list(table(value, where)), where)
    return tuple((kind, Bound.parse(value[kind.value], f"{where}.{kind.value}")) for kind in kinds)


def _window(value: Any, where: str) -> Window:
    refuse_unknown(table(value, where), {"from_s", "to_s", *COUNTS}, where)
    missing = [name for name in ("from_s", "to_s") if name not in value]
    if missing:
        raise ConfigError(f"{where} has no {missing[0]}; it needs from_s and to_s in seconds")
    start, end = (number(value[name], f"{where}.{name}") for name in ("from_s", "to_s"))
    if not 0 <= start < end:
        raise ConfigError(f"{where} lasts from {start:g} to {end:g} s; to_s must be after from_s")
    return Window(start, end, _bounds(value, COUNTS, where))


# -- counting


def is_write(transaction: Transaction) -> bool:
    """Committed, it counts as what it did; else as what it set out to do, as nobody saw it do anything.

    What sets out to write and finds nothing to change commits without a write quorum, so it is no commit
    that shows that there is one.
    """
    if transaction.outcome is Outcome.COMMITTED:
        return transaction.wrote
    return transaction.writes


def _counts(history: History | list[Transaction]) -> dict[str, float]:
    counts = dict.fromkeys(COUNTS, 0.0)
    for t in history:
        ended = t.outcome
        if ended is Outcome.UNKNOWN:
            counts["unknown"] += 1
        if is_write(t):
            counts["commits" if ended is Outcome.COMMITTED else "failed_writes"] += 1
        else:
            counts["reads" if ended is Outcome.COMMITTED else "failed_reads"] += 1
    return counts


def _longest_pause(result: Result) -> float:
    """Virtual seconds during faults in which no client was told of a commit."""
    if result.healed_at is None:
        return 0.0
    times = sorted(
        t.completed_at for t in result.history if t.wrote and t.completed_at <= result.healed_at
    )
    if not times:
        return result.healed_at
    ends = [*times[1:], result.healed_at]
    return max(end - start for start, end in zip(times, ends, strict=True))


WHOLE: Mapping[str, Callable[[Result], float]] = {
    "recoveries": lambda result: result.recoveries,
    "failovers": lambda result: result.failovers,
    "longest_pause": _longest_pause,
}


def _judge_window(window: Window, result: Result, findings: Findings) -> None:
    inside = [t for t in result.history if window.from_s <= t.completed_at < window.to_s]
    counts = _counts(inside)
    for name, bound in window.bounds:
        if not bound.holds(counts[name]):
            findings.add(
                "window",
                f"between {window.from_s:g} and {window.to_s:g} s {name} is {counts[name]:g}, "
                f"expected {bound}",
                at=window.to_s,
            )
