"""What a scenario expects: bounds, windows of time, marks, steps, effects of faults."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.faults.catalogue import Fault, Kind
from cluster.sim.expect import Bound, Expect
from cluster.sim.history import Endpoint, History, Op, Outcome, ReadList, Transaction, Write
from cluster.sim.run import Plan, Result
from engine.errors import ConfigError
from engine.steps import Mark, Step

READ: tuple[Op, ...] = (ReadList("l1", ()),)
WRITE: tuple[Op, ...] = (Write("r1", 1),)
TRANSFER: tuple[Op, ...] = ()  # no checker knows what it wrote, nor that of a BEGIN that failed
LOOKED: tuple[Op, ...] = (ReadList("l2", ()),)  # it was to write, and found nothing to change


def history(*ended: tuple[float, tuple[Op, ...], Outcome]) -> History:
    return History(
        Transaction(
            client="c1",
            seq=n,
            session="c1-1",
            instance="main-1",
            endpoint=Endpoint.WRITER,
            invoked_at=at - 0.1,
            completed_at=at,
            outcome=outcome,
            ops=ops,
            writes=ops is not READ,
            commit_lsn=n if ops is TRANSFER and outcome is Outcome.COMMITTED else None,
        )
        for n, (at, ops, outcome) in enumerate(ended, 1)
    )


def result(made: History | None = None, schedule: tuple[Fault, ...] = (), **more: Any) -> Result:
    facts: dict[str, Any] = {
        "digest": "",
        "virtual_s": 20.0,
        "wall_s": 1.0,
        "events": 0,
        "trace_events": 0,
        "transactions": {},
        "commits": 0,
        "recoveries": 1,
        "faults": {},
        "marks": {},
        "steps": {},
        "checks": {},
        "healed_at": 10.0,
        "history": made or History(),
    }
    plan = Plan(seed=1, schedule=schedule)
    return Result(plan=plan, violations=[], **{**facts, **more})


def said(value: dict[str, Any], of: Result) -> list[str]:
    return [f"{v.kind}: {v.message}" for v in Expect.from_plain(value, "x").judge(of)]


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        (">= 1", 1, True),
        (">= 1", 0, False),
        ("==0", 0, True),
        ("== 0", 1, False),
        ("< 2.5", 2.4, True),
        ("< 2.5", 2.5, False),
        ("> 3", 3, False),
        ("<= 3", 3, True),
    ],
)
def test_a_bound_compares(text: str, value: float, holds: bool) -> None:
    assert Bound.parse(text, "x").holds(value) is holds


@pytest.mark.parametrize("text", ["", "1", "= 1", ">= x", ">= -1", "!= 1", 1, None, [">= 1"]])
def test_what_is_no_bound_is_refused(text: Any) -> None:
    with pytest.raises(ConfigError, match=r'^x is .*; write a comparison such as ">= 1"'):
        Bound.parse(text, "x")


def test_ended_transactions_are_counted_by_what_they_set_out_to_do() -> None:
    of = result(
        history(
            (1.0, WRITE, Outcome.COMMITTED),
            (2.0, WRITE, Outcome.UNKNOWN),
            (3.0, WRITE, Outcome.ABORTED),
            (4.0, READ, Outcome.COMMITTED),
            (5.0, READ, Outcome.ABORTED),
        )
    )
    exact = {"commits": 1, "failed_writes": 2, "unknown": 1, "reads": 1, "failed_reads": 1}
    assert said({name: f"== {n}" for name, n in exact.items()}, of) == []
    assert said({name: f"> {n}" for name, n in exact.items()}, of) == [
        f"{name}: {name} is {exact[name]}, expected > {exact[name]}"
        for name in ("commits", "reads", "failed_writes", "failed_reads", "unknown")
    ]


def test_a_failed_write_is_one_whatever_came_of_it() -> None:
    of = result(
        history(
            (1.0, TRANSFER, Outcome.COMMITTED),
            (2.0, TRANSFER, Outcome.ABORTED),
            (3.0, TRANSFER, Outcome.UNKNOWN),
            (4.0, LOOKED, Outcome.ABORTED),
        )
    )
    exact = {"commits": 1, "failed_writes": 3, "unknown": 1, "reads": 0, "failed_reads": 0}
    assert said({name: f"== {n}" for name, n in exact.items()}, of) == []


def test_what_changed_nothing_shows_no_write_quorum() -> None:
    of = result(history((1.0, WRITE, Outcome.COMMITTED), (5.0, LOOKED, Outcome.COMMITTED)))
    assert said({"commits": "== 1", "reads": "== 1", "longest_pause": "== 9"}, of) == []


def test_a_window_has_its_beginning_and_not_its_end() -> None:
    of = result(history((2.0, WRITE, Outcome.COMMITTED), (3.0, WRITE, Outcome.COMMITTED)))
    window = {"from_s": 2.0, "to_s": 3.0, "commits": "== 1"}
    assert said({"window": [window]}, of) == []
    assert said({"window": [window, {**window, "to_s": 2.5, "commits": "== 0"}]}, of) == [
        "window: between 2 and 2.5 s commits is 1, expected == 0"
    ]


def test_the_longest_pause_ends_when_faults_end() -> None:
    of = result(
        history(
            (1.0, WRITE, Outcome.COMMITTED),
            (3.0, READ, Outcome.COMMITTED),
            (4.0, WRITE, Outcome.COMMITTED),
            (8.0, WRITE, Outcome.ABORTED),
            (12.0, WRITE, Outcome.COMMITTED),
        )
    )
    assert said({"longest_pause": "== 6"}, of) == []  # from 4 to healing at 10
    assert said({"longest_pause": "< 6"}, of) == ["longest_pause: longest_pause is 6, expected < 6"]
    assert said({"longest_pause": "== 10"}, result()) == []


def test_recoveries_and_failovers() -> None:
    of = result(recoveries=4, writers=("main-1", "main-1", "main-2", "main-1"))
    assert said({"recoveries": "== 4", "failovers": "== 2"}, of) == []
    assert said({"failovers": "== 1"}, of) == ["failovers: failovers is 2, expected == 1"]


def test_marks_and_steps_must_have_been_reached() -> None:
    wanted = {"marks": ["torn-tail"], "steps": ["fence"]}
    of = result(marks={Mark.TORN_TAIL: 1}, steps={("after", Step.FENCE): 2})
    assert said(wanted, of) == []
    assert said(wanted, result(steps={("before", Step.FENCE): 2})) == [
        "marks: never reached torn-tail: a torn tail was cut",
        "steps: nobody took the step fence",
    ]


def test_a_scenarios_faults_must_have_had_an_effect() -> None:
    schedule = (Fault(Kind.KILL, "main-1"), Fault(Kind.RESET, "main-1"))
    of = result(schedule=schedule, faults={"kill": (2, 1), "reset": (1, 0)})
    nothing = "effects: reset fired 1 times and changed something 0 times, expected >= 1"
    assert said({"required": True}, of) == [nothing]
    assert said({}, of) == []
    assert said({"required": True, "effects": ["kill"]}, of) == []
    assert said({"effects": ["reset"]}, of) == [nothing]
    assert said({"effects": {"kill": "== 2"}}, of) == [
        "effects: kill fired 2 times and changed something 1 times, expected == 2"
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"commit": ">= 1"}, "x has no commit; it may have commits, effects"),
        ({"marks": ["torn"]}, "x.marks: there is no 'torn'; there are hedge-won"),
        ({"marks": "torn-tail"}, "x.marks is 'torn-tail'; it must be a list"),
        ({"steps": ["fences"]}, "x.steps: there is no 'fences'; there are receive"),
        ({"effects": {"kil": ">= 1"}}, "x.effects: there is no 'kil'; there are kill"),
        ({"effects": {"kill": 1}}, "x.effects.kill is 1; write a comparison"),
        ({"window": {}}, "x.window is {}; it must be a list"),
        ({"window": [{"from_s": 1}]}, "x.window 1 has no to_s"),
        ({"window": [{"from_s": 2, "to_s": 1}]}, "x.window 1 lasts from 2 to 1 s"),
        (
            {"window": [{"from_s": 1, "to_s": 2, "recoveries": ">= 1"}]},
            "window 1 has no recoveries",
        ),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(
    value: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Expect.from_plain(value, "x")
    assert message in str(caught.value)
