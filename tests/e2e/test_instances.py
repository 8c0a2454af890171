"""Instances added and removed while a cluster runs, up to as many as there may be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import psycopg
import pytest

from tests.e2e.conftest import LocalCluster

pytestmark = pytest.mark.e2e


def _listed(cluster: LocalCluster) -> dict[str, dict]:
    rows = json.loads(cluster.sextet("instance", "list", "--json").stdout)
    return {row["name"]: row for row in rows}


def test_replica_is_added_and_removed_while_the_cluster_runs(new_cluster) -> None:
    cluster = new_cluster("--readers", 0)
    cluster.query("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    cluster.query("INSERT INTO t VALUES (1)")
    said = cluster.sextet("instance", "add", "--az", "az3", "--tier", 0, "--size", "small").stdout
    assert said.startswith("main-2 serves reads in az3, tier 0, small, after")
    row = _listed(cluster)["main-2"]
    assert (row["role"], row["az"], row["tier"], row["size"]) == ("replica", "az3", 0, "small")
    cluster.until_sql("SELECT id FROM t", [(1,)], reader=True)
    cluster.until(lambda: _listed(cluster)["main-2"]["state"] == "available", "it follows")
    with cluster.connect(reader=True) as reader:
        assert reader.execute("SHOW in_hot_standby").fetchone() == ("on",)
        process = cluster.process("main-2")
        cluster.sextet("instance", "remove", "main-2")
        assert not process.alive
        with pytest.raises(psycopg.OperationalError):
            reader.execute("SELECT 1")
    assert list(_listed(cluster)) == ["main-1"]
    cluster.until_sql("SHOW in_hot_standby", [("off",)], reader=True)  # the writer serves
    cluster.down()
    cluster.up()
    assert list(_listed(cluster)) == ["main-1"]


def test_writer_is_only_removed_by_force_and_another_takes_its_place(new_cluster) -> None:
    cluster = new_cluster("--readers", 1)
    cluster.query("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    refused = cluster.sextet("instance", "remove", "main-1", check=False)
    assert refused.returncode == 1
    assert "main-1 is the writer of main; with --force" in refused.stderr
    cluster.sextet("instance", "remove", "main-1", "--force")
    cluster.until_sql("INSERT INTO t VALUES (1) RETURNING id", [(1,)])
    assert list(_listed(cluster)) == ["main-2"]
    last = cluster.sextet("instance", "remove", "main-2", "--force", check=False)
    assert "main-2 is the last instance of main" in last.stderr


def test_control_plane_that_is_away_hears_of_new_instances_later(new_cluster) -> None:
    cluster = new_cluster("--readers", 0)
    cluster.kill("control")
    cluster.sextet("instance", "add")
    assert list(_listed(cluster)) == ["main-1", "main-2"]


def test_faults_of_a_removed_instance_do_not_wait_for_the_next_of_its_name(new_cluster) -> None:
    cluster = new_cluster("--readers", 1)
    process = cluster.process("main-2")
    cluster.sextet("fault", "pause", "main-2")
    cluster.sextet("instance", "remove", "main-2")
    assert not process.alive
    assert json.loads(cluster.sextet("fault", "list", "--json").stdout) == []
    assert "main-2 serves reads" in cluster.sextet("instance", "add").stdout


@pytest.mark.long
def test_fifteen_replicas_share_the_readers_evenly(new_cluster) -> None:
    cluster = new_cluster("--readers", 13)
    data = ("--data", str(cluster.folder.data))
    adding = [
        subprocess.Popen(
            [sys.executable, "-m", "cluster.cli.app", "instance", "add", *data],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)  # at the same time
    ]
    said = sorted(process.communicate(timeout=100)[0].split()[0] for process in adding)
    assert said == ["main-15", "main-16"]
    refused = cluster.sextet("instance", "add", check=False)
    assert "main has 16 instances, as many as there may be" in refused.stderr
    cluster.until(
        lambda: all(row["state"] == "available" for row in _listed(cluster).values()), "all follow"
    )
    before = Counter({name: row["connections"] for name, row in _listed(cluster).items()})
    assert not any(before.values())
    readers = [cluster.connect(reader=True) for _ in range(40)]
    try:
        counts = {name: row["connections"] for name, row in _listed(cluster).items()}
        assert counts.pop("main-1") == 0
        assert sum(counts.values()) == 40
        assert set(counts.values()) == {2, 3}, counts
    finally:
        for reader in readers:
            reader.close()


def _served_by(cluster: LocalCluster, url: str) -> str:
    """Who has one client more than before while this one is connected."""

    def counts() -> dict[str, int]:
        return {name: row["connections"] for name, row in _listed(cluster).items()}

    before = counts()
    with psycopg.connect(url, autocommit=True, connect_timeout=15) as client:
        client.execute("SELECT 1")
        (name,) = [name for name, count in counts().items() if count > before[name]]
    cluster.until(lambda: counts() == before, "the client has gone")
    return name


@pytest.mark.long
def test_custom_endpoints_come_and_go_while_the_cluster_runs(new_cluster) -> None:
    cluster = new_cluster("--readers", 2)
    cluster.until(
        lambda: all(row["state"] == "available" for row in _listed(cluster).values()), "all follow"
    )
    cluster.sextet("endpoint", "add", "reports", "--members", "main-3")
    cluster.sextet("endpoint", "add", "others", "--exclude", "main-2,main-3")
    rows = {r["name"]: r for r in json.loads(cluster.sextet("endpoint", "list", "--json").stdout)}
    assert list(rows) == ["writer", "reader", "reports", "others"]
    assert rows["others"]["members"] == ["main-1"]
    assert _served_by(cluster, rows["reports"]["url"]) == "main-3"
    assert _served_by(cluster, rows["others"]["url"]) == "main-1"
    cluster.sextet("instance", "add", "--name", "extra")
    assert _served_by(cluster, rows["others"]["url"]) == "extra", "not excluded, and a replica"
    old = cluster.kill("endpoint-main")
    cluster.until_restarted("endpoint-main", old)
    assert _served_by(cluster, rows["reports"]["url"]) == "main-3"
    cluster.sextet("endpoint", "remove", "reports")
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(rows["reports"]["url"], connect_timeout=5)
    refused = cluster.sextet("endpoint", "add", "x", "--members", "main-9", check=False)
    assert "main has no instance main-9" in refused.stderr
