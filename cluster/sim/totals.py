"""Sums over many runs: what fired, what was reached, what was checked, and what never was."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from cluster.faults.catalogue import UNSIMULATED, Kind
from cluster.sim.expect import label
from cluster.sim.jobs import Outcome
from engine.steps import Mark, Step


@dataclass
class Totals:
    """`add` each outcome."""

    runs: int = 0
    failed: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    effective: Counter[str] = field(default_factory=Counter)
    marks: Counter[Mark] = field(default_factory=Counter)
    steps: Counter[tuple[str, Step]] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    transactions: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    """Runs in which something was violated, by checker/kind."""
    commits: int = 0
    recoveries: int = 0
    failovers: int = 0
    virtual_s: float = 0.0
    wall_s: float = 0.0
    """Summed over the processes that shared the work."""

    def add(self, outcome: Outcome) -> None:
        self.runs += 1
        self.failed += not outcome.ok
        if not outcome.ok:
            self.kinds.update(outcome.kinds)
        result = outcome.result
        if result is None:
            return
        for name, (fired, effective) in result.faults.items():
            self.fired[name] += fired
            self.effective[name] += effective
        self.marks.update(result.marks)
        self.steps.update(result.steps)
        self.checks.update(result.checks)
        self.transactions.update(result.transactions)
        self.commits += result.commits
        self.recoveries += result.recoveries
        self.failovers += result.failovers
        self.virtual_s += result.virtual_s
        self.wall_s += result.wall_s

    @property
    def speed(self) -> float:
        """Virtual seconds per wall second of one process."""
        return self.virtual_s / self.wall_s if self.wall_s else 0.0

    def faults(self) -> list[tuple[str, int, int]]:
        """(name, fired, took effect): faults in the catalogue's order, then what came of them."""
        order = {kind.value: n for n, kind in enumerate(Kind)}
        names = {*self.fired, *self.effective}
        ordered = sorted(names, key=lambda name: (order.get(name, len(order)), name))
        return [(name, self.fired[name], self.effective[name]) for name in ordered]

    def not_reached(self) -> tuple[list[str], list[str]]:
        """Marks and steps that no run reached, of those that one can reach."""
        taken = {step for when, step in self.steps if when == "after"}
        return (
            [label(mark) for mark in Mark if not self.marks[mark]],
            [step.value for step in Step if step not in taken | UNSIMULATED],
        )

    def incomplete(self, effects: int) -> list[str]:
        """What all these runs together left untested, a line each: marks and steps that none reached, kinds
        of fault that took effect fewer than so many times."""
        marks, steps = self.not_reached()
        return [
            *(f"mark {name} was never reached" for name in marks),
            *(f"step {name} was never taken" for name in steps),
            *(
                f"{kind.value} took effect {self.effective[kind.value]} times, not {effects}"
                for kind in Kind
                if self.effective[kind.value] < effects
            ),
        ]

    def to_json(self) -> dict[str, Any]:
        """Keys are an interface."""
        marks, steps = self.not_reached()
        return {
            "runs": self.runs,
            "failed": self.failed,
            "violated": dict(sorted(self.kinds.items())),
            "commits": self.commits,
            "transactions": dict(sorted(self.transactions.items())),
            "recoveries": self.recoveries,
            "failovers": self.failovers,
            "faults": {name: {"fired": f, "effective": e} for name, f, e in self.faults()},
            "marks": {label(mark): self.marks[mark] for mark in Mark if self.marks[mark]},
            "steps": {
                f"{when} {step.value}": count for (when, step), count in sorted(self.steps.items())
            },
            "never_reached": {"marks": marks, "steps": steps},
            "checks": dict(sorted(self.checks.items())),
            "virtual_s": round(self.virtual_s, 3),
            "wall_s": round(self.wall_s, 3),
            "virtual_s_per_wall_s": round(self.speed, 2),
        }
