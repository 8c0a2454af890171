"""Scenarios: a cluster, clients, faults and what must come of it, written down in a TOML file.

    name = "lose-an-az"
    title = "A whole availability zone loses power, and writes go on"
    chapter = "P17 §2.1"
    story = '''Why this happens and what to look at.'''

    [cluster]                  # cluster.sim.world.Shape: replicas, max_pages, storage, volume, ...
    replicas = 2

    [workload]                 # cluster.sim.workload.Mix: clients, think_s, reader_share, weights, ...
    clients = 4

    [run]
    seconds = 20               # of faults; then everything heals
    heal_seconds = 40          # by then everything must work again

    [[fault]]                  # cluster.faults.catalogue.Fault
    kind = "az-down"
    target = "az3"
    at = 5.0
    for_s = 8.0

    [expect]                   # cluster.sim.expect.Expect
    failed_writes = "== 0"

docs/simulation.md teaches the format. What checkers check is always checked. Unless `expect.effects` says
otherwise, a fault that changed nothing is a failed run.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from cluster.plain import number, refuse_unknown, table, text
from cluster.sim.expect import Expect
from cluster.sim.fields import faults, from_plain
from cluster.sim.run import Plan
from cluster.sim.schedule import Task, check
from engine.errors import ConfigError

KEYS = {"name", "title", "chapter", "story", "cluster", "workload", "run", "fault", "expect"}
SUFFIX = ".toml"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A file's contents. `plan` has no seed of its own: `task` gives it one."""

    name: str
    title: str
    chapter: str
    """Of the papers: P17 is SIGMOD 2017, P18 is SIGMOD 2018."""
    story: str
    plan: Plan
    expect: Expect

    def task(self, seed: int) -> Task:
        return Task(replace(self.plan, seed=seed), self.expect, f"scenario {self.name}")


def parse(source: str, where: str) -> Scenario:
    """Raises ConfigError naming `where`, the key, and what would be right."""
    try:
        return _read(tomllib.loads(source), where)
    except ValueError as error:  # of tomllib, or a number with thousands of digits
        raise ConfigError(f"{where} is not TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{where} is nested too deeply for a scenario") from error


def _read(value: Mapping[str, Any], where: str) -> Scenario:
    refuse_unknown(value, KEYS, where)
    for needed in ("name", "title", "story"):
        if not text(value.get(needed, ""), f"{where}: {needed}").strip():
            raise ConfigError(f"{where} has no {needed}")
    plan = _plan(value, where)
    check(plan, where)
    expect = Expect.from_plain(value.get("expect", {}), f"{where}: expect")
    return Scenario(
        name=value["name"],
        title=value["title"],
        chapter=text(value.get("chapter", ""), f"{where}: chapter"),
        story=value["story"].strip(),
        plan=plan,
        expect=replace(expect, required=True),
    )


def _plan(value: Mapping[str, Any], where: str) -> Plan:
    run = table(value.get("run", {}), f"{where}: run")
    refuse_unknown(run, {"seconds", "heal_seconds"}, f"{where}: run")
    base = Plan(seed=0)
    return replace(
        base,
        shape=from_plain(base.shape, value.get("cluster", {}), f"{where}: cluster"),
        mix=from_plain(base.mix, value.get("workload", {}), f"{where}: workload"),
        schedule=faults(value.get("fault", []), f"{where}: fault"),
        safety_s=number(run.get("seconds", base.safety_s), f"{where}: run.seconds"),
        liveness_s=number(run.get("heal_seconds", base.liveness_s), f"{where}: run.heal_seconds"),
    )


# -- where they are


def shipped() -> dict[str, Scenario]:
    """The scenarios that come with Sextet, by name."""
    folder = resources.files("cluster.sim") / "scenarios"
    found = [
        parse(entry.read_text(encoding="utf-8"), entry.name)
        for entry in folder.iterdir()
        if entry.name.endswith(SUFFIX)
    ]
    return {scenario.name: scenario for scenario in sorted(found, key=lambda s: s.name)}


def find(name: str) -> Scenario:
    """By the name of one that is shipped, or by a file's path. Raises ConfigError."""
    path = Path(name)
    if name.endswith(SUFFIX) or path.is_file():
        try:
            source = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error
        return parse(source, str(path))
    known = shipped()
    if name not in known:
        raise ConfigError(
            f"there is no scenario {name}; there are {', '.join(known)}, or give a {SUFFIX} file"
        )
    return known[name]
