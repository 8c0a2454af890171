"""A pid that was given away again is nobody of ours."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import replace

from cluster.local.processes import ProcessId, end_all


def test_process_is_alive_until_it_ends():
    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        identity = ProcessId.of(child.pid)
        assert identity is not None
        assert identity.alive
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not identity.alive, "a zombie is not alive"
        assert ProcessId.of(child.pid) is None
    assert not identity.alive


def test_reused_pid_is_neither_alive_nor_signalled():
    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        identity = ProcessId.of(child.pid)
        assert identity is not None
        for stranger in (
            replace(identity, started=identity.started - 1),
            replace(identity, boot="another"),
        ):
            assert not stranger.alive
            assert not stranger.send(signal.SIGKILL)
        assert identity.alive
        child.kill()


def test_process_name_with_parentheses_is_read_right(tmp_path):
    program = tmp_path / "od) R 1 (d"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as child:
        identity = ProcessId.of(child.pid)
        assert identity is not None
        assert identity.started > 0
        assert identity.alive
        child.kill()


def test_end_all_kills_who_ignores_sigterm(tmp_path):
    ready = tmp_path / "ready"
    script = f"trap '' TERM; touch {ready}; while :; do sleep 0.1; done"
    with subprocess.Popen(["/bin/sh", "-c", script]) as child:
        while not ready.exists():
            assert child.poll() is None
        identity = ProcessId.of(child.pid)
        assert identity is not None
        assert end_all([identity], grace=0.2) == []
        assert child.wait() == -signal.SIGKILL
