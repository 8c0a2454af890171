"""`sextet fault` on several targets, with a carrier that only notes what it was given."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import fault as command
from cluster.cli.app import app
from cluster.faults import kit as kits
from cluster.faults.carry import Carrier
from cluster.faults.catalogue import Fault, Kind
from cluster.faults.directory import prepare
from cluster.faults.kit import FaultKit
from cluster.local.folder import Folder
from cluster.local.layout import save
from cluster.local.processes import ProcessId
from cluster.local.state import ChildState, SupervisorState
from engine.errors import ConfigError
from engine.faults.file import ActiveFault
from engine.steps import Step
from tests.cluster.control.test_catalog import make_layout

NOBODY = ProcessId(0, 0, "")


class Notes(Carrier):
    """Carries nothing out."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self.faults: list[ActiveFault] = []

    def out(self, fault: ActiveFault) -> ActiveFault:
        self.faults.append(fault)
        return fault


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaultKit:
    """Of an installation that seems to run, none of whose processes does."""
    folder = Folder.at(tmp_path)
    folder.make()
    save(folder.data, make_layout())
    prepare(folder, make_layout(), allow=True)
    children = tuple(ChildState(f"storage-{n}", None, 0, None) for n in range(1, 7))
    state = SupervisorState(NOBODY, False, children)
    monkeypatch.setattr(kits, "running_state", lambda _: state)
    monkeypatch.setattr("cluster.faults.carry.running_state", lambda _: state)
    kit = FaultKit(folder)
    monkeypatch.setattr(command, "_kit", lambda _: kit)
    return kit


def test_copies_are_corrupted_in_one_fault_so_they_stand_still_together(
    kit: FaultKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, the first would be repaired from the second before that one's turn."""
    notes = Notes(kit._folder)
    monkeypatch.setattr(kit, "_carry", notes)
    done = CliRunner().invoke(app, ["fault", "corrupt", "storage-5", "az1", "storage-1"])
    assert done.exit_code == 0
    (fault,) = notes.faults
    assert fault.names == ("storage-5", "storage-1", "storage-2")
    assert done.output == "rot-page storage-5, az1, storage-1 (storage-5, storage-1, storage-2)\n"


def test_of_several_the_one_that_is_not_running_is_named(
    kit: FaultKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(target: str, **_: object) -> ActiveFault:
        if target == "storage-2":
            return Carrier(kit._folder).out(ActiveFault(0, "kill", target, (target,), 0.0))
        return ActiveFault(0, "kill", target, (target,), 0.0)

    monkeypatch.setattr(kit, "kill", kill)
    done = CliRunner().invoke(app, ["fault", "kill", "storage-1", "storage-2", "storage-3"])
    assert done.stdout == "kill storage-1\n", "what was done is said"
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception) == (
        "storage-2 is not running: nothing was done to it; done to storage-1; not tried on storage-3"
    )
    with pytest.raises(ConfigError, match=r"storage-2 is not running: nothing was done to it$"):
        kit.kill("storage-2")


DAY = "a fault lasts longer than 0 and at most a day, not "


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        (lambda kit: kit.pause("storage-1", for_s=math.nan), DAY + "nan s"),
        (lambda kit: kit.kill("all", for_s=math.inf), DAY + "inf s"),
        (lambda kit: kit.kill("all", for_s=86_401), DAY + "86401 s"),
        (lambda kit: kit.crash_at("writer", Step.SEND, for_s=1e9), DAY + "1e+09 s"),
        (lambda kit: kit.isolate("main-2", for_s=-1), "for_s is -1; it must be 0 or more"),
        (lambda kit: kit.kill("main-2", for_s="20"), "for_s is '20'; it must be a number"),
        (
            lambda kit: kit.slow_net("all", latency_s=-1),
            "latency_s of slow-net is -1, not 0 to 3,600",
        ),
        (
            lambda kit: kit.slow_net("all", latency_s=math.nan),
            "latency_s of slow-net is nan, not 0",
        ),
        (lambda kit: kit.drop("main-1", share=7), "share of drop is 7, not 0 to 0.95"),
        (
            lambda kit: kit.slow_disk("all", factor=-3),
            "factor of slow-disk is -3, not 1 to 1,000,000",
        ),
        (
            lambda kit: kit.clock_skew("all", seconds=1e9),
            "seconds of clock-skew is 1e+09, not -100,0",
        ),
        (lambda kit: kit.corrupt("storage-1", page=-1), "page of rot-page is -1, not 0 to"),
        (lambda kit: kit.corrupt("storage-1", page=1.5), "page is 1.5; it must be a whole number"),
        (
            lambda kit: kit.crash_at("writer", "nonsense"),
            "no step 'nonsense'; there are receive, per",
        ),
        (lambda kit: kit.crash_at("writer", ""), "no step ''; there are receive, persist"),
        (
            lambda kit: kit.crash_at("writer", Step.SEND, nth=0),
            "nth is 0; it must be a whole number",
        ),
        (
            lambda kit: kit.crash_at("writer", Step.SEND, when="at"),
            "when is before or after, not 'at'",
        ),
        (
            lambda kit: kit.crash_at("endpoint-main", Step.PERSIST),
            "endpoint-main never takes the step persist; these do: storage-1, storage-2, storage-3",
        ),
        (
            lambda kit: kit.crash_at("storage", Step.SEND),
            "storage never takes the step send; these do: main-1, main-2, main-3",
        ),
        (
            lambda kit: kit.partition("writer", "writer"),
            "nothing can be cut between main-1 and itself; writer is one node, and partition needs two",
        ),
        (
            lambda kit: kit.partition("main-1", "writer", one_way=True),
            "between main-1 and itself; main-1 and writer is one node, and one-way needs two",
        ),
        (
            lambda kit: kit.begin(Fault(Kind.PAUSE, "all", params=(("hold", 1.0),))),
            "pause has no hold; it has no params",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(
    kit: FaultKit,
    monkeypatch: pytest.MonkeyPatch,
    begin: Callable[[FaultKit], object],
    said: str,
) -> None:
    monkeypatch.setattr(kit, "_carry", Notes(kit._folder))
    with pytest.raises(ConfigError) as refused:
        begin(kit)
    assert said in str(refused.value)
    assert kit.active() == []


def test_the_command_says_so_too(kit: FaultKit) -> None:
    for arguments, said in (
        (("kill", "all", "--for", "99999999999999h"), DAY + "3.6e+17 s"),
        (("pause", "storage-1", "--for", "24.1h"), DAY + "86760 s"),
        (("partition", "writer", "writer"), "nothing can be cut between main-1 and itself"),
        (("crash-at", "persist", "endpoint-main"), "endpoint-main never takes the step persist"),
    ):
        done = CliRunner().invoke(app, ["fault", *arguments])
        assert isinstance(done.exception, ConfigError)
        assert said in str(done.exception)


def test_what_is_on_the_edge_can_be(kit: FaultKit, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes(kit._folder)
    monkeypatch.setattr(kit, "_carry", notes)
    monkeypatch.setattr(notes, "until_seen", lambda revision: None)
    assert kit.pause("storage-1", for_s=24 * 3600).names == ("storage-1",)
    assert kit.partition("all", "writer").peers == ("main-1",)
    assert kit.crash_at("az1", "persist").names == ("storage-1", "storage-2"), "instances never do"
    assert kit.drop("main-1", share=0.95).params == (("share", 0.95),)
