"""A run in a file: `sextet sim --save FILE` writes it, `sextet sim --replay FILE` runs it again.

The file is JSON and holds everything that decides the run: seed, cluster, workload, faults, durations,
and what was expected of it. The same file gives the same trace with the same version of the code; with
another version the faults are the same but the story may go another way.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from cluster.faults.catalogue import PARAMS, ROLES, Fault, Kind
from cluster.local.layout import AZS, READERS_MAX
from cluster.plain import refuse_unknown, table, text
from cluster.sim.expect import Expect
from cluster.sim.fields import from_plain, to_plain
from cluster.sim.objects import STORE
from cluster.sim.run import Plan
from cluster.sim.workload import READ_ONLY, SCRIPTS
from cluster.sim.world import ARCHIVER, CLUSTER
from engine.errors import ConfigError

VERSION = 1
FORMAT = "sextet simulation plan"
SPARES_MAX = 64
ARCHIVERS_MAX = 8
CLIENTS_MAX = 1000
SECONDS_MAX = 100_000
SIZE_MAX = 2**32
"""Of every other setting: more than any has by default, and few enough that nothing overflows."""

MAY_BE_ZERO = frozenset({"replicas", "spares", "statement_timeout_s", "fence_grace_s"})
"""Besides settings that are 0 by default: there it is "none" too."""

AT_STORE = frozenset(
    {
        *(Kind.PARTITION, Kind.ONE_WAY, Kind.ISOLATE, Kind.SLOW_NET, Kind.DROP),
        *(Kind.FILL_DISK, Kind.WIPE),
    }
)
"""What the object store may suffer."""

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
        return from_json(json.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply for a simulation plan") from error


# -- what a run can be made of


def check(plan: Plan, where: str) -> None:
    """Raises ConfigError for a plan that cannot be carried out: nobody would notice in time."""
    if not 0 <= plan.shape.replicas <= READERS_MAX:
        raise ConfigError(f"{where}: replicas is {plan.shape.replicas}, not 0 to {READERS_MAX}")
    if not 0 <= plan.shape.spares <= SPARES_MAX:
        raise ConfigError(f"{where}: spares is {plan.shape.spares}, not 0 to {SPARES_MAX}")
    if not 1 <= plan.shape.archivers <= ARCHIVERS_MAX:
        raise ConfigError(f"{where}: archivers is {plan.shape.archivers}, not 1 to {ARCHIVERS_MAX}")
    _check_settings(plan.shape, f"{where}: ")
    for name in ("safety_s", "liveness_s"):
        value = getattr(plan, name)
        if not 0 <= value <= SECONDS_MAX:
            raise ConfigError(
                f"{where}: {name} is {value}; it must be seconds, 0 or more, at most {SECONDS_MAX:,}"
            )
    mix = plan.mix
    if not 1 <= mix.clients <= CLIENTS_MAX or not 0 < mix.think_s <= SECONDS_MAX:
        raise ConfigError(
            f"{where}: there must be a client, at most {CLIENTS_MAX:,} of them, and think_s must be "
            f"above 0, at most {SECONDS_MAX:,}"
        )
    if not 1 <= mix.big_rows <= SIZE_MAX:
        raise ConfigError(f"{where}: big_rows is {mix.big_rows}; there must be at least 1")
    if not 0 <= mix.readers <= mix.clients:
        raise ConfigError(f"{where}: readers is {mix.readers}, not 0 to clients ({mix.clients})")
    for name in ("reader_share", "strong_share", "retry_share"):
        share = getattr(mix, name)
        if not 0 <= share <= 1:
            raise ConfigError(f"{where}: {name} is {share}, not 0 to 1")
    refuse_unknown(mix.weights, set(SCRIPTS), f"{where}: weights")
    weights = mix.weights.values()
    if not all(0 <= weight <= SIZE_MAX for weight in weights) or sum(weights) <= 0:
        raise ConfigError(
            f"{where}: weights must be 0 or more (and no infinity), and one of them above 0"
        )
    if mix.readers and not any(mix.weights.get(kind, 1) for kind in READ_ONLY):
        raise ConfigError(
            f"{where}: there are readers, but the weights of all that they could do "
            f"({', '.join(sorted(READ_ONLY))}) are 0"
        )
    known = TARGETS | {f"{CLUSTER}-{n + 1}" for n in range(1 + plan.shape.replicas)}
    known |= {f"storage-{n + 7}" for n in range(plan.shape.spares)}
    if plan.shape.archive:
        known |= {STORE, "archiver", ARCHIVER}
        known |= {f"{ARCHIVER}-{n + 2}" for n in range(plan.shape.archivers - 1)}
    for fault in plan.schedule:
        _check_numbers(fault, where)
        if fault.target == STORE and fault.kind not in AT_STORE:
            raise ConfigError(
                f"{where}: {fault.kind.value} cannot happen to the {STORE}; these can: "
                + ", ".join(sorted(kind.value for kind in AT_STORE))
            )
        for target in (fault.target, fault.peer):
            if target and target not in known:
                raise ConfigError(
                    f"{where}: {fault.kind.value} has no target {target}; here a target is one of "
                    + ", ".join(sorted(known))
                )


def _check_settings(base: Any, where: str) -> None:
    """Sizes, numbers and intervals, in all the dataclasses there are in `base`."""
    defaults = type(base)()
    for setting in fields(base):
        name, value = setting.name, getattr(base, setting.name)
        if is_dataclass(value):
            _check_settings(value, f"{where}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            zero = name in MAY_BE_ZERO or not getattr(defaults, name)
            if not 0 <= value <= SIZE_MAX or not (zero or value):
                raise ConfigError(
                    f"{where}{name} is {value}; it must be {'0 or more' if zero else 'above 0'}, "
                    f"at most {SIZE_MAX:,}"
                )


def _check_numbers(fault: Fault, where: str) -> None:
    kind = fault.kind.value
    for name, seconds in (("at", fault.at), ("for_s", fault.for_s)):
        if not math.isfinite(seconds):
            raise ConfigError(f"{where}: {name} of {kind} is {seconds}; it must be seconds")
    fault.refuse_out_of_bounds(PARAMS, f"{where}: ")
