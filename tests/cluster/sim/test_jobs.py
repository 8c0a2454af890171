"""Many runs in forked children: nothing leaks, whatever ends a child names its item, none is left."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing

import pytest

from cluster.sim import jobs
from cluster.sim.jobs import Done, Outcome, each, runs
from cluster.sim.run import Plan
from cluster.sim.schedule import Task
from cluster.sim.totals import Totals

SEEN: list[int] = []


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def remember(item: int) -> tuple[int, int, list[int]]:
    SEEN.append(item)
    return item, os.getpid(), list(SEEN)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_item_has_a_process_of_its_own_that_begins_like_all_others(count: int) -> None:
    done = list(each(range(7), remember, jobs=count))
    values = [d.value for d in done if d.value is not None]
    assert sorted(item for item, _, _ in values) == list(range(7))
    assert all(seen == [item] for item, _, seen in values)
    assert SEEN == []
    assert len({pid for _, pid, _ in values} | {os.getpid()}) == 8
    assert not any(alive(pid) for _, pid, _ in values)


def fail(how: str) -> str:
    match how:
        case "raises":
            raise ValueError("not today")
        case "exits":
            os._exit(3)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            raise SystemExit(0)
    return how


def test_whatever_ends_a_child_is_its_items_result_and_the_others_go_on() -> None:
    hows = ["raises", "exits", "fine", "killed", "exit", "fine too"]
    done = {d.item: d for d in each(hows, fail, jobs=2)}
    assert done["raises"].died.startswith("ValueError: not today")
    assert "test_jobs.py" in done["raises"].died
    assert done["exits"].died == "its process ended with status 3"
    assert done["killed"].died == "its process ended with signal SIGKILL"
    assert done["exit"].died.startswith("SystemExit: 0")
    assert done["fine"] == Done("fine", "fine")
    assert done["fine too"].value == "fine too"


def hang(fd: int) -> None:
    os.write(fd, f"{os.getpid()}\n".encode())
    while True:
        time.sleep(60)


def test_a_child_that_does_not_end_is_killed_and_named() -> None:
    reading, writing = os.pipe()
    (done,) = each([writing], hang, jobs=1, limit_s=0.3)
    pid = int(os.read(reading, 100))
    assert done == Done(writing, None, "it did not end within 0.3 s and was killed")
    assert not alive(pid)
    os.close(reading)
    os.close(writing)


def test_ending_early_leaves_no_child() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as pids:
        with closing(each([writing, writing, -1], _hang_or_end, jobs=3)) as found:
            assert next(found).item == -1
            hanging = [int(pids.readline()), int(pids.readline())]
            assert all(alive(pid) for pid in hanging)
        assert not any(alive(pid) for pid in hanging)
    os.close(writing)


def _hang_or_end(fd: int) -> None:
    if fd >= 0:
        hang(fd)


def test_an_answer_larger_than_a_pipe_arrives_whole() -> None:
    (done,) = each([300_000], lambda n: "x" * n, jobs=1)
    assert done.value == "x" * 300_000


def test_a_run_that_dies_names_its_seed_and_counts_as_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_run(_plan: Plan, **_: object) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(jobs, "run", no_run)
    (outcome,) = runs([Task(Plan(seed=7))], jobs=1)
    assert outcome.task.plan.seed == 7
    assert not outcome.ok
    assert outcome.kinds == ("process/died",)
    totals = Totals()
    totals.add(outcome)
    assert (totals.runs, totals.failed, dict(totals.kinds)) == (1, 1, {"process/died": 1})
    assert isinstance(outcome, Outcome)
