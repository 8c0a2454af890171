"""A run in a file: what is written is read again, and what cannot be run is refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.sim.expect import Expect
from cluster.sim.run import Plan
from cluster.sim.scenario import shipped
from cluster.sim.schedule import Task, from_json, load, save, to_json
from cluster.sim.swarm import draw
from engine.errors import ConfigError


@given(st.integers(0, 2**40))
def test_what_is_written_is_read_again(seed: int) -> None:
    task = Task(draw(seed), title="swarm")
    assert from_json(json.loads(json.dumps(to_json(task))), "x") == task


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_scenarios_expectations_are_kept(name: str, tmp_path: Path) -> None:
    task = shipped()[name].task(5)
    save(task, tmp_path / "plan.json")
    assert load(tmp_path / "plan.json") == task


def test_what_is_not_said_is_as_by_default() -> None:
    value = {"format": "sextet simulation plan", "version": 1, "plan": {"seed": 3}}
    assert from_json(value, "x") == Task(Plan(seed=3), Expect())


def _set(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(value: Any) -> None:
        for key in path[:-1]:
            value = value[key]
        value[path[-1]] = to

    return change


FAULT = {"kind": "kill", "target": "main-1"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("version", to=2), "version 2; this program reads version 1"),
        (_set("format", to="x"), 'its "format" would be'),
        (_set("extra", to=1), "has no extra; it may have expect, format, plan"),
        (_set("plan", to=[]), "plan is []; it must be a table"),
        (_set("plan", to={}), "plan has no seed"),
        (_set("plan", "seed", to="1"), "plan.seed is '1'; it must be a whole number"),
        (_set("plan", "seed", to=True), "plan.seed is True; it must be a whole number"),
        (_set("plan", "speed", to=1), "plan has no speed; it may have liveness_s, mix"),
        (_set("plan", "shape", "volume", "batch", to=1), "plan.shape.volume has no batch"),
        (_set("plan", "safety_s", to=-1), "safety_s is -1.0; it must be seconds, 0 or more"),
        (_set("plan", "safety_s", to=float("nan")), "safety_s is nan"),
        (_set("plan", "mix", "clients", to=0), "there must be a client"),
        (_set("plan", "mix", "readers", to=9), "readers is 9, not 0 to clients (4)"),
        (_set("plan", "mix", "reader_share", to=1.5), "reader_share is 1.5, not 0 to 1"),
        (_set("plan", "mix", "weights", to={"sing": 1}), "weights has no sing; it may have append"),
        (_set("plan", "mix", "weights", to={"big": 0}), "one of them above 0"),
        (_set("plan", "mix", "weights", "big", to="x"), "plan.mix.weights.big is 'x'; it must be"),
        (_set("plan", "shape", "replicas", to=16), "replicas is 16, not 0 to 15"),
        (_set("plan", "schedule", to={}), "plan.schedule is {}; it must be a list of faults"),
        (
            _set("plan", "schedule", to=[{"kind": "kill"}]),
            "plan.schedule 1: a fault cannot be read",
        ),
        (_set("plan", "schedule", to=[FAULT, {**FAULT, "x": 1}]), "schedule 2: a fault has no x"),
        (
            _set("plan", "schedule", to=[{**FAULT, "target": "main-4"}]),
            "kill has no target main-4; here a target is one of all, az1",
        ),
        (
            _set("expect", to={"commits": "1"}),
            "commits is '1'; write a comparison such as \">= 1\"",
        ),
    ],
)
def test_what_cannot_be_run_is_refused(change: Callable[[dict[str, Any]], None], said: str) -> None:
    value = to_json(Task(Plan(seed=1)))
    change(value)
    with pytest.raises(ConfigError) as caught:
        from_json(value, "plan.json")
    assert said in str(caught.value)
    assert str(caught.value).startswith("plan.json")


def test_a_file_that_is_not_there_or_not_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.json cannot be read: No such file"):
        load(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ConfigError, match=r"a.json is not JSON"):
        load(tmp_path / "a.json")
    with pytest.raises(ConfigError, match="cannot be written: Is a directory"):
        save(Task(Plan(seed=1)), tmp_path)
