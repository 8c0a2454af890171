"""A run in a file: `sextet sim --save FILE` writes it, `sextet sim --replay FILE` runs it again.

The file is JSON and holds everything that decides the run: seed, cluster, workload, faults, durations,
and what was expected of it. The same file gives the same trace with the same version of the code; with
another version the faults are the same but the story may go another way.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.faults.catalogue import ROLES
from cluster.local.layout import AZS, READERS_MAX
from cluster.sim.expect import Expect
from cluster.sim.fields import from_plain, refuse_unknown, table, text, to_plain
from cluster.sim.run import Plan
from cluster.sim.workload import SCRIPTS
from cluster.sim.world import CLUSTER
from engine.errors import ConfigError

VERSION = 1
FORMAT = "sextet simulation plan"
TARGETS = frozenset((*ROLES, *AZS, "storage", *(f"storage-{n}" for n in range(1, 7))))


@dataclass(frozen=True, slots=True)
class Task:
    """One run to make: a plan, and what else must hold of it besides what checkers always check."""

    plan: Plan
    expect: Expect = field(default_factory=Expect)
    title: str = ""
    """Where it comes from, for people."""


def to_json(task: Task) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": task.title,
        "plan": to_plain(task.plan),
        "expect": task.expect.to_plain(),
    }


def from_json(value: Any, where: str) -> Task:
    """Raises ConfigError naming `where` and what is wrong."""
    if table(value, where).get("format") != FORMAT:
        raise ConfigError(f'{where} is no simulation plan; its "format" would be "{FORMAT}"')
    if value.get("version") != VERSION:
        raise ConfigError(
            f"{where} has version {value.get('version')!r}; this program reads version {VERSION}"
        )
    refuse_unknown(value, {"format", "version", "title", "plan", "expect"}, where)
    given = table(value.get("plan"), f"{where}: plan")
    if "seed" not in given:
        raise ConfigError(f"{where}: plan has no seed")
    plan = from_plain(Plan(seed=0), given, f"{where}: plan")
    check(plan, f"{where}: plan")
    return Task(
        plan,
        Expect.from_plain(value.get("expect", {}), f"{where}: expect"),
        text(value.get("title", ""), f"{where}: title"),
    )


def save(task: Task, path: Path) -> None:
    """Raises ConfigError if the file cannot be written."""
    body = json.dumps(to_json(task), indent=2, ensure_ascii=False) + "\n"
    try:
        path.write_text(body, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def load(path: Path) -> Task:
    """Raises ConfigError if there is no such file, or it is no plan that can be run."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    return from_json(value, str(path))


# -- what a run can be made of


def check(plan: Plan, where: str) -> None:
    """Raises ConfigError for a plan that cannot be carried out: nobody would notice in time."""
    if not 0 <= plan.shape.replicas <= READERS_MAX:
        raise ConfigError(f"{where}: replicas is {plan.shape.replicas}, not 0 to {READERS_MAX}")
    for name in ("safety_s", "liveness_s"):
        value = getattr(plan, name)
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{where}: {name} is {value}; it must be seconds, 0 or more")
    mix = plan.mix
    if mix.clients < 1 or not mix.think_s > 0:
        raise ConfigError(f"{where}: there must be a client, and think_s must be above 0")
    if not 0 <= mix.readers <= mix.clients:
        raise ConfigError(f"{where}: readers is {mix.readers}, not 0 to clients ({mix.clients})")
    for name, share in (("reader_share", mix.reader_share), ("strong_share", mix.strong_share)):
        if not 0 <= share <= 1:
            raise ConfigError(f"{where}: {name} is {share}, not 0 to 1")
    refuse_unknown(mix.weights, set(SCRIPTS), f"{where}: weights")
    if min(mix.weights.values(), default=0) < 0 or sum(mix.weights.values()) <= 0:
        raise ConfigError(f"{where}: weights must be 0 or more, and one of them above 0")
    known = TARGETS | {f"{CLUSTER}-{n + 1}" for n in range(1 + plan.shape.replicas)}
    known |= {f"storage-{n + 7}" for n in range(plan.shape.spares)}
    for fault in plan.schedule:
        for target in (fault.target, fault.peer):
            if target and target not in known:
                raise ConfigError(
                    f"{where}: {fault.kind.value} has no target {target}; here a target is one of "
                    + ", ".join(sorted(known))
                )
