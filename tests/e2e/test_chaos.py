"""`sextet chaos` on real processes: a fixed seed passes and hurts, and nothing is left however it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.faults.kit import FaultKit

pytestmark = pytest.mark.e2e

SEED = 58
"""Within 27 s: the writer hangs until a replica has taken over, then a storage node is wiped."""

COMMAND = [sys.executable, "-m", "cluster.cli.app", "chaos"]


def temporary_folders(parent: Path) -> list[Path]:
    return sorted(parent.glob("sextet-*"))


@pytest.mark.long
def test_a_fresh_cluster_lives_through_a_fixed_seed(tmp_path: Path) -> None:
    arguments = ["--fresh", "--replicas", "1", "--seed", SEED, "--minutes", 0.45, "--json"]
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    report = json.loads(done.stdout)
    assert report["ok"]
    assert report["violations"] == []
    assert report["commits"] > 20
    assert report["checks"]["instances at the end"] == 2
    assert report["checks"]["groups compared"] >= 1
    fired = {(fault["label"], fault["target"]) for fault in report["faults"]}
    assert {("pause", "writer"), ("wipe", "storage-6")} <= fired
    assert any("finished" in what for what in report["failovers"])
    assert report["longest_gap"]["seconds"] > 0
    assert temporary_folders(tmp_path) == []
    assert report["kept"] is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [*COMMAND, "--fresh", "--replicas", "0", "--seed", "1", "--minutes", "5"],
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        said = []
        for line in running.stderr:
            said.append(line)
            if "round 1" in line:
                (data,) = temporary_folders(tmp_path)
                state = json.loads((data / "run" / "supervisor.json").read_text())
                running.send_signal(number)
                break
        said += running.stderr.readlines()
        assert running.wait(120) != 0
    assert "round 1" in "".join(said)
    assert "Traceback" not in "".join(said)
    assert temporary_folders(tmp_path) == []
    for pid in re.findall(r'"pid": (\d+)', json.dumps(state)):
        assert str(data) not in command_of(int(pid))


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.long
def test_on_a_running_cluster_it_asks_for_permission_by_up_and_leaves_it_as_it_was(
    new_cluster,
) -> None:
    cluster = new_cluster("--readers", 1, "--no-faults")
    refused = cluster.sextet("chaos", "--minutes", 0.25, check=False)
    assert refused.returncode == 1
    assert "does not allow faults" in refused.stderr
    cluster.down()
    cluster.up("--faults")
    cluster.query("CREATE TABLE mine (n INTEGER)")
    kit = FaultKit(cluster.folder)
    kit.slow_net("storage-1", latency_s=0.01)
    assert "are active already" in cluster.sextet("chaos", check=False).stderr
    kit.heal()
    shown = cluster.sextet("chaos", "--minutes", 0.25, "--seed", 3)
    assert "no violation" in shown.stdout
    assert "chaos_lists" in shown.stdout  # it says what it does to a cluster that is not its own
    assert kit.active() == []
    assert cluster.query("SELECT name FROM sqlite_master ORDER BY name") == [("mine",)]
