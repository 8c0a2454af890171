"""Replicas that come and go by what their clients do, on a real cluster."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import LocalCluster

pytestmark = pytest.mark.e2e

LONG_S = 90.0
"""Several cool-downs, and processes that start on a machine that does other things too."""


def _listed(cluster: LocalCluster) -> dict[str, dict]:
    rows = json.loads(cluster.sextet("instance", "list", "--json").stdout)
    return {row["name"]: row for row in rows}


def _decisions(cluster: LocalCluster) -> list[str]:
    said = [event.partition(": ")[2] for event in cluster.events()]
    return [what for what in said if what.startswith("auto-scaling")]


def test_connections_bring_replicas_and_their_end_takes_them_away(new_cluster) -> None:
    cluster = new_cluster("--readers", 1)
    assert cluster.sextet("autoscale", "show").stdout.startswith("auto-scaling is off")
    cluster.query("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    cluster.until(lambda: _listed(cluster)["main-2"]["state"] == "available", "it follows")
    clients = [cluster.connect(reader=True) for _ in range(6)]
    policy = ("--metric", "connections", "--target", 2, "--min", 1, "--max", 2)
    cluster.sextet("autoscale", "set", *policy, "--out-cooldown", "1s", "--in-cooldown", "2s")
    shown = json.loads(cluster.sextet("autoscale", "show", "--json").stdout)
    assert shown["policy"] == {
        "metric": "connections",
        "target": 2.0,
        "min": 1,
        "max": 2,
        "out_cooldown_s": 1.0,
        "in_cooldown_s": 2.0,
    }

    # Six clients on one replica want three; the policy allows two.
    cluster.until(
        lambda: _listed(cluster).get("main-3", {}).get("state") == "available",
        "a replica appears",
        seconds=LONG_S,
    )
    assert _listed(cluster)["main-3"]["tier"] == 15, "failover prefers those that stay"
    late = [cluster.connect(reader=True) for _ in range(3)]
    assert _listed(cluster)["main-3"]["connections"] == 3, "it is used"
    clients += late
    assert list(_listed(cluster)) == ["main-1", "main-2", "main-3"], (
        "no more than the policy allows"
    )
    cluster.until(lambda: _decisions(cluster), "there is an event")
    assert _decisions(cluster)[0] == (
        "auto-scaling adds main-3: 6 connections on 1 replicas, the target is 2 each"
    )

    # Nobody is there any more: the one that was added goes, the one that a user has made stays.
    process = cluster.process("main-3")
    for client in clients:
        client.close()
    cluster.until(lambda: not process.alive, "the replica goes away", seconds=LONG_S)
    cluster.until(lambda: list(_listed(cluster)) == ["main-1", "main-2"], "it is forgotten")
    cluster.until(lambda: len(_decisions(cluster)) == 2, "there is a second event")
    assert _decisions(cluster)[1] == (
        "auto-scaling removes main-3: 0 connections on 2 replicas, the target is 2 each"
    )

    # A policy that is gone does nothing; what it did is not undone by a restart.
    scaler = cluster.process("autoscale-main")
    cluster.sextet("autoscale", "off")
    cluster.until(lambda: not scaler.alive, "its process ends")
    refused = cluster.sextet("autoscale", "set", "--target", 2, "--max", 16, check=False)
    assert (refused.returncode, "1 to 16 replicas cannot be" in refused.stderr) == (1, True)
