"""`sextet chaos` as people use it: the schedule it shows, what it refuses, what a violation leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.chaos.driver import Fired
from cluster.chaos.judge import FinalRead, judge
from cluster.chaos.recorder import Recorder
from cluster.chaos.run import Result
from cluster.chaos.schedule import Shape, draw
from cluster.cli.app import app
from cluster.cli.chaos import ChaosOptions, again, conclude
from cluster.faults.catalogue import Fault, Kind
from cluster.local.folder import Folder
from cluster.sim.history import Append, Endpoint, History, Outcome, Transaction


def chaos(*arguments: object):
    return CliRunner().invoke(app, ["chaos", *map(str, arguments)])


def test_a_schedule_is_shown_and_is_the_seeds(tmp_path: Path) -> None:
    arguments = ("--dry-run", "--seed", 7, "--minutes", 2, "--data", tmp_path)
    shown = chaos(*arguments)
    assert shown.exit_code == 0
    assert shown.output == chaos(*arguments).output
    rows = json.loads(chaos(*arguments, "--json").output)
    assert rows == draw(7, 120, Shape.new(2)).to_json()
    for one in rows["rounds"]:
        for fault in one["faults"]:
            assert f"{fault['at']:.1f} s" in shown.output
            assert fault["target"] in shown.output
    assert "8 rounds in 120 s" in shown.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "60", "--fresh"], "60 minutes cannot be; choose 0.25 to 20"),
        (["--minutes", "60", "--dry-run"], "60 minutes cannot be; choose 0.25 to 20"),
        (["--replicas", "1"], "give --fresh too"),
        (["--fresh", "--replicas", "16"], "16 replicas cannot be; choose 0 to 15"),
        ([], "no cluster is running"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = chaos(*arguments, "--data", tmp_path)
    assert message in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_the_command_that_makes_a_run_again() -> None:
    options = ChaosOptions(minutes=1.5, fresh=True, replicas=1)
    assert again(42, options) == "sextet chaos --minutes 1.5 --seed 42 --fresh --replicas 1"
    assert again(42, ChaosOptions()) == "sextet chaos --minutes 1 --seed 42"


def ended(*, lost: bool) -> Result:
    """A run of one append, acknowledged, that is at the end there or lost."""
    recorder = Recorder(lambda: 0.0)
    recorder.record(
        Transaction(
            client="c1",
            seq=1,
            session="c1-1",
            instance="main-1",
            endpoint=Endpoint.WRITER,
            invoked_at=1.0,
            completed_at=2.0,
            outcome=Outcome.COMMITTED,
            ops=(Append("x", 1),),
        ),
        wrote=True,
    )
    result = Result(draw(7, 60, Shape.new(2)), recorder, worked_s=60.0)
    result.fired.append(Fired(Fault(Kind.PAUSE, "writer", 3.0, 5.0), 1, 3.0, 8.0, ("main-1",)))
    final = FinalRead("main-1", {} if lost else {"x": (1,)}, {"1": 1}, 9, began=61.0, ended=62.0)
    result.finals = [final]
    verdict = judge(list(recorder.history), result.finals, total=1, accounts=["1"])
    result.checks, result.violations = verdict.checks, list(verdict.violations)
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder.at(tmp_path / "data")
    folder.make()
    folder.log("main-1").write_text("what main-1 said\n")
    return folder


def test_a_lost_append_is_told_and_everything_is_kept(
    tmp_path: Path, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    options = ChaosOptions(seed=7, fresh=True, evidence=kept)
    assert conclude(ended(lost=True), folder, options) == 1
    said = capsys.readouterr().out
    assert "chaos: lost-append" in said
    assert "sextet chaos --minutes 1 --seed 7 --fresh" in said
    assert "never repeat exactly" in said
    assert "58.00 s without a commit, from 2.0 s: pause writer" in said
    history = History.from_lines((kept / "history.jsonl").read_text().splitlines())
    assert history == ended(lost=True).recorder.history
    (final,) = History.from_lines((kept / "final.jsonl").read_text().splitlines())
    assert final.instance == "main-1"
    assert json.loads((kept / "schedule.json").read_text())["seed"] == 7
    assert (kept / "logs" / "main-1.log").read_text() == "what main-1 said\n"


def test_a_run_without_violations_keeps_nothing(
    tmp_path: Path, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    options = ChaosOptions(evidence=kept, as_json=True)
    assert conclude(ended(lost=False), folder, options) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert report["longest_gap"]["faults"] == ["pause writer"]
    assert report["transactions"] == {"committed": 1, "aborted": 0, "unknown": 0}
    assert not kept.exists()
