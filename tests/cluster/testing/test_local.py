"""What LocalCluster makes of what it is told; on real processes it is tests/e2e/test_testing.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.local.folder import Folder
from cluster.testing import ClusterDown, LocalCluster


def report(**group: Any) -> dict[str, Any]:
    """All is well, but for what is said of the one group."""
    nodes = [f"storage-{n}" for n in range(1, 7)]
    well = {"members": nodes, "answering": nodes, "write_quorum": True, "read_quorum": True}
    return {
        "instances": [{"name": "main-1", "role": "writer", "state": "available", "error": ""}],
        "storage": [{"name": name, "state": "up", "error": ""} for name in nodes],
        "groups": [{"pg": 0, "replacing": None, **well, **group}],
    }


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ({"replacing": ["storage-3", "storage-7"]}, "group 0: storage-3 is replaced by storage-7"),
        ({"answering": ["storage-1"]}, "group 0: no whole copy on storage-2, storage-3"),
    ],
)
def test_healthy_is_with_six_whole_copies_and_nobody_being_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, group: dict[str, Any], said: str
) -> None:
    cluster = LocalCluster()
    monkeypatch.setattr(cluster, "_folder", Folder.at(tmp_path))
    monkeypatch.setattr(cluster, "status", lambda: report(**group))
    with pytest.raises(ClusterDown, match=said):
        cluster.until_healthy(timeout_s=0.0)


def test_a_command_that_takes_too_long_is_told_as_all_that_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = LocalCluster()
    monkeypatch.setattr(cluster, "_folder", Folder.at(tmp_path))
    sleeper = tmp_path / "python"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    with pytest.raises(ClusterDown, match=r"`sextet status` did not end within 0\.1 s"):
        cluster.sextet("status", timeout_s=0.1)
