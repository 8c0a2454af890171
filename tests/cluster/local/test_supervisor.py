"""The supervisor with trivial children: restart, order of the end, and nobody left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.local.folder import Folder
from cluster.local.processes import ProcessId, wait_until_gone
from cluster.local.state import SupervisorState, is_locked, load_state, running_state
from engine.faults.file import ActiveFault, changing

SLEEPER = ["/bin/sleep", "600"]
WAIT_S = 15.0


class Supervised:
    """A supervisor process over `components`, each (name, stage, command)."""

    def __init__(self, data: Path) -> None:
        self.folder = Folder.at(data)
        self.seen: set[ProcessId] = set()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *components: tuple[str, int, list[str]], lock_wait: float = 5) -> None:
        self.folder.make()
        (self.folder.data / "components.json").write_text(json.dumps(components))
        script = Path(__file__).with_name("supervise.py")
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(script), str(self.folder.data), str(lock_wait)],
            stderr=subprocess.PIPE,
        )
        identity = ProcessId.of(self.process.pid)
        assert identity is not None
        self.seen.add(identity)

    def state_when(self, true: Callable[[SupervisorState], bool]) -> SupervisorState:
        """The first published state of which `true` holds."""
        deadline = time.monotonic() + WAIT_S
        while True:
            state = load_state(self.folder)
            if state is not None:
                self.seen.update(state.living())
                if true(state):
                    return state
            assert time.monotonic() < deadline, state

    def pid(self, state: SupervisorState, name: str) -> ProcessId:
        child = state.child(name)
        assert child is not None
        assert child.process is not None
        return child.process

    def until_said(self, text: str) -> None:
        """Read its log up to the line that has `text`."""
        assert self.process is not None
        assert self.process.stderr is not None
        assert any(text in line.decode() for line in self.process.stderr), "it ended without a word"

    def end(self) -> str:
        assert self.process is not None
        self.process.terminate()
        _, errors = self.process.communicate(timeout=WAIT_S)
        return errors.decode()


def running(state: SupervisorState, name: str) -> bool:
    child = state.child(name)
    return child is not None and child.process is not None


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    made = Supervised(tmp_path)
    yield made
    for process in made.seen:
        process.send(signal.SIGKILL)
    if made.process is not None:
        made.process.communicate()
    assert wait_until_gone(made.seen, WAIT_S) == []


def _all_run(state: SupervisorState) -> bool:
    return all(child.process is not None for child in state.children)


def test_killed_child_is_restarted_at_once_and_counted(supervised):
    supervised.start(("one", 0, SLEEPER), ("two", 0, SLEEPER))
    before = supervised.state_when(_all_run)
    supervised.pid(before, "one").send(signal.SIGKILL)
    killed_at = time.monotonic()
    after = supervised.state_when(lambda s: _all_run(s) and s.child("one").restarts == 1)
    assert time.monotonic() - killed_at < 5, "that is no backoff of the first restart"
    assert after.child("one").exit_status == -signal.SIGKILL
    assert supervised.pid(after, "two") == supervised.pid(before, "two")


def test_child_that_keeps_dying_is_started_less_and_less_often(supervised):
    supervised.start(("sick", 0, ["/bin/false"]), ("well", 0, SLEEPER))
    supervised.state_when(lambda s: s.child("sick").restarts >= 3)
    errors = supervised.end()
    waits = [float(line.split()[-2]) for line in errors.splitlines() if "starts again" in line]
    assert waits[:3] == [0.05, 0.1, 0.2]


def test_child_that_others_keep_killing_is_not_made_to_wait(supervised):
    supervised.start(("target", 0, ["/bin/sh", "-c", "kill -9 $$"]), ("well", 0, SLEEPER))
    supervised.state_when(lambda s: s.child("target").restarts >= 7)
    errors = supervised.end()
    waits = [float(line.split()[-2]) for line in errors.splitlines() if "starts again" in line]
    assert waits[:6] == [0.05, 0.1, 0.2, 0.2, 0.2, 0.2]


def test_command_that_does_not_exist_takes_nobody_down(supervised):
    supervised.start(("absent", 0, ["/nonexistent/program"]), ("well", 0, SLEEPER))
    state = supervised.state_when(lambda s: s.child("absent").restarts >= 2)
    assert supervised.pid(state, "well").alive


def test_sigterm_stops_stage_after_stage_and_leaves_nobody(supervised, tmp_path):
    order = tmp_path / "order"
    ready = tmp_path / "ready"
    ready.mkdir()

    def child(name: str, ends_with: str) -> list[str]:
        script = f"trap '{ends_with}' TERM; touch {ready}/{name}; while :; do sleep 0.02; done"
        return ["/bin/sh", "-c", script]

    supervised.start(
        ("control", 3, child("control", f"echo control >> {order}; exit 0")),
        ("storage", 2, child("storage", f"sleep 0.2; echo storage >> {order}; exit 0")),
        ("endpoint", 0, child("endpoint", f"sleep 0.3; echo endpoint >> {order}; exit 0")),
    )
    state = supervised.state_when(_all_run)
    while len(list(ready.iterdir())) < 3:
        assert supervised.process.poll() is None
    supervised.end()
    assert order.read_text().split() == ["endpoint", "storage", "control"]
    assert state.living() == []
    assert not is_locked(supervised.folder)


def test_children_know_that_they_are_supervised_and_write_to_their_log(supervised):
    script = "echo supervised by $SEXTET_SUPERVISED in $PWD; exec sleep 600"
    supervised.start(("one", 0, ["/bin/sh", "-c", script]))
    supervised.state_when(_all_run)
    log = supervised.folder.log("one")
    deadline = time.monotonic() + WAIT_S
    while not log.read_text():
        assert time.monotonic() < deadline
    expected = f"supervised by {supervised.process.pid} in {supervised.folder.data}\n"
    assert log.read_text() == expected


def test_second_supervisor_is_refused(supervised):
    supervised.start(("one", 0, SLEEPER))
    state = supervised.state_when(_all_run)
    first = supervised.process
    supervised.start(("one", 0, SLEEPER), lock_wait=0)
    second = supervised.process
    _, errors = second.communicate(timeout=WAIT_S)
    supervised.process = first
    assert f"already running under supervisor {first.pid}" in errors.decode()
    assert supervised.pid(state, "one").alive


def test_leftovers_of_a_killed_supervisor_are_ended_before_a_new_one_starts(supervised):
    supervised.start(("one", 0, SLEEPER))
    before = supervised.state_when(_all_run)
    orphan = supervised.pid(before, "one")
    supervised.process.kill()
    supervised.process.communicate()
    assert orphan.alive, "sleep does not ask for its parent's death"
    assert running_state(supervised.folder) is None
    assert is_locked(supervised.folder), "the orphan still holds the lock"
    supervised.start(("one", 0, SLEEPER))
    after = supervised.state_when(lambda s: s.process.pid == supervised.process.pid and _all_run(s))
    assert not orphan.alive
    assert supervised.pid(after, "one").alive


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _wait_until_stopped(pid: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while not _is_stopped(pid):
        assert time.monotonic() < deadline, f"{pid} does not stop"
        time.sleep(0.005)


def test_stopped_child_is_killed_after_its_grace(supervised):
    supervised.start(("one", 0, SLEEPER))
    state = supervised.state_when(_all_run)
    child = supervised.pid(state, "one")
    os.kill(child.pid, signal.SIGSTOP)  # SIGTERM does not reach it any more ...
    _wait_until_stopped(child.pid)  # ... once it has stopped: of two pending signals it would win
    errors = supervised.end()
    assert "one is still there after SIGTERM" in errors
    assert not child.alive


STUBBORN = ["/bin/sh", "-c", "trap 'echo told' TERM; echo ready; while :; do sleep 0.02; done"]
BEATS_ONCE = [
    *(sys.executable, "-S", "-E", "-c"),
    "import os, time; os.write(int(os.environ['SEXTET_PULSE']), bytes([1])); time.sleep(600)",
]
"""It promises to be heard again within a second, and is not."""


def test_child_that_hangs_is_ended_and_started_again(supervised):
    supervised.start(("hangs", 0, BEATS_ONCE), ("silent", 0, SLEEPER))
    first = supervised.state_when(_all_run)
    later = supervised.state_when(lambda s: s.child("hangs").restarts >= 2 and _all_run(s))
    assert supervised.pid(later, "silent") == supervised.pid(first, "silent"), "it promised nothing"
    assert later.child("hangs").exit_status == -signal.SIGKILL
    assert "hangs hangs: not heard for" in supervised.end()


def test_child_that_a_fault_has_stopped_does_not_hang(supervised):
    supervised.start(("one", 0, BEATS_ONCE), ("other", 0, BEATS_ONCE))
    supervised.state_when(_all_run)
    _begin(supervised, "pause", for_s=600.0)
    after = supervised.state_when(lambda s: s.child("other").restarts >= 3)
    assert after.child("one").restarts <= 1, "it hung before the fault had begun, at most"


def test_sighup_starts_what_is_new_and_stops_what_is_gone(supervised):
    supervised.start(("old", 0, SLEEPER), ("kept", 0, SLEEPER))
    before = supervised.state_when(_all_run)
    components = [("kept", 0, SLEEPER), ("new", 0, SLEEPER)]
    (supervised.folder.data / "components.json").write_text(json.dumps(components))
    supervised.process.send_signal(signal.SIGHUP)
    after = supervised.state_when(
        lambda s: {c.name for c in s.children} == {"kept", "new"} and _all_run(s)
    )
    assert supervised.pid(after, "kept") == supervised.pid(before, "kept")
    assert not supervised.pid(before, "old").alive


def test_child_that_is_wanted_again_while_it_stops_is_started_again(supervised):
    supervised.start(("slow", 0, STUBBORN), ("kept", 0, SLEEPER))
    before = supervised.state_when(_all_run)
    log = supervised.folder.log("slow")
    while "ready" not in log.read_text():
        assert supervised.process.poll() is None
    file = supervised.folder.data / "components.json"
    both = file.read_text()
    file.write_text(json.dumps([("kept", 0, SLEEPER)]))
    supervised.process.send_signal(signal.SIGHUP)
    while "told" not in log.read_text():
        assert supervised.process.poll() is None
    file.write_text(both)
    supervised.process.send_signal(signal.SIGHUP)
    old = supervised.pid(before, "slow")
    after = supervised.state_when(lambda s: _all_run(s) and supervised.pid(s, "slow") != old)
    assert not old.alive
    assert supervised.pid(after, "kept") == supervised.pid(before, "kept")


def test_supervisor_that_cannot_write_its_state_goes_on_and_writes_it_later(supervised):
    supervised.start(("one", 0, SLEEPER))
    before = supervised.state_when(_all_run)
    path = supervised.folder.supervisor_state
    path.unlink()
    path.mkdir()  # as good as a full disk: no file can get this name
    one = supervised.pid(before, "one")
    one.send(signal.SIGKILL)
    assert wait_until_gone([one], WAIT_S) == []
    supervised.process.send_signal(signal.SIGHUP)
    assert supervised.process.poll() is None
    supervised.until_said("cannot write down what runs")
    path.rmdir()
    after = supervised.state_when(lambda s: _all_run(s) and s.child("one").restarts == 1)
    assert supervised.pid(after, "one") != one


def _begin(supervised: Supervised, kind: str, *, for_s: float) -> float:
    """Enter a fault on "one" and tell the supervisor; when it ends, wall time in seconds."""
    now = time.time()
    with changing(supervised.folder.faults) as change:
        fault = ActiveFault(change.file.next_id, kind, "one", ("one",), now, now + for_s)
        change.file = change.file.adding(fault)
    assert supervised.process is not None
    supervised.process.send_signal(signal.SIGHUP)
    return now + for_s


def test_child_that_a_fault_holds_is_killed_and_started_when_it_is_over(supervised):
    supervised.start(("one", 0, SLEEPER), ("two", 0, SLEEPER))
    before = supervised.state_when(_all_run)
    over = _begin(supervised, "kill", for_s=1.5)
    down = supervised.state_when(lambda state: state.child("one").process is None)
    two = supervised.pid(down, "two")
    assert two == supervised.pid(before, "two")
    two.send(signal.SIGKILL)  # work for the supervisor while it holds the other
    supervised.state_when(lambda state: state.child("two").process not in (None, two))
    after = supervised.state_when(_all_run)
    assert time.time() >= over, "it was started while it was held"
    assert supervised.pid(after, "one") != supervised.pid(before, "one")
    assert after.child("one").restarts == 1


def test_child_that_a_fault_has_stopped_is_woken_by_us(supervised):
    supervised.start(("one", 0, SLEEPER))
    child = supervised.pid(supervised.state_when(_all_run), "one")
    over = _begin(supervised, "pause", for_s=1.0)
    _wait_until_stopped(child.pid)
    deadline = time.monotonic() + WAIT_S
    while _is_stopped(child.pid):
        assert time.monotonic() < deadline, "it is not woken"
        time.sleep(0.005)
    assert time.time() >= over
    assert child.alive


def test_faults_that_cannot_be_read_hold_nobody(supervised):
    supervised.folder.make()
    supervised.folder.faults.write_text("{ not json")
    supervised.start(("one", 0, SLEEPER))
    supervised.state_when(_all_run)
    assert "nobody is held" in supervised.end()


def test_who_may_start_late_does_and_is_restarted_at_once(supervised):
    supervised.start(("first", 0, SLEEPER), ("late", 0, SLEEPER))
    state = supervised.state_when(lambda state: running(state, "first"))
    assert not running(state, "late")
    began = time.monotonic()
    state = supervised.state_when(lambda state: running(state, "late"))
    assert time.monotonic() - began > 0.5
    old = supervised.pid(state, "late")
    old.send(signal.SIGKILL)
    supervised.state_when(lambda s: running(s, "late") and supervised.pid(s, "late") != old)
    assert supervised.process.poll() is None
    supervised.end()
