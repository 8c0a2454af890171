"""The default swarm: no seed may fail. `make sim` makes 300 of these runs, `make nightly` 3,000."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SEEDS = os.environ.get("SEXTET_SIM_SEEDS", "1..8")


def sim(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster.cli.app", "sim", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **env},
    )


@pytest.mark.long  # `make sim` runs more of them, and CI does that
@pytest.mark.sim
def test_no_seed_fails() -> None:
    done = sim("--seeds", SEEDS, "--jobs", "2", "--json", "--no-shrink")
    told = json.loads(done.stdout) if done.stdout else {"failures": [], "runs": 0}
    said = [(f["command"], f["violations"][:3], f["died"]) for f in told["failures"]]
    assert done.returncode == 0, (said, done.stderr[-2000:])
    assert told["runs"] >= 1
    assert told["commits"] > 100 * told["runs"] / 4
    assert told["checks"]["listappend"] > told["runs"]
    assert sum(1 for f in told["faults"].values() if f["effective"]) >= 10


@pytest.mark.sim
def test_one_seed_is_one_history_whatever_the_hash_seed() -> None:
    hashes = {
        json.loads(sim("--seed", "11", "--json", PYTHONHASHSEED=seed).stdout)["trace_hash"]
        for seed in ("1", "2")
    }
    assert len(hashes) == 1
    assert None not in hashes
