"""A run in a file: what is written is read again, and what cannot be run is refused with the reason."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.faults.catalogue import Fault, Kind
from cluster.sim.expect import Expect
from cluster.sim.run import Plan
from cluster.sim.scenario import shipped
from cluster.sim.schedule import Task, from_json, load, save, to_json
from cluster.sim.swarm import draw
from engine.errors import ConfigError
from engine.steps import Step


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


def _readers_of_nothing(value: dict[str, Any]) -> None:
    value["plan"]["mix"] |= {"readers": 1, "weights": {"append": 1, "lists": 0, "bank": 0}}


FAULT = {"kind": "kill", "target": "main-1"}


def _fault(**other: Any) -> Callable[[dict[str, Any]], None]:
    """One fault, as FAULT but for `other`."""
    return _set("plan", "schedule", to=[{**FAULT, **other}])


@pytest.mark.parametrize(
    ("fault", "read"),
    [
        ({**FAULT, "when": "before"}, Fault(Kind.KILL, "main-1")),  # as plans used to be written
        ({**FAULT, "kind": "reset"}, Fault(Kind.RESET, "main-1")),
        ({**FAULT, "kind": "reset", "peer": "az2"}, Fault(Kind.RESET, "main-1", peer="az2")),
        (
            {**FAULT, "step": "send", "when": "before", "nth": 1},
            Fault(Kind.KILL, "main-1", step=Step.SEND),
        ),
    ],
)
def test_what_a_fault_may_have(fault: dict[str, Any], read: Fault) -> None:
    value = to_json(Task(Plan(seed=1)))
    value["plan"]["schedule"] = [fault]
    assert from_json(value, "x").plan.schedule == (read,)
    assert from_json(to_json(from_json(value, "x")), "x").plan.schedule == (read,)


def test_zero_is_allowed_where_it_means_none() -> None:
    value = to_json(Task(Plan(seed=1)))
    value["plan"]["shape"]["sql"]["statement_timeout_s"] = 0
    value["plan"]["shape"]["volume"]["fence_grace_s"] = 0
    assert from_json(value, "x").plan.shape.sql.lock_timeout_s == 0


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
        (
            _set("plan", "safety_s", to=1e6),
            "safety_s is 1000000.0; it must be seconds, 0 or more, ",
        ),
        (_set("plan", "liveness_s", to=math.inf), "liveness_s is inf"),
        (_set("plan", "liveness_s", to=10**400), "liveness_s is too large a number"),
        (_set("plan", "mix", "clients", to=0), "there must be a client"),
        (_set("plan", "mix", "clients", to=10**9), "at most 1,000 of them"),
        (_set("plan", "mix", "think_s", to=math.inf), "think_s must be above 0"),
        (_set("plan", "mix", "big_rows", to=0), "big_rows is 0; there must be at least 1"),
        (_set("plan", "mix", "weights", "big", to=math.inf), "weights must be 0 or more"),
        (_set("plan", "mix", "weights", "big", to=math.nan), "weights must be 0 or more"),
        (_set("plan", "shape", "spares", to=65), "spares is 65, not 0 to 64"),
        (_set("plan", "shape", "spares", to=-1), "spares is -1, not 0 to 64"),
        (_set("plan", "shape", "max_pages", to=2**63), "max_pages is 9223372036854775808; it must"),
        (_set("plan", "shape", "group_pages", to=0), "group_pages is 0; it must be above 0"),
        (
            _set("plan", "shape", "volume", "batches_in_flight_max", to=0),
            "volume.batches_in_flight_max is 0; it must be above 0",
        ),
        (_set("plan", "shape", "instance", "pool_pages", to=-4), "instance.pool_pages is -4"),
        (_set("plan", "shape", "storage", "gossip_s", to=math.nan), "storage.gossip_s is nan"),
        (_set("plan", "shape", "storage", "gossip_s", to=math.inf), "storage.gossip_s is inf"),
        (_set("plan", "shape", "sql", "lock_timeout_s", to=-1), "lock_timeout_s is -1.0; it must"),
        (_set("plan", "mix", "readers", to=9), "readers is 9, not 0 to clients (4)"),
        (_readers_of_nothing, "the weights of all that they could do (bank, lists) are 0"),
        (_set("plan", "mix", "reader_share", to=1.5), "reader_share is 1.5, not 0 to 1"),
        (_set("plan", "mix", "weights", to={"sing": 1}), "weights has no sing; it may have append"),
        (_set("plan", "mix", "weights", to={"big": 0}), "one of them above 0"),
        (_set("plan", "mix", "weights", "big", to="x"), "plan.mix.weights.big is 'x'; it must be"),
        (_set("plan", "shape", "replicas", to=16), "replicas is 16, not 0 to 15"),
        (_set("plan", "schedule", to={}), "plan.schedule is {}; it must be a list of faults"),
        (
            _set("plan", "schedule", to=[{"kind": "kill"}]),
            "plan.schedule 1: a fault needs kind and target; here is no target",
        ),
        (_fault(target=""), "a fault needs kind and target; here is no target"),
        (_fault(kind="kil"), "schedule 1: there is no kind 'kil'; there are kill, power, wipe"),
        (_fault(kind=["kill"]), "there is no kind ['kill']; there are kill"),
        (_fault(target=1), "a fault's target is 1; it must be a string"),
        (_fault(step="sent"), "there is no step 'sent'; there are receive, persist"),
        (_fault(step="send", nth=1.5), "a fault's nth is 1.5; it must be a whole number from 1"),
        (_fault(step="send", nth=True), "a fault's nth is True; it must be a whole number from 1"),
        (_fault(step="send", nth=math.inf), "a fault's nth is inf; it must be a whole number"),
        (_fault(step="send", when="later"), "a fault's when is before or after, not 'later'"),
        (_fault(when="after"), "a fault has when only with step"),
        (_fault(nth=2), "a fault has nth only with step"),
        (_fault(at="1"), "a fault's at is '1'; it must be a number"),
        (_fault(for_s=True), "a fault's for_s is True; it must be a number"),
        (_fault(for_s=-1), "a fault's for_s is -1; it must be 0 or more"),
        (_fault(at=10**400), "a fault's at is too large"),
        (_fault(at=math.nan), "at of kill is nan; it must be seconds"),
        (_fault(for_s=math.inf), "for_s of kill is inf; it must be seconds"),
        (_fault(peer="main-2"), "kill has no peer; these have one: one-way, partition, reset"),
        (_fault(kind="partition"), "partition needs a peer: the other side"),
        (_fault(kind="one-way"), "one-way needs a peer: the other side"),
        (_fault(params={"factor": 2}), "kill has no factor; it has no params"),
        (_fault(params=[]), "a fault's params is []; it must be a table of numbers"),
        (
            _fault(kind="slow-net", params={"latency": 2}),
            "slow-net has no latency; its params may have latency_s",
        ),
        (
            _fault(kind="drop", params={"share": "0.5"}),
            "a fault's params.share is '0.5'; it must be a number",
        ),
        (_fault(kind="drop", params={"share": 1.5}), "share of drop is 1.5, not 0 to 1"),
        (_fault(kind="drop", params={"share": math.nan}), "share of drop is nan, not 0 to 1"),
        (
            _fault(kind="slow-net", params={"latency_s": -1}),
            "latency_s of slow-net is -1, not 0 to",
        ),
        (_fault(kind="slow-disk", params={"factor": -1}), "factor of slow-disk is -1, not 0 to"),
        (_fault(kind="lose-writes", params={"syncs": 0}), "syncs of lose-writes is 0, not 1 to"),
        (_fault(kind="clock-skew", params={"seconds": math.nan}), "seconds of clock-skew is nan"),
        (_fault(kind="clock-skew", params={"seconds": 1e300}), "seconds of clock-skew is 1e+300"),
        (_set("plan", "schedule", to=[FAULT, {**FAULT, "x": 1}]), "schedule 2: a fault has no x"),
        (
            _set("plan", "schedule", to=[{**FAULT, "target": "main-4"}]),
            "kill has no target main-4; here a target is one of all, az1",
        ),
        (_set("expect", to={"marks": [["x"]]}), "expect.marks: there is no ['x']; there are"),
        (_set("expect", to={"effects": [{}]}), "expect.effects: there is no {}; there are"),
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
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"deep.json is nested too deeply"):
        load(tmp_path / "deep.json")
    with pytest.raises(ConfigError, match="cannot be written: Is a directory"):
        save(Task(Plan(seed=1)), tmp_path)
