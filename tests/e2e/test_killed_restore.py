"""`sextet restore` is killed between making the new cluster and filling it, and given again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from cluster.local.layout import load
from tests.e2e.conftest import LocalCluster

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def test_a_restore_that_was_killed_is_not_there_and_can_be_given_again(
    new_cluster: Callable[..., LocalCluster],
) -> None:
    """An empty cluster of that name must not pass for the restored one."""
    cluster = new_cluster("--readers", 0)
    cluster.query("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
    cluster.query("INSERT INTO note (text) VALUES ('one')")
    cluster.sextet("snapshot", "create", "main", "good")
    command = ("restore", "main", "again", "--latest", "--readers", 0)

    killed = subprocess.Popen(
        [sys.executable, "-m", "cluster.cli.app", *map(str, command)],
        env={**os.environ, "SEXTET_DATA": str(cluster.folder.data)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        cluster.until(lambda: len(cluster.layout.clusters) == 2, "the new cluster is there")
    finally:
        killed.kill()
        killed.wait()

    rows = json.loads(cluster.sextet("cluster", "list", "--json").stdout)
    assert [(row["name"], row["state"]) for row in rows[1:]] == [("again", "restoring")]
    said = cluster.sextet("cluster", "create", "again", check=False)
    assert "again is being restored, or that broke off" in " ".join(said.stderr.split())
    assert "going on" not in said.stdout

    printed = cluster.sextet(*command).stdout
    assert "an earlier command has not finished again: that is removed first" in printed
    assert cluster.query("SELECT text FROM note", of="again") == [("one",)]
    layout = load(cluster.folder.data)
    assert layout is not None
    assert not layout.cluster("again").restoring
    said = cluster.sextet(*command, check=False)
    assert "there is a cluster again already" in " ".join(said.stderr.split())
