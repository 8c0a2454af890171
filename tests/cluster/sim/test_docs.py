"""docs/simulation.md says what is so: the trace's schema, faults, steps, keys, and an example that runs."""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from dataclasses import fields
from pathlib import Path

import pytest

from cluster.faults.catalogue import Kind
from cluster.sim import trace
from cluster.sim.expect import COUNTS, WHOLE, label
from cluster.sim.jobs import attempt, runs
from cluster.sim.plots import _Plots
from cluster.sim.scenario import parse, shipped
from cluster.sim.schedule import Task
from cluster.sim.swarm import draw
from cluster.sim.workload import SCRIPTS, Mix
from cluster.sim.world import Shape
from engine.steps import Mark, Step

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "simulation.md").read_text()
CODE = re.compile(r"`([\w-]+)`")


def section(title: str) -> str:
    """What stands between this heading or bold lead and the next heading."""
    return PAGE.split(title, 1)[1].split("\n## ", 1)[0]


def rows(text: str) -> dict[str, list[str]]:
    """Table rows by their first cell, if that is one name in backquotes."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = CODE.fullmatch(cells[0])
        if line.startswith("|") and name is not None:
            found[name[1]] = cells[1:]
    return found


DOCUMENTED = {kind: CODE.findall(cells[0]) for kind, cells in rows(section("## The trace")).items()}


def test_every_kind_of_event_is_documented() -> None:
    assert list(DOCUMENTED) == list(trace.KINDS)
    for kind, said in trace.KINDS.items():
        assert set(said.rpartition(": ")[2].split(", ")) == set(DOCUMENTED[kind]), kind


@pytest.mark.sim
def test_events_have_exactly_the_documented_fields() -> None:
    out = io.StringIO()
    for seed in (4, 9, 14):
        attempt(Task(draw(seed, safety_s=6.0)), out=out)
    seen: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for line in out.getvalue().splitlines():
        event = json.loads(line)
        assert list(event)[:3] == ["t", "kind", "node"]
        seen[event["kind"]].add(tuple(event)[3:])
    assert {*seen, "violation"} == set(DOCUMENTED)
    for kind, shapes in seen.items():
        assert shapes == {tuple(DOCUMENTED[kind])}, kind


def test_every_fault_step_and_key_is_documented() -> None:
    writing = section("## Write a scenario")
    named = set(CODE.findall(writing))
    assert {kind.value for kind in Kind} <= set(rows(writing))
    assert {step.value for step in Step} <= named
    assert set(SCRIPTS) <= named
    assert {*COUNTS, *WHOLE} <= named
    assert {f.name for f in fields(Shape)} <= named
    assert {f.name for f in fields(Mix)} <= named


@pytest.mark.sim
def test_the_example_is_a_scenario_that_shows_what_it_says() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    scenario = parse(example, "docs/simulation.md")
    for outcome in runs([scenario.task(seed) for seed in (1, 2)], jobs=1):
        assert outcome.ok, outcome


def test_what_meets_each_fault_is_there() -> None:
    told = section("## Which faults, and what meets them")
    known = {kind.value for kind in Kind} | {step.value for step in Step} | set(shipped())
    known |= {label(mark) for mark in Mark} | {name for name in vars(_Plots) if name[0] != "_"}
    known |= {path.stem for path in (ROOT / "tests" / "mutants" / "plans").iterdir()} | {"control"}
    table = "\n".join(line for line in told.splitlines() if line.startswith("|"))
    assert set(CODE.findall(table)) <= known
    assert {kind.value for kind in Kind} <= set(CODE.findall(table))
    paths = re.findall(r"`(tests/[\w/]+\.py)`", table)
    assert paths
    assert all((ROOT / path).exists() for path in paths)
