"""`sextet sim` as people use it: what it prints, its exit status, and what it says when it cannot."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner

from cluster.cli import sim
from cluster.cli.app import app
from cluster.cli.sim import SimOptions, parse_seeds, parse_span, simulate
from cluster.faults.catalogue import Kind
from cluster.sim.jobs import Outcome
from cluster.sim.run import Result
from cluster.sim.scenario import shipped
from cluster.sim.schedule import Task, load
from cluster.sim.shrink import Shrunk
from cluster.sim.timeline import Event, parse
from engine.errors import ConfigError
from engine.steps import Mark, Step

FAILS = """
name = "impossible"
title = "Nobody can commit a million times in a second"
story = "So the expectation is not met."

[workload]
clients = 1

[run]
seconds = 2

[[fault]]
kind = "kill"
target = "storage-3"
at = 1.0

[expect]
commits = ">= 1000000"

[[expect.window]]
from_s = 1.0
to_s = 1.5
commits = ">= 1000000"
"""


def sextet(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster.cli.app", "sim", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_scenarios_are_listed() -> None:
    listed = CliRunner().invoke(app, ["sim", "--list"]).output
    assert all(name in listed for name in shipped())
    told = json.loads(CliRunner().invoke(app, ["sim", "--list", "--json"]).output)
    assert [one["name"] for one in told] == list(shipped())
    assert all(one["faults"] and one["story"] for one in told)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seeds", "5..1"], "the second number must not be below the first"),
        (["--seeds", "x"], "--seeds is 'x'; write A..B, as in 1..300"),
        (["--seeds", "1..99999999999999999999"], "as in 1..300, with numbers below 1,000,000,000"),
        (["--seeds", "1..2", "--seed", "1"], "give --seed or --seeds, not both"),
        (["--seed", "1", "--complete", "5"], "--complete is about many runs: give --seeds A..B"),
        (["--scenario", "none"], "there is no scenario none; there are az-plus-one"),
        (["--replay", "none.json"], "none.json cannot be read: No such file or directory"),
        (["--replay", "none.json", "--seed", "1"], "give nothing else"),
        (["--seeds", "1..2", "--trace", "x"], "--trace shows one run: give one seed"),
        (["--seeds", "1..2", "--timeline", "all"], "--timeline shows one run: give one seed"),
        (["--seed", "1", "--timeline", "5"], "--timeline is '5'; write FROM..TO in seconds"),
        (["--seed", "1", "--save", "/none/x"], "/none/x cannot be written: No such file"),
        (["--seed", "1", "--trace", "/none/x"], "/none/x cannot be written: No such file"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments: list[str], said: str) -> None:
    done = sextet(*arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.startswith("sextet: ")
    assert done.stderr.count("\n") == 1


def test_seeds_and_spans() -> None:
    assert list(parse_seeds("3..5")) == [3, 4, 5]
    assert list(parse_seeds("3")) == [3]
    assert parse_span("4..6.5") == (4.0, 6.5)
    assert parse_span("4..") == (4.0, float("inf"))
    assert parse_span("all") == (0.0, float("inf"))
    for wrong in ("", "..a", "6..4", "7", "nan..7"):
        with pytest.raises(ConfigError):
            parse_span(wrong)


@pytest.mark.sim
def test_a_run_is_told_saved_replayed_and_traced(tmp_path: Path) -> None:
    plan, trace = tmp_path / "plan.json", tmp_path / "trace.jsonl"
    done = sextet("--scenario", "lose-an-az", "--seed", 5, "--save", plan, "--timeline", "4.9..5.3")
    assert done.returncode == 0, done.stdout + done.stderr
    for said in (
        "A whole availability zone loses power",
        "az-down  ",
        "took effect",
        "no violation",
        "az3        ! az-down begins",
        "virtual s per s",
    ):
        assert said in done.stdout
    told = json.loads(sextet("--replay", plan, "--trace", trace, "--json").stdout)
    assert told["ok"] is True
    assert told["trace_hash"] in done.stdout
    digest = hashlib.blake2b(digest_size=16)
    for line in trace.read_text(encoding="utf-8").splitlines():
        digest.update(repr(tuple(parse(line))).encode())
    assert digest.hexdigest() == told["trace_hash"]


@pytest.mark.sim
def test_a_trace_that_cannot_be_written_is_no_violation() -> None:
    """The disk of the trace is full, not a node's: nothing is shrunk."""
    done = sextet("--seed", 1, "--trace", "/dev/full")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "sextet: /dev/full cannot be written: No space left on device\n"


@pytest.mark.sim
def test_a_failed_run_says_how_to_make_it_again_and_what_happened(tmp_path: Path) -> None:
    file = tmp_path / "impossible.toml"
    file.write_text(FAILS)
    done = sextet("--scenario", file, "--seed", 3)
    assert done.returncode == 1
    assert f"again:   sextet sim --seed 3 --scenario {file}" in done.stdout
    assert "expect: commits: commits is" in done.stdout
    assert "storage-3  ! dies: fault: kill" in done.stdout
    assert max(map(len, done.stdout.splitlines()[-30:])) <= 100

    done = sextet("--scenario", file, "--seeds", "3..4", "--jobs", 2, "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert (told["ok"], told["runs"], told["failed"]) == (False, 2, 2)
    assert [f["seed"] for f in told["failures"]] == [3, 4]
    assert told["violated"] == {"expect/commits": 2, "expect/window": 2}
    assert told["failures"][0]["shrunk"] is None  # fewer faults do not make an expectation true


@pytest.mark.sim
def test_ctrl_c_ends_every_child_and_says_how_far_it_got() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster.cli.app", "sim", "--seeds", "1..500", "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    children: list[int] = []
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children) < 2 and process.poll() is None:
        children = [int(pid) for pid in listed.read_text().split()]
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted after " in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Runs end at once, every one with a failure; Ctrl-C while the nth failure in the list is shrunk."""
    when: list[int] = []
    begun: list[Task] = []

    def shrunk(outcome: Outcome, *_: object) -> Shrunk:
        begun.append(outcome.task)
        if len(begun) in when:
            raise KeyboardInterrupt
        return Shrunk(replace(outcome.task.plan, schedule=()), 1, gave_up=False)

    def recorded(task: Task, _trace: Path | None = None) -> tuple[Outcome, list[Event]]:
        return Outcome(task, None, "it broke"), []

    def many(tasks: Iterable[Task], **_: object) -> Generator[Outcome, None, None]:
        for task in tasks:
            yield Outcome(task, None, f"it broke{task.plan.seed}")

    monkeypatch.setattr(sim, "_shrunk", shrunk)
    monkeypatch.setattr(sim, "_recorded", recorded)
    monkeypatch.setattr(sim, "runs", many)
    monkeypatch.setattr(Outcome, "telling", property(lambda o: o.died))
    return when


def test_ctrl_c_while_shrinking_leaves_what_there_is(
    failing: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing += [2, 3, 4]
    plan = tmp_path / "plan.json"
    assert simulate(SimOptions(seeds="1..4", save=plan)) == 130
    printed = capsys.readouterr()
    assert [f"again:   sextet sim --seed {n}\n" in printed.out for n in (1, 2, 3, 4)] == [True] * 4
    assert printed.out.count("shrunk: ") == 1
    assert "4 runs, 4 failed: violations, interrupted" in printed.out
    assert "interrupted while looking for shorter runs" in printed.err
    assert load(plan).title == "swarm, shrunk"

    plan.unlink()
    assert simulate(SimOptions(seed=7, save=plan, as_json=True)) == 130
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["interrupted"], told["failed"]) == (False, True, 1)
    assert told["failures"][0]["command"] == "sextet sim --seed 7"
    assert load(plan).plan.seed == 7


def test_ctrl_c_before_a_run_has_ended_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(sim, "runs", interrupted)
    monkeypatch.setattr(sim, "_recorded", interrupted)
    for asked in (SimOptions(seeds="1..3"), SimOptions(seed=1)):
        assert simulate(asked) == 130
        printed = capsys.readouterr()
        assert "no violation" not in printed.out
        assert "never reached" not in printed.out
        assert "interrupted after 0 of" in printed.err
        assert simulate(replace(asked, as_json=True)) == 130
        told = json.loads(capsys.readouterr().out)
        assert (told["ok"], told["interrupted"], told["runs"]) == (False, True, 0)


def test_complete_names_what_was_not_tested(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = dict.fromkeys((kind.value for kind in Kind), (9, 2)) | {"wipe": (9, 1)}
    marks = {mark: 1 for mark in Mark if mark is not Mark.TORN_TAIL}
    steps = {("after", step): 1 for step in Step if step is not Step.SEAL}

    def many(tasks: Iterable[Task], **_: object) -> Generator[Outcome, None, None]:
        for task in tasks:
            result = Result(
                *(task.plan, [], "", 1.0, 1.0, 1, 1, {}, 1, 1), shown, marks, steps, checks={}
            )
            yield Outcome(task, result)

    monkeypatch.setattr(sim, "runs", many)
    asked = SimOptions(seeds="1..2", complete=4)
    assert simulate(replace(asked, complete=None)) == 0
    assert "not complete" not in capsys.readouterr().out
    assert simulate(asked) == 1
    missed = [
        "mark torn-tail was never reached",
        "step seal was never taken",
        "wipe took effect 2 times, not 4",
    ]
    printed = capsys.readouterr().out
    assert [one for one in printed.splitlines() if one.startswith("not complete")] == [
        f"not complete: {one}" for one in missed
    ]
    assert simulate(replace(asked, as_json=True)) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["failed"], told["not_complete"]) == (False, 0, missed)

    marks[Mark.TORN_TAIL] = steps["after", Step.SEAL] = 1
    assert simulate(replace(asked, complete=2)) == 0


def test_what_cannot_be_saved_is_told_after_the_result(
    failing: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    for seeds in ("1", "1..2"):
        with pytest.raises(ConfigError, match="/dev/full cannot be written: No space left"):
            simulate(SimOptions(seeds=seeds, save=Path("/dev/full")))
        assert "again:   sextet sim --seed 1\n" in capsys.readouterr().out


def test_a_file_to_save_to_is_tried_first_and_left_as_it_is(
    failing: list[int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ConfigError, match="cannot be written: Is a directory"):
        simulate(SimOptions(seeds="1..2", save=tmp_path))
    assert capsys.readouterr().out == ""

    def none(*_: object, **__: object) -> Generator[Outcome, None, None]:
        yield from ()

    monkeypatch.setattr(sim, "runs", none)
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("a run of yesterday")
    for path in (old, new):
        assert simulate(SimOptions(seeds="1..2", save=path)) == 0
        assert "nothing was saved, as no run failed" in capsys.readouterr().err
    assert old.read_text() == "a run of yesterday"
    assert not new.exists()


def test_jobs_are_bounded() -> None:
    assert sim._jobs(SimOptions(jobs=100_000)) == 64
    assert sim._jobs(SimOptions(jobs=3)) == 3


def test_the_simulator_needs_no_grpc_and_no_thread() -> None:
    script = (
        "import sys, threading, cluster.cli.sim\n"
        "print(sorted({'grpc', 'aiosqlite', 'psycopg'} & set(sys.modules)), threading.active_count())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[] 1\n", done.stderr
