"""`sextet fault` on several targets, with a carrier that only notes what it was given."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import fault as command
from cluster.cli.app import app
from cluster.faults import kit as kits
from cluster.faults.carry import Carrier
from cluster.faults.directory import prepare
from cluster.faults.kit import FaultKit
from cluster.local.folder import Folder
from cluster.local.layout import save
from cluster.local.processes import ProcessId
from cluster.local.state import ChildState, SupervisorState
from engine.errors import ConfigError
from engine.faults.file import ActiveFault
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
