"""Any mix of transactions is a valid one: without a fault nothing objects, whatever clients never do."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping
from dataclasses import replace

import pytest

from cluster.cli.sim import SimOptions, _shrunk
from cluster.endpoint.balance import Kind
from cluster.faults.catalogue import Fault
from cluster.faults.catalogue import Kind as FaultKind
from cluster.sim.endpoint import SimEndpoint
from cluster.sim.history import Append, Outcome
from cluster.sim.jobs import attempt, runs
from cluster.sim.run import Plan
from cluster.sim.schedule import Task
from cluster.sim.sqlwire import SqlClient
from cluster.sim.timeline import parse
from cluster.sim.transport import SimTransport
from cluster.sim.workload import Client, Mix, Workload, _Ended
from cluster.sim.world import World
from engine.sql.settings import SqlSettings

PLAN = Plan(seed=1, safety_s=2.0, liveness_s=4.0)


@pytest.mark.sim
@pytest.mark.parametrize(
    "mix",
    [
        Mix(weights={"transfer": 3, "bank": 1}),
        Mix(weights={"append": 3, "register-read": 1}),
        Mix(weights={"wide": 1}),
        Mix(weights={"register-read": 1}),
        Mix(weights={"rollback": 1}),
        Mix(weights={"append": 1, "lists": 1}, reader_share=0.0),
        Mix(weights={"lists": 1}, reader_share=1.0),
        Mix(weights={"lists": 1, "append": 0}),
        Mix(clients=2, readers=2),
    ],
    ids=lambda mix: f"{'+'.join(mix.weights) if len(mix.weights) < 5 else 'default'}",
)
def test_no_fault_no_violation(mix: Mix) -> None:
    result = attempt(Task(replace(PLAN, mix=mix)))
    assert [f"{v.checker}/{v.kind}" for v in result.violations] == []


@pytest.mark.sim
@pytest.mark.parametrize(
    ("kinds", "of_something"),
    [
        (("append",), {"listappend", "sessions"}),
        (("register-write", "register-read"), {"registers", "sessions"}),
        (("transfer", "bank"), {"bank", "sessions"}),
        (("transfer",), {"sessions"}),
        (("register-read",), {"registers"}),
    ],
)
def test_a_check_of_nothing_shows_as_0(kinds: tuple[str, ...], of_something: set[str]) -> None:
    checks = attempt(Task(replace(PLAN, mix=Mix(weights=dict.fromkeys(kinds, 1.0))))).checks
    judged = {"listappend", "registers", "sessions", "bank"}
    assert {name for name in judged if checks[name]} == of_something


@pytest.mark.sim
def test_readers_that_nobody_answers_are_not_shrunk_to_a_mix_that_never_asks_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect = SimEndpoint.connect

    def no_reader(self: SimEndpoint, kind: Kind, transport: SimTransport) -> SqlClient | None:
        return None if kind is Kind.READER else connect(self, kind, transport)

    monkeypatch.setattr(SimEndpoint, "connect", no_reader)  # children inherit it
    weights: Mapping[str, float] = {"append": 3, "lists": 3, "transfer": 1}
    plan = replace(PLAN, liveness_s=2.0, mix=Mix(clients=2, weights=weights))
    (outcome,) = runs([Task(plan)], jobs=1)
    assert outcome.kinds == ("liveness/no-read",)
    shrunk = _shrunk(outcome, "liveness/no-read", SimOptions(tries=16, jobs=2))
    assert set(shrunk.plan.mix.weights) == {"lists"}


@pytest.mark.sim
def test_what_a_transaction_sets_out_to_do_is_known_however_it_ends() -> None:
    def ended(*kinds: str) -> set[tuple[bool, Outcome]]:
        mix = Mix(clients=6, think_s=0.01, weights=dict.fromkeys(kinds, 1.0))
        kill = Fault(FaultKind.KILL, "main-1", at=1.0)
        plan = replace(PLAN, liveness_s=20.0, mix=mix, schedule=(kill,))
        return {(t.writes, t.outcome) for t in attempt(Task(plan)).history}

    done, failed = Outcome.COMMITTED, Outcome.ABORTED
    assert {(True, done), (True, failed)} <= ended("transfer") <= {(True, o) for o in Outcome}
    assert ended("bank", "lists", "register-read") == {(False, done), (False, failed)}


LOST = _Ended(Outcome.ABORTED, again=True)
USELESS = _Ended(Outcome.ABORTED, again=False)
UNKNOWN = _Ended(Outcome.UNKNOWN, again=True)
DONE = _Ended(Outcome.COMMITTED, again=False)


@pytest.mark.parametrize(
    ("what", "share", "ends", "tried"),
    [
        ("append", 1.0, [LOST] * 9, ["append"] * 4),
        ("transfer", 1.0, [LOST, None, DONE], ["transfer"] * 3),
        ("append", 1.0, [USELESS], ["append"]),
        ("append", 0.0, [LOST], ["append"]),
        ("append", 1.0, [UNKNOWN, LOST, DONE], ["append", "append-again", "append-again"]),
        ("append", 0.0, [UNKNOWN], ["append"]),
        ("transfer", 1.0, [UNKNOWN], ["transfer"]),
    ],
)
def test_what_a_client_tries_again(
    what: str, share: float, ends: list[_Ended | None], tried: list[str]
) -> None:
    world = World(1)
    seen: list[tuple[str, float]] = []

    class Scripted(Client):
        async def transact(
            self, what: str, kind: Kind, work: object, rng: random.Random
        ) -> _Ended | None:
            seen.append((what, rng.random()))
            self._ops = [Append("l1", len(seen))]
            return ends[len(seen) - 1]

    client = Scripted(Workload(world, Mix(retry_share=share)), "c1")
    try:
        world.loop.run_until_complete(client._do(what, Kind.WRITER))
    finally:
        world.close()
    assert [name for name, _ in seen] == tried
    assert len({choice for _, choice in seen}) == 1, "the same work"


@pytest.mark.sim
def test_an_append_of_unknown_outcome_is_looked_for_and_made_again() -> None:
    faults = (
        *(Fault(FaultKind.KILL, "writer", at=1.0 + 0.7 * n) for n in range(4)),
        *(Fault(FaultKind.KILL, f"storage-{n}", 5.0, 2.0) for n in (1, 3, 5)),
    )
    shape = replace(PLAN.shape, sql=SqlSettings(statement_timeout_s=1.0))
    mix = Mix(clients=4, think_s=0.02, weights={"append": 1.0}, retry_share=1.0)
    plan = replace(PLAN, shape=shape, safety_s=7.0, liveness_s=20.0, mix=mix, schedule=faults)
    seen: set[bool] = set()
    for seed in range(1, 9):
        out = io.StringIO()
        result = attempt(Task(replace(plan, seed=seed)), out=out)
        assert result.ok, (seed, result.violations)
        names = {
            event.fields["transaction"]
            for event in map(parse, out.getvalue().splitlines())
            if event.kind == "invoke" and event.fields["what"] == "append-again"
        }
        again = [t for t in result.history if t.name in names and t.outcome is Outcome.COMMITTED]
        seen |= {t.wrote for t in again}
        if len(seen) == 2:
            break
    assert seen == {True, False}, "some were there, some were not"
